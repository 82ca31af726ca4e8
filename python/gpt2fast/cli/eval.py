"""``gpt2fast eval``: measure a model on a text or a benchmark, in one precision or several."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from gpt2fast.cli.group import Group
from gpt2fast.cli.shared import (
    PRECISION_TYPE,
    ModelChoice,
    calibrate_option,
    decorated,
    kv_cache_option,
    model_option,
    print_json,
    threads_option,
    tokenizer_option,
)
from gpt2fast.storage.files import errors_of
from gpt2fast.storage.model_directory import CALIBRATED_PRECISIONS

if TYPE_CHECKING:
    from gpt2fast.evaluation import Journal, LanguageModel, PerplexitySettings
    from gpt2fast.evaluation.items import Progress
    from gpt2fast.loading.sources import Precision
    from gpt2fast.model import GPT2

_Function = TypeVar("_Function", bound=Callable[..., Any])

_REFERENCE: Precision = "fp32"


@dataclass(frozen=True)
class _Run:
    """The options that all measurements share."""

    model: ModelChoice
    precisions: tuple[Precision, ...]
    resume: Path | None
    as_json: bool

    @property
    def calibrated(self) -> list[Precision]:
        """The precisions that a calibration text has an effect on."""
        return [precision for precision in self.precisions if precision in CALIBRATED_PRECISIONS]


def _run_options(function: _Function) -> _Function:
    decorators = [
        model_option,
        click.option(
            "--precision",
            "precisions",
            type=PRECISION_TYPE,
            multiple=True,
            help="Precision of the weights; repeat it to compare. Default: int8, or the model directory's.",
        ),
        calibrate_option,
        threads_option,
        kv_cache_option,
        tokenizer_option,
        click.option(
            "--resume",
            type=click.Path(path_type=Path, dir_okay=False),
            metavar="FILE",
            help="Record what is measured in FILE, and continue from its content.",
        ),
        click.option("--json", "as_json", is_flag=True, help="Print one JSON object."),
    ]
    return decorated(function, decorators)


@click.group(cls=Group, short_help="Measure a model on a text or a benchmark.")
def command() -> None:
    r"""Measure how well a model predicts texts; progress is on standard error.

    \b
    gpt2fast eval perplexity --text book.txt --precision fp32 --precision int8 --precision int4
    gpt2fast eval lambada lambada_test.jsonl --model openai-community/gpt2
    gpt2fast eval choice questions.jsonl --json
    """


@command.command("perplexity", short_help="Perplexity of a text.")
@click.option("--text", type=click.Path(path_type=Path, dir_okay=False), required=True, help="A UTF-8 file.")
@click.option("--window", type=int, metavar="N", help="Tokens seen at once. Default: all positions.")
@click.option("--stride", type=int, metavar="N", help="Tokens between windows. Default: half a window.")
@click.option(
    "--split",
    metavar="REGEX",
    help="Separates documents, which are stripped and end with the end-of-text token. Default: one document.",
)
@click.option("--drop-last", is_flag=True, help="Leave out the last window if it is not full.")
@click.option("--limit", type=int, metavar="N", help="Only the first N tokens.")
@click.option(
    "--compare-tokens",
    type=int,
    default=16384,
    show_default=True,
    metavar="N",
    help="With fp32 among several precisions: compare the others' predictions with it on N tokens; 0: don't.",
)
@_run_options
def _perplexity(text: Path, compare_tokens: int, **options: Any) -> None:
    r"""Measure the perplexity of a text per token, word and byte, over sliding windows.

    \b
    gpt2fast eval perplexity --text book.txt
    gpt2fast eval perplexity --text book.txt --stride 128 --resume book.journal
    gpt2fast eval perplexity --text book.txt --precision fp32 --precision int4 --json
    """
    from gpt2fast.evaluation import PerplexitySettings, perplexity

    run = _take_run(options)
    settings = PerplexitySettings(**options)
    if compare_tokens < 0 or compare_tokens == 1:
        raise click.UsageError(f"--compare-tokens must be 0 or at least 2, got {compare_tokens}")
    content = _read(text)

    def measure(model: GPT2, precision: str, journal: Journal | None, progress: Progress) -> dict[str, Any]:
        scorer = _scorer(model)
        result = perplexity(
            scorer, model.tokenizer, content, settings, run=precision, journal=journal, progress=progress
        )
        return asdict(result)

    comparing = compare_tokens if _REFERENCE in run.precisions and len(run.precisions) > 1 else 0
    values = {**asdict(settings), "compare_tokens": comparing}
    with _opened(run, "perplexity", content, values) as journal:
        results = _measure_all(run, journal, measure)
        if comparing:
            _compare_all(run, journal, content, settings, comparing, results)
    _show(run, {"task": "perplexity", "text": str(text), "settings": values}, results)


@command.command("lambada", short_help="The last word of passages.")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Only the first N passages.")
@_run_options
def _lambada(file: Path, limit: int | None, **options: Any) -> None:
    r"""Measure accuracy and perplexity of the last word of each passage in FILE, OpenAI's lambada_test.jsonl.

    \b
    gpt2fast eval lambada lambada_test.jsonl --model openai-community/gpt2
    gpt2fast eval lambada lambada_test.jsonl --limit 500 --precision fp32 --precision int4
    """
    from gpt2fast.evaluation import lambada, read_lambada

    run = _take_run(options)
    texts = read_lambada(file, limit)

    def measure(model: GPT2, precision: str, journal: Journal | None, progress: Progress) -> dict[str, Any]:
        scorer = _scorer(model)
        return asdict(
            lambada(scorer, model.tokenizer, texts, run=precision, journal=journal, progress=progress)
        )

    with _opened(run, "lambada", "\n".join(texts), {"limit": limit}) as journal:
        results = _measure_all(run, journal, measure)
    _show(run, {"task": "lambada", "file": str(file), "settings": {"limit": limit}}, results)


@command.command("choice", short_help="Multiple choice by rank.")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Only the first N questions.")
@_run_options
def _choice(file: Path, limit: int | None, **options: Any) -> None:
    r"""Measure how often the right choice is the most likely, by log-probability and per byte.

    FILE has one JSON object a line: {"prompt": "...", "choices": ["...", "..."], "answer": 0}.

    \b
    gpt2fast eval choice questions.jsonl
    gpt2fast eval choice questions.jsonl --model openai-community/gpt2-large --resume choice.journal
    """
    from gpt2fast.evaluation import multiple_choice, read_choices

    run = _take_run(options)
    questions = read_choices(file, limit)

    def measure(model: GPT2, precision: str, journal: Journal | None, progress: Progress) -> dict[str, Any]:
        scorer = _scorer(model)
        result = multiple_choice(
            scorer, model.tokenizer, questions, run=precision, journal=journal, progress=progress
        )
        return asdict(result)

    with _opened(run, "choice", repr(questions), {"limit": limit}) as journal:
        results = _measure_all(run, journal, measure)
    _show(run, {"task": "choice", "file": str(file), "settings": {"limit": limit}}, results)


def _take_run(options: dict[str, Any]) -> _Run:
    from gpt2fast.loading.sources import find_model_directory

    precisions = tuple(dict.fromkeys(options.pop("precisions")))
    run = _Run(ModelChoice.take(options), precisions, options.pop("resume"), options.pop("as_json"))
    if run.model.calibrate is not None:
        if not run.calibrated:
            raise click.UsageError(
                f"--calibrate has no effect without --precision {' or '.join(CALIBRATED_PRECISIONS)}"
            )
        _load(run, run.calibrated[0]).close()  # a text that won't do is refused before anything is measured
    for precision in precisions[1:]:  # and so is a precision that the model directory doesn't have
        find_model_directory(run.model.source, precision, calibrate=_calibrate(run, precision))
    return run


def _read(path: Path) -> str:
    try:
        with errors_of(path):
            return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise click.ClickException(f"{path}: not UTF-8 text: {error.reason} at byte {error.start}") from None


@contextmanager
def _opened(run: _Run, task: str, content: str, settings: Mapping[str, Any]) -> Iterator[Journal | None]:
    """The journal of a measurement, if requested; it is valid only for this model, content and settings."""
    if run.resume is None:
        yield None
        return
    from hashlib import sha256

    from gpt2fast.evaluation import Journal
    from gpt2fast.loading.sources import find_model_directory

    directory = find_model_directory(run.model.source, run.precisions[0] if run.precisions else None)
    identity = {
        "task": task,
        "model": directory.metadata.get("fingerprint"),
        "content": sha256(content.encode("utf-8", "surrogatepass")).hexdigest(),
        **settings,
    }
    if run.model.calibrate is not None:
        calibrated = find_model_directory(run.model.source, run.calibrated[0], calibrate=run.model.calibrate)
        identity["calibrated"] = calibrated.metadata.get("fingerprint")
    if run.model.kv_cache is not None:
        identity["kv_cache"] = run.model.kv_cache
    if run.model.tokenizer is not None:
        from gpt2fast.text.tokenizer import Tokenizer

        tokenizer = Tokenizer.from_source(run.model.tokenizer).to_json()
        identity["tokenizer"] = sha256(tokenizer.encode()).hexdigest()
    with Journal(run.resume, identity) as journal:
        yield journal


def _load(run: _Run, precision: Precision | None) -> GPT2:
    return replace(run.model, precision=precision, calibrate=_calibrate(run, precision)).load_for_text()


def _calibrate(run: _Run, precision: Precision | None) -> str | None:
    return run.model.calibrate if precision in CALIBRATED_PRECISIONS else None


def _scorer(model: GPT2) -> LanguageModel:
    from gpt2fast.evaluation import language_model

    return language_model(model)


@contextmanager
def _progress(title: str) -> Iterator[Progress]:
    from tqdm import tqdm

    with tqdm(desc=title, unit="tok", unit_scale=True, leave=False, disable=None) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield show


def _measure_all(
    run: _Run,
    journal: Journal | None,
    measure: Callable[[GPT2, str, Journal | None, Progress], dict[str, Any]],
) -> list[dict[str, Any]]:
    """One result for each precision; only one model is in memory at a time."""
    results = []
    for precision in run.precisions or (None,):
        model = _load(run, precision)
        with _progress(model.precision) as progress:
            result = measure(model, model.precision, journal, progress)
        results.append({"precision": model.precision, **result})
    return results


def _compare_all(
    run: _Run,
    journal: Journal | None,
    content: str,
    settings: PerplexitySettings,
    limit: int,
    results: list[dict[str, Any]],
) -> None:
    """Add to the results of the other precisions their difference from fp32."""
    from gpt2fast.evaluation import compare
    from gpt2fast.evaluation.perplexity import encode

    reference = _load(run, _REFERENCE)
    window, _ = settings.sizes(reference.config.n_positions)
    ids = encode(reference.tokenizer, content, settings)[: settings.limit]
    for result in results:
        if result["precision"] == _REFERENCE:
            continue
        model = _load(run, result["precision"])
        title = f"{model.precision} against {_REFERENCE}"
        with _progress(title) as progress:
            found = compare(
                _scorer(reference),
                _scorer(model),
                ids,
                window=window,
                limit=limit,
                run=title,
                journal=journal,
                progress=progress,
            )
        result[f"against_{_REFERENCE}"] = asdict(found)


def _show(run: _Run, heading: Mapping[str, Any], results: list[dict[str, Any]]) -> None:
    if run.as_json:
        print_json({**heading, "model": run.model.source, "results": results})
        return
    columns = [_flat(result) for result in results]
    width = max(len(name) for column in columns for name in column)
    for name in dict.fromkeys(name for column in columns for name in column):
        values = "".join(f"{_readable(column.get(name)):>14}" for column in columns)
        click.echo(f"{name:<{width}}{values}")


def _flat(result: Mapping[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in result.items():
        if isinstance(value, dict):
            values.update(value)
        else:
            values[name] = value
    return values


def _readable(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.4f}" if abs(value) < 1000 else f"{value:,.1f}"
    if isinstance(value, int):
        return f"{value:,}"
    return "" if value is None else str(value)
