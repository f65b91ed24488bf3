"""Evaluate a checkpoint: ``python evaluate.py checkpoint=RUN_FOLDER [key=value ...]``."""

from graphgpt.cli.evaluate import main

if __name__ == "__main__":
    main()
