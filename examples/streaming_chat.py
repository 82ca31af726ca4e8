"""A chat-like loop: each line of standard input is answered while the answer is generated.

python examples/streaming_chat.py [MODEL]
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from gpt2fast import GPT2, GenerationOptions

QUESTION, ANSWER = "Question:", "Answer:"
# The model would go on with the next question itself: the answer ends before it. The oldest lines are
# forgotten when the talk exceeds the model's context.
OPTIONS = GenerationOptions(
    max_new_tokens=80,
    temperature=0.8,
    top_p=0.95,
    repetition_penalty=1.1,
    seed=1,
    stop_strings=[f"\n{QUESTION}", "\n\n"],
    overflow="truncate",
)


def answer(model: GPT2, talk: str) -> Iterator[str]:
    """The pieces of the answer to a talk that ends with a question."""
    for chunk in model.stream(f"{talk}\n{ANSWER}", OPTIONS):
        yield chunk.text


def main() -> None:
    model = GPT2.from_pretrained(sys.argv[1] if len(sys.argv) > 1 else None)
    talk = ""
    for line in sys.stdin:
        talk += f"{QUESTION} {line.strip()}"
        text = ""
        for piece in answer(model, talk):
            print(piece, end="", flush=True)
            text += piece
        print()
        talk += f"\n{ANSWER}{text.rstrip()}\n"


if __name__ == "__main__":
    main()
