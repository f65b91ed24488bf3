"""Folders that somebody else made: nothing that they ask for is run or written, and one sentence says so."""

import json
import os
import pickle
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from helpers import build_for, csv_overrides

from graphgpt import GraphAssistant
from graphgpt.checkpoints.folder import save_checkpoint
from graphgpt.cli.main import main
from graphgpt.config.command_line import check_command_line
from graphgpt.config.experiment import EvaluationConfig, ExperimentConfig, evaluated_experiment
from graphgpt.errors import ConfigError, GraphGPTError
from graphgpt.files.atomic import write_json
from graphgpt.launch.sweep import SWEEP, check_started
from graphgpt.models.llm import LLMConfig, load_config, load_llm, load_tokenizer
from graphgpt.prompts import chat_template
from graphgpt.registry import TEXT_ENCODERS
from graphgpt.runners.lightning import write_run_files

FEATURES = 128


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with a checkpoint of a model of two layers, untrained."""
    folder = tmp_path_factory.mktemp("trained")
    experiment = check_command_line(ExperimentConfig, "train", [*csv_overrides(folder), "task=node_classification", "model/tower=sgc"])
    model = build_for(experiment.model, FEATURES)
    data = {"name": "csv", "fingerprint": "0" * 16, "features": FEATURES}
    save_checkpoint(folder / "run" / "checkpoint", model, experiment, data=data, history=[])
    write_run_files(folder / "run", experiment)
    return folder / "run"


@pytest.fixture
def canary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Stands where a module's code, if it ever runs, writes; the module ``evil`` lies in the folder itself, which one has gone into."""
    file = tmp_path / "canary"
    home = tmp_path / "folder"
    home.mkdir()
    (home / "evil.py").write_text(f"open({str(file)!r}, 'w').close()\n\nclass Evil:\n    def __init__(self, **_): pass\n")
    monkeypatch.chdir(home)
    monkeypatch.setattr(sys, "path", ["", *sys.path])  # as python -m has it
    monkeypatch.setattr("graphgpt.registry._named", set[str]())
    yield file
    sys.modules.pop("evil", None)


def edited(source: Path, target: Path, edit: Callable[[dict[str, Any]], None]) -> Path:
    """A copy of a run's settings, changed, with no checksum to tell: its author would have made it fit."""
    data = yaml.safe_load((source / "config.yaml").read_text())
    edit(data)
    target.mkdir(exist_ok=True)
    for file in source.iterdir():
        if file.is_file():
            (target / file.name).write_bytes(file.read_bytes())
    (target / "config.yaml").write_text(yaml.safe_dump(data))
    return target


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What the command says when it refuses."""
    with pytest.raises(SystemExit) as end:
        main([*map(str, arguments)])
    assert end.value.code == 2
    return capsys.readouterr().err.strip()


# Modules that a folder names.

ASKS = (
    "asks to import 'evil', and what a folder asks for is not run: if you trust that code, name it yourself, "
    "as plugins=[evil] among settings and in Python, or as --plugins evil after graphgpt's other commands."
)


def test_plugins_of_a_checkpoint_are_not_imported(
    trained: Path, canary: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = edited(trained / "checkpoint", Path.cwd(), lambda data: data.update(plugins=["evil"]))
    asks = f"{folder} {ASKS}"
    for verb in (["chat", folder], ["weights", "merge-lora", folder, "--out", "merged"]):
        monkeypatch.setattr("graphgpt.checkpoints.folder.verify_files", lambda *_: None)
        monkeypatch.setattr("graphgpt.weights.exporting.verify_files", lambda *_: None)
        assert said(capsys, *verb) == asks
    for read in (
        lambda: GraphAssistant.from_pretrained(folder),
        lambda: evaluated_experiment(check_command_line(EvaluationConfig, "evaluate", [f"checkpoint={folder}"])),
        lambda: check_command_line(EvaluationConfig, "evaluate", [f"checkpoint={folder}", "task.wording=2"]),
    ):
        with pytest.raises(GraphGPTError) as refused:
            read()
        assert str(refused.value).endswith(asks)
    run = edited(trained, canary.parent / "run", lambda data: data.update(plugins=["evil"]))
    with pytest.raises(ConfigError) as again:
        check_command_line(ExperimentConfig, "train", [f"resume={run}"])
    assert again.value.problems == [f"resume: {run} {ASKS}"]
    assert not canary.exists()
    # The tower's card and sizes are data, and shown.
    main(["weights", "show", str(folder)])
    main(["runs", str(run)])
    assert not canary.exists()


def test_plugins_that_the_user_names_too_are(trained: Path, canary: Path) -> None:
    folder = edited(trained / "checkpoint", Path.cwd(), lambda data: data.update(plugins=["evil"]))
    config = check_command_line(EvaluationConfig, "evaluate", [f"checkpoint={folder}", "plugins=[evil]"])
    assert evaluated_experiment(config).plugins == ["evil"]
    assert canary.exists()


# Classes that a folder names.


@pytest.mark.parametrize(
    ("group", "target"),
    [
        ("callbacks", "lightning.pytorch.callbacks.BasePredictionWriter"),
        ("loggers", "lightning.pytorch.loggers.logger.DummyLogger"),
        ("callbacks", "graphgpt.runners.training.interruption.Interruption"),
        ("callbacks", "evil.Evil"),
    ],
)
def test_classes_of_a_resumed_run_are_of_the_list(trained: Path, canary: Path, group: str, target: str) -> None:
    run = edited(
        trained, canary.parent / "run", lambda data: data["runner"].update({group: {"mine": {"_target_": target, "dirpath": str(canary)}}})
    )
    with pytest.raises(ConfigError) as refused:
        check_command_line(ExperimentConfig, "train", [f"resume={run}", f"runner.{group}.mine.dirpath=here"])
    [problem] = refused.value.problems
    assert problem.startswith(f"runner.{group}.mine._target_: '{target}' is not allowed; ")
    assert not canary.exists()


def test_classes_of_a_plugin_that_the_user_names_are_allowed(trained: Path, canary: Path) -> None:
    given = [*csv_overrides(canary.parent), "runner.callbacks.mine={_target_: evil.Evil}"]
    assert check_command_line(ExperimentConfig, "train", [*given, "plugins=[evil]"]).plugins == ["evil"]


@pytest.mark.parametrize(
    "value", ["/etc/cron.d", "../../elsewhere", "~/elsewhere", "file:/etc", "sqlite:////etc/x", "https://example.org", "C:\\x"]
)
def test_a_resumed_run_writes_nowhere_else(trained: Path, tmp_path: Path, value: str) -> None:
    logger = {"_target_": "lightning.pytorch.loggers.TensorBoardLogger", "name": value}
    run = edited(trained, tmp_path / "run", lambda data: data["runner"].update(loggers={"mine": logger}))
    key = "runner.loggers.mine.name"
    with pytest.raises(ConfigError) as refused:
        check_command_line(ExperimentConfig, "train", [f"resume={run}"])
    assert refused.value.problems == [
        f"resume: {run} has {key}={value}, which leads out of the run folder; if that is meant, say it here too: {key}={value}"
    ]
    config = check_command_line(ExperimentConfig, "train", [f"resume={run}", f"{key}='{value}'"])
    assert config.runner.loggers["mine"]["name"] == value


@pytest.mark.parametrize(
    "override",
    [
        "plugins=[evil]",
        "hydra.launcher._target_=os.system",
        "hydra.launcher.setup=[id]",
        "++hydra.callbacks.x._target_=evil.Evil",
        "hydra.searchpath=[file:///tmp]",
        "hydra.sweep.dir=/etc",
        "runner.loggers.mine={_target_: lightning.pytorch.loggers.CSVLogger, name: ../../x}",
    ],
)
def test_a_sweep_that_goes_on_asks_for_no_more_than_settings(canary: Path, override: str) -> None:
    with pytest.raises(GraphGPTError, match=r"sweep\.json (sets .* if it is meant, say it here too: |asks to import 'evil', )"):
        check_started(Path("sweep"), ["seed=0,1", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", override])
    check_started(Path("sweep"), ["seed=0,1", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "dataset.path=/data/x"])
    assert not canary.exists()


def test_a_sweeps_own_plugin_is_named_again(canary: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = canary.parent / "sweep"
    folder.mkdir()
    write_json(folder / SWEEP, {"program": "sweep", "overrides": ["plugins=[evil]", "seed=0,1"]})
    assert said(capsys, "sweep", "--resume", str(folder)) == f"{folder / SWEEP} {ASKS}"
    assert not canary.exists()


# Language models.


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model of two layers as a folder."""
    folder = tmp_path_factory.mktemp("llm")
    config = LLMConfig(path="random:tiny")
    load_llm(config).save_pretrained(folder)
    load_tokenizer(config).save_pretrained(folder)
    return folder


class Touch:
    """As a pickle, it makes a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.file}",)


def set_in(folder: Path, name: str, **values: Any) -> None:
    data = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps(data | values))


def weights_that_run(folder: Path, canary: Path, form: str) -> None:
    (folder / "model.safetensors").unlink()
    if form == "torch":
        torch.save({"a": Touch(canary)}, folder / "pytorch_model.bin")
    else:
        (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"a": Touch(canary)}))


CODE = "it brings code of its own (auto_map in its config), and code of a model's folder is not run; take a model without."
DAMAGED = "it is damaged, or of a form that is not known here ("
MODEL_MAP = {"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil"}


@pytest.mark.parametrize(
    ("edit", "load", "why"),
    [
        (lambda f, _: set_in(f, "config.json", model_type="evil", auto_map=MODEL_MAP), load_llm, CODE),
        (lambda f, _: set_in(f, "config.json", model_type="evil", auto_map=MODEL_MAP), load_config, CODE),
        (
            lambda f, _: set_in(f, "tokenizer_config.json", tokenizer_class="Evil", auto_map={"AutoTokenizer": ["evil.Evil", None]}),
            load_tokenizer,
            CODE,
        ),
        (
            lambda f, c: weights_that_run(f, c, "torch"),
            load_llm,
            "its weights name 'posix.system', which weights do not need and which could run",
        ),
        (lambda f, c: weights_that_run(f, c, "pickle"), load_llm, "its weights "),
        (
            lambda f, _: (f / "model.safetensors").write_bytes(b"1234567890"),
            load_llm,
            "it is damaged, or of a form that is not known here (",
        ),
        (lambda f, _: (f / "config.json").write_text("[" * 10**5), load_llm, DAMAGED),
        (lambda f, _: (f / "tokenizer.json").write_text("{}"), load_tokenizer, DAMAGED),
    ],
)
def test_a_language_model_runs_nothing(
    tiny: Path, canary: Path, capfd: pytest.CaptureFixture[str], edit: Callable[[Path, Path], None], load: Callable[..., Any], why: str
) -> None:
    folder = shutil.copytree(tiny, canary.parent / "llm")
    shutil.copyfile("evil.py", folder / "evil.py")
    edit(folder, canary)
    with pytest.raises(GraphGPTError) as refused:
        load(LLMConfig(path=str(folder)))
    assert str(refused.value).startswith(f"model.llm.path: cannot load '{folder}': {why}")
    assert len(str(refused.value).splitlines()) == 1
    assert "[y/N]" not in "".join(capfd.readouterr())
    assert not canary.exists()


def test_a_sentence_encoder_imports_nothing(canary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", SimpleNamespace(SentenceTransformer=lambda *_, **__: pytest.fail("loaded")))
    (canary.parent / "encoder").mkdir()
    write_json(canary.parent / "encoder" / "modules.json", [{"idx": 0, "type": "evil.Evil"}])
    cls = TEXT_ENCODERS.get("sentence_transformers")
    with pytest.raises(GraphGPTError, match=r"its modules\.json names 'evil\.Evil', and code of a model's folder is not run\.$"):
        cls(cls.Config(name="sentence_transformers", path=str(canary.parent / "encoder"))).encode(["a"], pytest.fail)


# Chat templates.


def tokenizer(template: str) -> Any:
    return SimpleNamespace(special_tokens_map={"eos_token": "</s>"}, get_chat_template=lambda: template)


MESSAGES = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}]


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "does not end (it was stopped after 2 s)"),
        ("{% for a in range(99999) %}{{ 'x' * 99 }}{% endfor %}", "cannot be rendered (it writes more than 1,000,000 characters)"),
        ("{{ 'x' * 10 ** 12 }}", "cannot be rendered (MemoryError)"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "cannot be rendered (maximum recursion depth exceeded)"),
        ("{{ ''.__class__.__mro__ }}", "cannot be rendered (access to attribute '__class__' of 'str' object is unsafe.)"),
        ("{{ raise_exception('no system message') }}", "cannot be rendered (no system message)"),
        ("{% if", "cannot be rendered (unexpected 'end of template')"),
    ],
)
def test_a_chat_template_is_bounded(monkeypatch: pytest.MonkeyPatch, template: str, why: str) -> None:
    monkeypatch.setattr(chat_template, "SECONDS", 2)
    with pytest.raises(GraphGPTError) as refused:
        chat_template.render(tokenizer(template), MESSAGES)
    assert str(refused.value) == f"The tokenizer's chat template {why}; use model/template=vicuna_v1, or another language model."


FORMS = """
{%- for message in messages %}
    {%- if loop.index > 5 %}{% break %}{% endif %}
    {% if message.role == 'assistant' %}{% generation %}{{ message['content'] + eos_token }}{% endgeneration %}
    {%- else %}{{ message | tojson(indent=1) }}{{ strftime_now('%Y') }}
    {% endif %}
{%- endfor %}{% if add_generation_prompt %}>{% endif %}{{ tools }}"""


def test_a_chat_template_is_rendered_as_by_transformers() -> None:
    theirs = load_tokenizer(LLMConfig(path="random:tiny"))
    for template in (theirs.chat_template, FORMS):
        theirs.chat_template = template
        for messages in (MESSAGES, MESSAGES[:1], [{"role": "system", "content": "é"}, *MESSAGES]):
            assert chat_template.render(theirs, messages) == theirs.apply_chat_template(messages, tokenize=False)
