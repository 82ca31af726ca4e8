"""GPT-2's byte-level BPE: text to token ids and back, whole or as tokens arrive.

The only importer of the package ``tokenizers``.
"""

from __future__ import annotations

import codecs
import json
import re
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import accumulate, pairwise
from operator import index
from typing import TYPE_CHECKING, Any

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from gpt2fast.errors import ModelError

if TYPE_CHECKING:
    import os

END_OF_TEXT = "<|endoftext|>"

# Bytes that stand for themselves in a vocabulary; the others follow from U+0100 on, in order.
_PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_OTHERS = [byte for byte in range(256) if byte not in set(_PRINTABLE)]
#: The character that stands for each byte in a byte-level vocabulary.
BYTE_ALPHABET = [
    chr(byte) if byte in set(_PRINTABLE) else chr(0x100 + _OTHERS.index(byte)) for byte in range(256)
]
# Alphabet character -> the byte as a Latin-1 character; other characters map outside Latin-1.
_TO_LATIN1 = dict.fromkeys(_OTHERS, 0xFFFF) | {ord(c): byte for byte, c in enumerate(BYTE_ALPHABET)}
_ESCAPED_BYTES = re.compile("([\udc80-\udcff]+)")


class Tokenizer:
    """A byte-level BPE tokenizer with the vocabulary of one model.

    Any Unicode text and any bytes survive a round trip. The text of a special token such as ``<|endoftext|>``
    inside a text becomes that token; :meth:`encode_bytes` takes everything literally. Ids are lists of int.

    Parameters
    ----------
    tokenizer_json : str
        The text of a Hugging Face ``tokenizer.json``.
    vocab_size : int, optional
        The size of the model's vocabulary: at least the tokenizer's (ids beyond it decode to nothing).
        Default: the tokenizer's own.
    where : str
        What to name in errors.

    Raises
    ------
    ModelError
        The file is broken, not byte-level BPE, or doesn't fit the vocabulary.
    """

    def __init__(
        self, tokenizer_json: str, *, vocab_size: int | None = None, where: str = "tokenizer.json"
    ) -> None:
        try:
            self._backend = tokenizers.Tokenizer.from_str(tokenizer_json)
        except Exception as error:  # the package raises bare Exception
            raise ModelError(f"{where}: not a tokenizer: {error}") from None
        # Settings from training; they would silently cut or pad texts.
        self._backend.no_truncation()
        self._backend.no_padding()
        vocabulary = self._backend.get_vocab()
        if not vocabulary:
            raise ModelError(f"{where}: the vocabulary is empty")
        largest = max(vocabulary.values())
        self.vocab_size = largest + 1 if vocab_size is None else vocab_size
        if largest >= self.vocab_size:
            raise ModelError(
                f"{where}: the tokenizer does not fit the model: its largest token id is {largest}, "
                f"but the model's vocabulary has {self.vocab_size} tokens"
            )
        added = self._backend.get_added_tokens_decoder()
        self._special = frozenset(token_id for token_id, token in added.items() if token.special)
        contents = {token_id: token.content for token_id, token in added.items()}
        self._data, self._offsets = _byte_table(vocabulary, contents, largest + 1, where)

    @classmethod
    def from_source(
        cls, source: str | os.PathLike[str], *, vocab_size: int | None = None, token: str | None = None
    ) -> Tokenizer:
        """Read a ``tokenizer.json``, a ``vocab.json`` beside its ``merges.txt``, or a directory with either.

        The source may also be the id of a model on the Hugging Face hub, and ``token`` an access token for
        it. Other parameters and errors are those of the class; for a hub id also the errors of
        :func:`gpt2fast.checkpoints.hub.download_tokenizer`.
        """
        from gpt2fast.checkpoints.tokenizer_files import read_tokenizer_files

        files = read_tokenizer_files(source, token=token)
        text = files.tokenizer_json
        if text is None:
            text = tokenizer_json_from_gpt2_files(
                files.vocab_json or "", files.merges_txt or "", where=str(source)
            )
        return cls(text, vocab_size=vocab_size, where=str(source))

    def __repr__(self) -> str:
        return f"Tokenizer(vocab_size={self.vocab_size}, end_of_text_id={self.end_of_text_id})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self.to_json(), self.vocab_size)

    def to_json(self) -> str:
        """The text of a ``tokenizer.json`` for this tokenizer."""
        return str(self._backend.to_str())

    @cached_property
    def end_of_text_id(self) -> int | None:
        """The id of ``<|endoftext|>``, if the vocabulary has it."""
        return self._backend.token_to_id(END_OF_TEXT)

    @property
    def special_token_ids(self) -> frozenset[int]:
        """Ids that stand for no text."""
        return self._special

    def encode(self, text: str) -> list[int]:
        """The token ids of a text.

        Raises
        ------
        ValueError
            The text holds a lone surrogate, which is not a Unicode character.
        """
        check_text(text)
        return self._backend.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: Iterable[str]) -> list[list[int]]:
        """:meth:`encode` of each text."""
        checked = [check_text(text) for text in texts]
        return [one.ids for one in self._backend.encode_batch(checked, add_special_tokens=False)]

    def encode_bytes(self, data: bytes) -> list[int]:
        """The token ids of any bytes, valid UTF-8 or not; special tokens are not looked for.

        The parts that are valid UTF-8 are split into words as texts are; a run of other bytes is one word.
        """
        ids: list[int] = []
        for part in _ESCAPED_BYTES.split(data.decode("utf-8", "surrogateescape")):
            if _ESCAPED_BYTES.match(part):
                words = ["".join(BYTE_ALPHABET[ord(c) - 0xDC00] for c in part)]
            else:
                words = [word for word, _ in self._backend.pre_tokenizer.pre_tokenize_str(part)]
            ids.extend(token.id for word in words for token in self._backend.model.tokenize(word))
        return ids

    def decode_bytes(self, ids: Iterable[int], *, skip_special_tokens: bool = True) -> bytes:
        """The bytes of token ids; the ids may be integers of any kind, also an integer array.

        Raises
        ------
        ValueError
            An id is outside the vocabulary.
        """
        data, offsets, tokens = self._data, self._offsets, len(self._offsets) - 1
        special = self._special if skip_special_tokens else ()
        pieces = []
        for position, token in enumerate(ids):
            token = index(token)
            if not 0 <= token < self.vocab_size:
                raise ValueError(
                    f"token id {token} at position {position} is outside the vocabulary "
                    f"(0 to {self.vocab_size - 1})"
                )
            if token not in special and token < tokens:
                pieces.append(data[offsets[token] : offsets[token + 1]])
        return b"".join(pieces)

    def decode(self, ids: Iterable[int], *, skip_special_tokens: bool = True) -> str:
        """The text of token ids, with U+FFFD for invalid UTF-8; raises the errors of :meth:`decode_bytes`."""
        return self.decode_bytes(ids, skip_special_tokens=skip_special_tokens).decode("utf-8", "replace")

    def decode_batch(self, batch: Iterable[Iterable[int]], *, skip_special_tokens: bool = True) -> list[str]:
        """:meth:`decode` of each sequence of ids."""
        return [self.decode(ids, skip_special_tokens=skip_special_tokens) for ids in batch]

    def token_bytes(self, *, skip_special_tokens: bool = True) -> list[bytes]:
        """The bytes of each id of the vocabulary, ``vocab_size`` entries; ``b""`` where there are none."""
        table = [self._data[start:end] for start, end in pairwise(self._offsets)]
        table += [b""] * (self.vocab_size - len(table))
        for token in self._special if skip_special_tokens else ():
            table[token] = b""
        return table

    def byte_table(self) -> tuple[bytes, array[int]]:
        """The bytes of all tokens, including special ones, and the offset of each id's.

        Returns
        -------
        data : bytes
            The tokens' bytes in the order of their ids.
        offsets : array of int32
            Token ``i`` has ``data[offsets[i]:offsets[i + 1]]``; those beyond have none.
        """
        return self._data, self._offsets


def _rebuild(tokenizer_json: str, vocab_size: int) -> Tokenizer:
    """The tokenizer that was pickled."""
    return Tokenizer(tokenizer_json, vocab_size=vocab_size)


class IncrementalDecoder:
    """Text from tokens as they arrive; never a part of a character.

    The deltas, joined, equal the decoded whole: bytes that turn out to be invalid UTF-8 become U+FFFD as soon
    as that is certain.

    Parameters
    ----------
    tokenizer : Tokenizer
        The tokenizer of the ids.
    skip_special_tokens : bool
        Whether special tokens decode to nothing.
    """

    def __init__(self, tokenizer: Tokenizer, *, skip_special_tokens: bool = True) -> None:
        self._tokenizer = tokenizer
        self._skip_special_tokens = skip_special_tokens
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, ids: Sequence[int], *, final: bool = False) -> str:
        """The text that these ids complete; with ``final``, also what was held back."""
        data = self._tokenizer.decode_bytes(ids, skip_special_tokens=self._skip_special_tokens)
        return self.feed_bytes(data, final=final)

    def feed_bytes(self, data: bytes, *, final: bool = False) -> str:
        """:meth:`feed` for bytes."""
        return self._decoder.decode(data, final)


def _byte_table(
    vocabulary: dict[str, int], added: dict[int, str], count: int, where: str
) -> tuple[bytes, array[int]]:
    """The result of :meth:`Tokenizer.byte_table`, in few operations on the whole vocabulary."""
    tokens = [""] * count
    for token, token_id in vocabulary.items():
        tokens[token_id] = token
    for token_id, content in added.items():
        tokens[token_id] = "".join(BYTE_ALPHABET[byte] for byte in content.encode())
    offsets = array("i", accumulate(map(len, tokens), initial=0))
    try:
        return "".join(tokens).translate(_TO_LATIN1).encode("latin-1"), offsets
    except UnicodeEncodeError as error:
        token_id = bisect_right(offsets, error.start) - 1
        raise ModelError(
            f"{where}: not a byte-level BPE tokenizer: the token {tokens[token_id]!r} (id {token_id}) "
            f"holds characters outside the byte alphabet"
        ) from None


def tokenizer_json_from_gpt2_files(vocab_json: str, merges_txt: str, *, where: str) -> str:
    """The text of a ``tokenizer.json`` made from the texts of GPT-2's two original files.

    Parameters
    ----------
    vocab_json, merges_txt : str
        A mapping from token to id; the merges in order, after a line that begins with ``#version``.
    where : str
        What to name in errors.

    Raises
    ------
    ModelError
        Vocabulary or merges are broken, or they don't fit each other.
    """
    try:
        vocabulary = json.loads(vocab_json)
        lines = [line for line in merges_txt.split("\n") if line and not line.startswith("#version")]
        merges = [(first, second) for first, second in (line.rstrip("\r").split(" ") for line in lines)]
        backend = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    except Exception as error:  # the package raises bare Exception
        raise ModelError(f"{where}: not a GPT-2 vocabulary with its merges: {error}") from None
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    if END_OF_TEXT in vocabulary:
        backend.add_special_tokens([END_OF_TEXT])
    return str(backend.to_str())


def check_text(text: str) -> str:
    """The text itself, if it is a string of Unicode characters.

    Raises
    ------
    TypeError
        It is not a string.
    ValueError
        It holds a lone surrogate; the message says which and where.
    """
    if not isinstance(text, str):
        raise TypeError(f"text must be a str, got {type(text).__name__}")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"text holds the lone surrogate U+{ord(text[error.start]):04X} at position {error.start}, "
            f"which is no Unicode character; for raw bytes use encode_bytes"
        ) from None
    return text
