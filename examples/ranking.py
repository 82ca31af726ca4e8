"""Which ending does the model find likeliest? The prompt is read once, whatever the number of endings.

python examples/ranking.py "The wolf ate the" " grandmother" " castle" " moon"
"""

from __future__ import annotations

import sys

from gpt2fast import GPT2


def main() -> None:
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    prompt, *endings = sys.argv[1:]
    for place, ending in enumerate(GPT2.from_pretrained().rank(prompt, endings), start=1):
        print(f"{place}. {ending.choice!r}: {ending.mean:.2f} per token, {ending.total:.2f} in all")


if __name__ == "__main__":
    main()
