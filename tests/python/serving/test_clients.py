"""Clients that others made: OpenAI's, LangChain's, lm-evaluation-harness."""

from __future__ import annotations

import gc
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from gpt2fast import GPT2
from gpt2fast.cli import cli
from gpt2fast.serving import Settings
from support.live_server import LiveServer, live_server

KEY = "sk-test"
PROMPT = "Once upon a time there was a"


@pytest.fixture(scope="module")
def keyed(model: GPT2) -> Iterator[LiveServer]:
    with live_server(model, Settings(api_keys=(KEY,), model_name="tiny")) as live:
        yield live


class TestOpenAI:
    """The package ``openai``."""

    @pytest.fixture
    def openai(self, keyed: LiveServer) -> Iterator[Any]:
        package = pytest.importorskip("openai")
        with package.OpenAI(base_url=f"{keyed.url}/v1", api_key=KEY, max_retries=0) as client:
            yield client

    def test_completions(self, openai: Any, model: GPT2) -> None:
        answer = openai.completions.create(model="tiny", prompt=[PROMPT, "The"], max_tokens=12, n=2, seed=9)
        expected = model.generate([PROMPT, "The"], num_return_sequences=2, seed=9, max_new_tokens=12)
        assert [choice.text for choice in answer.choices] == [one.text for one in expected]
        assert answer.usage.completion_tokens == sum(len(one.token_ids) for one in expected)

    def test_our_own_options(self, openai: Any, model: GPT2) -> None:
        own = {"min_p": 0.1, "repetition_penalty": 1.3}
        answer = openai.completions.create(model="tiny", prompt=PROMPT, max_tokens=12, seed=9, extra_body=own)
        assert answer.choices[0].text == model.generate(PROMPT, seed=9, max_new_tokens=12, **own).text

    def test_streams(self, openai: Any, model: GPT2) -> None:
        chunks = list(
            openai.completions.create(
                model="tiny",
                prompt=PROMPT,
                max_tokens=30,
                seed=2,
                logprobs=2,
                stream=True,
                stream_options={"include_usage": True},
            )
        )
        expected = model.generate(PROMPT, seed=2, max_new_tokens=30)
        assert "".join(chunk.choices[0].text for chunk in chunks[:-1]) == expected.text
        assert chunks[-2].choices[0].finish_reason in ("stop", "length")
        assert chunks[-1].usage.completion_tokens == len(expected.token_ids)
        assert chunks[0].choices[0].logprobs.tokens

    def test_a_stream_may_be_left(self, openai: Any, keyed: LiveServer) -> None:
        endless = {"overflow": "slide", "eos_token_id": []}
        with openai.completions.create(
            model="tiny", prompt=PROMPT, max_tokens=100_000, stream=True, extra_body=endless
        ) as stream:
            next(iter(stream))
            assert keyed.service.calls.stats().running == 1
        ended = openai.completions.create(model="tiny", prompt=PROMPT, max_tokens=1)
        assert ended.usage.completion_tokens == 1

    def test_embeddings(self, openai: Any, model: GPT2) -> None:
        texts = ["The king", "A fox and a hen"]
        expected = model.embed(texts, normalize=True)
        for options in ({}, {"encoding_format": "float"}):  # by default it asks for base64
            answer = openai.embeddings.create(model="tiny", input=texts, **options)
            assert np.array_equal(np.array([one.embedding for one in answer.data], np.float32), expected)

    def test_models(self, openai: Any) -> None:
        assert [one.id for one in openai.models.list()] == ["tiny"]
        assert openai.models.retrieve("tiny").owned_by == "gpt2fast"

    def test_errors_are_its_own(self, openai: Any, keyed: LiveServer) -> None:
        import openai as package

        create = openai.completions.create
        with pytest.raises(package.BadRequestError) as refused:
            create(model="tiny", prompt=PROMPT, max_tokens=600)
        assert refused.value.code == "context_length_exceeded"
        assert refused.value.param == "prompt"
        with pytest.raises(package.NotFoundError) as unknown:
            create(model="gpt-5", prompt=PROMPT)
        assert unknown.value.code == "model_not_found"
        with (
            pytest.raises(package.AuthenticationError),
            package.OpenAI(base_url=f"{keyed.url}/v1", api_key="wrong", max_retries=0) as stranger,
        ):
            stranger.models.list()
        with pytest.raises(package.BadRequestError) as chat:
            openai.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "Hi"}])
        assert chat.value.code == "no_chat_template"

    def test_it_comes_back_when_the_server_is_busy(
        self, openai: Any, keyed: LiveServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from gpt2fast.serving.errors import ApiError

        real, calls = keyed.service.calls.complete, []

        async def busy(*arguments: Any) -> Any:
            calls.append(arguments)
            if len(calls) < 3:
                raise ApiError(429, "busy", headers={"retry-after": "0"})
            return await real(*arguments)

        monkeypatch.setattr(keyed.service.calls, "complete", busy)
        patient = openai.with_options(max_retries=3)
        assert patient.completions.create(model="tiny", prompt=PROMPT, max_tokens=1).choices
        assert len(calls) == 3


def test_langchains_completion_class(keyed: LiveServer, model: GPT2) -> None:
    package = pytest.importorskip("langchain_openai")
    llm = package.OpenAI(
        base_url=f"{keyed.url}/v1", api_key=KEY, model="tiny", temperature=0, max_tokens=20, max_retries=0
    )
    expected = model.generate(PROMPT, max_new_tokens=20)
    assert llm.invoke(PROMPT) == expected.text
    assert "".join(llm.stream(PROMPT)) == expected.text
    other = model.generate("The", max_new_tokens=20)
    assert llm.batch([PROMPT, "The"]) == [expected.text, other.text]
    stop = expected.text[8:12]
    assert llm.invoke(PROMPT, stop=[stop]) == expected.text[: expected.text.index(stop)]
    result = llm.generate([PROMPT, "The"])
    tokens = len(expected.token_ids) + len(other.token_ids)
    assert result.llm_output["token_usage"]["completion_tokens"] == tokens
    llm.client._client.close()


@pytest.fixture(scope="module")
def harness(keyed: LiveServer) -> Iterator[Any]:
    pytest.importorskip("lm_eval")
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_API_KEY", KEY)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # it leaves a connection to the collector
            found = LocalCompletionsAPI(
                base_url=f"{keyed.url}/v1/completions",
                model="tiny",
                auth_token=KEY,
                max_length=512,
                batch_size=4,
            )
            gc.collect()
        assert found.tokenizer_backend == "remote"
        yield found
        found.tokenizer.session.close()


class TestLmEval:
    """lm-evaluation-harness, its model ``local-completions`` with the server's tokenizer."""

    ITEMS = (
        ("The king and the queen lived in a", (" castle", " banana", " computer program")),
        ("The fox ate the", (" moon", " hen", " parliament")),
        ("Once upon a", (" time", " horse", " Tuesday")),
    )

    def requests(self, kind: str, arguments: list[tuple[Any, ...]]) -> list[Any]:
        from lm_eval.api.instance import Instance

        return [Instance(kind, {}, one, index) for index, one in enumerate(arguments)]

    def figures(self, *arguments: str) -> dict[str, Any]:
        """What ``gpt2fast eval`` prints."""
        result = CliRunner().invoke(cli, ["eval", *arguments, "--json"])
        assert result.exit_code == 0, result.output
        (figures,) = json.loads(result.stdout)["results"]
        return dict(figures)

    def test_multiple_choice(self, harness: Any, model: GPT2, tmp_path: Path) -> None:
        pairs = [(prompt, choice) for prompt, choices in self.ITEMS for choice in choices]
        found = harness.loglikelihood(self.requests("loglikelihood", pairs), disable_tqdm=True)
        for (prompt, choice), (value, greedy) in zip(pairs, found, strict=True):
            (ranked,) = model.rank(prompt, [choice])
            assert value == pytest.approx(ranked.total, abs=1e-5)
            assert greedy == (model.generate(prompt, max_new_tokens=len(ranked.token_ids)).text == choice)
        values = np.array([value for value, _ in found]).reshape(len(self.ITEMS), -1)
        questions = tmp_path / "questions.jsonl"
        lines = [
            json.dumps({"prompt": prompt, "choices": choices, "answer": 0}) for prompt, choices in self.ITEMS
        ]
        questions.write_text("\n".join(lines), "utf-8")
        assert self.figures("choice", str(questions))["accuracy"] == np.mean(values.argmax(1) == 0)

    def test_perplexity(self, harness: Any, tmp_path: Path) -> None:
        text = "The king went out into the wood and met a fox. " * 12
        requests = self.requests("loglikelihood_rolling", [(text,)])
        (value,) = harness.loglikelihood_rolling(requests, disable_tqdm=True)
        # It begins with the end-of-text token, so that the first is scored too.
        book = tmp_path / "book.txt"
        book.write_text("<|endoftext|>" + text, "utf-8")
        figures = self.figures("perplexity", "--text", str(book))
        assert value == pytest.approx(-figures["loss"] * figures["scored_tokens"], rel=1e-5)

    def test_generation(self, harness: Any, model: GPT2) -> None:
        asked = {"until": ["\n\n"], "max_gen_toks": 12, "do_sample": False}
        requests = self.requests("generate_until", [(PROMPT, asked), ("The", asked)])
        found = harness.generate_until(requests, disable_tqdm=True)
        assert found == [one.text for one in model.generate([PROMPT, "The"], max_new_tokens=12)]
