"""Config files of the user's own: beside them or in a folder that they name, for every program, and what is said about broken ones."""

import os
from pathlib import Path

import pytest
from helpers import csv_overrides

from graphgpt.cli.main import main
from graphgpt.config.command_line import check_command_line
from graphgpt.config.composition import compose_unchecked
from graphgpt.config.experiment import ExperimentConfig
from graphgpt.errors import ConfigError
from graphgpt.files.configs import VARIABLE, config_groups, options, own_folders, with_folders


@pytest.fixture
def beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder ``graphgpt_configs`` beside the user."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(VARIABLE, raising=False)
    folder = tmp_path / "graphgpt_configs"
    (folder / "experiment").mkdir(parents=True)
    return folder


def experiment(overrides: list[str]) -> ExperimentConfig:
    return check_command_line(ExperimentConfig, "train", [*overrides])


def test_files_beside_the_user_are_found(beside: Path, tmp_path: Path) -> None:
    (beside / "experiment" / "mine.yaml").write_text("# @package _global_\nname: owned\nrunner: {max_steps: 3}\n")
    (beside / "model" / "tower").mkdir(parents=True)
    (beside / "model" / "tower" / "wide.yaml").write_text("name: sgc\nhops: 5\n")
    config = experiment([*csv_overrides(tmp_path), "experiment=mine", "model/tower=wide"])
    assert (config.name, config.runner.max_steps, config.model.tower.hops) == ("owned", 3, 5)
    assert "mine" in options("experiment")
    with pytest.raises(ConfigError, match=r"experiment: there is no 'mne'\. Did you mean 'mine'\?"):
        experiment(["experiment=mne"])


def test_an_own_file_counts_before_the_shipped_one_of_its_name(beside: Path) -> None:
    (beside / "experiment" / "stage1.yaml").write_text("# Mine.\nname: mine\n")
    assert compose_unchecked("train", ["experiment=stage1"]).name == "mine"
    assert [path for path in config_groups()["experiment"] if path.stem == "stage1"] == [beside / "experiment" / "stage1.yaml"]


def test_a_folder_that_is_named(beside: Path, tmp_path: Path) -> None:
    named = tmp_path / "named" / "experiment"
    named.mkdir(parents=True)
    (named / "mine.yaml").write_text("name: named\n")
    (beside / "experiment" / "mine.yaml").write_text("name: beside\n")
    with with_folders(["named"]):
        assert own_folders() == [tmp_path / "named", beside]
        assert os.environ[VARIABLE] == str(tmp_path / "named")  # for the processes of a run
        assert compose_unchecked("train", ["experiment=mine"]).name == "named"
    assert compose_unchecked("train", ["experiment=mine"]).name == "beside"
    assert VARIABLE not in os.environ
    with pytest.raises(ConfigError, match="--config-dir: gone is no folder"), with_folders(["gone"]):
        pass


def test_check_and_ls_know_a_folder_that_is_named(beside: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "named" / "experiment").mkdir(parents=True)
    (tmp_path / "named" / "experiment" / "mine.yaml").write_text("# What I do.\nname: named\nrunner: {max_stepz: 3}\n")
    with pytest.raises(SystemExit) as left:
        main(["check", "--config-dir", "named", "experiment=mine"])
    assert left.value.code == 2
    sentence = f"runner.max_stepz: unknown key. Did you mean 'runner.max_steps'? It stands in {tmp_path}/named/experiment/mine.yaml."
    assert sentence in capsys.readouterr().err
    main(["ls", "--config-dir", "named", "experiment"])
    assert "yours: What I do." in capsys.readouterr().out


def test_what_is_wrong_in_an_own_file_names_it(beside: Path, tmp_path: Path) -> None:
    """Not so where the command line has the value, or no own file has it."""
    (beside / "model" / "tower").mkdir(parents=True)
    (beside / "model" / "tower" / "wide.yaml").write_text("name: sgc\nhops: wide\n")
    (beside / "experiment" / "mine.yaml").write_text("defaults: [override /model/tower: wide]\nrunner: {max_steps: -1}\n")
    with pytest.raises(ConfigError) as caught:
        experiment([*csv_overrides(tmp_path), "experiment=mine", "seed=x", "runner.max_steps=-2"])
    tower, steps, seed = sorted(caught.value.problems)
    assert tower.startswith("model.tower.hops: 'wide' does not fit: ") and tower.endswith(f" It stands in {beside}/model/tower/wide.yaml.")
    assert steps.startswith("runner.max_steps: -2 ") and "It stands" not in steps + seed


def test_a_text_that_would_become_another_is_asked_about(beside: Path, tmp_path: Path) -> None:
    (beside / "experiment" / "mine.yaml").write_text(
        "name: 1_000\nseed: 1_0\ndataset: {domain: 1e3, node: '1e3', classes: [A, 1_0]}\nrunner: {max_steps: 1_0}\n"
    )
    with pytest.raises(ConfigError) as caught:
        experiment([*csv_overrides(tmp_path), "experiment=mine", "name=x"])
    assert caught.value.problems == [
        """dataset.domain: 1e3 is read as the number 1000.0; put quotes around it, dataset.domain="'1e3'". """
        f"It stands in {beside}/experiment/mine.yaml.",
        """dataset.classes: 1_0 is read as the number 10; put quotes around it, dataset.classes="['1_0', ...]". """
        f"It stands in {beside}/experiment/mine.yaml.",
    ]


def test_numbers_that_only_yaml_reads_so_are_asked_about(beside: Path, tmp_path: Path) -> None:
    (beside / "experiment" / "mine.yaml").write_text("seed: 010\nrunner: {max_steps: 1:30, warmup: 1e-1, val_every: 0x10}\n")
    with pytest.raises(ConfigError) as caught:
        experiment([*csv_overrides(tmp_path), "experiment=mine"])
    where = f"It stands in {beside}/experiment/mine.yaml."
    assert sorted(caught.value.problems) == [
        f"runner.max_steps: 1:30 is 90 in YAML, which counts sixties there; write 90. {where}",
        f"seed: 010 is 8 in YAML, which counts eights there; write 8. {where}",
    ]


def test_cp_writes_where_it_is_found(beside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["cp", "model/tower/sgc"])
    main(["cp", "experiment/stage2/mixture", "mine"])
    assert (beside / "model" / "tower" / "sgc.yaml").is_file()
    assert capsys.readouterr().out.splitlines() == [
        "Wrote graphgpt_configs/model/tower/sgc.yaml, which is found from here: model/tower=sgc",
        "Wrote graphgpt_configs/experiment/stage2/mine.yaml, which is found from here: experiment=stage2/mine",
    ]


# Broken ones


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"# @package _global_\nrunner:\n\tmax_steps: 3\n", ", line 3: a tab, where YAML takes spaces only."),
        (b"runner: {max_steps: 3}\nrunner: {threads: 1}\n", ", line 2: the key 'runner' stands there a second time."),
        (
            b"runner: {max_steps: [3\nname: x\n",
            ", line 2: is no YAML: expected ',' or ']', but got ':' (while parsing a flow sequence, begun in line 1).",
        ),
        (b"# caf\xe9\nname: x\n", ", line 1: the byte 0xe9 is no UTF-8; save the file in that encoding."),
        (b"- a\n- b\n", ": is a list, expected a mapping of config keys."),
        (
            b"name: !!python/object:os.system x\n",
            ", line 1: is no YAML: could not determine a constructor for the tag 'tag:yaml.org,2002:python/object:os.system'.",
        ),
    ],
)
def test_a_file_that_cannot_be_read_is_named_with_its_line(beside: Path, content: bytes, sentence: str) -> None:
    file = beside / "experiment" / "mine.yaml"
    file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        experiment(["experiment=mine"])
    assert caught.value.problems == [f"{file}{sentence}"]
    assert experiment([f"dataset={name}" for name in ("stdlib_docs",)])  # nobody asks about a file that is not chosen


@pytest.mark.parametrize("start", ["\ufeff# @package _global_\n", "", "# A comment alone.\n", "\ufeff"])
def test_a_byte_order_mark_is_nothing_and_an_experiment_need_not_say_what_it_is(beside: Path, start: str) -> None:
    (beside / "experiment" / "mine.yaml").write_text(f"{start}runner: {{max_steps: 3}}\n", encoding="utf-8")
    assert compose_unchecked("train", ["experiment=mine"]).runner.max_steps == 3


def test_shipped_groups_go_where_their_files_say(beside: Path) -> None:
    from graphgpt.files.configs import CONFIG_DIR, PACKAGES

    for group, package in PACKAGES.items():
        for file in (CONFIG_DIR / group).rglob("*.yaml"):
            assert f"# @package {package}\n" in file.read_text(), file
