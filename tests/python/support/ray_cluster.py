"""``python -m support.ray_cluster FOLDER``: a Ray cluster of several nodes on this machine loses one, twice.

Prints what became of the requests and rows in work, as JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

#: Room for the actors of a dataset, and for those who write beside them.
NODE = {"num_cpus": 4, "object_store_memory": 80 << 20}
#: Nothing leaves the machine, no process more than needed, time for a machine with other work: a process that
#: is slow to start or to answer is not taken for dead; one that is dead refuses connections at once.
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",
    "RAY_prestart_worker_first_driver": "0",
    "RAY_worker_register_timeout_seconds": "600",
    "RAY_health_check_initial_delay_ms": "60000",
    "RAY_health_check_timeout_ms": "120000",
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "90",
    "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "60",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
}
#: Seconds in which something must have been written; nothing waits for them where all is well.
PATIENCE = 600
CLIENTS, REQUESTS = 4, 12
ROWS, BLOCKS, BROKEN_ROW = 120, 24, 119
PROMPTS = ("The king", "Once upon a time", "A fox")
# All that the embedded model has defaults of its own for.
SAMPLING = {"temperature": 0.8, "top_k": 40, "top_p": 0.95}
OPTIONS = {"max_new_tokens": 12, "do_sample": True, **SAMPLING}


class Requests:
    """Clients of the service, half of them with streams, and what each request came to."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._answered = threading.Semaphore(0)
        self._lock = threading.Lock()
        self.outcomes: list[dict[str, Any]] = []
        self._threads = [threading.Thread(target=self._client, args=(number,)) for number in range(CLIENTS)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def wait_for_answers(self, count: int) -> None:
        for _ in range(count):
            self._answered.acquire()

    def join(self) -> None:
        for thread in self._threads:
            thread.join()

    def ask(self, seed: int, stream: bool) -> dict[str, Any]:
        """One request: its text, or that it is known to have failed."""
        import httpx

        prompt = PROMPTS[seed % len(PROMPTS)]
        fields = {"prompt": prompt, "seed": seed, "max_tokens": 12, "stream": stream, **SAMPLING}
        try:
            response = httpx.post(f"{self._url}/v1/completions", json=fields, timeout=120)
        except (httpx.RemoteProtocolError, httpx.ReadError) as error:
            return {"seed": seed, "failed": repr(error)}
        if response.status_code != 200:
            return {"seed": seed, "failed": response.status_code}
        if not stream:
            return {"seed": seed, "text": response.json()["choices"][0]["text"]}
        lines = [line[6:] for line in response.text.splitlines() if line.startswith("data: ")]
        if lines[-1] != "[DONE]":
            return {"seed": seed, "failed": "a stream without its end"}
        chunks = [json.loads(line)["choices"][0]["text"] for line in lines[:-1]]
        return {"seed": seed, "text": "".join(chunks)}

    def _client(self, number: int) -> None:
        for count in range(REQUESTS):
            outcome = self.ask(number * REQUESTS + count, stream=number % 2 == 0)
            with self._lock:
                self.outcomes.append(outcome)
            self._answered.release()


def serve_while_a_node_dies(cluster: Any) -> dict[str, Any]:
    from ray import serve

    from gpt2fast.serving.ray import app

    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    victim = cluster.add_node(**NODE)
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    serve.run(app({"cores": 3, "min_replicas": 2, "max_replicas": 2, "max_sequences": 4}))
    requests = Requests(f"http://127.0.0.1:{port}")
    requests.start()
    requests.wait_for_answers(CLIENTS * 3)
    cluster.remove_node(victim, allow_graceful=False)
    requests.join()
    after = [requests.ask(1000 + index, stream=index % 2 == 0) for index in range(4)]
    serve.shutdown()
    # Ray gives actors to the dead node until it knows of its death; it does not start them again elsewhere.
    cluster.wait_for_nodes(timeout=120)
    return {"during": requests.outcomes, "after": after}


def write_rows(folder: Path) -> str:
    """Files of rows to work on, as many as blocks."""
    import pyarrow
    import pyarrow.parquet

    source = folder / "rows"
    source.mkdir(parents=True, exist_ok=True)
    each = ROWS // BLOCKS
    for block in range(BLOCKS):
        ids = range(block * each, (block + 1) * each)
        rows = [{"id": one, "prompt": PROMPTS[one % len(PROMPTS)], "seed": one} for one in ids]
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), source / f"{block:02}.parquet")
    return str(source)


def write(work: type, folder: Path) -> None:
    """Generate a text for each row that is not yet written."""
    import ray
    from ray.data.checkpoint import CheckpointConfig

    context = ray.data.DataContext.get_current()
    context.checkpoint_config = CheckpointConfig(
        id_column="id", checkpoint_path=str(folder / "done"), delete_checkpoint_on_success=False
    )
    # Rows that are done are left out where files are read; not with from_items.
    dataset = ray.data.read_parquet(write_rows(folder))
    dataset.repartition(BLOCKS).map_batches(
        work,
        fn_constructor_kwargs={"seed_column": "seed", **OPTIONS},
        batch_size=5,
        compute=ray.data.ActorPoolStrategy(size=2, max_concurrent_calls_per_actor=2),
        num_cpus=1,
    ).write_parquet(str(folder / "texts"))


def written(folder: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet

    files = sorted((folder / "texts").glob("*.parquet"))
    tables = [pyarrow.parquet.read_table(file, columns=["id", "text"]) for file in files]
    return [row for table in tables for row in table.to_pylist()]


def committed(folder: Path) -> int:
    """Files whose rows will not be done again."""
    return sum(".pending" not in file.name for file in (folder / "done").glob("*.parquet"))


def map_while_a_node_dies(cluster: Any, folder: Path) -> list[dict[str, Any]]:
    victim = cluster.add_node(**NODE)
    ended = threading.Event()

    def kill() -> None:
        while committed(folder) < 2 and not ended.wait(0.02):
            pass
        cluster.remove_node(victim, allow_graceful=False)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        from gpt2fast.serving.ray import Generate

        write(Generate, folder)
    finally:
        ended.set()
        killer.join()
    return written(folder)


def go_on_after_a_failure(folder: Path) -> dict[str, Any]:
    from gpt2fast.serving.ray import Generate

    class Broken(Generate):
        """Fails at one row, when some others are done."""

        async def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
            if BROKEN_ROW in batch["id"]:
                end = time.monotonic() + PATIENCE
                while committed(folder) == 0 and time.monotonic() < end:
                    await asyncio.sleep(0.02)
                raise RuntimeError("broken on purpose")
            return await super().__call__(batch)

    failure = None
    try:
        write(Broken, folder)
    except Exception as error:  # whatever Ray makes of it
        failure = repr(error)
    first = {file.name: file.stat().st_mtime_ns for file in (folder / "texts").glob("*.parquet")}
    done = committed(folder)
    write(Generate, folder)
    kept = {file.name: file.stat().st_mtime_ns for file in (folder / "texts").glob("*.parquet")}
    unchanged = sum(kept.get(name) == changed for name, changed in first.items())
    return {"failure": failure, "done_first": done, "unchanged": unchanged, "rows": written(folder)}


def main(folder: Path) -> None:
    os.environ.update(ENVIRONMENT)
    import ray
    from ray.cluster_utils import Cluster

    head = {**NODE, "num_cpus": 0, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        cluster.add_node(**NODE)
        ray.init(address=cluster.address, log_to_driver=False, logging_level="warning")
        found = {
            "requests": serve_while_a_node_dies(cluster),
            "rows": map_while_a_node_dies(cluster, folder / "a node dies"),
            "resumed": go_on_after_a_failure(folder / "a row fails"),
        }
    finally:
        ray.shutdown()
        cluster.shutdown()
    (folder / "found.json").write_text(json.dumps(found), "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
