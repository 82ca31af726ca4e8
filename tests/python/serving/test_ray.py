"""Ray: callables for datasets, and a cluster of several nodes that loses one of them.

The cluster takes minutes of processor time to start, so its tests run where ``GPT2FAST_TEST_RAY=1``.
"""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any

import numpy as np
import pytest

from gpt2fast import GPT2
from support.processes import end_of, imported_by, start_python

pytest.importorskip("ray")

CLUSTER_SECONDS = 1800
on_a_cluster = pytest.mark.skipif(
    os.environ.get("GPT2FAST_TEST_RAY") != "1", reason="starting a cluster takes minutes: GPT2FAST_TEST_RAY=1"
)


def batch(**columns: list[Any]) -> dict[str, Any]:
    return {name: np.array(values, object) for name, values in columns.items()}


class TestCallables:
    """What ``map_batches`` calls, without a cluster."""

    def test_generate(self, model: GPT2) -> None:
        from gpt2fast.serving.ray import Generate

        ids = np.array(model.tokenizer.encode("Once upon"))
        given = batch(id=[7, 8, 9], prompt=["The king", ids, ""], s=[3, 4, 5])
        work = Generate(seed_column="s", max_new_tokens=9, load={"threads": 2})
        found = asyncio.run(work(given))
        for row in range(3):
            prompt, seed = given["prompt"][row], given["s"][row]
            expected = model.generate(prompt, seed=seed, do_sample=True, max_new_tokens=9)
            assert found["text"][row] == expected.text
            assert found["token_ids"][row] == expected.token_ids
            assert found["finish_reason"][row] == expected.finish_reason
        assert found["seed"].tolist() == [3, 4, 5]
        assert found["id"] is given["id"]

    def test_a_row_does_not_depend_on_its_batch(self) -> None:
        from gpt2fast.serving.ray import Generate

        work = Generate(seed=5, max_new_tokens=9)
        together = asyncio.run(work(batch(prompt=["The king", "A fox"])))
        alone = asyncio.run(work(batch(prompt=["A fox"])))
        assert together["text"][1] == alone["text"][0]
        greedy = asyncio.run(Generate(max_new_tokens=2)(batch(prompt=["A fox"])))
        assert "seed" not in greedy

    def test_score(self, model: GPT2) -> None:
        from gpt2fast.serving.ray import Score

        texts = ["The king went out.", "A"]
        found = asyncio.run(Score(token_logprobs=True)(batch(text=texts)))
        for row, expected in enumerate(model.score(texts)):
            assert found["token_ids"][row] == expected.token_ids
            assert np.array_equal(np.float32(found["token_logprobs"][row]), expected.logprobs, equal_nan=True)
            assert found["token_count"][row] == len(expected.token_ids)
            assert found["total_logprob"][row] == expected.total
        assert found["perplexity"][0] == model.score(texts[0]).perplexity

    def test_embed(self, model: GPT2) -> None:
        from gpt2fast.serving.ray import Embed

        texts = ["The king went out.", "A"]
        found = asyncio.run(Embed(column="it", normalize=True, pooling="last")(batch(it=texts)))
        assert np.array_equal(found["embedding"], model.embed(texts, normalize=True, pooling="last"))

    def test_mistakes(self) -> None:
        from gpt2fast.serving.ray import Generate, Score

        with pytest.raises(ValueError, match="num_return_sequences must be 1, got 2"):
            Generate(num_return_sequences=2, do_sample=True)
        with pytest.raises(TypeError, match="max_new_token"):
            Generate(max_new_token=2)
        with pytest.raises(ValueError, match="rows have no column 'text'; theirs are 'a', 'b'"):
            asyncio.run(Score()(batch(a=["A"], b=["B"])))

    def test_workers_on_datasets_need_nothing_of_the_service(self) -> None:
        loaded = imported_by("from gpt2fast.serving.ray import Generate")
        assert not {"ray.serve", "starlette", "uvicorn", "prometheus_client"} & loaded


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What ``support.ray_cluster`` found."""
    folder = tmp_path_factory.mktemp("ray")
    ended = end_of(start_python("-m", "support.ray_cluster", str(folder)), CLUSTER_SECONDS)
    assert ended.status == 0, ended.stderr
    return json.loads((folder / "found.json").read_text("utf-8"))


@on_a_cluster
@pytest.mark.timeout(CLUSTER_SECONDS + 60)
class TestACluster:
    """One node is killed while all have work."""

    def texts(self, model: GPT2, seeds: list[int]) -> list[str]:
        from support.ray_cluster import OPTIONS, PROMPTS

        prompts = [PROMPTS[seed % len(PROMPTS)] for seed in seeds]
        return [
            model.generate(prompt, seed=seed, **OPTIONS).text
            for prompt, seed in zip(prompts, seeds, strict=True)
        ]

    def test_no_request_is_lost(self, model: GPT2, found: Any) -> None:
        from support.ray_cluster import CLIENTS, REQUESTS

        during, after = found["requests"]["during"], found["requests"]["after"]
        assert sorted(one["seed"] for one in during) == list(range(CLIENTS * REQUESTS))
        answered = [one for one in (*during, *after) if "text" in one]
        assert len(answered) >= CLIENTS * 3 + len(after)
        assert all("text" in one for one in after)
        assert [one["text"] for one in answered] == self.texts(model, [one["seed"] for one in answered])

    def check_rows(self, model: GPT2, rows: list[dict[str, Any]]) -> None:
        from support.ray_cluster import ROWS

        rows = sorted(rows, key=lambda row: row["id"])
        assert [row["id"] for row in rows] == list(range(ROWS))
        assert [row["text"] for row in rows] == self.texts(model, list(range(ROWS)))

    def test_no_row_is_lost_or_doubled(self, model: GPT2, found: Any) -> None:
        self.check_rows(model, found["rows"])

    def test_an_interrupted_job_goes_on_where_it_was(self, model: GPT2, found: Any) -> None:
        resumed = found["resumed"]
        assert "UDF failed" in resumed["failure"]
        assert resumed["unchanged"] >= resumed["done_first"] > 0
        self.check_rows(model, resumed["rows"])
