"""From a name to a loaded model: its files, its tokenizer and an engine; the cache of converted models.

What users need of it is in :mod:`gpt2fast` itself.
"""

__all__: list[str] = []
