"""Downloads a model from the Hugging Face hub, fetching only the files that are needed."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from fnmatch import fnmatchcase
from glob import escape
from pathlib import Path
from typing import Any

from gpt2fast.errors import ModelError

#: Files that say more of a tokenizer than its vocabulary does.
TOKENIZER_COMPANIONS = (
    *("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    "chat_template.jinja",
)
#: What a SentencePiece model may be called.
SENTENCEPIECE_NAMES = ("spiece.model", "tokenizer.model", "sentencepiece.bpe.model")
#: Small files that describe a model.
_DESCRIPTIONS = (
    *("config.json", "generation_config.json", "tokenizer.json", "vocab.json", "merges.txt", "vocab.txt"),
    *TOKENIZER_COMPANIONS,
    *SENTENCEPIECE_NAMES,
)
#: Where weights may be, in order of preference: one file, or an index and its shards.
_WEIGHTS = (
    ("model.safetensors",),
    ("model.safetensors.index.json", "model-*-of-*.safetensors"),
    ("pytorch_model.bin",),
    ("pytorch_model.bin.index.json", "pytorch_model-*-of-*.bin"),
    # An adapter's; its configuration names the model that it belongs to.
    ("adapter_model.safetensors", "adapter_config.json"),
    ("adapter_model.bin", "adapter_config.json"),
)
#: Formats that hold a whole model in one file.
_SINGLE_FILES = (".gguf", ".onnx")
#: A tokenizer's files, in order of preference.
_TOKENIZERS = (
    *(("tokenizer.json",), ("vocab.json", "merges.txt"), ("vocab.txt",)),
    *((name,) for name in SENTENCEPIECE_NAMES),
)
#: How often a broken transfer is resumed.
_RETRIES = 2
_TRUE = ("1", "on", "yes", "true")
_REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9_][\w.-]{0,95})?", re.ASCII)


def is_repo_id(text: str) -> bool:
    """Whether a text can be the id of a model on the hub: ``name`` or ``organisation/name``."""
    return _REPO_ID.fullmatch(text) is not None


def download_snapshot(
    repo_id: str,
    *,
    revision: str | None = None,
    token: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
) -> Path:
    """Download a model from the hub into the hub's own cache, with progress bars.

    Cached files are not downloaded again, and an interrupted download continues where it stopped.
    Without a network the cached copy is used.

    Parameters
    ----------
    repo_id : str
        ``name`` or ``organisation/name``.
    revision : str, optional
        Branch, tag or commit.
    token : str, optional
        Access token. Default: the one set by ``hf auth login`` or ``HF_TOKEN``.
    cache_dir : path, optional
        Default: the hub's, as set by ``HF_HOME`` and ``HF_HUB_CACHE``.
    local_files_only : bool
        Use only the cache, as with ``HF_HUB_OFFLINE=1``.

    Returns
    -------
    Path
        The directory of the snapshot, or the model file if the repository has only a ``.gguf`` or ``.onnx``.

    Raises
    ------
    ModelError
        There is no such model or revision, or it has no weights of a known format.
    PermissionError
        The model is gated, or the token is not accepted.
    FileNotFoundError
        Working offline, and the model is not in the cache.
    ConnectionError
        The hub can't be reached, and the model is not in the cache.
    """
    request = _Request(repo_id, revision, token, cache_dir, "weights of a known format", _needed)
    return request.fetched(local_files_only)


def download_tokenizer(
    repo_id: str,
    *,
    token: str | None = None,
    only: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
) -> Path:
    """Download only the tokenizer of a model into the hub's own cache.

    Parameters
    ----------
    repo_id, token, cache_dir
        As for :func:`download_snapshot`, with the same errors.
    only : str, optional
        The one file to fetch. Default: ``tokenizer.json``, or ``vocab.json`` with ``merges.txt``, or
        ``vocab.txt``; and what lies beside it.

    Returns
    -------
    Path
        The directory that holds the files.
    """
    forms = _TOKENIZERS if only is None else ((only,),)

    def needed(names: Iterable[str]) -> list[str] | None:
        there = set(names)
        form = next((form for form in forms if there.issuperset(form)), None)
        if form is None:
            return None
        return [*form, *(name for name in TOKENIZER_COMPANIONS if only is None and name in there)]

    return _Request(repo_id, None, token, cache_dir, "tokenizer of a known format", needed).fetched(False)


class _Request:
    """What to fetch, and from where."""

    def __init__(
        self,
        repo_id: str,
        revision: str | None,
        token: str | None,
        cache_dir: str | os.PathLike[str] | None,
        kind: str,
        needed: Callable[[Iterable[str]], list[str] | None],
    ) -> None:
        self._repo_id = repo_id
        self._revision = revision
        self._token = token
        self._cache_dir = None if cache_dir is None else str(cache_dir)
        # What errors call it.
        self._kind = kind
        # Picks the files among a repository's; None if they are not there.
        self._needed = needed
        # Read at every call; the package reads it once.
        self._endpoint = os.environ.get("HF_ENDPOINT") or None

    def fetched(self, local_files_only: bool) -> Path:
        """The path of the files, downloaded from the hub unless working offline."""
        if local_files_only or os.environ.get("HF_HUB_OFFLINE", "").lower() in _TRUE:
            return self.cached("working offline (local_files_only or HF_HUB_OFFLINE)")
        return self.downloaded()

    def downloaded(self) -> Path:
        """The snapshot, completed from the hub."""
        from huggingface_hub import HfApi

        try:
            api = HfApi(endpoint=self._endpoint, token=self._token)
            info = api.model_info(self._repo_id, revision=self._revision)
        except Exception as error:
            explained = self._explain(error)
            if isinstance(explained, ConnectionError):
                return self.cached(str(explained), explained)
            raise explained from error
        names = [sibling.rfilename for sibling in info.siblings or ()]
        wanted = self._needed(names)
        if wanted is None:
            raise ModelError(f"{self._repo_id}: no {self._kind} on the hub; it has {_some(names)}")
        for _ in range(_RETRIES):
            with suppress(ConnectionError):
                return self._transferred(wanted)
        return self._transferred(wanted)

    def cached(self, reason: str, failure: Exception | None = None) -> Path:
        """The snapshot that is in the cache."""
        from huggingface_hub import errors

        missing = f"{self._repo_id}: not in the cache, and {reason}"
        try:
            # The folder, complete or not: its content is checked below.
            directory = self._snapshot(allow_patterns=[], local_files_only=True)
        except errors.HFValidationError as error:
            raise self._explain(error) from error
        except errors.LocalEntryNotFoundError as error:
            if failure is not None:
                raise failure from error
            raise FileNotFoundError(f"{missing}; give a local directory, or download it first") from error
        wanted = self._needed([path.relative_to(directory).as_posix() for path in directory.iterdir()])
        if wanted is None:
            raise FileNotFoundError(f"{missing}: the cache has no {self._kind} of it") from failure
        return _model_path(directory, wanted)

    def _transferred(self, wanted: list[str]) -> Path:
        from huggingface_hub import errors

        try:
            return _model_path(self._snapshot(allow_patterns=[escape(name) for name in wanted]), wanted)
        except errors.LocalEntryNotFoundError as error:
            # Raised by the package when the connection breaks between two files.
            raise self._unreachable(error) from error
        except Exception as error:
            raise self._explain(error) from error

    def _snapshot(self, **options: Any) -> Path:
        from huggingface_hub import snapshot_download

        return Path(
            snapshot_download(
                self._repo_id,
                revision=self._revision,
                token=self._token,
                cache_dir=self._cache_dir,
                endpoint=self._endpoint,
                **options,
            )
        )

    def _explain(self, error: Exception) -> Exception:
        """Turn an error of the package into one that says what to do."""
        from huggingface_hub import errors

        name, address = self._repo_id, self._endpoint or "https://huggingface.co"
        if isinstance(error, errors.HFValidationError):
            return ModelError(
                f"{name!r} is neither a file or directory that exists nor the id of a model on the hub "
                f"(name or organisation/name)"
            )
        if isinstance(error, errors.GatedRepoError):
            return PermissionError(
                f"{name}: is gated; accept its conditions at {address}/{name}, then pass token= "
                f"or run hf auth login"
            )
        if isinstance(error, errors.RevisionNotFoundError):
            return ModelError(f"{name}: has no revision {self._revision!r}; see {address}/{name}/tree/main")
        if isinstance(error, errors.RepositoryNotFoundError):
            return ModelError(
                f"{name}: no file or directory of that name, and no such model on {address}; check the name, "
                f"or, if it is private, pass token= or run hf auth login"
            )
        if isinstance(error, errors.HfHubHTTPError):
            status = error.response.status_code if error.response is not None else 0
            if status in (401, 403):
                return PermissionError(
                    f"{name}: the hub refuses the access token ({status}); pass another as token=, "
                    f"or run hf auth login"
                )
            return ConnectionError(f"{name}: {address} answers with an error ({status}); try again later")
        # Errors such as a full disk stay as they are.
        if isinstance(error, (_http_error(), ConnectionError, TimeoutError)):
            return self._unreachable(error)
        return error

    def _unreachable(self, error: Exception) -> ConnectionError:
        address = self._endpoint or "https://huggingface.co"
        return ConnectionError(
            f"{self._repo_id}: no file or directory of that name, and can't reach {address} "
            f"({type(error).__name__}); check the network and try again (an interrupted download continues "
            f"where it stopped), or give a local directory"
        )


def _http_error() -> type[Exception]:
    """The base class of the errors of the package's HTTP library: requests or, from 1.0 on, httpx."""
    from huggingface_hub.errors import HfHubHTTPError

    foreign = (cls for cls in reversed(HfHubHTTPError.__mro__) if cls.__module__ != "builtins")
    return next(cls for cls in foreign if issubclass(cls, Exception))


def _needed(names: Iterable[str]) -> list[str] | None:
    """The files of a repository to fetch; None if there are no weights that can be read."""
    names = list(names)
    descriptions = [name for name in names if name in _DESCRIPTIONS]
    if "tokenizer.json" in descriptions:
        replaced = ("vocab.json", "merges.txt", "vocab.txt", *SENTENCEPIECE_NAMES)
        descriptions = [name for name in descriptions if name not in replaced]
    for first, *shards in _WEIGHTS:
        if first in names:
            return [
                *descriptions,
                first,
                *(name for name in names if any(fnmatchcase(name, pattern) for pattern in shards)),
            ]
    for suffix in _SINGLE_FILES:
        found = [name for name in names if name.endswith(suffix)]
        if len(found) == 1:
            # An ONNX model's external data has its name with an ending.
            return [*descriptions, *(name for name in names if name.startswith(found[0]))]
    return None


def _model_path(directory: Path, wanted: list[str]) -> Path:
    """The snapshot's directory, or its only model file."""
    lone = [name for name in wanted if name.endswith(_SINGLE_FILES)]
    return directory / lone[0] if lone else directory


def _some(names: list[str], shown: int = 8) -> str:
    return ", ".join(names[:shown]) + (", ..." if len(names) > shown else "") if names else "no files"
