"""How many cores Ray has, and has given to whom."""

from __future__ import annotations

import ray

from gpt2fast._native import core


def assigned_cores() -> int:
    """The cores that Ray set aside for the actor that calls this; elsewhere those the process may use."""
    if ray.is_initialized():
        context = ray.get_runtime_context()
        if context.get_actor_id() is not None:
            return max(1, int(context.get_assigned_resources().get("CPU", 1)))
    return core.usable_cores()


def node_cores() -> list[int]:
    """The cores of each node of the cluster that has any; without a cluster, this machine's."""
    if not ray.is_initialized():
        return [core.usable_cores()]
    counts = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
    return [count for count in counts if count > 0]
