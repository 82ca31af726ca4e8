"""Functions of Python that take part in the choice of a text's tokens, as the core takes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    #: Changes the scores, float32 (vocab_size,), in place; gets the prompt, the output and the scores.
    ProcessScores: TypeAlias = Callable[[NDArray[np.int32], NDArray[np.int32], NDArray[np.float32]], None]
    #: The bit set, uint32 (words,), of the tokens that may follow the output; None: all.
    AllowedTokens: TypeAlias = Callable[[NDArray[np.int32]], NDArray[np.uint32] | None]
    #: Whether the output, with its newest token, ends there.
    IsComplete: TypeAlias = Callable[[NDArray[np.int32]], bool]


class Hooks:
    """The functions of one text, None for those that it lacks, and what one of them has raised.

    The core refers to this object weakly, and to nothing of Python besides: request and call own it. So the
    garbage collector sees all who refer to the functions, and what these refer to.
    """

    __slots__ = ("__weakref__", "allowed_tokens", "error", "is_complete", "process_scores")

    def __init__(
        self,
        *,
        process_scores: ProcessScores | None = None,
        allowed_tokens: AllowedTokens | None = None,
        is_complete: IsComplete | None = None,
    ) -> None:
        self.process_scores = process_scores
        self.allowed_tokens = allowed_tokens
        self.is_complete = is_complete
        self.error: BaseException | None = None
