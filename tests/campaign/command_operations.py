"""Commands that write a file and go on with it when they are run again."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

from tests.campaign.fault_operations import Operation, converted_sample, entries

_PROMPTS = 40


class CommandError(Exception):
    """What a command said when it ended with an error."""


class CommandLine(Operation):
    """A command that goes on with its file."""

    def __init__(self, *arguments: str, result: str) -> None:
        self._arguments, self._result = arguments, result

    def begin(self, directory: Path) -> None:
        self._directory = directory

    def run(self) -> Any:
        from gpt2fast.cli import main

        arguments = [one.replace("DIRECTORY", str(self._directory)) for one in self._arguments]
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as said:
            try:
                main(arguments)
            except SystemExit as end:
                if end.code:
                    raise CommandError(said.getvalue()) from None
        return (self._directory / self._result).read_text("utf-8")

    def leftovers(self, expected: Any) -> str:
        names = (self._result, f"{self._result}.settings.json", f".{self._result}.lock")
        return self.after_kill(expected) or entries(self._directory, *names)

    def after_kill(self, expected: Any) -> str:
        """What it wrote may end anywhere; whole lines must be right ones."""
        path = self._directory / self._result
        found = path.read_bytes() if path.exists() else b""
        return "" if expected.encode("utf-8").startswith(found) else "what was written is not the beginning"


def commands(directory: Path) -> dict[str, CommandLine]:
    """All of them, over a model and texts that are made in a directory."""
    _, model = converted_sample(directory)
    prompts = [json.dumps({"prompt": [1 + i % 20, 2, 3], "id": i}) for i in range(_PROMPTS)]
    (directory / "prompts.jsonl").write_text("\n".join(prompts) + "\n")
    (directory / "book.txt").write_text("!\"#$%&'()*+" * _PROMPTS)
    common = ("--model", str(model), "--threads", "1")
    generate = ("generate", *common, "--input", str(directory / "prompts.jsonl"), "--max-new-tokens", "3")
    evaluate = ("eval", "perplexity", *common, "--text", str(directory / "book.txt"), "--stride", "2")
    return {
        "generate": CommandLine(*generate, "--output", "DIRECTORY/out.jsonl", result="out.jsonl"),
        "eval": CommandLine(*evaluate, "--resume", "DIRECTORY/eval.jsonl", result="eval.jsonl"),
    }
