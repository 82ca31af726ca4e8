"""As many clients as texts share a step, for as long as ``GPT2FAST_LOAD_SECONDS`` says; needs ``wrk``."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from support.live_server import DEADLINE, LiveServer

SECONDS = int(os.environ.get("GPT2FAST_LOAD_SECONDS", "3"))
CLIENTS = 32
#: Every second request is a stream; each has a seed of its own.
SCRIPT = """
local threads, sent = {}, 0
answers, broken = 0, 0
function setup(thread) thread:set("number", #threads) table.insert(threads, thread) end
function request()
  sent = sent + 1
  local stream = sent % 2 == 0 and "true" or "false"
  local seed = number * 1000000 + sent
  return wrk.format("POST", nil, {["Content-Type"] = "application/json"}, string.format(
    '{"prompt": "The king", "max_tokens": 8, "eos_token_id": [], "seed": %d, "stream": %s}', seed, stream))
end
function response(status, headers, body)
  answers = answers + 1
  local whole = body:find('"finish_reason":"length"', 1, true)
  if body:sub(1, 5) == "data:" then whole = whole and body:sub(-14) == "data: [DONE]\\n\\n" end
  if status ~= 200 or not whole then broken = broken + 1 end
end
function done(summary, latency)
  local all, bad = 0, 0
  for _, thread in ipairs(threads) do
    all, bad = all + thread:get("answers"), bad + thread:get("broken")
  end
  local errors = summary.errors
  print(string.format(
    '{"answers": %d, "broken": %d, "connect": %d, "read": %d, "write": %d, "status": %d, "timeout": %d}',
    all, bad, errors.connect, errors.read, errors.write, errors.status, errors.timeout))
end
"""


def generated(server: LiveServer) -> float:
    text = server.get("/metrics").text
    return float(re.findall(r"^vllm:generation_tokens_total\{.*\} (\S+)$", text, re.MULTILINE)[0])


@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")
def test_many_clients_are_all_answered(server: LiveServer, tmp_path: Path) -> None:
    script = tmp_path / "completions.lua"
    script.write_text(SCRIPT, "utf-8")
    before = generated(server)
    command = ["wrk", "-t2", f"-c{CLIENTS}", f"-d{SECONDS}s", "--timeout", str(DEADLINE), "-s", str(script)]
    ended = subprocess.run(
        [*command, f"{server.url}/v1/completions"],
        capture_output=True,
        text=True,
        timeout=SECONDS + DEADLINE,
        check=True,
    )
    found = json.loads(ended.stdout.splitlines()[-1])
    assert found.pop("answers") >= CLIENTS
    assert set(found.values()) == {0}, ended.stdout
    # wrk leaves when its time is over: what was in work ends within a step.
    while (stats := server.service.calls.stats()).running or stats.waiting:
        server.get("/health")
    assert generated(server) > before
    assert server.get("/ready").status_code == 200
