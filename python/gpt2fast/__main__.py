"""``python -m gpt2fast`` is the command line."""

from gpt2fast.cli import main

if __name__ == "__main__":
    main()
