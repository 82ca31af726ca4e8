"""``gpt2fast generate --input --output``: continue all prompts of a file, in as many runs as it takes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt2fast.cli.prompt_file import PromptFile, PromptLine
from gpt2fast.cli.result_fields import result_fields
from gpt2fast.cli.result_file import ResultFile
from gpt2fast.inference.requests import read_call

if TYPE_CHECKING:
    from gpt2fast.inference.options import GenerationOptions
    from gpt2fast.inference.results import Generation
    from gpt2fast.model import GPT2


def generate_file(
    model: GPT2, options: GenerationOptions, source: Path, target: Path, *, ordered: bool
) -> None:
    """Continue the prompts of a file that have no result in another; a bar shows the progress.

    Parameters
    ----------
    model : GPT2
        The model.
    options : GenerationOptions
        How to generate.
    source, target : path
        See :class:`PromptFile` and :class:`ResultFile`.
    ordered : bool
        Write results in the order of the prompts; otherwise as they end.
    """
    from tqdm import tqdm

    prompts = PromptFile(source, lambda prompt: read_call(model.loaded, prompt, options))
    settings = _settings(model, options, prompts)
    with (
        ResultFile(target, settings, count=prompts.lines, ordered=ordered) as results,
        tqdm(total=prompts.lines, initial=results.done, unit="prompt", leave=False, disable=None) as bar,
    ):
        for line, outcome in _outcomes(model, options, prompts, results, ordered=ordered):
            name = {} if line.id is None else {"id": line.id}
            results.write(line.number, {**name, **_fields(outcome)})
            bar.update()


def _outcomes(
    model: GPT2, options: GenerationOptions, prompts: PromptFile, results: ResultFile, *, ordered: bool
) -> Iterator[tuple[PromptLine, Generation | list[Generation]]]:
    """The prompts without a result, each with what the model made of it."""
    running: dict[int, PromptLine] = {}

    def unfinished() -> Iterator[str | list[int]]:
        for number, line in enumerate(line for line in prompts if line.number not in results):
            running[number] = line
            yield line.prompt

    outcomes: Iterator[tuple[int, Generation | list[Generation]]] = (
        enumerate(model.generate_many(unfinished(), options))
        if ordered
        else model.generate_many(unfinished(), options, ordered=False)
    )
    for number, outcome in outcomes:
        yield running.pop(number), outcome


def _fields(outcome: Generation | list[Generation]) -> dict[str, Any]:
    if isinstance(outcome, list):
        return {"texts": [result_fields(one) for one in outcome]}
    return result_fields(outcome)


def _settings(model: GPT2, options: GenerationOptions, prompts: PromptFile) -> dict[str, Any]:
    """Everything that the results depend on."""
    from hashlib import sha256

    tokenizer = model.tokenizer.to_json() if model.has_tokenizer else ""
    given = options.given_values()
    if options.logit_bias is not None:  # -inf is no JSON number
        given["logit_bias"] = {token: str(weight) for token, weight in options.logit_bias.items()}
    return {
        "prompts_sha256": prompts.sha256,
        "model": model.directory.metadata.get("fingerprint"),
        "precision": model.precision,
        "kv_cache": model.kv_cache,
        "tokenizer_sha256": sha256(tokenizer.encode()).hexdigest(),
        "generation_config": model.generation_config,
        "options": dict(sorted(given.items())),
    }
