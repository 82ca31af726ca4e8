"""Every reader of files from strangers: a small valid sample, how to damage it, and how to read it."""

from __future__ import annotations

import random
import shutil
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt2fast.errors import ModelError
from tests.campaign import container_mutations as containers
from tests.campaign.json_mutations import mutate_json, mutate_lines
from tests.campaign.mild_mutations import mild_json, mild_pickle, mild_safetensors, mild_zip
from tests.campaign.protobuf_mutations import mutate_protobuf
from tests.campaign.samples import CONFIG, SAMPLES
from tests.campaign.tokenizer_mutations import mutate_tokenizer

TEXT = "Once upon a time<|sep|> there was  a fox.\n 中文 \U0001f999"
if TYPE_CHECKING:
    from gpt2fast.text.tokenizer import Tokenizer

#: What a reader is given: the path of the damaged file.
Read = Callable[[Path], None]
Mutation = Callable[[random.Random, bytes], bytes]


@dataclass(frozen=True)
class Reader:
    """A reader under attack.

    Attributes
    ----------
    prepare : callable
        Writes samples into a directory; returns the files to damage and the function that reads one.
    mutations : dict
        The ending of a file's name -> damage that fits it.
    documented : tuple
        The exceptions that the reader's documentation names.
    writes : bool
        Whether reading may write beside the file.
    """

    prepare: Callable[[Path], tuple[list[Path], Read]]
    mutations: dict[str, Mutation]
    documented: tuple[type[Exception], ...] = (ModelError,)
    writes: bool = False

    def mutate(self, name: str, data: bytes, seed: int) -> bytes:
        """The damage of a seed: a third of all knows nothing of the format."""
        generator = random.Random(seed)
        fitting = next(
            (one for end, one in self.mutations.items() if name.endswith(end)), containers.mutate_any
        )
        if fitting is containers.mutate_any or generator.random() < 1 / 3:
            return containers.mutate_any(generator, data)
        return containers.either(fitting)(generator, data)


def _checkpoint(name: str, directory: Path) -> tuple[list[Path], Read]:
    sample = SAMPLES[name]
    sample.write(directory)

    def read(path: Path) -> None:
        for tensor in sample.open(directory / sample.source).tensors.values():
            tensor.read()

    return [directory / sample.damaged], read


def _adapter(directory: Path) -> tuple[list[Path], Read]:
    from gpt2fast.checkpoints import open_checkpoint
    from gpt2fast.loading.sources import embedded_model
    from support.adapter_samples import KINDS, write_adapter

    base = embedded_model()
    for kind in KINDS:
        shutil.copytree(base, directory / kind / "base")
        write_adapter(directory / kind / "adapter", kind, "base")

    def read(path: Path) -> None:
        checkpoint = open_checkpoint(path.parents[1] / "base", adapter=path.parent)
        for name in ("h.0.attn.c_attn.weight", "h.5.mlp.c_proj.bias", "ln_f.weight"):
            checkpoint.tensors[name].read()

    return sorted(directory.glob("*/adapter/adapter_config.json")), read


def _tokenizers(directory: Path, *names: str) -> tuple[list[Path], Read]:
    from gpt2fast.text.tokenizer import Tokenizer
    from support.tokenizer_samples import SAMPLES as TOKENIZERS
    from support.tokenizer_samples import write_sample

    files = []
    for sample in TOKENIZERS:
        write_sample(sample, directory / sample)
        files += [directory / sample / name for name in names if (directory / sample / name).exists()]

    def read(path: Path) -> None:
        _use_tokenizer(Tokenizer.from_source(path.parent, vocab_size=400))

    return files, read


def _use_tokenizer(tokenizer: Tokenizer) -> None:
    """Encode, decode and stream; what must agree is compared."""
    attempts: tuple[Callable[[], Any], ...] = (
        lambda: _stream(tokenizer, tokenizer.encode(TEXT)),
        lambda: _stream(tokenizer, range(min(400, tokenizer.vocab_size))),
        lambda: tokenizer.encode_bytes(b"\xff fox"),
        lambda: tokenizer.byte_table(),
        lambda: tokenizer([TEXT, "a"], padding=True),
    )
    for attempt in attempts:
        try:
            attempt()
        except ValueError as error:  # documented for texts that a vocabulary can't express
            if not str(error):
                raise AssertionError("an empty message") from None


def _stream(tokenizer: Tokenizer, ids: Sequence[int]) -> None:
    from gpt2fast.text.incremental import IncrementalDecoder

    for skip in (True, False):
        whole = tokenizer.decode(ids, skip_special_tokens=skip)
        decoder = IncrementalDecoder(tokenizer, skip_special_tokens=skip)
        text = "".join(decoder.feed([token]) for token in ids) + decoder.feed([], final=True)
        if text != whole:
            raise AssertionError(f"the stream is {text!r:.120}, the whole {whole!r:.120}")


def _sentencepiece(directory: Path) -> tuple[list[Path], Read]:
    from gpt2fast.text.tokenizer import Tokenizer
    from tests.campaign import ROOT

    for name in ("plain", "bytes"):
        shutil.copy(ROOT / f"tests/goldens/sentencepiece/{name}.model", directory)

    def read(path: Path) -> None:
        _use_tokenizer(Tokenizer.from_source(path))

    return sorted(directory.glob("*.model")), read


def _trained(directory: Path) -> tuple[list[Path], Read]:
    """A training program's checkpoint without a configuration beside it."""
    from gpt2fast.checkpoints import open_checkpoint
    from support.checkpoint_samples import pickled_dict, pickled_int, random_tensors, torch_state

    sizes = {"n_layer": 1, "n_head": 2, "n_embd": 8, "block_size": 6, "vocab_size": 24}
    arguments = {"model_args": pickled_dict({name: pickled_int(size) for name, size in sizes.items()})}
    tensors = {f"_orig_mod.transformer.{name}": values for name, values in random_tensors(CONFIG).items()}
    path = directory / "ckpt.pt"
    path.write_bytes(torch_state(tensors, within="model", beside=arguments))

    def read(path: Path) -> None:
        for tensor in open_checkpoint(path).tensors.values():
            tensor.read()

    return [path], read


def _chat_template(directory: Path) -> tuple[list[Path], Read]:
    from gpt2fast.text.chat_template import CompiledTemplate
    from support.tokenizer_samples import CHAT, CHAT_TEMPLATE

    path = directory / "chat_template.jinja"
    path.write_text(CHAT_TEMPLATE)

    def read(path: Path) -> None:
        template = CompiledTemplate(path.read_text("utf-8", "replace"), {"eos_token": "</s>"})
        template.render(CHAT, add_generation_prompt=True)

    return [path], read


def _converted(directory: Path, precision: str) -> Path:
    from gpt2fast.export import convert
    from support.huggingface_samples import write_directory

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write_directory(directory / "source", CONFIG)
    return convert(directory / "source", directory / "model", precision=precision)


def _model_directory(directory: Path) -> tuple[list[Path], Read]:
    from gpt2fast import GPT2
    from gpt2fast.loading.sources import embedded_model

    model = _converted(directory, "int8")
    shutil.copy(embedded_model() / "generation_config.json", model)
    (model / "generation_config.json").write_text(
        '{"do_sample": true, "top_k": 5, "temperature": 0.5, "max_new_tokens": 4, "bad_words_ids": [[3]], '
        '"eos_token_id": [23], "repetition_penalty": 1.1, "suppress_tokens": [2], "num_beams": 1}'
    )

    def read(path: Path) -> None:
        with GPT2.from_pretrained(model, threads=1, max_sequences=2) as loaded:
            loaded.generate([1, 2, 3], max_new_tokens=2)
            loaded.score([1, 2, 3])
            if loaded.has_tokenizer:
                loaded.generate("!", max_new_tokens=1)

    return sorted(path for path in model.iterdir() if path.name != "weights.bin"), read


def _prefix(directory: Path) -> tuple[list[Path], Read]:
    from gpt2fast import GPT2

    model = GPT2.from_pretrained(_converted(directory, "fp32"), threads=1)
    path = directory / "saved.prefix"
    model.prefill([1, 2, 3]).save(path)

    def read(path: Path) -> None:
        prefix = model.load_prefix(path)
        model.generate([4], prefix=prefix, max_new_tokens=1)

    return [path], read


def _journal(directory: Path) -> tuple[list[Path], Read]:
    from gpt2fast.evaluation.journal import Journal

    settings = {"task": "lambada", "items": [1, 2, 3], "model": "x" * 64, "scale": 0.5}
    path = directory / "lambada.jsonl"
    with Journal(path, settings) as journal:
        journal.record("int8", {item: [0.5 * item, -1.0] for item in range(20)})

    def read(path: Path) -> None:
        with Journal(path, settings) as journal:
            journal.values("int8", 3)

    return [path], read


def _results(directory: Path) -> tuple[list[Path], Read]:
    from gpt2fast.cli.result_file import ResultFile

    settings = {"model": "x" * 64, "options": {"top_k": 3}}
    path = directory / "results.jsonl"

    def open_results() -> ResultFile:
        return ResultFile(path, settings, count=20, ordered=False)

    with open_results() as results:
        for line in range(1, 15):
            results.write(line, {"text": "a b", "token_ids": [line]})

    def read(_: Path) -> None:
        with open_results() as results:
            assert results.done <= 20

    return [path, path.with_name(f"{path.name}.settings.json")], read


def _prompts(directory: Path) -> tuple[list[Path], Read]:
    from gpt2fast.cli.prompt_file import PromptFile

    path = directory / "prompts.jsonl"
    path.write_text('{"prompt": "a b", "id": 7}\n{"prompt": [1, 2], "id": "x"}\n{"prompt": "é"}\n' * 4)

    def read(path: Path) -> None:
        for _ in PromptFile(path, lambda prompt: None):
            pass

    return [path], read


def _tasks(directory: Path) -> tuple[list[Path], Read]:
    from gpt2fast.evaluation import read_choices, read_lambada

    (directory / "lambada.jsonl").write_text('{"text": "the cat sat on the mat"}\n' * 5)
    (directory / "choices.jsonl").write_text('{"prompt": "a", "choices": ["b", "c"], "answer": 1}\n' * 5)

    def read(path: Path) -> None:
        (read_lambada if path.stem == "lambada" else read_choices)(path)

    return sorted(directory.glob("*.jsonl")), read


def _archive(directory: Path) -> tuple[list[Path], Read]:
    from gpt2fast.export.archive import pack_archive, unpack_archive

    (directory / "test_data_set_0").mkdir()
    (directory / "test_data_set_0" / "input_0.pb").write_bytes(bytes(700))
    (directory / "model.onnx").write_bytes(b"model" * 300)
    pack_archive(directory / "m.tar.gz", [directory / "model.onnx"], [directory / "test_data_set_0"])

    targets = (directory / f"out{number}" for number in count())

    def read(path: Path) -> None:
        target = next(targets)
        target.mkdir()
        unpack_archive(path, target)

    return [directory / "m.tar.gz"], read


def _test_data(directory: Path) -> tuple[list[Path], Read]:
    import numpy as np
    from onnx import numpy_helper

    from gpt2fast.export.test_data import read_tensor

    files = []
    for number, values in enumerate(
        (np.arange(6, dtype=np.int64).reshape(2, 3), np.ones((2, 2), np.float32))
    ):
        files.append(directory / f"input_{number}.pb")
        files[-1].write_bytes(numpy_helper.from_array(values, "x").SerializeToString())

    def read(path: Path) -> None:
        read_tensor(path)

    return files, read


_JSON: dict[str, Mutation] = {".json": containers.either(mutate_json, mild_json)}
_TEXT: dict[str, Mutation] = {".txt": containers.mutate_text}
_ZIP = containers.either(containers.mutate_zip, mild_zip)
_ONNX: dict[str, Mutation] = {".onnx": mutate_protobuf}
_LINES: dict[str, Mutation] = {".jsonl": mutate_lines, **_JSON}
_OF_CHECKPOINT: dict[str, dict[str, Mutation]] = {
    "safetensors": {".safetensors": containers.either(containers.mutate_safetensors, mild_safetensors)},
    "shard-index": _JSON,
    "config": _JSON,
    "torch-zip": {".bin": _ZIP},
    "torch-legacy": {".bin": containers.either(containers.mutate_pickle, mild_pickle)},
    "gguf": {".gguf": containers.mutate_gguf},
    "onnx": _ONNX,
    "onnx-external": _ONNX,
    "onnx-merged": _ONNX,
    "tensorflow-index": {".index": containers.mutate_table},
    "tensorflow-sizes": _JSON,
}
READERS: dict[str, Reader] = {
    **{name: Reader(partial(_checkpoint, name), _OF_CHECKPOINT[name]) for name in SAMPLES},
    "adapter-config": Reader(_adapter, _JSON),
    "tokenizer-json": Reader(
        lambda directory: _tokenizers(directory, "tokenizer.json"),
        {".json": containers.either(mutate_json, *[mutate_tokenizer] * 4)},
    ),
    "vocabularies": Reader(
        lambda directory: _tokenizers(
            *(directory, "vocab.json", "merges.txt", "vocab.txt", "added_tokens.json"),
            *("tokenizer_config.json", "special_tokens_map.json"),
        ),
        {**_JSON, **_TEXT},
    ),
    "sentencepiece": Reader(_sentencepiece, {".model": mutate_protobuf}),
    "trained": Reader(_trained, {".pt": _ZIP}),
    "chat-template": Reader(_chat_template, {".jinja": containers.mutate_text}, (ValueError,)),
    "model-directory": Reader(_model_directory, {**_JSON, **_ONNX}, (ModelError, ValueError)),
    "prefix": Reader(_prefix, {".prefix": containers.mutate_checksummed}),
    "journal": Reader(_journal, _LINES, writes=True),
    "results": Reader(_results, _LINES, (ModelError, FileExistsError), writes=True),
    "prompts": Reader(_prompts, _LINES, (ModelError, ValueError)),
    "tasks": Reader(_tasks, _LINES, (ModelError, ValueError)),
    "archive": Reader(_archive, {".gz": containers.mutate_tar}, writes=True),
    "test-data": Reader(_test_data, {".pb": mutate_protobuf}),
}
