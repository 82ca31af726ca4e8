"""``gpt2fast classify``: the labels of texts, or of their tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from gpt2fast.cli.shared import ModelChoice, model_options, print_json, read_text

if TYPE_CHECKING:
    from gpt2fast.inference.results import AnyClassification
    from gpt2fast.model import GPT2


@click.command()
@click.argument("texts", nargs=-1, required=True, metavar="TEXT...")
@model_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for each text.")
def command(texts: tuple[str, ...], as_json: bool, **options: Any) -> None:
    r"""Label each TEXT with a model that has a head for classification; `-` reads standard input.

    \b
    gpt2fast classify --model my-sentiment-model "A fine film." "A dull one."
    gpt2fast classify --model my-tagger --json - < sentence.txt
    """
    model = ModelChoice.take(options).load_for_text()
    read = [read_text(text) for text in texts]
    for text, result in zip(read, model.classify(read), strict=True):
        if as_json:
            print_json({"text": text} | result.to_dict())
        else:
            _show(model, text, result)


def _show(model: GPT2, text: str, result: AnyClassification) -> None:
    from gpt2fast.inference.results import Classification

    if isinstance(result, Classification):
        click.echo(f"{result.label}  {result.score:.4f}  {text}")
        return
    width = max(map(len, result.labels))
    for token, label, score in zip(result.token_ids, result.token_labels, result.token_scores, strict=True):
        piece = model.tokenizer.decode([token], skip_special_tokens=False)
        click.echo(f"{label:<{width}}  {score:.4f}  {piece!r}")
