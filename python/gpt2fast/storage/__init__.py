"""Files that may come from strangers, atomic writes and the model directory.

What users need of it is in :mod:`gpt2fast` itself.
"""

__all__: list[str] = []
