"""Train a graph language model: ``python train.py experiment=stage1 [key=value ...]``."""

from graphgpt.cli.train import main

if __name__ == "__main__":
    main()
