"""The service on a Ray cluster, and datasets of Ray Data; needs ``pip install 'gpt2fast[ray]'``."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpt2fast.serving.ray.application import AppOptions, app
    from gpt2fast.serving.ray.datasets import Embed, Generate, Score

__all__ = ["AppOptions", "Embed", "Generate", "Score", "app"]

# Imported when first used: workers on datasets need nothing of Ray Serve.
_MODULE_OF = {
    "AppOptions": "application",
    "Embed": "datasets",
    "Generate": "datasets",
    "Score": "datasets",
    "app": "application",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'gpt2fast.serving.ray' has no attribute {name!r}")
    return getattr(import_module(f"gpt2fast.serving.ray.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
