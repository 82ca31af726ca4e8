"""A calibration text: what a user gives for int4 weights to be rounded by, not the model's own tokens."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from gpt2fast._validation import shown
from gpt2fast.errors import ModelError
from gpt2fast.storage.files import read_bytes
from gpt2fast.storage.model_directory import CALIBRATED_PRECISIONS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from gpt2fast.text.tokenizer import Tokenizer

#: How many tokens of a text the model reads at a conversion.
MIN_TOKENS = 1024
MAX_TOKENS = 4096

_MAX_BYTES = 64 << 20
# So much of a text is tokenized; of a longer one, so many excerpts at equal distances.
_MAX_CHARACTERS = 1 << 18
_EXCERPTS = 64


@dataclass(frozen=True)
class CalibrationText:
    """A text whose tokens show what each linear layer multiplies.

    Attributes
    ----------
    path : str
        The file, as given.
    text : str
        Its content.
    sha256 : str
        Of its bytes, in hexadecimal.
    """

    path: str
    text: str = field(repr=False)
    sha256: str

    def fingerprint(self, checkpoint: str) -> str:
        """What identifies the model that a checkpoint with this fingerprint becomes by this text."""
        return sha256(f"{checkpoint} calibrated by {self.sha256}".encode()).hexdigest()

    def tokens(self, tokenizer: Tokenizer, length: int) -> NDArray[np.int64]:
        """Sequences at equal distances in the text, of shape (sequences, length).

        At most ``MAX_TOKENS`` in all.

        Raises
        ------
        ValueError
            The text has fewer than ``MIN_TOKENS``.
        """
        import numpy as np

        ids = np.array(tokenizer.encode(self._excerpts()), np.int64)
        if len(ids) < MIN_TOKENS:
            raise ValueError(
                f"calibrate={self.path!r} is too short: a text must have at least {MIN_TOKENS} tokens, got "
                f"{len(ids)}"
            )
        sequences = ids[: len(ids) // length * length].reshape(-1, length)
        wanted = min(len(sequences), MAX_TOKENS // length)
        return sequences[np.arange(wanted) * len(sequences) // wanted]

    def _excerpts(self) -> str:
        size = len(self.text)
        if size <= _MAX_CHARACTERS:
            return self.text
        length = _MAX_CHARACTERS // _EXCERPTS
        starts = (i * size // _EXCERPTS for i in range(_EXCERPTS))
        return "".join(self.text[start : start + length] for start in starts)


def read_calibration(path: str | os.PathLike[str], precision: str) -> CalibrationText:
    """The text of the argument ``calibrate``.

    Raises
    ------
    TypeError, ValueError
        The argument names no UTF-8 text of at most 64 MiB, or the precision makes no use of one.
    OSError
        The file is not there or can't be read; the message names it.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"calibrate must be the path of a text file, got {shown(path)}")
    name = os.fsdecode(path)
    if not name:
        raise ValueError(f"calibrate must be the path of a text file, got {name!r}")
    if precision not in CALIBRATED_PRECISIONS:
        raise ValueError(
            f"calibrate={name!r} has no effect with precision={precision!r}: only weights of int4 are "
            f"rounded by the inputs of layers; leave it out, or write precision='int4'"
        )
    try:
        data = read_bytes(Path(os.path.realpath(name)), _MAX_BYTES)
        text = data.decode("utf-8-sig")  # editors of Windows begin a text with a byte order mark
    except OSError as error:
        reason = f"the text that calibrate names can't be read: {error.strerror}"
        raise OSError(error.errno, reason, name) from None
    except UnicodeDecodeError as error:
        raise ValueError(
            f"calibrate={name!r} is not UTF-8 text: {error.reason} at byte {error.start}"
        ) from None
    except ModelError as error:
        raise ValueError(f"calibrate={name!r} is no text to calibrate by: {error}") from None
    if not text.strip():
        raise ValueError(f"calibrate={name!r} is empty: a text must have at least {MIN_TOKENS} tokens")
    return CalibrationText(name, text, sha256(data).hexdigest())
