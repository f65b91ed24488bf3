"""``graphgpt train``: the program of a training run, which a checkout's train.py starts too."""

from pathlib import Path

import hydra

from graphgpt.config import ExperimentConfig
from graphgpt.config_files import CONFIG_DIR
from graphgpt.launch import launch, run


@hydra.main(version_base="1.3", config_path=str(CONFIG_DIR), config_name="train")
@run(ExperimentConfig)
def train(experiment: ExperimentConfig, folder: Path) -> None:
    """Train a graph language model."""
    from graphgpt.assembly import build_model, build_runner, build_task

    runner = build_runner(experiment)
    task = build_task(experiment)
    model = build_model(experiment, task)
    runner.train(model, task, experiment, folder)


def main() -> None:
    """Train as the command line says."""
    launch(train, ExperimentConfig, "train")


if __name__ == "__main__":
    main()
