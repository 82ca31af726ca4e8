"""Work on a loaded model: options, requests, results, scores, arrays and calls from asyncio.

What users need of it is in :mod:`gpt2fast` itself.
"""

__all__: list[str] = []
