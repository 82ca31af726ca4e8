"""Checks that a text holds Unicode characters only."""

from __future__ import annotations


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
