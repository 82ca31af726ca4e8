"""Fast GPT-2 inference on the CPU: ``GPT2.from_pretrained(...).generate(...)``."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpt2fast.config import ModelConfig
    from gpt2fast.errors import BusyError, ModelError
    from gpt2fast.inference.cancellation import CancelToken
    from gpt2fast.inference.options import GenerationOptions
    from gpt2fast.inference.prefix import Prefix
    from gpt2fast.inference.results import (
        Classification,
        ForwardOutput,
        Generation,
        RankedChoice,
        StreamChunk,
        TextScore,
        TokenClassification,
        TokenLogprobs,
    )
    from gpt2fast.model import GPT2
    from gpt2fast.text.incremental import IncrementalDecoder
    from gpt2fast.text.tokenizer import Tokenizer

__all__ = [
    "GPT2",
    "BusyError",
    "CancelToken",
    "Classification",
    "ForwardOutput",
    "Generation",
    "GenerationOptions",
    "IncrementalDecoder",
    "ModelConfig",
    "ModelError",
    "Prefix",
    "RankedChoice",
    "StreamChunk",
    "TextScore",
    "TokenClassification",
    "TokenLogprobs",
    "Tokenizer",
    "__version__",
]

# Imported when first used: NumPy alone would more than double the time of `import gpt2fast`.
_MODULE_OF = {
    "GPT2": "model",
    "BusyError": "errors",
    "CancelToken": "inference.cancellation",
    "Classification": "inference.results",
    "ForwardOutput": "inference.results",
    "Generation": "inference.results",
    "GenerationOptions": "inference.options",
    "IncrementalDecoder": "text.incremental",
    "ModelConfig": "config",
    "ModelError": "errors",
    "Prefix": "inference.prefix",
    "RankedChoice": "inference.results",
    "StreamChunk": "inference.results",
    "TextScore": "inference.results",
    "TokenClassification": "inference.results",
    "TokenLogprobs": "inference.results",
    "Tokenizer": "text.tokenizer",
}

__version__: str


def __getattr__(name: str) -> Any:
    if name == "__version__":
        value: Any = import_module("importlib.metadata").version("gpt2fast")
    elif name in _MODULE_OF:
        value = getattr(import_module(f"gpt2fast.{_MODULE_OF[name]}"), name)
    else:
        raise AttributeError(f"module 'gpt2fast' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
