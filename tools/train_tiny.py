"""Train the small GPT-2 that the package embeds: a byte-level BPE tokenizer and a model for it.

    pip install torch transformers tokenizers safetensors numpy
    python tools/train_tiny.py corpus.txt heldout.txt OUT_DIRECTORY --minutes 90

Writes tokenizer.json, config.json, generation_config.json, model.safetensors and training.json in the Hugging
Face layout. It trains on a GPU where torch sees one, else on the CPU. The learning rate follows the wall
clock, so that a run of any length ends on a fully decayed schedule.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel

END_OF_TEXT = "<|endoftext|>"
WARMUP_STEPS = 200
FINAL_LEARNING_RATE = 0.03  # of the largest
REPORT_EVERY = 250  # steps
# Every so many steps a batch of full length trains the positions that the other batches don't reach.
FULL_LENGTH_EVERY = 8
HELDOUT_ROWS = 16  # windows in one evaluation batch


@dataclass(frozen=True)
class Arguments:
    """What a run depends on besides its texts."""

    minutes: float = 90.0
    vocab_size: int = 4096
    n_embd: int = 256
    n_layer: int = 6
    n_head: int = 4
    n_positions: int = 512
    batch: int = 16
    length: int = 256
    lr: float = 2e-3
    seed: int = 0


def train_tokenizer(corpus: str, vocab_size: int) -> Tokenizer:
    """A byte-level BPE tokenizer of the corpus, with the end-of-text token as id 0."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus.splitlines(keepends=True), trainer)
    return tokenizer


def end_of_text_id(tokenizer: Tokenizer) -> int:
    """The id of the end-of-text token."""
    return int(tokenizer.get_vocab()[END_OF_TEXT])


def encode(tokenizer: Tokenizer, text: str) -> NDArray[np.int32]:
    """Token ids [tokens] of a text, an end-of-text token after every document and chapter."""
    end = end_of_text_id(tokenizer)
    ids: list[int] = []
    for part in re.split(r"<\|endoftext\|>|\n(?=CHAPTER )", text):
        ids.extend(tokenizer.encode(part.strip()).ids)
        ids.append(end)
    return np.array(ids, dtype=np.int32)


def random_windows(
    ids: NDArray[np.int32], count: int, length: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Windows [count, length] that begin anywhere in the text."""
    starts = rng.integers(0, len(ids) - length - 1, count)
    return np.stack([ids[start : start + length] for start in starts]).astype(np.int64)


@torch.no_grad()
def heldout_loss(model: Any, ids: NDArray[np.int32], length: int, rows: int) -> float:
    """Mean next-token loss, in nats, over the first ``rows`` windows of ``length`` tokens."""
    model.eval()
    windows = min(rows, len(ids) // length)
    table = ids[: windows * length].reshape(windows, length).astype(np.int64)
    total = 0.0
    for start in range(0, windows, HELDOUT_ROWS):
        x = torch.from_numpy(table[start : start + HELDOUT_ROWS]).to(model.device)
        total += model(x, labels=x).loss.item() * len(x)
    model.train()
    return total / windows


def new_model(arguments: Arguments, end_of_text: int, device: str) -> Any:
    """An untrained model of the wanted size, without dropout: it sees the corpus only once or twice."""
    config = GPT2Config(
        vocab_size=arguments.vocab_size,
        n_positions=arguments.n_positions,
        n_embd=arguments.n_embd,
        n_layer=arguments.n_layer,
        n_head=arguments.n_head,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=end_of_text,
        eos_token_id=end_of_text,
    )
    model: Any = GPT2LMHeadModel(config)
    return model.to(device)


def new_optimizer(model: Any, learning_rate: float) -> torch.optim.Optimizer:
    """AdamW with weight decay on the matrices only."""
    matrices = [weight for weight in model.parameters() if weight.ndim >= 2]
    vectors = [weight for weight in model.parameters() if weight.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.95), fused=True)


def learning_rates(arguments: Arguments) -> Iterator[float]:
    """The learning rate of each step until the time is over: a warm-up, then a cosine over the wall clock."""
    start, budget, step = time.monotonic(), arguments.minutes * 60, 0
    while (spent := time.monotonic() - start) < budget:
        step += 1
        warmup = min(1.0, step / WARMUP_STEPS)
        cosine = 0.5 * (1 + math.cos(math.pi * spent / budget))
        yield arguments.lr * warmup * (FINAL_LEARNING_RATE + (1 - FINAL_LEARNING_RATE) * cosine)


def train(
    model: Any, ids: NDArray[np.int32], heldout: NDArray[np.int32], arguments: Arguments, out: Path
) -> int:
    """Train until the time is over, saving the best model on the way; returns the number of steps."""
    rng = np.random.default_rng(arguments.seed)
    optimizer = new_optimizer(model, arguments.lr)
    best, step = math.inf, 0
    for step, rate in enumerate(learning_rates(arguments), start=1):
        for group in optimizer.param_groups:
            group["lr"] = rate
        length = arguments.n_positions if step % FULL_LENGTH_EVERY == 0 else arguments.length
        count = max(1, arguments.batch * arguments.length // length)
        x = torch.from_numpy(random_windows(ids, count, length, rng)).to(model.device)
        on_gpu = model.device.type == "cuda"
        with torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=on_gpu):
            loss = model(x, labels=x).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % REPORT_EVERY == 0:
            held = heldout_loss(model, heldout, arguments.length, rows=128)
            print(f"step {step} train {loss.item():.3f} heldout {held:.3f}", flush=True)
            if held < best:
                best = held
                save(model, out)
    return step


def save(model: Any, out: Path) -> None:
    """Write the model in half precision; it stays in single precision itself."""
    model.half().save_pretrained(out)
    model.float()


def parse_command_line() -> tuple[Path, Path, Path, Arguments]:
    """Corpus, held-out text, output directory and arguments."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("corpus", "heldout", "out"):
        parser.add_argument(name, type=Path)
    for field in fields(Arguments):
        option = f"--{field.name.replace('_', '-')}"
        parser.add_argument(option, type=type(field.default), default=field.default)
    values = vars(parser.parse_args())
    return values.pop("corpus"), values.pop("heldout"), values.pop("out"), Arguments(**values)


def main() -> None:
    """Train and write everything."""
    corpus_path, heldout_path, out, arguments = parse_command_line()
    torch.manual_seed(arguments.seed)
    out.mkdir(parents=True, exist_ok=True)
    corpus, heldout_text = corpus_path.read_text("utf-8"), heldout_path.read_text("utf-8")
    tokenizer = train_tokenizer(corpus, arguments.vocab_size)
    tokenizer.save(str(out / "tokenizer.json"))
    ids, heldout = encode(tokenizer, corpus), encode(tokenizer, heldout_text)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    print(f"train tokens {len(ids):,}, held-out tokens {len(heldout):,}, device {device}", flush=True)

    model = new_model(arguments, end_of_text_id(tokenizer), device)
    steps = train(model, ids, heldout, arguments, out)
    loss = heldout_loss(model, heldout, arguments.length, rows=len(heldout))
    save(model, out)
    report = {
        "steps": steps,
        "tokens_seen": steps * arguments.batch * arguments.length,
        "train_tokens": len(ids),
        "heldout_loss_nats": loss,
        "heldout_perplexity": math.exp(loss),
        "heldout_bits_per_character": loss * len(heldout) / len(heldout_text) / math.log(2),
        "arguments": asdict(arguments),
    }
    (out / "training.json").write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2), flush=True)


if __name__ == "__main__":
    main()
