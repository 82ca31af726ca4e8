"""``gpt2fast serve``: OpenAI's HTTP interface over a model."""

from __future__ import annotations

import errno
import os
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gpt2fast._validation import Integer
from gpt2fast.cli.shared import PRECISION_TYPE, decorated, kv_cache_option, threads_option, tokenizer_option
from gpt2fast.errors import ModelError
from gpt2fast.serving import Limits, Settings
from gpt2fast.serving.settings import KEY_VARIABLE, default_model_name
from gpt2fast.serving.start import without_garbage_collection

if TYPE_CHECKING:
    from gpt2fast.serving.launch import Launch

_MAX_FILE_BYTES = 1 << 20
_LOCAL_HOSTS = ("127.0.0.1", "localhost", "[::1]")
_DEFAULTS = Limits()


def _number(name: str, default: int, text: str, **limits: Any) -> Any:
    kind = click.IntRange(**limits) if limits else click.INT
    return click.option(name, type=kind, default=default, metavar="N", show_default=True, help=text)


_MODEL_OPTIONS = [
    click.option(
        "--precision", type=PRECISION_TYPE, help="Of the weights. Default: int8, or the model directory's."
    ),
    threads_option,
    kv_cache_option,
    tokenizer_option,
    _number("--max-sequences", 32, "Texts that share the steps; more wait.", min=1, max=4096),
    click.option("--served-model-name", metavar="NAME", help="The model's id. Default: after MODEL."),
    click.option(
        "--chat-template",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="File with a Jinja template for /v1/chat/completions. Default: the model's own.",
    ),
]
_ADDRESS_OPTIONS = [
    click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on."),
    _number("--port", 8000, "Port to listen on; 0 takes a free one.", min=0, max=65535),
    click.option("--root-path", default="", metavar="PATH", help="The prefix of a reverse proxy."),
    click.option(
        "--allowed-host",
        "allowed_hosts",
        multiple=True,
        metavar="NAME",
        help="Header Host to answer besides the local names; may be given several times; * for all. Default: "
        "all, or none where --host is local, which keeps out pages that rebind names.",
    ),
    click.option(
        "--cors-origin",
        "cors_origins",
        multiple=True,
        metavar="URL",
        help="Origin whose pages may call the service; may be given several times; * for all. Default: none.",
    ),
]
_KEY_OPTIONS = [
    click.option(
        "--api-key",
        "api_keys",
        multiple=True,
        metavar="KEY",
        help=f"Key that requests must carry; may be given several times. Others can see it in the list of "
        f"processes: better {KEY_VARIABLE} or a file.",
    ),
    click.option(
        "--api-key-file",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="File with a key on each line.",
    ),
    click.option(
        "--prefix-cache-scope",
        type=click.Choice(("all", "key")),
        default="all",
        show_default=True,
        help="Whose prompts a request reuses keys and values of: everybody's, or those with its own API key. "
        "A faster answer reveals that an earlier prompt began alike.",
    ),
]
_LIMIT_OPTIONS = [
    _number("--max-waiting", _DEFAULTS.waiting, "Requests that may wait; more get 429.", min=0),
    _number("--max-body-bytes", _DEFAULTS.body_bytes, "Size of a request.", min=1),
    _number("--max-prompts", _DEFAULTS.prompts, "Prompts or texts of a request.", min=1),
    _number("--max-n", _DEFAULTS.texts_per_prompt, "n, best_of and num_beams.", min=1),
    _number("--max-request-tokens", _DEFAULTS.tokens, "Tokens of all texts of a request.", min=1),
    _number(
        "--max-logprobs", _DEFAULTS.logprobs, "Likeliest tokens to report at each place.", min=0, max=1024
    ),
    _number(
        "--max-grammar", _DEFAULTS.grammar, "Characters of a regex, schema, grammar or all choices.", min=1
    ),
    _number("--max-priority", _DEFAULTS.priority, "The highest priority of a request."),
    _number(
        "--max-seconds",
        int(_DEFAULTS.seconds),
        "Time for a text, or to read others, waiting included.",
        min=1,
    ),
]
_LIFE_OPTIONS = [
    _number("--workers", 1, "Processes that share the port and the weights' memory.", min=1, max=256),
    _number("--grace", 30, "Seconds that requests have to finish after SIGTERM.", min=0),
    _number("--keep-alive", 75, "Seconds that a connection waits for its next request.", min=1),
    click.option(
        "--log-format",
        type=click.Choice(("text", "json")),
        default="text",
        show_default=True,
        help="Of the log.",
    ),
    click.option(
        "--log-level",
        type=click.Choice(("debug", "info", "warning", "error")),
        default="info",
        show_default=True,
        help="Of the log; a line for each request is info.",
    ),
]


def _options(function: Any) -> Any:
    groups = (_MODEL_OPTIONS, _ADDRESS_OPTIONS, _KEY_OPTIONS, _LIMIT_OPTIONS, _LIFE_OPTIONS)
    return decorated(function, [option for group in groups for option in group])


@click.command()
@click.argument("model", required=False, metavar="[MODEL]")
@_options
def command(model: str | None, **values: Any) -> None:
    r"""Serve MODEL over HTTP with OpenAI's interface, and a page to try it.

    \b
    gpt2fast serve
    gpt2fast serve openai-community/gpt2 --precision int4
    gpt2fast serve my-model --host 0.0.0.0 --api-key-file keys.txt

    MODEL is a model directory, a checkpoint, a model file or a hub id. Default: the small embedded model.
    Needs: pip install 'gpt2fast[server]'.
    """
    try:
        with without_garbage_collection():
            from gpt2fast.serving.launch import serve
    except ImportError as error:
        raise click.ClickException(
            f"serving needs more packages ({error}): pip install 'gpt2fast[server]'"
        ) from None
    launch = _launch(model, values)
    try:
        serve(launch, lambda port: _announce(launch, port))
    except (OSError, OverflowError) as error:
        problem = _address_problem(error, launch)
        if problem is None:
            raise
        raise click.ClickException(problem) from None


def _launch(model: str | None, values: dict[str, Any]) -> Launch:
    from gpt2fast.loading.sources import find_model_directory
    from gpt2fast.model import GPT2
    from gpt2fast.serving.launch import Launch

    workers, threads = values["workers"], values["threads"]
    if threads is not None:
        Integer(1, 1024)("--threads", threads)
    elif workers > 1:
        threads = _threads_each(workers)
    load = partial(
        GPT2.from_pretrained,
        model,
        precision=values["precision"],
        threads=threads,
        tokenizer=values["tokenizer"],
        kv_cache=values["kv_cache"],
        max_sequences=values["max_sequences"],
    )
    return Launch(
        prepare=partial(find_model_directory, model, values["precision"]),
        load=load,
        settings=_checked_settings(model, values),
        host=values["host"],
        port=values["port"],
        workers=workers,
        grace=values["grace"],
        keep_alive=values["keep_alive"],
        log_format=values["log_format"],
        log_level=values["log_level"],
    )


def _threads_each(workers: int) -> int:
    from gpt2fast._native import core

    return max(1, core.usable_cores() // workers)


def _checked_settings(model: str | None, values: dict[str, Any]) -> Settings:
    try:
        return _settings(model, values)
    except ValueError as error:
        message = str(error).replace("cors_origins", "--cors-origin").replace("root_path", "--root-path")
        raise click.UsageError(message) from None


def _settings(model: str | None, values: dict[str, Any]) -> Settings:
    root = values["root_path"].strip("/")
    template: Path | None = values["chat_template"]
    api_keys = _api_keys(values["api_keys"], values["api_key_file"])
    if values["prefix_cache_scope"] == "key" and not api_keys:
        raise click.UsageError("--prefix-cache-scope key needs API keys: give --api-key or --api-key-file")
    return Settings(
        model_name=values["served_model_name"] or default_model_name(model),
        api_keys=api_keys,
        cors_origins=values["cors_origins"],
        allowed_hosts=_allowed_hosts(values["host"], values["allowed_hosts"]),
        root_path=f"/{root}" if root else "",
        chat_template=None if template is None else _read(template, "--chat-template"),
        prefix_cache_scope=values["prefix_cache_scope"],
        limits=Limits(
            body_bytes=values["max_body_bytes"],
            prompts=values["max_prompts"],
            texts_per_prompt=values["max_n"],
            tokens=values["max_request_tokens"],
            logprobs=values["max_logprobs"],
            grammar=values["max_grammar"],
            priority=values["max_priority"],
            waiting=values["max_waiting"],
            seconds=float(values["max_seconds"]),
        ),
    )


def _allowed_hosts(listening: str, given: tuple[str, ...]) -> tuple[str, ...]:
    shown = f"[{listening}]" if ":" in listening else listening
    # This machine's names are always allowed: health checks use them, and pages of other origins can't.
    return (*_LOCAL_HOSTS, *given) if given or shown in _LOCAL_HOSTS else ("*",)


def _api_keys(given: tuple[str, ...], file: Path | None) -> tuple[str, ...]:
    keys = list(given)
    if os.environ.get(KEY_VARIABLE):
        keys.append(os.environ[KEY_VARIABLE])
    if file is not None:
        lines = [line.strip() for line in _read(file, "--api-key-file").splitlines()]
        found = [line for line in lines if line and not line.startswith("#")]
        if not found:
            raise click.UsageError(f"--api-key-file {file}: no key in it")
        keys += found
    for key in keys:
        if not key or not key.isascii() or not key.isprintable() or " " in key:
            raise click.UsageError(
                "an API key must consist of printable ASCII characters without spaces, at least one"
            )
    return tuple(keys)


def _read(path: Path, option: str) -> str:
    try:
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise click.UsageError(f"{option} {path}: larger than {_MAX_FILE_BYTES} bytes")
        return path.read_text("utf-8")
    except UnicodeDecodeError:
        raise click.UsageError(f"{option} {path}: not UTF-8 text") from None
    except OSError as error:
        raise click.UsageError(f"{option} {path}: {error.strerror}") from None


def _address_problem(error: Exception, launch: Launch) -> str | None:
    """What is wrong with the address, if the error is about it."""
    if isinstance(error, ModelError) or getattr(error, "filename", None) is not None:
        return None
    where = f"port {launch.port} of {launch.host}"
    number = getattr(error, "errno", None)
    if number == errno.EADDRINUSE:
        return f"{where} is taken; name another by --port (0 takes a free one)"
    if number == errno.EACCES:
        return f"{where}: not permitted; ports below 1024 are the system's"
    if number == errno.EADDRNOTAVAIL or "gai" in type(error).__name__:
        return f"{launch.host} is no address of this machine; name one by --host"
    return None


def _announce(launch: Launch, port: int) -> None:
    """The first lines."""
    from gpt2fast import __version__

    host = launch.host if launch.host not in ("0.0.0.0", "::") else "127.0.0.1"
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    key = f' -H "Authorization: Bearer ${KEY_VARIABLE}"' if launch.settings.api_keys else ""
    workers = f" in {launch.workers} processes" if launch.workers > 1 else ""
    body = '{"prompt": "Once upon a time", "max_tokens": 40}'
    click.echo(
        f"gpt2fast {__version__} serves {launch.settings.model_name}{workers} at {url}/v1\n"
        f"  page  {url}/\n"
        f"  docs  {url}/docs\n"
        f"  try   curl {url}/v1/completions{key} -H 'Content-Type: application/json' -d '{body}'"
    )
    sys.stdout.flush()
