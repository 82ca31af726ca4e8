"""Text to token ids and back: the tokenizer, and prompts and arrays of token ids as users give them.

What users need of it is in :mod:`gpt2fast` itself.
"""

__all__: list[str] = []
