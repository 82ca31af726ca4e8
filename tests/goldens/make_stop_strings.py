"""Writes stop_strings.json: where transformers ends the embedded model's texts at stop strings near a prompt.

pip install torch transformers
python tests/goldens/make_stop_strings.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers

ROOT = Path(__file__).parents[2]
PROMPT = "Once upon a time"
# Begin in the prompt, also within a token; end in it; lie in the output; several.
STOPS = [["time, and"], ["e, a"], ["a time"], ["time"], [" old man"], ["time, it", "me, a", "zz"]]
OPTIONS: list[dict[str, Any]] = [{"num_beams": 1}, {"num_beams": 3, "length_penalty": -2.0}]


def main() -> None:
    """Generate with each option and list of stop strings."""
    directory = ROOT / "python" / "gpt2fast" / "data" / "tiny"
    model = transformers.GPT2LMHeadModel.from_pretrained(directory, dtype=torch.float32).eval()
    model.generation_config = transformers.GenerationConfig(eos_token_id=None, pad_token_id=0)
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(directory / "tokenizer.json"))
    ids = torch.tensor([tokenizer.encode(PROMPT)])
    texts = []
    for options in OPTIONS:
        for stop in STOPS:
            out = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=12,
                do_sample=False,
                stop_strings=stop,
                tokenizer=tokenizer,
                return_dict_in_generate=True,
                **options,
            )
            new = out.sequences[0, ids.shape[1] :].tolist()
            beams = getattr(out, "beam_indices", None)
            length = len(new) if beams is None else int((beams[0] >= 0).sum())
            texts.append({**options, "stop_strings": stop, "token_ids": new[:length]})
    goldens = {"transformers": transformers.__version__, "prompt": PROMPT, "texts": texts}
    (Path(__file__).parent / "stop_strings.json").write_text(json.dumps(goldens) + "\n", "utf-8")


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    main()
