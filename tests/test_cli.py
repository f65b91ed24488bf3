"""The command ``graphgpt``."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from helpers import csv_overrides

from graphgpt.cli.main import choice, main
from graphgpt.files.configs import CONFIG_DIR, describe

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """``run(*arguments)``: exit code, what went to the (wide) screen, what went to the error stream."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: str) -> tuple[int, str, str]:
        code = 0
        try:
            main(list(arguments))
        except SystemExit as left:
            code = left.code if isinstance(left.code, int) else 0 if left.code is None else 1
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def good(tmp_path: Path) -> list[str]:
    """An experiment with nothing wrong in it."""
    return csv_overrides(tmp_path)


# graphgpt ls


def test_ls_lists_every_option_with_what_it_is(run: Run) -> None:
    code, out, _ = run("ls")
    assert code == 0
    for path in CONFIG_DIR.rglob("*.yaml"):
        group = str(path.parent.relative_to(CONFIG_DIR))
        if group in (".", "hydra", "local"):
            continue
        assert re.search(rf"^{re.escape(group)}\s*$", out, re.MULTILINE), group
        assert re.search(rf"^{re.escape(path.stem)}\s+{re.escape(describe(path).split()[0])}", out, re.MULTILINE), path


@pytest.mark.parametrize(
    ("kind", "there", "elsewhere"),
    [
        ("tower", ["sgc", "graph_transformer", "identity"], ["linear", "vicuna_v1"]),
        ("model/tower", ["sgc", "graph_transformer", "identity"], ["linear", "vicuna_v1"]),
        ("llm", ["smollm2_135m", "tiny_random", "qwen3_8b"], ["sgc"]),
        ("experiment", ["stage1", "node_classification"], ["sgc"]),
        ("dataset", ["csv", "stdlib_docs", "tfidf_svd"], ["sgc"]),
    ],
)
def test_ls_of_one_kind(run: Run, kind: str, there: list[str], elsewhere: list[str]) -> None:
    code, out, _ = run("ls", kind)
    assert code == 0
    words = [line.split()[0] for line in out.splitlines() if line.strip()]
    assert set(there) <= set(words)
    assert not set(elsewhere) & set(words)


@pytest.mark.parametrize(("kind", "nearest"), [("towr", "tower"), ("experimnt", "experiment"), ("model/projectr", "model/projector")])
def test_ls_of_an_unknown_kind(run: Run, kind: str, nearest: str) -> None:
    assert run("ls", kind) == (2, "", f"There is no kind '{kind}'. Did you mean '{nearest}'?\n")


def test_a_description_is_the_first_line_that_says_something(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("# @package _global_\n# python train.py experiment=a\n# What it is.\n# And more.\nname: a\n")
    assert describe(path) == "What it is."
    path.write_text("name: a\n")
    assert describe(path) == ""


# graphgpt cp


@pytest.mark.parametrize("source", ["experiment/stage1", "model/tower/sgc.yaml", "experiment/stage2/node_classification"])
def test_cp(run: Run, tmp_path: Path, source: str) -> None:
    target = tmp_path / "new" / "mine.yaml"
    code, out, err = run("cp", source, str(target))
    assert (code, err) == (0, "")
    name = source.removesuffix(".yaml")
    assert target.read_bytes() == (CONFIG_DIR / f"{name}.yaml").read_bytes()
    group = name.rpartition("/")[0]
    assert out.startswith(f"Wrote {target}.")
    assert f"{choice(group, 'mine')}\n" in out


def test_cp_does_not_overwrite(run: Run, tmp_path: Path) -> None:
    target = tmp_path / "mine.yaml"
    target.write_text("name: precious\n")
    assert run("cp", "experiment/stage1", str(target)) == (2, "", f"{target} exists already; choose another name.\n")
    assert yaml.safe_load(target.read_text()) == {"name": "precious"}


@pytest.mark.parametrize(("source", "nearest"), [("experiment/stgae1", "experiment/stage1"), ("model/tower/scg", "model/tower/sgc")])
def test_cp_of_what_is_not_there(run: Run, tmp_path: Path, source: str, nearest: str) -> None:
    assert run("cp", source, str(tmp_path / "a.yaml")) == (2, "", f"There is no config '{source}'. Did you mean '{nearest}'?\n")
    assert list(tmp_path.iterdir()) == []


# graphgpt check


def test_check_of_a_good_experiment(run: Run, good: list[str]) -> None:
    code, out, _ = run("check", *good, "task=node_classification", "model/lora=default")
    assert code == 0
    lines = out.splitlines()
    assert [line[:5] for line in lines] == [f"{i}. ok" for i in range(1, 9)]
    for line, subject in zip(lines, ["configuration", "data", "tokens", "sizes", "lengths", "batch", "parameters", "memory"], strict=True):
        assert line[6:].startswith(f"{subject}: ") or line[6:].startswith(f"{subject}, "), line
    assert "csv, 42 nodes, 42 edges" in lines[1]
    assert "25 train, 9 val, 8 test" in lines[1]
    assert "the language model's hidden size" in lines[3]
    assert " -> 64" in lines[3]
    assert re.search(r"llm [\d,]+ \([\d,]+ trained\)", lines[6])
    assert re.search(r"\d+\.\d\d GiB", lines[7])


def test_check_counts_what_trains(run: Run, good: list[str]) -> None:
    from graphgpt.assembly import build_model, build_task
    from graphgpt.config.command_line import check_command_line
    from graphgpt.config.experiment import ExperimentConfig

    overrides = [*good, "model/tower=graph_transformer", "model/projector=mlp", "model/lora=default"]
    _, out, _ = run("check", *overrides)
    experiment = check_command_line(ExperimentConfig, "train", overrides)
    model = build_model(experiment, build_task(experiment))
    for name in ("llm", "graph/tower", "graph/projector", "graph/fusion"):
        parameters = list({"llm": model.llm, **model.parts}[name].parameters())
        trained = sum(p.numel() for p in parameters if p.requires_grad)
        expected = f"{name} {sum(p.numel() for p in parameters):,}" + (f" ({trained:,} trained)" if trained else "")
        assert expected in out


def test_check_of_a_wrong_configuration(run: Run, good: list[str]) -> None:
    code, out, err = run("check", *good, "runner.max_stepz=3", "seed=abc")
    assert (code, out) == (2, "")
    assert err.startswith("2 problems in the configuration:\n  1. ")
    assert "runner.max_stepz: unknown key. Did you mean 'runner.max_steps'?" in err


def test_check_of_data_that_cannot_be_used(run: Run, good: list[str], tmp_path: Path) -> None:
    with (tmp_path / "edges.csv").open("a") as file:
        file.write("n1,m7\n")
    code, out, _ = run("check", *good)
    assert code == 2
    lines = out.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("1. ok configuration")
    assert lines[1].startswith(f"2. failed {tmp_path}/edges.csv, line 44: the target 'm7' is not an id in {tmp_path}/nodes.csv.")


def test_check_of_samples_that_are_too_long(run: Run, good: list[str]) -> None:
    code, out, _ = run("check", *good, "model.max_length=64")
    assert code == 2
    assert re.search(r"^5\. failed \d+ of \d+ training samples are longer than model\.max_length=64; ", out, re.MULTILINE)


def test_check_of_one_class(run: Run, good: list[str], tmp_path: Path) -> None:
    nodes = (tmp_path / "nodes.csv").read_text()
    (tmp_path / "nodes.csv").write_text(nodes.replace(",Green\n", ",Red\n").replace(",Blue\n", ",\n"))
    code, out, _ = run("check", *good, "task=node_classification")
    assert code == 2
    assert out.splitlines()[-1] == (
        "3. failed task.name: 'node_classification' has nothing to tell apart in 'csv', for all that is labelled there is 'Red'; "
        "take data of two or more classes, or task=node_description."
    )


def test_check_reads_prompts_as_training_does(run: Run, good: list[str]) -> None:
    """Also where the original's faults are on: the graph that is not read still takes its place in the prompt."""
    from graphgpt.assembly import build_model, build_task
    from graphgpt.config.command_line import check_command_line
    from graphgpt.config.experiment import ExperimentConfig
    from graphgpt.runners.training.data import mix
    from graphgpt.runners.training.task_data import training_items

    overrides = [*good, "task=link_prediction", "model.compat.last_input_only=true"]
    code, out, _ = run("check", *overrides)
    assert code == 0
    experiment = check_command_line(ExperimentConfig, "train", overrides)
    task = build_task(experiment)
    reader, seed = build_model(experiment, task).reader(), experiment.seed
    items = training_items(task, None, seed)[: experiment.runner.samples_per_pass].tolist()
    read = reader.read([task.instruction(item, seed=mix(seed, 0, item), training=True) for item in items])
    batch = reader.collate(read)
    unshared = sum(len(example.ids) for example in read)
    assert f"batch: {len(items)} samples in {batch.num_tokens:,} tokens ({unshared:,} without sharing)" in out


def test_check_shows_brackets_as_they_are(run: Run, good: list[str], tmp_path: Path) -> None:
    nodes = (tmp_path / "nodes.csv").read_text()
    for label in ("Red", "Green", "Blue"):
        nodes = nodes.replace(f",{label}\n", f",[/{label}] [bold]\n")
    (tmp_path / "nodes.csv").write_text(nodes)
    code, out, _ = run("check", *good, "task=node_classification")
    assert code == 0
    assert re.search(r"answer '\[/(Red|Green|Blue)\] \[bold\]' comes back", out)


def test_check_asks_for_stage1(good: list[str]) -> None:
    """In a process of its own, where nothing else has prepared what the config files need."""
    command = [sys.executable, "-m", "graphgpt.cli.main", "check", "experiment=stage2/node_classification", *good]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == "1 problem in the configuration:\n  1. start_from: must be given (start_from=...).\n"


# graphgpt env, and the rest


def test_env_names_versions(run: Run) -> None:
    import torch

    import graphgpt

    code, out, _ = run("env")
    assert code == 0
    facts = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert facts["graphgpt"] == graphgpt.__version__
    assert facts["torch"].partition("+")[0] == torch.__version__.partition("+")[0]  # of a build for CUDA only one of them says so
    assert facts["python"] == ".".join(map(str, sys.version_info[:3]))
    assert int(facts["processors"]) >= 1
    assert {"transformers", "lightning", "peft", "platform", "cuda"} <= facts.keys()


@pytest.mark.parametrize("arguments", [[], ["sl"], ["cp"]])
def test_a_wrong_command_shows_how_it_is_used(run: Run, arguments: list[str]) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("usage: graphgpt ")


def test_help(run: Run) -> None:
    code, out, _ = run("--help")
    assert code == 0
    for command in ("ls", "cp", "check", "env"):
        assert re.search(rf"^    {command} ", out, re.MULTILINE)
