"""Removes spaces before punctuation, where ``clean_up_tokenization_spaces`` asks for it."""

from __future__ import annotations

#: As ``PreTrainedTokenizerBase.clean_up_tokenization`` of transformers has them, one after another.
_REPLACED = (
    *((" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'")),
    *((" n't", "n't"), (" 'm", "'m"), (" 's", "'s"), (" 've", "'ve"), (" 're", "'re")),
)


def clean_up(text: str) -> str:
    """The text without spaces before punctuation and English contractions."""
    for found, replacement in _REPLACED:
        text = text.replace(found, replacement)
    return text


class IncrementalCleanUp:
    """:func:`clean_up` of a text that arrives in parts; what a later part may change is held back."""

    def __init__(self) -> None:
        self._held_back = ""

    def pending(self, text: str) -> str:
        """What is held back, with the next part, as if the text ended there."""
        return clean_up(self._held_back + text)

    def feed(self, text: str, *, final: bool) -> str:
        """The text that is certain now."""
        text = self._held_back + text
        end = len(text) if final else _certain(text)
        self._held_back = text[end:]
        return clean_up(text[:end])


def _certain(text: str) -> int:
    """How much of a text is cleaned up the same whatever follows: up to a space that begins a match, if any.

    Every match begins with a space. None has another after anything but an apostrophe.
    """
    end = len(text)
    while (end := text.rfind(" ", 0, end)) > 0 and text[end - 1] == "'":
        pass
    return max(end, 0)
