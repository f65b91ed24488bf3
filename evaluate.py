"""Evaluate a checkpoint: ``python evaluate.py checkpoint=RUN_FOLDER [key=value ...]``."""

import hydra
from omegaconf import DictConfig

from graphgpt.config import EvaluationConfig, launch, user_errors


@hydra.main(version_base="1.3", config_path="configs", config_name="evaluate")
@user_errors()
def main(composed: DictConfig) -> None:
    from graphgpt.assembly import build_model, build_task, command_line, run_folder
    from graphgpt.checkpoints.folder import load_checkpoint
    from graphgpt.config import evaluated_experiment, read_composed
    from graphgpt.runners.evaluation import evaluate
    from graphgpt.sharding import evaluate_shards

    config = read_composed(EvaluationConfig, composed)
    if config.devices > 1:
        evaluate_shards(config, command_line(), run_folder())
        return
    experiment = evaluated_experiment(config)
    task = build_task(experiment)
    model = build_model(experiment, task)
    load_checkpoint(model, config.checkpoint)
    evaluate(model, task, config, run_folder())


if __name__ == "__main__":
    launch(main, EvaluationConfig, "evaluate")
