"""Names of tokens in answers, each different, and where tokens stand in a text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from gpt2fast.text.incremental import IncrementalDecoder

if TYPE_CHECKING:
    from gpt2fast.text.tokenizer import Tokenizer


class TokenNames:
    r"""Names of a vocabulary's tokens.

    A token of whole characters is named by its text, any other by its bytes, ``bytes:\xe2\x80``, as in
    OpenAI's answers. A token without bytes, or with another token's text, is named by its id,
    ``token_id:50300``, so that no two share a name.

    Parameters
    ----------
    tokenizer : Tokenizer
        The model's.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._names = list(map(_name, tokenizer.token_bytes(skip_special_tokens=False)))
        seen: set[str] = set()
        for token, name in enumerate(self._names):
            if not name or name in seen or name.startswith("token_id:"):
                self._names[token] = name = f"token_id:{token}"
            seen.add(name)
        self._bytes = tokenizer.token_bytes(skip_special_tokens=False)

    def __getitem__(self, token: int) -> str:
        return self._names[token]

    def bytes_of(self, token: int) -> list[int]:
        """A token's bytes as numbers."""
        return list(self._bytes[token])

    def offsets(self) -> TokenOffsets:
        """The places of a text's tokens, from its beginning on."""
        return TokenOffsets(self._tokenizer)


class TokenOffsets:
    """Where tokens begin in their text, counted in characters, as they arrive."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._decoder = IncrementalDecoder(tokenizer)

    def feed(self, tokens: Sequence[int]) -> list[int]:
        """The offset of each of the next tokens."""
        offsets = []
        for token in tokens:
            offsets.append(self._decoder.position)
            self._decoder.feed([token])
        return offsets


def _name(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)
