"""Writes embedded.json: what torch, transformers and PEFT make of the embedded model, for all tests at once.

pip install torch transformers peft
PYTHONPATH=python:tests/python:tools python tests/goldens/make_embedded.py

Run it whenever the embedded model's weights have changed: no other number in the tests comes from them.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
import transformers
from tokenizers import Tokenizer

import train_tiny
from gpt2fast.loading.sources import embedded_model
from support.adapter_samples import CLASSIFIER_KINDS, KINDS, write_adapter

HERE = Path(__file__).parent
PROMPTS = ["Once upon a time", "The King said", "", "Little Red Riding Hood met a wolf, and the wolf said:"]
STOP_PROMPT, STOP_TOKENS = "Once upon a time", 12
SEARCHES: list[dict[str, Any]] = [{"num_beams": 1}, {"num_beams": 3, "length_penalty": -2.0}]
HIDDEN_TOKENS, HIDDEN_ROWS, HIDDEN_COLUMNS = 150, (0, 1, 77, 149), (0, 5, 100, 255)
SHORT, SOME = [5, 6, 7], [0, 1, 14, 4081]  # a prompt, and the tokens whose logits after it are kept
WINDOW = 64


def load(auto: Any = transformers.GPT2LMHeadModel, **options: Any) -> Any:
    """The embedded model in single precision."""
    return auto.from_pretrained(embedded_model(), dtype=torch.float32, **options).eval()


@torch.no_grad()
def logits(model: Any, ids: Any) -> Any:
    """Logits of one text."""
    return model(torch.tensor([list(ids)])).logits[0]


def greedy(model: Any, tokenizer: Any) -> list[dict[str, Any]]:
    """The likeliest tokens after some prompts."""
    texts = []
    for prompt in PROMPTS:
        ids = torch.tensor([tokenizer.encode(prompt) or [model.config.bos_token_id]])
        # Without a mask of its own, transformers takes a prompt of the end-of-text token for padding.
        mask = torch.ones_like(ids)
        out = model.generate(ids, attention_mask=mask, max_new_tokens=200, do_sample=False)
        texts.append({"prompt": prompt, "token_ids": out[0, ids.shape[1] :].tolist()})
    return texts


def last_logits(model: Any) -> list[dict[str, Any]]:
    """Some logits after random tokens."""
    cases = []
    for tokens in (1, 2, 17, 512):
        ids = np.random.default_rng(tokens).integers(0, model.config.vocab_size, tokens)
        last = logits(model, ids)[-1].numpy()
        some = sorted({int(last.argmax()), *range(0, len(last), 97)})
        values = [round(float(last[i]), 5) for i in some]
        cases.append({"token_ids": ids.tolist(), "ids": some, "values": values})
    return cases


def hidden_states(model: Any) -> dict[str, Any]:
    """Some of the hidden states of all layers, of random tokens, more than one step takes."""
    ids = np.random.default_rng(17).integers(0, model.config.vocab_size, HIDDEN_TOKENS)
    with torch.no_grad():
        states = model(torch.tensor(ids[None]), output_hidden_states=True).hidden_states
    values = [
        [[round(float(one[0, row, column]), 6) for column in HIDDEN_COLUMNS] for row in HIDDEN_ROWS]
        for one in states
    ]
    return {"token_ids": ids.tolist(), "rows": HIDDEN_ROWS, "columns": HIDDEN_COLUMNS, "values": values}


def stop_strings(model: Any, tokenizer: Any) -> dict[str, Any]:
    """Where texts end at stop strings near a prompt: with the likeliest tokens, and by a search."""
    ids = torch.tensor([tokenizer.encode(STOP_PROMPT)])
    options = {"attention_mask": torch.ones_like(ids), "max_new_tokens": STOP_TOKENS, "do_sample": False}
    best = model.generate(ids, **options)
    written = tokenizer.decode(best[0, ids.shape[1] :])
    # Begin in the prompt, also within a token; end in it; lie in the output; several.
    stops = [["time" + written[:5]], ["e" + written[:3]], ["a time"], ["time"], [written[6:14]]]
    stops.append(["time" + written[:2] + "zz", "me" + written[:3], "zz"])
    texts = []
    for search in SEARCHES:
        for stop in stops:
            given = {**options, **search, "stop_strings": stop, "tokenizer": tokenizer}
            out = model.generate(ids, **given, return_dict_in_generate=True)
            new = out.sequences[0, ids.shape[1] :].tolist()
            beams = getattr(out, "beam_indices", None)
            length = len(new) if beams is None else int((beams[0] >= 0).sum())
            texts.append({**search, "stop_strings": stop, "token_ids": new[:length]})
    return {"prompt": STOP_PROMPT, "max_new_tokens": STOP_TOKENS, "written": written, "texts": texts}


def own_head() -> dict[str, Any]:
    """Scores where the head is the token table upside down."""
    model = load()
    head = model.transformer.wte.weight.detach().flip(0)
    model.lm_head.weight = torch.nn.Parameter(head.contiguous())
    scores = logits(model, SHORT)
    some = sorted({*SOME, *scores.argmax(-1).tolist()})
    return {"argmax": scores.argmax(-1).tolist(), "ids": some, "values": scores[-1, some].tolist()}


def adapters() -> dict[str, Any]:
    """Logits with each of the adapters of support/adapter_samples.py, by PEFT."""
    heads = {
        "SEQ_CLS": transformers.AutoModelForSequenceClassification,
        "TOKEN_CLS": transformers.AutoModelForTokenClassification,
    }
    found = {}
    with tempfile.TemporaryDirectory() as directory:
        for kind, settings in {**KINDS, **CLASSIFIER_KINDS}.items():
            adapter = write_adapter(Path(directory) / kind, kind, str(embedded_model()))
            auto = heads.get(settings.get("task_type", ""))
            base = load() if auto is None else load(auto, num_labels=3)
            values = logits(peft.PeftModel.from_pretrained(base, adapter).eval(), SHORT)
            found[kind] = (values[-1, SOME] if auto is None else values).tolist()
    return found


def training_loss(model: Any) -> float:
    """What the training code measures on stories.txt, in windows side by side."""
    tokenizer = Tokenizer.from_file(str(embedded_model() / "tokenizer.json"))
    documents = train_tiny.encode(tokenizer, (HERE / "stories.txt").read_text("utf-8"))
    ids = np.concatenate(documents)
    return train_tiny.heldout_loss(model, ids, WINDOW, rows=len(ids))


def main() -> None:
    model = load()
    model.generation_config = transformers.GenerationConfig(eos_token_id=None, pad_token_id=0)
    file = str(embedded_model() / "tokenizer.json")
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=file)
    goldens = {
        "transformers": transformers.__version__,
        "peft": peft.__version__,
        "greedy": greedy(model, tokenizer),
        "logits": last_logits(model),
        "hidden_states": hidden_states(model),
        "stop_strings": stop_strings(model, tokenizer),
        "short": {"token_ids": SHORT, "ids": SOME},
        "own_head": own_head(),
        "exact_gelu": logits(load(activation_function="gelu"), SHORT)[-1, SOME].tolist(),
        "adapters": adapters(),
        "training_loss": {"window": WINDOW, "loss": training_loss(model)},
    }
    (HERE / "embedded.json").write_text(json.dumps(goldens) + "\n", "utf-8")


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    main()
