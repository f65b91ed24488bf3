"""Evaluate a checkpoint: ``python evaluate.py checkpoint=RUN_FOLDER [key=value ...]``."""

from pathlib import Path

import hydra

from graphgpt.config import EvaluationConfig
from graphgpt.launch import launch, run


@hydra.main(version_base="1.3", config_path="configs", config_name="evaluate")
@run(EvaluationConfig)
def main(config: EvaluationConfig, folder: Path) -> None:
    from graphgpt.assembly import build_model, build_task, command_line
    from graphgpt.checkpoints.folder import load_checkpoint
    from graphgpt.config import evaluated_experiment
    from graphgpt.runners.evaluation import evaluate
    from graphgpt.sharding import evaluate_shards

    if config.devices > 1:
        evaluate_shards(config, command_line(), folder)
        return
    experiment = evaluated_experiment(config)
    task = build_task(experiment)
    model = build_model(experiment, task)
    load_checkpoint(model, config.checkpoint)
    evaluate(model, task, config, folder)


if __name__ == "__main__":
    launch(main, EvaluationConfig, "evaluate")
