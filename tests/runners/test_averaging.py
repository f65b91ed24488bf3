"""The moving average: what it is, that it is what is validated and saved, and that training and resuming do not notice it."""

import shutil
from pathlib import Path

import pytest
import torch
from helpers import csv_overrides
from test_training import STAGE2, Trained, assert_same, run
from torch import Tensor

from graphgpt.assembly import build_runner
from graphgpt.checkpoints.folder import load_checkpoint
from graphgpt.config.command_line import check_command_line
from graphgpt.config.experiment import ExperimentConfig
from graphgpt.errors import ConfigError
from graphgpt.runners.averaging import MovingAverage
from graphgpt.runs.runs import read_metrics

STEPS, DECAY = 6, 0.6
WILD = ["runner.lr={projector: 0.3, tokens: 0.3, lora: 0.1}", "runner.schedule=constant", "runner.warmup=0"]
COMMON = [*STAGE2, *WILD, f"runner.max_steps={STEPS}", "runner.global_batch_size=2", "runner.val_every=2", "runner.val_samples=4"]
AVERAGED = ["callbacks=[ema]", f"runner.callbacks.ema.decay={DECAY}"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return csv_overrides(tmp_path_factory.mktemp("csv"))


@pytest.fixture(scope="module")
def averaged(data: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Trained, list[dict[str, Tensor]]]:
    """A run with the average, and what trained before its first step and after each."""
    states: list[dict[str, Tensor]] = []
    start, update = MovingAverage.on_train_start, MovingAverage.on_train_batch_end

    def note(module: object) -> None:
        states.append({name: tensor.clone() for name, tensor in module.state_dict().items()})  # type: ignore[attr-defined]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MovingAverage, "on_train_start", lambda self, trainer, module: (note(module), start(self, trainer, module)))
        patch.setattr(
            MovingAverage, "on_train_batch_end", lambda self, trainer, module, *rest: (note(module), update(self, trainer, module, *rest))
        )
        keep = "runner.checkpoint={every_n_steps: 3, keep: 2, monitor: val/loss}"
        done = run(tmp_path_factory.mktemp("averaged"), [*data, *COMMON, *AVERAGED, keep])
    assert len(states) == STEPS + 1
    return done, states


@pytest.fixture(scope="module")
def plain(data: list[str], tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return run(tmp_path_factory.mktemp("plain"), [*data, *COMMON, "runner.checkpoint.every_n_steps=0"])


def averages(states: list[dict[str, Tensor]]) -> list[dict[str, Tensor]]:
    """The average before the first step and after each, by the book."""
    found = [states[0]]
    for step, state in enumerate(states[1:], start=1):
        decay = min(DECAY, step / (9 + step))
        found.append({name: decay * found[-1][name] + (1 - decay) * tensor for name, tensor in state.items()})
    return found


def trained(done: Trained) -> dict[str, Tensor]:
    return {f"model.{name}": tensor.detach() for name, tensor in done.model.trainable_state().items()}


def test_a_resumable_checkpoint_holds_weights_and_average(averaged: tuple[Trained, list[dict[str, Tensor]]]) -> None:
    done, states = averaged
    resumable = torch.load(done.folder / "resume" / f"step={STEPS}.ckpt", weights_only=True)
    [kept] = [state for name, state in resumable["callbacks"].items() if "MovingAverage" in name]
    assert_same(kept["average"], averages(states)[-1], tolerance=1e-5)
    assert_same(resumable["state_dict"], states[-1])
    assert kept["average"].keys() == trained(done).keys()


def test_checkpoint_and_best_hold_averages(averaged: tuple[Trained, list[dict[str, Tensor]]]) -> None:
    done, states = averaged
    expected = averages(states)
    losses = {line["step"] + 1: line["val/loss"] for line in read_metrics(done.folder) if "val/loss" in line}
    best = min(losses, key=losses.__getitem__)
    for folder, step in (("checkpoint", STEPS), ("best", best)):
        load_checkpoint(done.model, done.folder / folder)
        assert_same(trained(done), expected[step], tolerance=1e-5)
    assert any(not torch.allclose(expected[STEPS][name], tensor) for name, tensor in states[-1].items())


def test_training_does_not_notice_and_validation_does(averaged: tuple[Trained, list[dict[str, Tensor]]], plain: Trained) -> None:
    done, _ = averaged

    def values(of: Trained, key: str) -> list[float]:
        return [line[key] for line in of.lines if key in line]

    assert values(done, "train/loss") == values(plain, "train/loss")
    assert all(a != b for a, b in zip(values(done, "val/loss"), values(plain, "val/loss"), strict=True))


def test_resumed_it_ends_where_it_would_have(averaged: tuple[Trained, list[dict[str, Tensor]]], tmp_path: Path) -> None:
    done, states = averaged
    folder = tmp_path / "run"
    shutil.copytree(done.folder, folder)
    (folder / "resume" / f"step={STEPS}.ckpt").unlink()
    shutil.rmtree(folder / "checkpoint")
    again = run(folder, [f"resume={folder}"])
    load_checkpoint(again.model, folder / "checkpoint")
    assert_same(trained(again), averages(states)[-1], tolerance=1e-5)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (
            ["callbacks=[early_stopping]"],
            "runner.callbacks.early_stopping.monitor: 'val/loss' comes of validation; set runner.val_every.",
        ),
        (
            ["callbacks=ema", "runner/strategy=fsdp", "runner.devices=2"],
            "runner.callbacks.ema: averages whole weights, which 'fsdp' cuts; use runner/strategy=ddp.",
        ),
    ],
)
def test_what_cannot_work(data: list[str], overrides: list[str], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build_runner(check_command_line(ExperimentConfig, "train", [*data, *overrides]))
    assert caught.value.problems == [sentence]


def test_a_decay_out_of_range() -> None:
    with pytest.raises(ValueError, match=r"^decay is 1, expected at least 0 and below 1$"):
        MovingAverage(1)
