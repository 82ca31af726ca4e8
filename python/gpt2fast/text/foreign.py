"""Tokenizers that other libraries have loaded, recognised by what they offer."""

from __future__ import annotations

from typing import Any

from gpt2fast.text.tokenizer_settings import ROLES, TokenizerSettings


def is_foreign(tokenizer: Any) -> bool:
    """Whether an object looks like a tokenizer of ``transformers`` or of ``tokenizers``."""
    is_backend = hasattr(tokenizer, "to_str") and hasattr(tokenizer, "token_to_id")
    return is_backend or hasattr(tokenizer, "convert_ids_to_tokens")


def foreign_tokenizer(tokenizer: Any) -> tuple[str, TokenizerSettings, str | None]:
    """The text of a ``tokenizer.json`` for such an object, its settings and its chat template.

    Raises
    ------
    TypeError
        It is none, or one written in Python, which no file describes.
    """
    if not is_foreign(tokenizer):
        raise TypeError(f"tokenizer must be a tokenizer, a path or the id of a model, got {tokenizer!r:.80}")
    from gpt2fast.text.backend import written  # late: it imports a package that not every model needs

    backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
    if not hasattr(backend, "to_str"):
        raise TypeError(
            f"tokenizer: a {type(tokenizer).__name__} is written in Python and can't be copied; give the "
            f"directory that its save_pretrained writes, if there is a tokenizer.json in it"
        )
    roles = {role: str(token) for role in ROLES if (token := getattr(tokenizer, role, None)) is not None}
    limit = getattr(tokenizer, "model_max_length", None)
    settings = TokenizerSettings(
        roles=roles,
        extra=tuple(map(str, getattr(tokenizer, "extra_special_tokens", None) or ())),
        clean_up_tokenization_spaces=bool(getattr(tokenizer, "clean_up_tokenization_spaces", False)),
        model_max_length=int(limit) if isinstance(limit, (int, float)) and limit < 1 << 31 else None,
        padding_side=getattr(tokenizer, "padding_side", "right"),
        truncation_side=getattr(tokenizer, "truncation_side", "right"),
    )
    template = getattr(tokenizer, "chat_template", None)
    return written(backend), settings, template if isinstance(template, str) else None
