"""``graphgpt evaluate``: the program of an evaluation, which a checkout's evaluate.py starts too."""

from pathlib import Path

import hydra

from graphgpt.config.experiment import EvaluationConfig
from graphgpt.files.configs import CONFIG_DIR
from graphgpt.launch.program import launch, run


@hydra.main(version_base="1.3", config_path=str(CONFIG_DIR), config_name="evaluate")
@run(EvaluationConfig)
def evaluate(config: EvaluationConfig, folder: Path) -> None:
    """Evaluate a checkpoint."""
    from graphgpt.assembly import command_line
    from graphgpt.evaluation.shards import evaluate_shards

    if config.devices > 1:
        evaluate_shards(config, command_line(), folder)
    else:
        score(config, folder)


def score(config: EvaluationConfig, folder: Path) -> None:
    """Evaluate a checkpoint in this process; the files go into ``folder``."""
    from graphgpt.assembly import build_model, build_task
    from graphgpt.checkpoints.folder import load_checkpoint
    from graphgpt.config.experiment import evaluated_experiment
    from graphgpt.evaluation.evaluation import evaluate as evaluate_model

    experiment = evaluated_experiment(config)
    task = build_task(experiment)
    model = build_model(experiment, task)
    load_checkpoint(model, config.checkpoint, task.data)
    evaluate_model(model, task, config, folder)


def main() -> None:
    """Evaluate as the command line says."""
    launch(evaluate, EvaluationConfig, "evaluate")


if __name__ == "__main__":
    main()
