"""Text to token ids and back: the tokenizer, and prompts and arrays of token ids as users give them."""
