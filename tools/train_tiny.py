"""Train the small GPT-2 that the package embeds: a byte-level BPE tokenizer and a model for it.

    pip install torch transformers tokenizers safetensors numpy
    python tools/train_tiny.py corpus.txt heldout.txt RUN --tokens 40e6
    python tools/train_tiny.py corpus.txt heldout.txt DECAYED_RUN --decay RUN --tokens 2e6

With ``--start MODEL`` the first begins with the weights and the tokenizer of a model directory of the same
size, which takes far fewer tokens than random weights where that model knows the language. It can be stopped
at any moment and resumes from ``RUN/checkpoint.pt``, which is replaced every few minutes and on SIGTERM. The
second command starts from the latest checkpoint of ``RUN``, lowers the learning rate to zero over the given
number of tokens, and leaves ``RUN`` as it was. ``DECAYED_RUN`` holds the model to ship.

The schedule is "warm-up, stable, decay", by tokens: a short warm-up, a constant rate, and the decay as a run
of its own. A cosine has to know its end before it begins, and a schedule by the clock decays early on a busy
machine; this one suits a budget that nobody knows. Any checkpoint can go on or be decayed, and a decay over a
tenth to a fifth of the tokens reaches what a cosine of the same length does (Hu et al. 2024, "MiniCPM";
Haegele et al. 2024, "Scaling laws and compute-optimal training beyond fixed training durations").

Muon (Jordan et al. 2024) trains the matrices of the blocks, since it needs fewer tokens than AdamW; AdamW
trains the rest. A run's directory has the model of the best held-out loss so far in the Hugging Face layout
(half precision), log.jsonl with a line for each evaluation, and, once its tokens are done, training.json.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import re
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn import functional
from transformers import GPT2Config, GPT2LMHeadModel

from muon import Muon

END_OF_TEXT = "<|endoftext|>"
DEFAULTS = {"do_sample": True, "temperature": 0.7, "top_k": 50, "top_p": 0.9, "max_new_tokens": 200}
WARMUP_TOKENS = 100_000
# Every so many steps a batch of full length trains the positions that the other batches don't reach.
FULL_LENGTH_EVERY = 8
EVALUATE_EVERY = 200_000  # tokens
EVALUATION_ROWS = 96  # windows in an evaluation on the way; the one at the end takes them all
HELDOUT_BATCH = 16  # windows
CHECKPOINT_EVERY = 180.0  # seconds
CHECKPOINT = "checkpoint.pt"


@dataclass(frozen=True)
class Arguments:
    """What a run depends on besides its texts; ``decay_start`` is the token at which a decay begins."""

    tokens: float = 40e6
    decay_start: int = -1
    vocab_size: int = 4096
    n_embd: int = 256
    n_layer: int = 6
    n_head: int = 4
    n_positions: int = 512
    dropout: float = 0.0
    batch_tokens: int = 2048
    length: int = 256
    lr: float = 3e-3
    matrix_lr: float = 0.02
    seed: int = 0

    @property
    def end(self) -> float:
        """The number of tokens after which the run is done."""
        return self.tokens + max(0, self.decay_start)

    def rate(self, seen: int) -> float:
        """The learning rate after ``seen`` tokens, of the largest; a decay follows 1 - sqrt."""
        if self.decay_start >= 0:
            return 1 - math.sqrt(min(1.0, (seen - self.decay_start) / self.tokens))
        return min(1.0, (seen + self.batch_tokens) / WARMUP_TOKENS)


@dataclass
class Progress:
    """Where a run stands: batches and tokens seen, and the best held-out loss in nats per token."""

    step: int = 0
    tokens: int = 0
    best: float = math.inf


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


def encode(tokenizer: Tokenizer, text: str) -> list[NDArray[np.int32]]:
    """Token ids [tokens] of each document or chapter of a text, with an end-of-text token at its end."""
    parts = [part.strip() for part in re.split(r"<\|endoftext\|>|\n(?=CHAPTER )", text)]
    encodings = tokenizer.encode_batch([part for part in parts if part])
    end = tokenizer.get_vocab()[END_OF_TEXT]
    return [np.array([*encoding.ids, end], dtype=np.int32) for encoding in encodings]


def training_batches(
    documents: list[NDArray[np.int32]], arguments: Arguments, first: int
) -> Iterator[NDArray[np.int64]]:
    """Batches [windows, length] from number ``first`` on, which the seed alone decides.

    Each epoch shuffles the documents, joins them and cuts the whole into batches, so that every token is seen
    once an epoch and never twice at the same place in a window.
    """
    per_epoch = sum(map(len, documents)) // arguments.batch_tokens
    if per_epoch == 0:
        raise SystemExit(f"the corpus is shorter than a batch of {arguments.batch_tokens} tokens")
    for epoch in range(first // per_epoch, 2**31):
        order = np.random.default_rng([arguments.seed, epoch]).permutation(len(documents))
        ids = np.concatenate([documents[i] for i in order])
        for number in range(max(first, epoch * per_epoch), (epoch + 1) * per_epoch):
            start = number % per_epoch * arguments.batch_tokens
            length = arguments.n_positions if number % FULL_LENGTH_EVERY == 0 else arguments.length
            batch = ids[start : start + arguments.batch_tokens].astype(np.int64)
            yield batch.reshape(-1, length)


def new_model(arguments: Arguments, end_of_text: int, device: str) -> Any:
    """An untrained model of the wanted size."""
    config = GPT2Config(
        vocab_size=arguments.vocab_size,
        n_positions=arguments.n_positions,
        n_embd=arguments.n_embd,
        n_layer=arguments.n_layer,
        n_head=arguments.n_head,
        # One kernel, where "gelu_new", the same function under which the model is saved, is seven.
        activation_function="gelu_pytorch_tanh",
        resid_pdrop=arguments.dropout,
        embd_pdrop=arguments.dropout,
        attn_pdrop=arguments.dropout,
        bos_token_id=end_of_text,
        eos_token_id=end_of_text,
    )
    model: Any = GPT2LMHeadModel(config)
    return model.to(device)


def new_optimizers(model: Any, arguments: Arguments) -> list[torch.optim.Optimizer]:
    """Muon for the blocks' matrices; AdamW for the embeddings, with weight decay, and for all vectors."""
    parts = {"attn.c_attn": 3, "attn.c_proj": 1, "mlp.c_fc": 1, "mlp.c_proj": 1}
    matrices = [
        {"params": [block.get_submodule(name).weight for block in model.transformer.h], "parts": count}
        for name, count in parts.items()
    ]
    embeddings = [model.transformer.wte.weight, model.transformer.wpe.weight]
    vectors = [weight for weight in model.parameters() if weight.ndim < 2]
    groups = [{"params": embeddings, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    adamw = torch.optim.AdamW(groups, lr=arguments.lr, betas=(0.9, 0.95), fused=True)
    return [Muon(matrices, arguments.matrix_lr, product_dtype(model.device)), adamw]


def product_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the device multiplies it in hardware; elsewhere single precision is faster."""
    cpu = torch.cpu.get_capabilities()
    fast = device.type != "cpu" or bool(cpu.get("avx512_bf16") or cpu.get("amx_bf16"))
    return torch.bfloat16 if fast else torch.float32


def autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Products of matrices in the device's fastest type."""
    fast = product_dtype(device) == torch.bfloat16
    context: AbstractContextManager[Any] = torch.autocast(device.type, torch.bfloat16, enabled=fast)
    return context


def next_token_loss(model: Any, windows: NDArray[np.int64]) -> torch.Tensor:
    """Mean loss, in nats, of the tokens of windows [rows, length] but the first of each."""
    ids = torch.from_numpy(windows).to(model.device)
    hidden = model.transformer(ids, use_cache=False).last_hidden_state[:, :-1]
    logits = hidden.flatten(0, 1) @ model.transformer.wte.weight.T
    return functional.cross_entropy(logits.float(), ids[:, 1:].flatten())


@torch.no_grad()  # type: ignore[untyped-decorator]
def heldout_loss(model: Any, ids: NDArray[np.int32], length: int, rows: int) -> float:
    """Mean next-token loss, in nats, over the first ``rows`` windows of ``length`` tokens."""
    model.eval()
    windows = min(rows, len(ids) // length)
    table = ids[: windows * length].reshape(windows, length).astype(np.int64)
    batches = [table[start : start + HELDOUT_BATCH] for start in range(0, windows, HELDOUT_BATCH)]
    total = sum(next_token_loss(model, batch).item() * len(batch) for batch in batches)
    model.train()
    return float(total / windows)


class Run:
    """A model in training, its optimizers, and the directory that keeps them."""

    def __init__(self, out: Path, arguments: Arguments, tokenizer: Tokenizer, device: str) -> None:
        self.out = out
        self.arguments = arguments
        self.progress = Progress()
        self.model = new_model(arguments, tokenizer.get_vocab()[END_OF_TEXT], device)
        self.optimizers = new_optimizers(self.model, arguments)

    def restore(self, saved: dict[str, Any]) -> None:
        """Go on where a checkpoint was made."""
        self.model.load_state_dict(saved["model"])
        for optimizer, state in zip(self.optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        torch.set_rng_state(saved["rng"])  # of dropout; the batches follow from their numbers
        self.progress = Progress(**saved["progress"])

    def start_from(self, model: Path) -> None:
        """Begin with the weights of a model directory in place of random ones."""
        weights = GPT2LMHeadModel.from_pretrained(model, dtype=torch.float32).state_dict()
        self.model.load_state_dict(weights)

    def checkpoint(self) -> None:
        """Replace the checkpoint on disk; a run killed meanwhile leaves the old one."""
        saved = {
            "arguments": asdict(self.arguments),
            "progress": asdict(self.progress),
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "rng": torch.get_rng_state(),
        }
        torch.save(saved, self.out / f"{CHECKPOINT}.new")
        os.replace(self.out / f"{CHECKPOINT}.new", self.out / CHECKPOINT)

    def save_model(self) -> None:
        """Write the model in half precision, a file at a time; the one in training stays as it is."""
        model = copy.deepcopy(self.model).half()
        model.config.activation_function = "gelu_new"
        model.generation_config.update(**DEFAULTS, _from_model_config=False)
        staging = self.out / "model.new"
        model.save_pretrained(staging)
        for path in staging.iterdir():
            os.replace(path, self.out / path.name)
        staging.rmdir()

    def train_step(self, windows: NDArray[np.int64]) -> float:
        """One step of both optimizers; returns the loss before it."""
        rate = self.arguments.rate(self.progress.tokens)
        muon, adamw = self.optimizers
        for optimizer, largest in ((muon, self.arguments.matrix_lr), (adamw, self.arguments.lr)):
            for group in optimizer.param_groups:
                group["lr"] = largest * rate
        with autocast(self.model.device):
            loss = next_token_loss(self.model, windows)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.progress.step += 1
        self.progress.tokens += windows.size
        return float(loss.item())

    def evaluate(self, heldout: NDArray[np.int32], losses: list[float]) -> None:
        """Log the held-out loss and keep the model if it is the best so far."""
        loss = heldout_loss(self.model, heldout, self.arguments.length, EVALUATION_ROWS)
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "step": self.progress.step,
            "tokens": self.progress.tokens,
            "train_loss": round(sum(losses) / len(losses), 4),
            "heldout_loss": round(loss, 4),
            "cpu_seconds": round(time.process_time()),
        }
        with (self.out / "log.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)
        if loss < self.progress.best:
            self.progress.best = loss
            self.save_model()

    def train(self, documents: list[NDArray[np.int32]], heldout: NDArray[np.int32]) -> bool:
        """Train until the tokens are done or the process is told to end; True for the former."""
        told_to_end: list[int] = []
        signal.signal(signal.SIGTERM, lambda number, _frame: told_to_end.append(number))
        saved_at, losses = time.monotonic(), []
        for windows in training_batches(documents, self.arguments, self.progress.step):
            if self.progress.tokens >= self.arguments.end or told_to_end:
                break
            before = self.progress.tokens
            losses.append(self.train_step(windows))
            if before // EVALUATE_EVERY < self.progress.tokens // EVALUATE_EVERY:
                self.evaluate(heldout, losses)
                losses = []
            if time.monotonic() - saved_at > CHECKPOINT_EVERY:
                self.checkpoint()
                saved_at = time.monotonic()
        done = self.progress.tokens >= self.arguments.end
        if done and losses:
            self.evaluate(heldout, losses)
        self.checkpoint()
        return done


def starting_point(
    out: Path, decay: Path | None, wanted: Arguments
) -> tuple[Arguments, dict[str, Any] | None]:
    """The arguments of the run and the checkpoint that it goes on from, if there is one."""
    if (out / CHECKPOINT).exists():
        saved: dict[str, Any] = torch.load(out / CHECKPOINT, weights_only=True, map_location="cpu")
        begun = Arguments(**saved["arguments"])
        same = replace(begun, tokens=wanted.tokens, decay_start=wanted.decay_start)
        if decay is None and same != wanted:
            raise SystemExit(f"{out} was begun with other arguments: {begun}")
        return replace(begun, tokens=wanted.tokens), saved
    if decay is None:
        return wanted, None
    saved = torch.load(decay / CHECKPOINT, weights_only=True, map_location="cpu")
    saved["progress"]["best"] = math.inf
    shutil.copyfile(decay / "tokenizer.json", out / "tokenizer.json")
    begun = Arguments(**saved["arguments"])
    return replace(begun, tokens=wanted.tokens, decay_start=saved["progress"]["tokens"]), saved


def parse_command_line() -> argparse.Namespace:
    """The command line, the fields of ``Arguments`` among it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("corpus", "heldout", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--threads", type=int, default=1, help="two under load waste each other's time")
    beginning = parser.add_mutually_exclusive_group()
    beginning.add_argument("--start", type=Path, metavar="MODEL", help="begin with that model's weights")
    beginning.add_argument("--decay", type=Path, metavar="RUN", help="decay from its latest checkpoint")
    for field in fields(Arguments):
        if field.name != "decay_start":
            option = f"--{field.name.replace('_', '-')}"
            parser.add_argument(option, type=type(field.default), default=field.default)
    return parser.parse_args()


def main() -> None:
    """Train and write everything."""
    options = parse_command_line()
    torch.set_num_threads(options.threads)
    out = options.out
    out.mkdir(parents=True, exist_ok=True)
    wanted = Arguments(
        **{f.name: getattr(options, f.name) for f in fields(Arguments) if hasattr(options, f.name)}
    )
    arguments, saved = starting_point(out, options.decay, wanted)
    corpus, heldout_text = options.corpus.read_text("utf-8"), options.heldout.read_text("utf-8")
    if options.start is not None and saved is None:
        shutil.copyfile(options.start / "tokenizer.json", out / "tokenizer.json")
    if not (out / "tokenizer.json").exists():
        train_tokenizer(corpus, arguments.vocab_size).save(str(out / "tokenizer.json"))
    tokenizer = Tokenizer.from_file(str(out / "tokenizer.json"))
    documents, heldout = encode(tokenizer, corpus), np.concatenate(encode(tokenizer, heldout_text))
    train_tokens = sum(map(len, documents))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    print(f"train tokens {train_tokens:,}, held-out tokens {len(heldout):,}, device {device}", flush=True)

    torch.manual_seed(arguments.seed)
    run = Run(out, arguments, tokenizer, device)
    if saved is not None:
        run.restore(saved)
    elif options.start is not None:
        run.start_from(options.start)
    if not run.train(documents, heldout):
        return
    loss = heldout_loss(run.model, heldout, arguments.length, rows=len(heldout))
    report = {
        "steps": run.progress.step,
        "tokens_seen": run.progress.tokens,
        "train_tokens": train_tokens,
        "heldout_loss_nats": loss,
        "heldout_perplexity": math.exp(loss),
        "heldout_bits_per_character": loss * len(heldout) / len(heldout_text) / math.log(2),
        "arguments": asdict(arguments),
    }
    (out / "training.json").write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
