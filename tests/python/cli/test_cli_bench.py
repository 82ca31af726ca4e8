"""``gpt2fast bench``."""

from __future__ import annotations

import json

import pytest

from gpt2fast.cli import main


def test_bench_prints_json(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(["bench", "--repeats", "1", "--batch", "2", "--threads", "1", "--json"])
    assert exit_info.value.code == 0
    out = json.loads(capsys.readouterr().out)
    assert (out["precision"], out["threads"]) == ("int8", 1)
    assert out["cases"][-1]["texts"] == 2
    assert all(item["timings"][0]["step_ms"] > 0 for item in out["cases"])
    assert set(out["draft_step_ms"]) == {"0", "4", "8"}


def test_bench_refuses_more_texts_than_share_a_step(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(["bench", "--batch", "33"])
    assert exit_info.value.code == 2
    assert "--batch 33: at most 32 texts" in capsys.readouterr().err
