"""Lossless compression: arithmetic coding of a text's tokens with the model's probabilities.

Encoder and decoder must see the same numbers to the last bit. They do, although the encoder reads the text in
large pieces and the decoder token by token: a token's scores don't depend on what is computed beside them.

python examples/compression.py compress TEXT_FILE CODE_FILE
python examples/compression.py decompress CODE_FILE TEXT_FILE
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from arithmetic_coding import Decoder, Encoder
from numpy.typing import NDArray

from gpt2fast import GPT2

# A token's weight is 2^-(its distance from the best score, in steps of 1/64 bit), as an integer from a table:
# from there on everything is exact. Each token keeps a weight of at least 1, so that any text can be coded.
STEPS_PER_BIT = 64
WEIGHT_BITS = 24
WEIGHTS = np.array(
    [max(1, round(2 ** (WEIGHT_BITS - i / STEPS_PER_BIT))) for i in range(WEIGHT_BITS * STEPS_PER_BIT + 1)],
    np.int64,
)
STEPS_PER_NAT = np.float32(STEPS_PER_BIT / np.log(2))

_LENGTH = struct.Struct("<I")


def cumulative_weights(scores: NDArray[np.float32]) -> NDArray[np.int64]:
    """Scores (vocab_size,) -> where each token's share of the whole begins; the last entry is the whole."""
    steps = np.rint((scores.max() - scores) * STEPS_PER_NAT)
    weights = WEIGHTS[np.minimum(steps, len(WEIGHTS) - 1).astype(np.int64)]
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(weights)])


def blocks(model: GPT2, tokens: int) -> Iterator[tuple[int, int, int]]:
    """(context start, start, stop) of pieces that fit the model's positions; half of them is old text."""
    room = model.config.n_positions // 2
    for start in range(0, tokens, room):
        yield max(0, start - room + 1), start, min(tokens, start + room)


def compress(model: GPT2, data: bytes) -> bytes:
    """The code of any bytes; readable by the same model in the same precision."""
    tokens = model.tokenizer.encode_bytes(data)
    text = [first_token(model), *tokens]  # text[i] comes before tokens[i]
    encoder = Encoder()
    for context, start, stop in blocks(model, len(tokens)):
        rows = np.arange(start - context, stop - context)
        scores = model.logits(text[context:stop], rows=rows)[0]
        for token, row in zip(tokens[start:stop], scores, strict=True):
            limits = cumulative_weights(row)
            encoder.encode(int(limits[token]), int(limits[token + 1]), int(limits[-1]))
    return _LENGTH.pack(len(tokens)) + encoder.finish()


def decompress(model: GPT2, code: bytes) -> bytes:
    """The bytes that :func:`compress` was given."""
    (count,) = _LENGTH.unpack_from(code)
    decoder = Decoder(code[_LENGTH.size :])
    text = [first_token(model)]

    def choose(prompt: NDArray[np.int32], output: NDArray[np.int32], scores: NDArray[np.float32]) -> None:
        limits = cumulative_weights(scores)
        place = decoder.place(int(limits[-1]))
        token = int(np.searchsorted(limits, place, side="right")) - 1
        decoder.remove(int(limits[token]), int(limits[token + 1]), int(limits[-1]))
        scores[:] = -np.inf
        scores[token] = 0

    for context, start, stop in blocks(model, count):
        out = model.generate(
            text[context:], max_new_tokens=stop - start, eos_token_id=[], logits_processor=choose
        )
        text += out.token_ids
    return model.tokenizer.decode_bytes(text[1:], skip_special_tokens=False)


def first_token(model: GPT2) -> int:
    """What stands before a text."""
    return model.config.eos_token_ids[0]


def main() -> None:
    if len(sys.argv) != 4 or sys.argv[1] not in ("compress", "decompress"):
        sys.exit(__doc__)
    action, source, target = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    model = GPT2.from_pretrained()
    data = source.read_bytes()
    result = compress(model, data) if action == "compress" else decompress(model, data)
    target.write_bytes(result)
    code, text = (result, data) if action == "compress" else (data, result)
    characters = max(1, len(text.decode("utf-8", "replace")))
    print(
        f"{len(text)} bytes of text, {len(code)} of code: {8 * len(code) / characters:.2f} bits per character"
    )


if __name__ == "__main__":
    main()
