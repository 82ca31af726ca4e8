"""``gpt2fast tokenize``: the tokens of a text."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from gpt2fast.cli.shared import print_json, read_text

if TYPE_CHECKING:
    from gpt2fast.text.tokenizer import Tokenizer


@click.command()
@click.argument("text")
@click.option(
    "-m",
    "--model",
    "source",
    metavar="SOURCE",
    help="The model, as for `generate`, or a tokenizer.json. Default: the small embedded model.",
)
@click.option("--ids", is_flag=True, help="Print only the ids, on one line.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(text: str, source: str | None, ids: bool, as_json: bool) -> None:
    r"""Show the token ids of TEXT and the text of each; `-` reads standard input unchanged.

    \b
    gpt2fast tokenize "Once upon a time"
    gpt2fast tokenize --ids - < story.txt | wc -w
    gpt2fast tokenize --model openai-community/gpt2 --json "Hello world"
    """
    tokenizer = _load_tokenizer(source)
    token_ids = tokenizer.encode(read_text(text))
    if ids:
        click.echo(" ".join(map(str, token_ids)))
        return
    pieces = [tokenizer.decode_bytes([token], skip_special_tokens=False) for token in token_ids]
    if as_json:
        texts = [piece.decode("utf-8", "backslashreplace") for piece in pieces]
        print_json({"token_ids": token_ids, "pieces": texts})
        return
    for token, piece in zip(token_ids, pieces, strict=True):
        click.echo(f"{token:>8}  {_quoted(piece)}")


def _quoted(piece: bytes) -> str:
    """A token's text in quotes; bytes that are not whole characters in hexadecimal."""
    try:
        return repr(piece.decode("utf-8"))
    except UnicodeDecodeError:
        return repr(piece).removeprefix("b")


def _load_tokenizer(source: str | None) -> Tokenizer:
    from gpt2fast.checkpoints import locate
    from gpt2fast.loading.sources import embedded_model
    from gpt2fast.text.tokenizer import Tokenizer

    return Tokenizer.from_source(embedded_model() if source is None else locate(source))
