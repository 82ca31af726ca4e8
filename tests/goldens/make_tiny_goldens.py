"""Writes tiny.json: what torch and transformers make of the embedded model.

pip install torch transformers
python tests/goldens/make_tiny_goldens.py
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
import transformers

ROOT = Path(__file__).parents[2]
PROMPTS = ["Once upon a time", "The King said", "", "Little Red Riding Hood met a wolf, and the wolf said:"]


def main() -> None:
    """Generate greedily, and take some logits."""
    directory = ROOT / "python" / "gpt2fast" / "data" / "tiny"
    model = transformers.GPT2LMHeadModel.from_pretrained(directory, dtype=torch.float32).eval()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(directory / "tokenizer.json"))
    greedy = []
    for prompt in PROMPTS:
        ids = torch.tensor([tokenizer.encode(prompt) or [model.config.bos_token_id]])
        with torch.no_grad():
            # Without a mask of its own, transformers takes a prompt of the end-of-text token for padding.
            out = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=200,
                do_sample=False,
                eos_token_id=None,
            )
        greedy.append({"prompt": prompt, "token_ids": out[0, ids.shape[1] :].tolist()})
    logits = []
    for tokens in (1, 2, 17, 512):
        ids = np.random.default_rng(tokens).integers(0, model.config.vocab_size, tokens)
        with torch.no_grad():
            last = model(torch.tensor(ids[None])).logits[0, -1].numpy()
        some = sorted({int(last.argmax()), *range(0, len(last), 97)})
        values = [round(float(last[i]), 5) for i in some]
        logits.append({"token_ids": ids.tolist(), "ids": some, "values": values})
    goldens = {"transformers": transformers.__version__, "greedy": greedy, "logits": logits}
    (Path(__file__).parent / "tiny.json").write_text(json.dumps(goldens) + "\n", "utf-8")


if __name__ == "__main__":
    main()
