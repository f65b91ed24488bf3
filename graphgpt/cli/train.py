"""``graphgpt train``: the program of a training run, which a checkout's train.py starts too."""

from pathlib import Path

import hydra
from hydra.core.global_hydra import GlobalHydra

from graphgpt.config.command_line import check_command_line
from graphgpt.config.experiment import EvaluationConfig, ExperimentConfig
from graphgpt.config.grammar import quoted
from graphgpt.files.configs import CONFIG_DIR
from graphgpt.launch.program import launch, run, speaks


@hydra.main(version_base="1.3", config_path=str(CONFIG_DIR), config_name="train")
@run(ExperimentConfig)
def train(experiment: ExperimentConfig, folder: Path) -> None:
    """Train a graph language model."""
    from graphgpt.assembly import build_model, build_runner, build_task

    runner = build_runner(experiment)
    task = build_task(experiment)
    model = build_model(experiment, task)
    checkpoint = runner.train(model, task, experiment, folder)
    if experiment.test and speaks():
        del model, task
        test(experiment, checkpoint, folder / "test")


def test(experiment: ExperimentConfig, checkpoint: Path, folder: Path) -> None:
    """Evaluate what was trained, as ``graphgpt evaluate`` does by itself; the files go into ``folder``."""
    from graphgpt.cli.evaluate import score

    given = [f"checkpoint={quoted(str(checkpoint))}"]
    for name in ("threads", "accelerator"):
        if (value := getattr(experiment.runner, name, None)) is not None:
            given.append(f"{name}={value}")
    hydra_of_run = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()  # there is one at a time, and this composes another program's settings
    try:
        config = check_command_line(EvaluationConfig, "evaluate", given)
    finally:
        GlobalHydra.instance().hydra = hydra_of_run
    score(config, folder)


def main() -> None:
    """Train as the command line says."""
    launch(train, ExperimentConfig, "train")


if __name__ == "__main__":
    main()
