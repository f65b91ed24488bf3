"""How a command line is read: values as people type them, and what is said about those that cannot be meant."""

import shlex
import sys
from pathlib import Path

import pytest
import yaml
from helpers import csv_overrides

from graphgpt.config.command_line import check_command_line, read_command_line
from graphgpt.config.experiment import EvaluationConfig, ExperimentConfig
from graphgpt.config.grammar import in_grammar, quoted
from graphgpt.errors import ConfigError
from graphgpt.launch.arguments import read_arguments
from graphgpt.launch.program import launch
from graphgpt.words import EVALUATION, WORDS


@pytest.fixture
def good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """An experiment with nothing wrong in it, beside an empty folder to be in."""
    overrides = csv_overrides(tmp_path)
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    return [*overrides, "task=node_classification"]


def problems(overrides: list[str]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        check_command_line(ExperimentConfig, "train", overrides)
    return caught.value.problems


# Values as they are typed


@pytest.mark.parametrize(
    "value",
    [
        "thème",
        "引用",
        "emoji 🙂",
        "a < b",
        "Which {title}?",
        "it's",
        "a;b",
        "x#y",
        "a&b",
        "a=b",
        "100%",
        "~",
        "C:\\new\\table",
        "f(x)",
        "é'\\",
        "x]",
    ],
)
def test_a_value_is_taken_as_typed(good: list[str], value: str) -> None:
    config = check_command_line(ExperimentConfig, "train", [*good, f"dataset.category={value}"])
    assert config.dataset.category == value


def test_all_programs_read_values_alike(good: list[str], tmp_path: Path) -> None:
    (tmp_path / "donnée").mkdir()
    moved = [text.replace(f"nodes={tmp_path}", f"nodes={tmp_path}/donnée") for text in good]
    (tmp_path / "nodes.csv").rename(tmp_path / "donnée" / "nodes.csv")
    line = read_command_line(ExperimentConfig, "train", [*moved, "seed=1,2"])
    assert [config.dataset.nodes for config in line.configs] == [f"{tmp_path}/donnée/nodes.csv"] * 2
    again = read_command_line(ExperimentConfig, "train", line.arguments)
    assert again.arguments == line.arguments
    assert again.configs == line.configs


@pytest.mark.parametrize(
    "argument", ["a=b", "a=1", "a=null", "a='x y'", "a=[1,2]", "a={b: c}", "a=choice(1,2)", "a=b,c", "a=x y", "~a", "a="]
)
def test_what_hydra_reads_is_left_as_it_is(argument: str) -> None:
    assert in_grammar(argument) == argument


@pytest.mark.parametrize(("typed", "read"), [("1_000", "1000"), ("1e5", "100000.0"), ("2024_01", "202401"), ("-0", "0"), (".50", "0.5")])
def test_a_text_that_would_become_another_is_asked_about(good: list[str], typed: str, read: str) -> None:
    (problem,) = problems([*good, f"name={typed}"])
    assert problem == f"""name: {typed} is read as the number {read}; put quotes around it, name="'{typed}'"."""
    assert check_command_line(ExperimentConfig, "train", [*good, f"name='{typed}'"]).name == typed


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        ("name=a,1_000", """name: 1_000 is read as the number 1000; put quotes around it, name="'1_000'"."""),
        ("name=choice(1_000,2)", """name: 1_000 is read as the number 1000; put quotes around it, name="'1_000'"."""),
        (
            "dataset.classes=[1e5, B]",
            """dataset.classes: 1e5 is read as the number 100000.0; put quotes around it, dataset.classes="['1e5', ...]".""",
        ),
    ],
)
def test_so_is_one_of_several(good: list[str], argument: str, sentence: str) -> None:
    assert problems([*good, argument]) == [sentence]


@pytest.mark.parametrize("typed", ["15", "1.5", "-3", "007", "0x10", "v1_000"])
def test_a_number_is_a_text_where_it_stays_as_typed(good: list[str], typed: str) -> None:
    assert check_command_line(ExperimentConfig, "train", [*good, f"name={typed}"]).name == typed


def test_pythons_none_is_null(good: list[str]) -> None:
    config = check_command_line(
        ExperimentConfig, "train", [*good, "start_from=None", "model/lora=None", "experiment=None", "runner.threads=None"]
    )
    assert (config.start_from, config.model.lora.rank, config.runner.threads) == (None, 0, None)
    assert check_command_line(ExperimentConfig, "train", [*good, "experiment=stage1", "experiment=null"]).name == "node_classification"


@pytest.mark.parametrize(
    ("argument", "typed"),
    [
        ("dataset.category=a,é", "\"dataset.category='a,é'\" for one text, \"dataset.category=a,'é'\" for several."),
        ("dataset.category=[a,é]", "if it is all one text, type \"dataset.category='[a,é]'\""),
        ("dataset.category={é}", "if it is all one text, type \"dataset.category='{é}'\""),
    ],
)
def test_what_could_be_several_things_says_what_to_type(good: list[str], argument: str, typed: str) -> None:
    [found] = problems([*good, argument])
    assert found.endswith(typed)
    command = shlex.split(typed[typed.index('"') : typed.index('"', typed.index('"') + 1) + 1])
    key, _, value = argument.partition("=")
    assert check_command_line(ExperimentConfig, "train", [*good, *command]).dataset.category == value
    assert key == "dataset.category"


@pytest.mark.parametrize("key", ["dataset.category", "seed", "name", "hydra.run.dir"])
def test_an_interpolation_of_nothing(good: list[str], key: str) -> None:
    [found] = problems([*good, f"{key}=a/${{foo.bar}}"])
    assert found == (
        f"{key}: in 'a/${{foo.bar}}', ${{...}} stands for the value of another key, and that cannot be found "
        f"(Interpolation key 'foo.bar' not found); for the characters themselves, type '{key}=a/\\${{foo.bar}}'"
    )
    if key == "dataset.category":
        [argument] = shlex.split(found.partition("type ")[2])
        assert check_command_line(ExperimentConfig, "train", [*good, argument]).dataset.category == "a/${foo.bar}"


@pytest.mark.parametrize("value", ["plain", "a b", "it's", "back\\", "\\'", "a,b", "thème", "{x}", "'", "${x"])
def test_quoted(value: str) -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    assert OverridesParser.create().parse_override(f"a={quoted(value)}").value() == value


# Where values go


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        ("model.tower=gat", "model.tower: is chosen with a slash, model/tower=gat."),
        ("model.llm=qwen3_0_6b", "model.llm: is chosen with a slash, model/llm=qwen3_0_6b."),
        ("model/lora=null", "model/lora: needs one of all_linear, default, none, qv; null is none of them."),
        ("model/projector=${x}", "model/projector: '${x}' is no option. Known: linear, mlp."),
        ("lora=qv", "lora: unknown key. Here it is model/lora=... (graphgpt ls model/lora)."),
        (
            "lr=1",
            "lr: unknown key. Here it is runner.lr.projector (and runner.lr.lora for adapters, runner.lr.tower for a tower).",
        ),
        ("model.lora.r=1", "model.lora.r: unknown key. Here it is model.lora.rank."),
        ("epochs=1", "epochs: unknown key. Here it is runner.epochs (from which the steps are worked out)."),
        ("start=latest", "start: unknown key. Here it is start_from."),
        ("seed_everything=1", "seed_everything: unknown key. Here it is seed."),
        ("name=a/b", "name: 'a/b' is to be part of the run folder's name; leave slashes and control characters out, such as name=mine."),
        (f"name={'x' * 300}", f"name: '{'x' * 20}...' has 300 bytes, but names the run's folder; expected at most 100."),
    ],
)
def test_a_value_at_the_wrong_place(good: list[str], argument: str, sentence: str) -> None:
    assert problems([*good, argument]) == [sentence]


def test_a_folder_of_experiments(good: list[str]) -> None:
    [found] = problems([*good, "experiment=stage2"])
    assert found.startswith("experiment: there is no 'stage2'. It is a folder of them: stage2/chain_of_thought, stage2/link_prediction, ")


def test_words_of_other_tools_in_an_evaluation() -> None:
    with pytest.raises(ConfigError) as caught:
        check_command_line(EvaluationConfig, "evaluate", ["device=cpu", "num_samples=3", "epochs=3"])
    hints = [sentence.partition("key. ")[2][:20] for sentence in caught.value.problems if "unknown" in sentence]
    assert hints == ["Here it is accelerat", "Here it is limit.", "Known: ablation, acc"]


def test_every_word_of_ours_is_one(good: list[str]) -> None:
    config = check_command_line(ExperimentConfig, "train", [*good, "model/tower=gat"])
    for ours in {ours for ours, _ in WORDS.values()} - {"limit", "checkpoint", "hydra.run.dir", "logger", "dataset.path"}:
        if "/" in ours:
            continue
        found = config
        for part in ours.split("."):
            found = found[part] if isinstance(found, dict) else getattr(found, part)
    assert all(hasattr(EvaluationConfig, name) for name in EVALUATION.values())


# Flags


def test_flags_are_sorted() -> None:
    found = read_arguments(["-m", "seed=1", "--config-dir", "own", "a=-1", "--config-dir=more"])
    assert (found.overrides, found.flags, found.folders, found.shows) == (["seed=1", "a=-1"], ["--multirun"], ["own", "more"], None)
    assert read_arguments(["--cfg", "job", "--resolve", "a=1"]).shows == "job"
    assert read_arguments(["--info"]).shows == "all"


@pytest.mark.parametrize(
    ("flag", "sentence"),
    [
        ("--learning-rate=3", "--learning-rate=3: is no flag; settings are written without dashes, learning_rate=3."),
        ("--seed", "--seed: is no flag; settings are written without dashes, seed=...."),
        (
            "--config-path=x",
            "--config-path=x: config files of your own lie in graphgpt_configs/ beside you, or in a folder named by --config-dir.",
        ),
        ("-x", "-x: is no flag; there are -m, --help, --cfg job, --config-dir DIR, and Hydra's (--hydra-help)."),
    ],
)
def test_a_flag_that_there_is_not(flag: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_arguments([flag])
    assert caught.value.problems == [sentence]


def test_cfg_job_prints_the_whole_configuration(
    good: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", *good, "--cfg", "job", "--resolve", "runner.val_at_start=true", "runner.val_every=1"])
    launch(lambda: pytest.fail("it ran"), ExperimentConfig, "train")
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown["runner"]["val_at_start"] is True
    assert shown["model"]["lora"]["rslora"] is False  # in no file
    from graphgpt.config.experiment import read_config

    assert read_config(ExperimentConfig, shown) == check_command_line(
        ExperimentConfig, "train", [*good, "runner.val_at_start=true", "runner.val_every=1"]
    )


@pytest.mark.parametrize("key", ["resume", "start_from", "checkpoint", "+start_from", "hydra.run.dir"])
def test_a_home_is_written_out(key: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert in_grammar(f"{key}=~/runs/a b") == f"{key}={tmp_path}/runs/a b"
    assert in_grammar(f"{key}=~/a,~/b") == f"{key}={tmp_path}/a,{tmp_path}/b"
    assert in_grammar(f"{key}=~nobody-here/a") in (f"{key}=~nobody-here/a", f"{key}='~nobody-here/a'")
