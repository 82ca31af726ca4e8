"""The HTTP service: OpenAI's interface over one model; needs ``pip install 'gpt2fast[server]'``."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpt2fast.serving.app import create_app
    from gpt2fast.serving.settings import Limits, Settings

__all__ = ["Limits", "Settings", "create_app"]

# Imported when first used: settings need none of the packages that the application needs.
_MODULE_OF = {"Limits": "settings", "Settings": "settings", "create_app": "app"}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'gpt2fast.serving' has no attribute {name!r}")
    return getattr(import_module(f"gpt2fast.serving.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
