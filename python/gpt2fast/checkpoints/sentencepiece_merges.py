"""The merges of a SentencePiece model of the kind "bpe", which its file has as scores of pieces.

SentencePiece joins the neighbours whose piece has the highest score, the leftmost of several
(https://github.com/google/sentencepiece/blob/master/src/bpe_model.cc). A ``tokenizer.json`` has pairs in the
order in which they are joined, so that each way to split a piece has a place of its own.
"""

from __future__ import annotations

from collections.abc import Mapping

from gpt2fast.errors import ModelError
from gpt2fast.storage.files import MAX_MERGES

# SentencePiece's trainer makes pieces of at most 16 characters unless told otherwise.
_MOST_CHARACTERS = 128


def merges_of(scores: Mapping[str, float], where: str) -> list[tuple[str, str]]:
    """The pairs that become one piece, in the order in which they are joined.

    Parameters
    ----------
    scores : mapping
        Piece -> score, of all pieces that texts are made of.
    where : str
        The file's name, for errors.

    Raises
    ------
    ModelError
        A piece is too long, or two have one score, so that the place in a text would decide between them;
        or there are more ways to split pieces than a ``tokenizer.json`` may have merges.
    """
    whole = {piece: piece for piece in scores}
    count = 0
    by_score: dict[float, str] = {}
    pairs: dict[str, list[tuple[str, str]]] = {}
    for piece, score in scores.items():
        if len(piece) > _MOST_CHARACTERS:
            raise ModelError(
                f"{where}: the piece {piece[:40]!r} has {len(piece)} characters, more than {_MOST_CHARACTERS}"
            )
        found = [
            (whole[piece[:at]], whole[piece[at:]])  # not the copies: there are many more pairs than pieces
            for at in _places_in_order(piece)
            if piece[:at] in scores and piece[at:] in scores
        ]
        if not found:
            continue
        count += len(found)
        if count > MAX_MERGES:
            raise ModelError(f"{where}: its pieces can be split in more than {MAX_MERGES} ways")
        other = by_score.setdefault(score, piece)
        if other != piece:
            raise ModelError(
                f"{where}: the pieces {other[:40]!r} and {piece[:40]!r} have the same score, {score}; a "
                f"tokenizer.json can't tell which is joined first"
            )
        pairs[piece] = found
    return [pair for score in sorted(by_score, reverse=True) for pair in pairs[by_score[score]]]


def _places_in_order(piece: str) -> list[int]:
    """Where to split a piece, first the ways that come from further left where two overlap in a text.

    For ``piece`` = AB = BC, the text ABC has the piece twice, as AB and as BC: the former is further left.
    """
    places: list[int] = []
    length = len(piece)
    for at in range(1, length // 2 + 1):
        mirrored = length - at
        # AB with A of this length is BC too: the piece begins with its own end B.
        first = (at, mirrored) if piece.startswith(piece[at:]) else (mirrored, at)
        places += first if at != mirrored else (at,)
    return places
