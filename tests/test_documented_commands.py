"""Every command and every piece of Python that the documents show is run, in order, by a reader in a folder with two tables.

Each runs as it stands there, on a model of two layers for a step or two. A command that no test can run (it wants a cluster, seven
billion weights, an account) is named in ``NOT_RUN`` with the reason, and composed as far as it goes.
"""

import io
import json
import logging
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import released_files
import torch
import weight_sources
import yaml
from fake_endpoint import FakeEndpoint, completion
from helpers import csv_overrides, make_graph, parsed, scratch
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig

from graphgpt.assistant.graph_assistant import GraphAssistant
from graphgpt.cli import evaluate, train
from graphgpt.cli import main as cli
from graphgpt.config.command_line import read_command_line
from graphgpt.config.experiment import EvaluationConfig, ExperimentConfig
from graphgpt.graphs.subgraph import sample_subgraph
from graphgpt.registry import TOWERS

ROOT = Path(__file__).parents[1]
DOCUMENTS = [
    "README.md",
    "CONTRIBUTING.md",
    *sorted(
        {f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")} - {"docs/decisions.md", "docs/another_modality.md"}
    ),  # the latter has a test of its own
]

#: What a command begins with; a block that begins otherwise is Python, or one of ``SHOWN``.
PROGRAMS = ("python", "graphgpt", "torchrun", "srun", "make", "pip", ".venv/bin/pre-commit")
PYTHON = ("from ", "import ", "assistant", "graph = ", "talk = ")
SHOWN = {"TextAttributedGraph --Task-->": "a drawing", '{"id": "n17"': "a record", "mine.json, record 17": "an error"}
#: In a sentence, a command in full has settings or a folder; a name alone has not.
INLINE = re.compile(r"`((?:python (?:train|evaluate)\.py|graphgpt \w+) (?!\.\.\.)[^`]*?[=./ ][^`]*)`")

NOT_RUN = {
    "make ": "it sets up an environment",
    "pip install ": "it sets up an environment",
    ".venv/bin/pre-commit ": "it changes the repository's hooks",
    "torchrun ": "eight devices",
    "srun ": "a cluster",
    "runner.devices=": "several devices",
    "logger=[csv,wandb]": "an account",
    "sweep --resume FOLDER": "an interrupted search; test_sweep.py has one",
    "--parallel 2": "40 runs; the README's is run, with one",
    "devices=4": "several devices",
    "hydra/launcher=submitit_slurm": "a cluster",
    "model/llm=vicuna_7b": "seven billion weights",
    "dataset=graphgpt_pubmed_std": "the authors' records",
    "model/tower=mean": "the file that the document shows is not there; the test below runs it",
}
#: Of what is not run, what cannot be composed either.
NOT_COMPOSED = (
    "make ",
    "pip install ",
    ".venv/bin/pre-commit ",
    "dataset=graphgpt_pubmed_std",
    "model/tower=mean",
    "init_from=tower",
    "--resume FOLDER",
)

#: What stands for something of the reader's, and what it is here.
STANDS_FOR = {
    r"weights show FOLDER": "weights show runs/stage2/...",
    r"weights import SOURCE --out FOLDER": "weights import GraphGPT-7B-mix-all --out imported --base base",
    r"weights export FOLDER --to LAYOUT --out PATH": "weights export imported --to graphgpt_projector --out projector.bin",
    r"weights merge-lora FOLDER --out FOLDER": "weights merge-lora imported --out merged",
    r"weights make-delta BASE TARGET --out FOLDER": "weights make-delta base merged --out delta",
    r"weights apply-delta BASE DELTA --out FOLDER": "weights apply-delta base delta --out again",
    r"(graph_projector.bin .*) --out graphgpt": r"\1 --out another",
    r"resume=FOLDER": "resume=runs/stage2/...",
    r"start_from=\.\.\.": "start_from=runs/stage1/...",
    r"experiment=\.\.\.": "experiment=stage1",
    r"checkpoint=RUN\w*": "checkpoint=runs/stage2/...",
    r"\[key=value \.\.\.\]| \.\.\.(?= |$)": "",
    r" > docs/reference.md$": "",
    r"runner.val_every=20": "runner.val_every=2",
    r"--trials 20": "--trials 1",
    r"range\(1000\)": "range(10)",
}

STEPS = ("runner.max_steps=2", "runner.global_batch_size=2", "runner.checkpoint.every_n_steps=1")
FEW = ("limit=4", "baselines=false", "bootstrap=0", "threads=1", "accelerator=cpu")
#: What only a library would say.
NOISE = re.compile(r"warning|traceback|deprecated|failed to load|site-packages|^\s*warn", re.IGNORECASE | re.MULTILINE)


def blocks(document: str) -> Iterator[list[str]]:
    """The indented blocks of a document, and the commands in its sentences as blocks of a line each."""
    block: list[str] = []
    fenced = False
    for line in [*(ROOT / document).read_text(encoding="utf-8").splitlines(), ""]:
        fenced ^= line.startswith("```")
        if line.startswith("    ") and not fenced:
            block.append(line[4:])
            continue
        if block and not line:
            yield block
            block = []
        for inline in INLINE.findall(line):
            yield [inline]


def commands(block: list[str]) -> list[str]:
    """The commands of a block, without remarks; none where it shows something else."""
    if not block[0].startswith(PROGRAMS):
        return []
    whole = "\n".join(block).replace("\\\n", " ").splitlines()
    return [re.split(r"\s{2,}(?![\s'-])|\s+# ", line)[0].strip() for line in whole]


def test_every_block_is_known() -> None:
    """What is neither a command nor Python is on the list, and what is on a list is in the documents."""
    found = [block for document in DOCUMENTS for block in blocks(document)]
    unknown = [block for block in found if not block[0].lstrip().startswith((*PROGRAMS, *PYTHON, *SHOWN))]
    assert unknown == []
    lines = [command for block in found for command in commands(block)]
    assert [line for line in lines if not line.startswith(PROGRAMS)] == []
    assert len(lines) >= 60
    assert [part for part in NOT_RUN if not any(part in f"{line} " for line in lines)] == []


class Reader:
    """Types what a document shows, in a folder of its own.

    Args:
        folder: Where to read.
        say: Gives what was printed since it was asked last.
        endpoint: Address of a large model.
    """

    def __init__(self, folder: Path, say: Callable[[], str] = str, endpoint: str = "") -> None:
        self.folder = folder
        self.say = say
        self.endpoint = endpoint
        self.names: dict[str, Any] = {}
        self.settings = csv_overrides(folder)

    def newest(self, name: str) -> str:
        """The run of that name which was made last."""
        return str(max((self.folder / name).glob("*"), key=lambda path: path.stat().st_mtime_ns).relative_to(self.folder))

    def filled(self, text: str) -> str:
        """What stands for something is replaced by it."""
        for words, mine in STANDS_FOR.items():
            text = re.sub(words, mine, text)
        text = re.sub(r"resume=runs/(\w+)/\.\.\.", lambda found: f"resume={self.interrupted(found[1])}", text)
        text = re.sub(r"runs/(\w+)/\.\.\.", lambda found: self.newest(f"runs/{found[1]}"), text)
        text = re.sub(r"multirun/(\w+)/[\d_-]+", lambda found: self.newest(f"multirun/{found[1]}"), text)
        text = re.sub(r"FOLDER FOLDER FOLDER FOLDER", lambda _: self.shards(), text)
        return text.replace("http://localhost:8000/v1", self.endpoint)

    def interrupted(self, name: str) -> str:
        """The newest run of a name, as if it had been stopped after its first step."""
        run = self.newest(f"runs/{name}")
        stopped = shutil.copytree(run, f"{run}-stopped")
        shutil.rmtree(Path(stopped, "checkpoint"))
        Path(stopped, "resume", "step=2.ckpt").unlink()
        return stopped

    def shards(self) -> str:
        """The first of four shards was evaluated; here are all of them."""
        folders = [self.newest("runs/evaluate")]
        for part in (2, 3, 4):
            self.run(f"python evaluate.py checkpoint=RUN shard={part}/4")
            folders.append(self.newest("runs/evaluate"))
        return " ".join(folders)

    def run(self, command: str) -> None:
        """A command, in this process."""
        words = shlex.split(self.filled(command))
        reason = next((part for part in NOT_RUN if part in f"{command} "), None)
        if reason is not None:
            self.look_at(command, words, composed=not any(part in f"{command} " for part in NOT_COMPOSED))
            return
        code = 0
        root = logging.getLogger()
        before = root.handlers[:], root.level
        try:
            start, sys.argv = self.start(words)
            start()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0
        finally:
            GlobalHydra.instance().clear()
            HydraConfig.instance().cfg = None
            root.handlers[:], root.level = before
        said = self.say()
        assert code == 0, f"{command}\n{said}"
        assert not NOISE.search(said), f"{command}\n{said}"

    def start(self, words: list[str]) -> tuple[Callable[[], None], list[str]]:
        """What a command calls, and its ``sys.argv``."""
        program, *rest = words
        if program == "python":
            name, *rest = rest
            main, settings = (train.main, self.tiny(rest)) if name == "train.py" else (evaluate.main, FEW)
            return main, [name, *settings, *rest]
        verb, *rest = rest
        if verb in ("check", "sweep"):
            rest = [*self.tiny(rest), *rest]
        return lambda: cli.main([verb, *rest]), ["graphgpt"]

    def tiny(self, given: list[str]) -> list[str]:
        """A model of two layers on the reader's own tables, unless the command says otherwise."""
        if any(word.startswith("resume=") and word != "resume=auto" for word in given):
            return []
        own = {word.partition("=")[0]: word for word in given}
        if (experiment := own.get("experiment", "")).startswith("experiment=image/"):
            parts = {"1": ("captions",), "2": ("captions", "yes_no")}.get(experiment[-1], ())
            data = ["dataset.limit=4", "dataset.size=48", *(f"task.parts.{part}.dataset.scenes=12" for part in parts)]
            return [*STEPS, *data, *(word for word in self.settings if not word.startswith(("dataset", "logger")))]
        data = [word for word in self.settings if word.startswith("dataset")] if own.get("dataset", "dataset=csv") == "dataset=csv" else []
        return [*STEPS, *data, *(word for word in self.settings if not word.startswith("dataset") and not word.startswith("logger"))]

    def look_at(self, command: str, words: list[str], *, composed: bool) -> None:
        """What is not run: a target of the Makefile, or settings that fit together."""
        if words[0] == "make":
            targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
            assert {word for word in words[1:] if "=" not in word} <= {*targets}, command
        if composed:
            name = "evaluate" if "evaluate.py" in words else "train"
            tiny = ["model/llm=tiny_random"] if name == "train" else []  # as what it starts from was made for
            settings = [*tiny, *(word for word in words if re.match(r"[\w./]+=", word))]
            read_command_line(EvaluationConfig if name == "evaluate" else ExperimentConfig, name, settings)  # type: ignore[type-var]

    def execute(self, block: list[str], place: str) -> None:
        """Python."""
        source = self.filled("\n".join(block))
        exec(compile(source, place, "exec"), self.names)
        assert not NOISE.search(self.say())


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the README's first three commands ran, each in a process of its own that prints what users see."""
    folder = tmp_path_factory.mktemp("reader")
    reader = Reader(folder)
    for command in next(commands(block) for block in blocks("README.md") if block[0].startswith("python train.py")):
        _, (name, *settings) = reader.start(shlex.split(reader.filled(command)))
        process = [sys.executable, str(ROOT / name), *settings]
        done = subprocess.run(process, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=400)
        assert done.returncode == 0, done.stdout
        assert not NOISE.search(done.stdout), done.stdout
    talk = {"conversations": [{"from": "human", "value": "Who?"}, {"from": "gpt", "value": "Me."}]}
    (folder / "talk.json").write_text(json.dumps([talk] * 4))
    released_files.write_graphs(folder).rename(folder / "mine.pt")
    released_files.write_records(folder, released_files.RECORDS, "mine.json")
    weight_sources.write_tower(folder / "clip_gt_arxiv_pub")
    weight_sources.write_full(folder / "GraphGPT-7B-mix-all", "safetensors")
    rows = {"model.embed_tokens.weight": torch.ones(2, weight_sources.HIDDEN)}
    torch.save(weight_sources.projector_tensors() | rows, folder / "graph_projector.bin")
    return folder


@pytest.fixture
def reader(begun: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Reader]:
    folder = tmp_path / "reader"
    shutil.copytree(begun, folder)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.setattr(sys, "stdin", io.StringIO("What is this?\n/quit\n"))
    monkeypatch.setenv("COLUMNS", "200")

    def say() -> str:
        said = capfd.readouterr()
        return said.out + said.err

    with FakeEndpoint(lambda prompt, asked: completion("Red, Green, Blue\n\nIt says so.")) as endpoint:
        yield Reader(folder, say, endpoint.url)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_what_a_document_shows_runs(document: str, reader: Reader) -> None:
    shown = [*blocks(document)]
    lines = [line for block in shown for line in block]
    if any("my_graph" in line for line in lines) and not any("--out my_graph" in line for line in lines):
        reader.run("graphgpt data build --nodes nodes.csv --edges edges.csv --out my_graph")
    if document == "docs/python.md":
        graph = GraphAssistant.from_pretrained(reader.newest("runs/stage2")).graph
        assert graph.x is not None
        reader.names = {"x": np.zeros((3, graph.x.shape[1]), np.float32), "checkpoint": reader.newest("runs/stage2")}
    for block in shown:
        if block[0].startswith(PYTHON):
            reader.execute(block, document)
        for command in commands(block):
            reader.run(command)


def test_the_tower_of_the_contributors_guide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its file and its YAML file, on a graph."""
    scratch(TOWERS, monkeypatch)
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    [source] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    [settings] = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    exec(compile(source, "mean.py", "exec"), {"__name__": "mean"})
    graph = make_graph()
    tower = TOWERS.build(parsed(TOWERS.get("mean").Config, yaml.safe_load(settings)), 8)
    states = tower(tower.reader().collate([sample_subgraph(graph, 1, hops=2, fanout=3, seed=0).input(graph)]))
    assert states.shape[1] == 8 and bool(states.isfinite().all())
