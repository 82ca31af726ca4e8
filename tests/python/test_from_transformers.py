"""docs/from_transformers.md: both columns run and give the same; its lists are what the code refuses."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpt2fast import GPT2
from gpt2fast.checkpoints import open_checkpoint
from gpt2fast.checkpoints.base import LazyTensor
from gpt2fast.config import ClassifierConfig
from gpt2fast.export.huggingface_writer import save_huggingface
from gpt2fast.inference import other_names
from gpt2fast.inference.options import GenerationOptions

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "from_transformers.md").read_text("utf-8")
ROWS = re.findall(r"^\| `(.+)` \| `(.+)` \|$", PAGE, re.M)
THEIR_SETUP, OUR_SETUP = re.findall(r"^```python\n(.*?)^```$", PAGE, re.M | re.S)
# What is drawn, printed, or of another form: both sides run, and are not compared.
NOT_COMPARED = ("do_sample=True", "streamer=", "output_logits=True", "attention_mask=batch")


@pytest.fixture(scope="module", autouse=True)
def my_classifier(tmp_path_factory: pytest.TempPathFactory, embedded_dir: Path) -> Iterator[None]:
    """The embedded model with a head for classification, in the working directory."""
    home = tmp_path_factory.mktemp("home")
    checkpoint = open_checkpoint(embedded_dir)
    width = checkpoint.config.n_embd
    head = np.random.default_rng(0).normal(0, 0.1, (2, width)).astype(np.float32)
    labels = ClassifierConfig("sequence", ("bad", "good"))
    checkpoint = replace(
        checkpoint,
        config=replace(checkpoint.config, classifier=labels),
        classifier={"score.weight": LazyTensor.from_array(head)},
    )
    save_huggingface(checkpoint, home / "my-classifier")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        yield


@pytest.fixture(scope="module")
def ours() -> dict[str, Any]:
    """The names that the right column uses."""
    names: dict[str, Any] = {"GPT2": GPT2}
    exec(OUR_SETUP, names)
    return names


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory, embedded_dir: Path) -> dict[str, Any]:
    """The names that the left column uses, with the embedded model in place of GPT-2."""
    pytest.importorskip("torch").set_num_threads(1)
    names: dict[str, Any] = {"TextStreamer": pytest.importorskip("transformers").TextStreamer}
    exec(THEIR_SETUP.replace('"openai-community/gpt2"', repr(str(embedded_dir))), names)
    return names


def test_the_page_has_its_rows() -> None:
    assert len(ROWS) > 25
    assert {name for name in NOT_COMPARED if not any(name in left for left, _ in ROWS)} == set()


@pytest.mark.parametrize(("left", "right"), ROWS)
def test_our_side_runs(left: str, right: str, ours: dict[str, Any]) -> None:
    assert eval(right, ours) is not None


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("left", "right"), ROWS)
def test_both_sides_agree(left: str, right: str, ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    expected, found = eval(left, theirs), eval(right, ours)
    if any(one in left for one in NOT_COMPARED):
        return
    if "hf.generate" in left and not isinstance(expected, str):
        prompt = theirs["batch" if "**batch" in left else "inputs"].input_ids.shape[1]
        results = found if isinstance(found, list) else [found]
        assert [_ended(one.token_ids) for one in results] == [
            _ended(row[prompt:].tolist()) for row in expected
        ]
    elif isinstance(expected, list) and isinstance(expected[0], dict):
        assert found == [{**one, "score": pytest.approx(one["score"], abs=1e-5)} for one in expected]
    elif isinstance(expected, (str, list)):
        assert found == expected
    else:
        np.testing.assert_allclose(found, expected.detach().numpy(), rtol=1e-4, atol=1e-4)


def _ended(ids: list[int]) -> list[int]:
    """Without what follows the text's end: transformers fills rows up with the end-of-text token."""
    return ids[: ids.index(0)] if 0 in ids else ids


def test_the_lists_are_what_the_code_refuses() -> None:
    _, of_generate, of_loading = re.split(r"^## ", PAGE, flags=re.M)
    advice = {name: other_names.advice(name, ()) for name in (*other_names._SAME, *other_names._ADVICE)}
    assert dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", of_generate, re.M)) == advice
    assert dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", of_loading, re.M)) == other_names._SETTINGS
    assert not {*other_names._ADVICE, *other_names._SAME} & GenerationOptions.__dataclass_fields__.keys()


@pytest.mark.parametrize("name", [*other_names._ADVICE])
def test_what_generate_refuses(name: str, ours: dict[str, Any]) -> None:
    model: GPT2 = ours["model"]
    if name == "pad_token_id":
        assert model.generate([5], max_new_tokens=1, pad_token_id=0).token_ids
        return
    message = re.escape(f"unknown generation option {name!r}; {other_names._ADVICE[name]}")
    with pytest.raises(TypeError, match=message):
        model.generate([5], max_new_tokens=1, **{name: "something"})
    if name not in ("generation_config", "inputs_embeds"):
        assert model.generate([5], max_new_tokens=1, **{name: None}).token_ids


@pytest.mark.parametrize("name", other_names._SETTINGS)
def test_what_from_pretrained_refuses(name: str) -> None:
    message = re.escape(f"from_pretrained has no argument {name!r}; {other_names._SETTINGS[name]}")
    with pytest.raises(TypeError, match=message):
        GPT2.from_pretrained(**{name: "something"})


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in other_names._HARMLESS.items() for value in values]
)
def test_values_that_ask_for_what_happens_anyway(name: str, value: Any, ours: dict[str, Any]) -> None:
    model: GPT2 = ours["model"]
    plain = model.generate([5], max_new_tokens=3)
    assert model.generate([5], max_new_tokens=3, **{name: value}) == plain
