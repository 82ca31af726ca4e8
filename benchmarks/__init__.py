"""Speed of gpt2fast beside other programs that run GPT-2: ``python -m benchmarks``."""
