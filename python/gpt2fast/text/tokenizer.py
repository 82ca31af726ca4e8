"""Text to token ids and back, by the tokenizer that belongs to a model."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from functools import cached_property
from itertools import pairwise
from operator import index
from typing import TYPE_CHECKING, Any, cast

from gpt2fast.errors import ModelError
from gpt2fast.text.assembly import assemble, without_tokens_beyond
from gpt2fast.text.backend import Backend, checked_vocabulary, explained, read_backend, written
from gpt2fast.text.byte_level import (
    BYTE_ALPHABET,
    ESCAPED_BYTES,
    byte_table,
    joined,
    without_prefix_space,
)
from gpt2fast.text.clean_up import clean_up
from gpt2fast.text.decoders import TokenPieces, read_decoding
from gpt2fast.text.tokenizer_settings import END_OF_TEXT, TokenizerSettings
from gpt2fast.text.transformers_names import TransformersNames, is_single_id
from gpt2fast.text.unicode_text import check_text

if TYPE_CHECKING:
    import os

    from gpt2fast.checkpoints.base import TokenizerFiles


# Characters of a text that is encoded without Python's lock, for which the backend starts threads.
_LONG_TEXT = 1 << 15


class Tokenizer(TransformersNames):
    """The tokenizer of one model.

    GPT-2's is byte-level BPE: any Unicode text and any bytes survive a round trip. Others encode and decode
    as their files say. The text of a special token such as ``<|endoftext|>`` inside a text becomes that
    token; :meth:`encode_bytes` takes everything literally. Ids are lists of int.

    What ``transformers`` calls ``tokenizer(...)``, ``batch_decode``, ``eos_token_id``, ``get_vocab`` and so
    on is here under the same names. A tokenizer doesn't change, but for the token and the side of padding.

    Parameters
    ----------
    tokenizer_json : str
        The text of a Hugging Face ``tokenizer.json``.
    vocab_size : int, optional
        The size of the model's vocabulary: at least the tokenizer's (ids beyond it decode to nothing).
        Default: the tokenizer's own.
    settings : TokenizerSettings, optional
        What the file doesn't say.
    chat_template : str, optional
        For :meth:`apply_chat_template`.
    where : str
        What to name in errors.

    Raises
    ------
    ModelError
        The file is broken, or doesn't fit the vocabulary.
    """

    def __init__(
        self,
        tokenizer_json: str,
        *,
        vocab_size: int | None = None,
        settings: TokenizerSettings | None = None,
        chat_template: str | None = None,
        where: str = "tokenizer.json",
    ) -> None:
        backend = read_backend(tokenizer_json, where)
        self._set_up(backend, settings or TokenizerSettings(), vocab_size, chat_template, where)

    def _set_up(
        self,
        backend: Backend,
        settings: TokenizerSettings,
        vocab_size: int | None,
        chat_template: str | None,
        where: str,
    ) -> None:
        self._backend = backend
        self._vocabulary = checked_vocabulary(backend, where)
        self._size = max(self._vocabulary.values()) + 1  # of the table of tokens
        self._model_size = self._size if vocab_size is None else vocab_size
        if self._size > self._model_size:
            raise ModelError(
                f"{where}: the tokenizer does not fit the model: its largest token id is {self._size - 1}, "
                f"but the model's vocabulary has {self._model_size} tokens"
            )
        self._settings = settings
        self._chat_template = chat_template
        self._padding_token = settings.roles.get("pad_token")
        self._padding_side = settings.padding_side
        added = backend.get_added_tokens_decoder()
        self._special = frozenset(token_id for token_id, token in added.items() if token.special)
        self._decoding = read_decoding(backend.decoder)
        self._words = without_prefix_space(backend.pre_tokenizer)
        if self._decoding.by_bytes and self._words is None and backend.normalizer is None:
            raise ModelError(
                f"{where}: the decoder is ByteLevel, and neither pre_tokenizer nor normalizer is: texts "
                f"would lose their spaces"
            )
        with explained(f"{where}: not a tokenizer"):
            around = backend.encode("", add_special_tokens=True).ids
        if around and max(around) >= self._model_size:
            raise ModelError(
                f"{where}: the post_processor adds the token id {max(around)}, and the vocabulary ends at "
                f"{self._model_size - 1}"
            )
        self._is_bpe = type(backend.model).__name__ == "BPE"
        self._cleans_up = settings.clean_up_tokenization_spaces and not self._is_bpe

    @classmethod
    def from_source(
        cls, source: str | os.PathLike[str], *, vocab_size: int | None = None, token: str | None = None
    ) -> Tokenizer:
        """Read a ``tokenizer.json``, a ``vocab.json`` beside its ``merges.txt``, or a directory with either.

        What lies beside these files counts too: ``tokenizer_config.json``, ``special_tokens_map.json``,
        ``added_tokens.json``. The source may also be the id of a model on the Hugging Face hub, and ``token``
        an access token for it. Other parameters and errors are those of the class; for a hub id also the
        errors of :func:`gpt2fast.checkpoints.hub.download_tokenizer`.
        """
        from gpt2fast.checkpoints.tokenizer_files import read_tokenizer_files

        files = read_tokenizer_files(source, token=token)
        return cls.from_files(files, vocab_size=vocab_size, where=str(source))

    @classmethod
    def from_files(
        cls, files: TokenizerFiles, *, vocab_size: int | None = None, where: str = "tokenizer"
    ) -> Tokenizer:
        """The tokenizer of files that are read already; errors as of the class."""
        backend, settings = assemble(files, where=where, vocab_size=vocab_size)
        made = cls.__new__(cls)
        made._set_up(backend, settings, vocab_size, files.chat_template, where)
        return made

    @classmethod
    def from_transformers(cls, tokenizer: Any, *, vocab_size: int | None = None) -> Tokenizer:
        """The copy of a tokenizer of ``transformers`` or ``tokenizers``.

        Raises
        ------
        TypeError
            It is none of these, or one that is written in Python.
        ModelError
            As for the class.
        """
        from gpt2fast.text.foreign import foreign_tokenizer

        text, settings, chat_template = foreign_tokenizer(tokenizer)
        where = type(tokenizer).__name__
        text = without_tokens_beyond(text, vocab_size, where)
        return cls(text, vocab_size=vocab_size, settings=settings, chat_template=chat_template, where=where)

    def __repr__(self) -> str:
        return f"Tokenizer(vocab_size={self.vocab_size}, end_of_text_id={self.end_of_text_id})"

    def __reduce__(self) -> tuple[Any, ...]:
        values = (self.to_json(), self._model_size, self._settings, self._chat_template)
        return _rebuild, values, {"_padding_token": self._padding_token, "_padding_side": self._padding_side}

    def to_json(self) -> str:
        """The text of a ``tokenizer.json`` for this tokenizer."""
        return written(self._backend)

    @property
    def vocab_size(self) -> int:
        """The size of the model's vocabulary, for which the tokenizer was made."""
        return self._model_size

    @property
    def settings(self) -> TokenizerSettings:
        """What came with the tokenizer beside its vocabulary."""
        return self._settings

    @property
    def is_byte_level(self) -> bool:
        """Whether tokens are bytes: every text survives a round trip, and :meth:`encode_bytes` works."""
        return self._decoding.by_bytes and self._words is not None

    @property
    def decodes_bytes(self) -> bool:
        """Whether a text is its tokens' bytes joined."""
        return self._decoding.by_bytes

    @property
    def cleans_up(self) -> bool:
        """Whether decoding removes spaces before punctuation."""
        return self._cleans_up

    @cached_property
    def end_of_text_id(self) -> int | None:
        """The id of ``<|endoftext|>``, else of the token named as the end of a text, if there is one."""
        found = self._backend.token_to_id(END_OF_TEXT)
        return self.eos_token_id if found is None else found

    @property
    def special_token_ids(self) -> frozenset[int]:
        """Ids that stand for no text."""
        return self._special

    def encode(self, text: str, *, add_special_tokens: bool = True, **options: Any) -> list[int]:
        """The token ids of a text.

        With ``add_special_tokens``, those that the tokenizer's template puts around a text are among them
        (GPT-2's own has none). Other options are those of calling the tokenizer: ``max_length``, ``padding``,
        ``return_tensors``, ...

        Raises
        ------
        ValueError
            The text holds a lone surrogate, which is not a Unicode character; or a word that the vocabulary
            lacks, as it lacks a token for unknown words.
        """
        check_text(text)
        if options:
            encoded = self(text, add_special_tokens=add_special_tokens, **options)
            return cast("list[int]", encoded["input_ids"])
        with explained("text can't be encoded", ValueError):
            if len(text) < _LONG_TEXT:
                return self._backend.encode(text, add_special_tokens=add_special_tokens).ids
            # encode() keeps Python's lock, for seconds with a book: other threads would stand still.
            return self._backend.encode_batch([text], add_special_tokens=add_special_tokens)[0].ids

    def encode_batch(self, texts: Iterable[str], *, add_special_tokens: bool = True) -> list[list[int]]:
        """:meth:`encode` of each text."""
        checked = [check_text(text) for text in texts]
        with explained("a text can't be encoded", ValueError):
            encoded = self._backend.encode_batch(checked, add_special_tokens=add_special_tokens)
        return [one.ids for one in encoded]

    def encode_bytes(self, data: bytes) -> list[int]:
        """The token ids of any bytes, valid UTF-8 or not; special tokens are not looked for.

        The parts that are valid UTF-8 are split into words as texts are; a run of other bytes is one word.
        Nothing is added: no prefix space, no tokens of a template.

        Raises
        ------
        ValueError
            The tokenizer is not byte-level.
        """
        if not self.is_byte_level:
            raise ValueError("encode_bytes needs a byte-level tokenizer, and this one isn't; use encode")
        ids: list[int] = []
        for part in ESCAPED_BYTES.split(data.decode("utf-8", "surrogateescape")):
            if ESCAPED_BYTES.match(part):
                words = ["".join(BYTE_ALPHABET[ord(c) - 0xDC00] for c in part)]
            else:
                words = [word for word, _ in self._words.pre_tokenize_str(part)]
            ids.extend(token.id for word in words for token in self._backend.model.tokenize(word))
        return ids

    def _checked_ids(self, ids: Iterable[int]) -> list[int]:
        try:
            checked = list(map(index, ids))
        except TypeError as error:
            raise TypeError(f"ids must be integers ({error}); batch_decode takes several sequences") from None
        for position, token in enumerate(checked):
            if not 0 <= token < self._model_size:
                raise ValueError(
                    f"token id {token} at position {position} is outside the vocabulary "
                    f"(0 to {self._model_size - 1})"
                )
        return checked

    def decode_bytes(self, ids: Iterable[int], *, skip_special_tokens: bool = True) -> bytes:
        """The bytes of token ids; the ids may be integers of any kind, also an integer array.

        Raises
        ------
        ValueError
            An id is outside the vocabulary.
        """
        checked = self._checked_ids(ids)
        if not self._decoding.by_bytes:
            return self._decode(checked, skip_special_tokens).encode("utf-8")
        data, offsets = self._table
        special = self._special if skip_special_tokens else ()
        return b"".join(
            data[offsets[token] : offsets[token + 1]]
            for token in checked
            if token < self._size and token not in special
        )

    def decode(
        self,
        ids: Iterable[int] | int,
        *,
        skip_special_tokens: bool = True,
        clean_up_tokenization_spaces: bool | None = None,
    ) -> str:
        """The text of token ids, with U+FFFD for invalid UTF-8; raises the errors of :meth:`decode_bytes`.

        Whether spaces before punctuation go is the tokenizer's own setting; ``clean_up_tokenization_spaces``
        may only repeat it. For BPE it has no effect, as in ``transformers``.
        """
        if clean_up_tokenization_spaces not in (None, self._cleans_up) and not self._is_bpe:
            raise ValueError(
                f"clean_up_tokenization_spaces={clean_up_tokenization_spaces} contradicts the tokenizer's "
                f"own setting; leave it out"
            )
        if is_single_id(ids):
            ids = [index(cast("int", ids))]
        ids = cast("Iterable[int]", ids)
        if self._decoding.by_bytes:
            return self.decode_bytes(ids, skip_special_tokens=skip_special_tokens).decode("utf-8", "replace")
        return self._decode(self._checked_ids(ids), skip_special_tokens)

    def _decode(self, ids: list[int], skip_special_tokens: bool) -> str:
        if skip_special_tokens:  # the package does not know those again that its normalizer changes
            ids = [token for token in ids if token not in self._special]
        with explained("the tokens can't be decoded", ValueError):
            text = self._backend.decode(ids, skip_special_tokens=False)
        return clean_up(text) if self._cleans_up else str(text)

    def decode_batch(self, batch: Iterable[Iterable[int]], *, skip_special_tokens: bool = True) -> list[str]:
        """:meth:`decode` of each sequence of ids."""
        return [self.decode(ids, skip_special_tokens=skip_special_tokens) for ids in batch]

    def batch_decode(self, sequences: Any, **options: Any) -> list[str]:
        """:meth:`decode` of each sequence; a single one of ids is one text, as in ``transformers`` 5."""
        rows = list(sequences)
        is_single = bool(rows) and all(map(is_single_id, rows))
        return [self.decode(ids, **options) for ids in ([rows] if is_single else rows)]

    def token_bytes(self, *, skip_special_tokens: bool = True) -> list[bytes]:
        """The bytes of each id of the vocabulary, ``vocab_size`` entries; ``b""`` where there are none.

        Raises the error of :meth:`byte_table`.
        """
        data, offsets = self.byte_table()
        table = [data[start:end] for start, end in pairwise(offsets)]
        table += [b""] * (self._model_size - len(table))
        for token in self._special if skip_special_tokens else ():
            table[token] = b""
        return table

    def byte_table(self) -> tuple[bytes, array[int]]:
        """The bytes of all tokens within a text, including special ones, and the offset of each id's.

        Returns
        -------
        data : bytes
            The tokens' bytes in the order of their ids.
        offsets : array of int32
            Token ``i`` has ``data[offsets[i]:offsets[i + 1]]``; those beyond have none.

        Raises
        ------
        ValueError
            Tokens have no text of their own, because the decoder makes the text of all of them together.
        """
        return self._table

    @cached_property
    def _table(self) -> tuple[bytes, array[int]]:
        if self._decoding.by_bytes:
            added = self._backend.get_added_tokens_decoder()
            contents = {token_id: token.content for token_id, token in added.items()}
            return byte_table(self._vocabulary, contents, self._size)
        return joined(self.pieces.within(self.token_name(token)) for token in range(self._size))

    @cached_property
    def pieces(self) -> TokenPieces:
        """The texts of single tokens, where these are not bytes; raises the error of :meth:`byte_table`."""
        return TokenPieces(self._decoding, self._backend.decoder, self._vocabulary)

    def token_name(self, token: int) -> str | None:
        """A token as the vocabulary writes it, if there is one of this id."""
        return self._backend.id_to_token(token)

    def text_of_first(self, token: int) -> bytes:
        """The bytes of a token that begins a text."""
        if self._decoding.by_bytes or token >= self._size:
            return self.text_within(token)
        name = self.token_name(token)
        return b"" if name is None else self.pieces.first(name)

    def text_within(self, token: int) -> bytes:
        """The bytes of a token that follows others."""
        data, offsets = self._table
        return data[offsets[token] : offsets[token + 1]] if token < self._size else b""


def _rebuild(
    tokenizer_json: str, vocab_size: int, settings: TokenizerSettings, template: str | None
) -> Tokenizer:
    """The tokenizer that was pickled."""
    return Tokenizer(tokenizer_json, vocab_size=vocab_size, settings=settings, chat_template=template)
