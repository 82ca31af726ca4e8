"""Fuzzing of one reader that is guided by the coverage of its Python code: libFuzzer, through atheris.

Run as ``python -m tests.campaign.guided_worker READER SEED COUNT DIRECTORY``; findings go to
``DIRECTORY/summary.json``. What reaches new code is damaged again, by libFuzzer or as fits the format.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["gpt2fast"]):
    from tests.campaign.fuzz_worker import HANGING_SECONDS, limited_address_space, prepared
    from tests.campaign.readers import READERS

_LARGEST = 1 << 16


def main(name: str, seed: int, count: int, directory: Path) -> None:
    """Run ``count`` inputs; libFuzzer ends the process."""
    with atheris.instrument_imports(include=["gpt2fast"]):  # readers import what they need when they are made
        whole, attempts = prepared(name, directory / "files")
    corpus = directory / "corpus"
    corpus.mkdir()
    for number, (_, data) in enumerate(whole):
        # The first byte says which of the samples' files is damaged.
        (corpus / str(number)).write_bytes(bytes([number % 256]) + data)
    done = 0

    def one(data: bytes) -> None:
        nonlocal done
        path, original = whole[(data[0] if data else 0) % len(whole)]
        attempts.attempt(path, data[1:], f"input {done}")
        path.write_bytes(original)
        done += 1
        if attempts.findings and len(attempts.findings) <= 20:
            (directory / f"finding-{len(attempts.findings)}").write_bytes(data)
        if done % 256 == 0 or done == count:
            (directory / "summary.json").write_text(json.dumps({"inputs": done, **attempts.summary()}))

    def mutated(data: bytes, largest: int, seed: int) -> bytes:
        if seed % 3 == 0 or len(data) < 2:
            return bytes(atheris.Mutate(data, largest))
        path = whole[data[0] % len(whole)][0]
        return data[:1] + READERS[name].mutate(path.name, data[1:], seed)[: largest - 1]

    limit = max(_LARGEST, *(2 * len(data) for _, data in whole))
    arguments = [
        f"-runs={count}",
        f"-seed={seed + 1}",
        f"-max_len={limit}",
        f"-timeout={HANGING_SECONDS}",
        "-rss_limit_mb=0",
    ]
    arguments += ["-verbosity=1", f"-artifact_prefix={directory}/"]
    atheris.Setup(["guided", *arguments, str(corpus)], one, custom_mutator=mutated)
    with limited_address_space():
        atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
