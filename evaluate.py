"""Evaluate a checkpoint: ``python evaluate.py checkpoint=RUN_FOLDER [key=value ...]``."""

import hydra
from omegaconf import DictConfig

from graphgpt.config import EvaluationConfig, launch, user_errors


@hydra.main(version_base="1.3", config_path="configs", config_name="evaluate")
@user_errors()
def main(composed: DictConfig) -> None:
    from graphgpt.assembly import build_model, build_task, run_folder
    from graphgpt.checkpoints.folder import checkpoint_experiment, load_checkpoint
    from graphgpt.config import ExperimentConfig, read_composed, read_config
    from graphgpt.runners.evaluation import evaluate

    config = read_composed(EvaluationConfig, composed)
    asked = {"dataset": config.dataset} if config.dataset else {}
    experiment = read_config(ExperimentConfig, checkpoint_experiment(config.checkpoint) | asked)
    task = build_task(experiment)
    model = build_model(experiment, task)
    load_checkpoint(model, config.checkpoint)
    evaluate(model, task, config, run_folder())


if __name__ == "__main__":
    launch(main, EvaluationConfig, "evaluate")
