"""A model's tokenizer, read when text first goes in or out; token ids need none."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from gpt2fast._native import core
from gpt2fast.config import GPT2_VOCAB_SIZE
from gpt2fast.storage.locks import ForkSafeLock

if TYPE_CHECKING:
    from pathlib import Path

    from gpt2fast.storage.model_directory import ModelDirectory
    from gpt2fast.text.tokenizer import Tokenizer


class LazyTokenizer:
    """A tokenizer that is loaded once, by whichever thread needs it first.

    Parameters
    ----------
    load : callable
        Returns the tokenizer. After an error it is called again the next time.
    """

    def __init__(self, load: Callable[[], Tokenizer]) -> None:
        self._load = load
        self._lock = ForkSafeLock()
        self._tokenizer: Tokenizer | None = None
        self._token_bytes: core.TokenBytes | None = None

    @property
    def is_loaded(self) -> bool:
        """Whether ``get()`` returns at once."""
        return self._tokenizer is not None

    def get(self) -> Tokenizer:
        """The tokenizer; raises the errors of ``load``."""
        if self._tokenizer is None:
            with self._lock:
                if self._tokenizer is None:
                    self._tokenizer = self._load()
        return self._tokenizer

    def check_streamable(self) -> None:
        """Raise ValueError if the tokenizer is known to decode whole texts only; one not read yet is not."""
        if self._tokenizer is not None and not self._tokenizer.decodes_bytes:
            self._tokenizer.byte_table()

    def token_bytes(self) -> core.TokenBytes:
        """The bytes of every token, in which the core looks for stop strings."""
        tokenizer = self.get()
        with self._lock:
            if self._token_bytes is None:
                # Special tokens have theirs too: a stop string may be one, as in transformers.
                self._token_bytes = core.TokenBytes(*tokenizer.byte_table(), [])
        return self._token_bytes


def lazy_tokenizer(directory: ModelDirectory, given: Tokenizer | None) -> LazyTokenizer | None:
    """The given tokenizer, or the model's own, or GPT-2's where it fits; None if there is none."""
    if given is not None:
        loaded = LazyTokenizer(lambda: given)
        loaded.get()
        return loaded
    path, vocab_size = directory.tokenizer_path, directory.config.vocab_size
    if path is not None:
        return LazyTokenizer(lambda: _read_own(directory, path))
    if vocab_size == GPT2_VOCAB_SIZE and directory.tokenizer_fault is None:
        source = str(directory.metadata.get("source", directory.path))
        return LazyTokenizer(lambda: _read(_gpt2_tokenizer_file(source), vocab_size))
    return None


def _read_own(directory: ModelDirectory, path: Path) -> Tokenizer:
    tokenizer = _read(path, directory.config.vocab_size)
    directory.check_same()
    return tokenizer


def _read(path: Path, vocab_size: int) -> Tokenizer:
    from gpt2fast.text.tokenizer import Tokenizer

    return Tokenizer.from_source(path, vocab_size=vocab_size)


def _gpt2_tokenizer_file(source: str) -> Path:
    from gpt2fast.text.gpt2_tokenizer import gpt2_tokenizer_file

    return gpt2_tokenizer_file(source)
