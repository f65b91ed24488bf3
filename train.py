"""Train a graph language model: ``python train.py experiment=stage1 [key=value ...]``."""

from pathlib import Path

import hydra

from graphgpt.config import ExperimentConfig
from graphgpt.launch import launch, run


@hydra.main(version_base="1.3", config_path="configs", config_name="train")
@run(ExperimentConfig)
def main(experiment: ExperimentConfig, folder: Path) -> None:
    from graphgpt.assembly import build_model, build_runner, build_task

    runner = build_runner(experiment)
    task = build_task(experiment)
    model = build_model(experiment, task)
    runner.train(model, task, experiment, folder)


if __name__ == "__main__":
    launch(main, ExperimentConfig, "train")
