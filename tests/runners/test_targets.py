"""What third-party leaves of a config are refused for, before anything is read."""

from typing import Any

import pytest

from graphgpt.errors import GraphGPTError
from graphgpt.runners.training.targets import ALLOWED, find_targets

STOP = "lightning.pytorch.callbacks.EarlyStopping"


@pytest.mark.parametrize(
    ("key", "node", "sentence"),
    [
        ("callbacks.stop", {"_target_": STOP, "patience": -2}, ".patience: -2 does not fit: input should be greater than or equal to 0."),
        ("callbacks.stop", {"_target_": STOP, "patience": 1.5}, ".patience: 1.5 does not fit: input should be a valid integer, got a"),
        ("callbacks.stop", {"_target_": STOP, "min_delta": "small"}, ".min_delta: 'small' does not fit: input should be a valid number"),
        ("callbacks.stop", {"_target_": STOP, "min_delta": "3"}, ".min_delta: '3' does not fit: input should be a number."),
        ("callbacks.stop", {"_target_": STOP, "patienc": 2}, f".patienc: '{STOP}' has no such argument. Did you mean 'patience'?"),
        ("optimizer", {"_target_": "torch.optim.AdamW", "weight_decay": "x"}, ".weight_decay: 'x' does not fit: input should be a valid "),
        ("optimizer", {"_target_": "torch.optim.AdamW", "betas": [0.9]}, ".betas: [0.9] does not fit: field required."),
        ("optimizer", {"_target_": "torch.optim.AdamW", "weigth_decay": 0.1}, ".weigth_decay: 'torch.optim.AdamW' has no such argument."),
    ],
)
def test_arguments_that_do_not_fit(key: str, node: dict[str, Any], sentence: str) -> None:
    with pytest.raises(GraphGPTError) as caught:
        find_targets(node, f"runner.{key}")
    assert str(caught.value).startswith(f"runner.{key}{sentence}")


@pytest.mark.parametrize(
    ("key", "node"),
    [
        ("callbacks.stop", {"_target_": STOP, "monitor": "val/loss", "patience": 0, "stopping_threshold": None}),
        ("callbacks.time", {"_target_": "lightning.pytorch.callbacks.Timer", "duration": "00:00:10:00"}),
        ("optimizer", {"_target_": "torch.optim.AdamW", "betas": [0.9, 0.95], "weight_decay": 0, "fused": None}),
        ("loggers.board", {"_target_": "lightning.pytorch.loggers.TensorBoardLogger", "name": "board", "version": ""}),
    ],
)
def test_arguments_that_fit(key: str, node: dict[str, Any]) -> None:
    find_targets(node, f"runner.{key}")


@pytest.mark.parametrize("target", [name for names in ALLOWED.values() for name in names if name.startswith(("torch.", "lightning."))])
def test_every_class_that_may_be_named_is_there(target: str) -> None:
    [group] = [group for group, names in ALLOWED.items() if target in names]
    if group != "loggers":  # those of packages that are not installed say so
        find_targets({"_target_": target}, f"runner.{group}")
