"""Writes hidden_states.json: some of the hidden states of all layers, by transformers, of the embedded model.

pip install torch transformers
python tests/goldens/make_hidden_states.py
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
import transformers

ROOT = Path(__file__).parents[2]
TOKENS = 150
ROWS = (0, 1, 77, 149)
COLUMNS = (0, 5, 100, 255)


def main() -> None:
    """Read random tokens, more than one step takes."""
    directory = ROOT / "python" / "gpt2fast" / "data" / "tiny"
    model = transformers.GPT2LMHeadModel.from_pretrained(directory, dtype=torch.float32).eval()
    ids = np.random.default_rng(17).integers(0, model.config.vocab_size, TOKENS)
    with torch.no_grad():
        states = model(torch.tensor(ids[None]), output_hidden_states=True).hidden_states
    values = [
        [[round(float(one[0, row, column]), 6) for column in COLUMNS] for row in ROWS] for one in states
    ]
    goldens = {
        "transformers": transformers.__version__,
        "token_ids": ids.tolist(),
        "rows": ROWS,
        "columns": COLUMNS,
        "values": values,
    }
    (Path(__file__).parent / "hidden_states.json").write_text(json.dumps(goldens) + "\n", "utf-8")


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    main()
