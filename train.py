"""Train a graph language model: ``python train.py experiment=stage1 [key=value ...]``."""

import hydra
from omegaconf import DictConfig

from graphgpt.config import ExperimentConfig, launch, user_errors


@hydra.main(version_base="1.3", config_path="configs", config_name="train")
@user_errors()
def main(composed: DictConfig) -> None:
    from graphgpt.assembly import build_model, build_runner, build_task, command_line, run_folder
    from graphgpt.config import read_composed

    experiment = read_composed(ExperimentConfig, composed, command_line())
    runner = build_runner(experiment)
    task = build_task(experiment)
    model = build_model(experiment, task)
    runner.train(model, task, experiment, run_folder())


if __name__ == "__main__":
    launch(main, ExperimentConfig, "train")
