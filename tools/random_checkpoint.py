"""Writes a Hugging Face GPT-2 checkpoint with random weights, of any size, for benchmarks and tests.

    python tools/random_checkpoint.py OUT_DIR --size 124M
    python tools/random_checkpoint.py OUT_DIR --size tiny --dtype bf16 --untied --shards 3

The weights have the statistics of a freshly initialised GPT-2; activations stay in a model's usual range.
Tensors are written one piece at a time: memory stays small for every size.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

SIZES: dict[str, dict[str, int]] = {
    "distilgpt2": {"n_layer": 6, "n_head": 12, "n_embd": 768, "n_positions": 1024, "vocab_size": 50257},
    "124M": {"n_layer": 12, "n_head": 12, "n_embd": 768, "n_positions": 1024, "vocab_size": 50257},
    "355M": {"n_layer": 24, "n_head": 16, "n_embd": 1024, "n_positions": 1024, "vocab_size": 50257},
    "774M": {"n_layer": 36, "n_head": 20, "n_embd": 1280, "n_positions": 1024, "vocab_size": 50257},
    "1.5B": {"n_layer": 48, "n_head": 25, "n_embd": 1600, "n_positions": 1024, "vocab_size": 50257},
    # Odd everywhere: heads of 17, sizes that are multiples of nothing.
    "tiny": {"n_layer": 2, "n_head": 3, "n_embd": 51, "n_positions": 37, "vocab_size": 301, "n_inner": 77},
}
DTYPES = {"f32": "F32", "f16": "F16", "bf16": "BF16", "f64": "F64"}

_ITEM_BYTES = {"f32": 4, "f16": 2, "bf16": 2, "f64": 8}
_TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "merges.txt")
_CHUNK_ITEMS = 1 << 20


def write_random_checkpoint(
    directory: Path,
    sizes: dict[str, int],
    *,
    dtype: str = "f32",
    tied: bool = True,
    shards: int = 1,
    prefix: str = "transformer.",
    seed: int = 0,
    tokenizer: Path | None = None,
    options: dict[str, Any] | None = None,
) -> Path:
    """Write a checkpoint directory.

    Parameters
    ----------
    directory : Path
        Created if need be.
    sizes : dict
        As in ``SIZES``; ``n_inner`` may be left out.
    dtype : {"f32", "f16", "bf16", "f64"}
        Of all tensors.
    tied : bool
        Whether the vocabulary projection is the embedding table; if not, there is a ``lm_head.weight``.
    shards : int
        Number of weight files; more than one come with an index.
    prefix : str
        In front of the tensor names, save ``lm_head.weight``.
    seed : int
        Same seed, same weights.
    tokenizer : Path, optional
        A directory to copy the tokenizer's files from.
    options : dict, optional
        More keys for ``config.json``.

    Returns
    -------
    Path
        ``directory``.
    """
    directory.mkdir(parents=True, exist_ok=True)
    end_of_text = sizes["vocab_size"] - 1
    config = {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "tie_word_embeddings": tied,
        "bos_token_id": end_of_text,
        "eos_token_id": end_of_text,
        **sizes,
        **(options or {}),
    }
    (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n", "utf-8")
    for name in _TOKENIZER_FILES if tokenizer else ():
        if tokenizer and (tokenizer / name).is_file():
            shutil.copyfile(tokenizer / name, directory / name)
    tensors = [
        (name if name == "lm_head.weight" else prefix + name, shape, mean, deviation)
        for name, shape, mean, deviation in _tensors(sizes, tied)
    ]
    generator = np.random.default_rng(seed)
    if shards == 1:
        _write_shard(directory / "model.safetensors", tensors, dtype, generator)
        return directory
    weight_map = {}
    for index in range(shards):
        name = f"model-{index + 1:05}-of-{shards:05}.safetensors"
        part = tensors[index::shards]
        _write_shard(directory / name, part, dtype, generator)
        weight_map.update({tensor[0]: name for tensor in part})
    index_text = json.dumps({"metadata": {}, "weight_map": weight_map}, indent=2)
    (directory / "model.safetensors.index.json").write_text(index_text, "utf-8")
    return directory


_Tensor = tuple[str, tuple[int, ...], float, float]


def _tensors(sizes: dict[str, int], tied: bool) -> Iterator[_Tensor]:
    """Name, shape, mean and standard deviation of every tensor."""
    width, layers = sizes["n_embd"], sizes["n_layer"]
    inner = sizes.get("n_inner", 4 * width)
    residual = 0.02 / math.sqrt(2 * layers)

    def norm(name: str) -> Iterator[_Tensor]:
        yield f"{name}.weight", (width,), 1.0, 0.1
        yield f"{name}.bias", (width,), 0.0, 0.02

    def linear(name: str, inputs: int, outputs: int, deviation: float) -> Iterator[_Tensor]:
        yield f"{name}.weight", (inputs, outputs), 0.0, deviation
        yield f"{name}.bias", (outputs,), 0.0, 0.02

    yield "wte.weight", (sizes["vocab_size"], width), 0.0, 0.02
    yield "wpe.weight", (sizes["n_positions"], width), 0.0, 0.01
    for layer in range(layers):
        yield from norm(f"h.{layer}.ln_1")
        yield from linear(f"h.{layer}.attn.c_attn", width, 3 * width, 0.02)
        yield from linear(f"h.{layer}.attn.c_proj", width, width, residual)
        yield from norm(f"h.{layer}.ln_2")
        yield from linear(f"h.{layer}.mlp.c_fc", width, inner, 0.02)
        yield from linear(f"h.{layer}.mlp.c_proj", inner, width, residual)
    yield from norm("ln_f")
    if not tied:
        yield "lm_head.weight", (sizes["vocab_size"], width), 0.0, 0.02


def _write_shard(path: Path, tensors: list[_Tensor], dtype: str, generator: np.random.Generator) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape, _, _ in tensors:
        begin, end = end, end + math.prod(shape) * _ITEM_BYTES[dtype]
        header[name] = {"dtype": DTYPES[dtype], "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, shape, mean, deviation in tensors:
            _write_random(file, math.prod(shape), mean, deviation, dtype, generator)


def _write_random(
    file: BinaryIO, count: int, mean: float, deviation: float, dtype: str, generator: np.random.Generator
) -> None:
    for start in range(0, count, _CHUNK_ITEMS):
        values = generator.standard_normal(min(_CHUNK_ITEMS, count - start), dtype=np.float32)
        values *= np.float32(deviation)
        values += np.float32(mean)
        file.write(_stored(values, dtype).tobytes())


def _stored(values: NDArray[np.float32], dtype: str) -> NDArray[Any]:
    if dtype == "bf16":  # the upper halves, rounded to the nearest (ties go either way)
        return ((values.view(np.uint32) + 0x8000) >> 16).astype("<u2")
    return values.astype({"f32": "<f4", "f16": "<f2", "f64": "<f8"}[dtype])


def main() -> None:
    """Parse the command line and write the checkpoint."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="directory to write")
    parser.add_argument("--size", choices=SIZES, default="124M")
    parser.add_argument("--dtype", choices=DTYPES, default="f32")
    parser.add_argument("--untied", action="store_true", help="with a vocabulary projection of its own")
    parser.add_argument("--shards", type=int, default=1, help="number of weight files")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tokenizer", type=Path, help="directory to copy a tokenizer from")
    for name in ("n_layer", "n_head", "n_embd", "n_positions", "vocab_size", "n_inner"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, help="in place of the size's")
    arguments = parser.parse_args()
    sizes = dict(SIZES[arguments.size])
    sizes |= {
        name: value for name, value in vars(arguments).items() if name.startswith("n_") and value is not None
    }
    if arguments.vocab_size is not None:
        sizes["vocab_size"] = arguments.vocab_size
    write_random_checkpoint(
        arguments.out,
        sizes,
        dtype=arguments.dtype,
        tied=not arguments.untied,
        shards=arguments.shards,
        seed=arguments.seed,
        tokenizer=arguments.tokenizer,
    )


if __name__ == "__main__":
    main()
