"""What importing does and what it does not: no name is hidden, no library is loaded before it is needed."""

import importlib
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from graphgpt.files.configs import CONFIG_DIR
from graphgpt.machine.installation import CHECKOUT, as_typed, program, typed

ROOT = Path(__file__).parents[1]


def report(code: str, cwd: Path = ROOT) -> Any:
    """What a fresh Python says: ``code`` prints JSON on its last line."""
    done = subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_hugging_faces_datasets_is_not_hidden() -> None:
    """From the root of this repository, where a folder of that name lies, as ``python -c`` and notebooks see it."""
    pytest.importorskip("datasets")
    code = """
import json, sys
assert sys.path[0] == ""
import datasets, peft, transformers
import graphgpt.datasets.csv_files, graphgpt.runners.training.data
from transformers.utils import is_datasets_available
print(json.dumps({
    "theirs": datasets.__file__,
    "version": datasets.__version__,
    "available": is_datasets_available(),
    "ours": graphgpt.datasets.csv_files.__name__,
    "peft": peft.__version__,
}))
"""
    found = report(code)
    assert not Path(found["theirs"]).is_relative_to(ROOT / "datasets")
    assert found["available"] is True
    assert found["ours"] == "graphgpt.datasets.csv_files"


def test_root_folders_are_parts_of_the_package_and_no_packages_of_their_own() -> None:
    for name in ("datasets", "runners", "configs"):
        assert (ROOT / name).is_dir()
        assert not (ROOT / name / "__init__.py").exists()
        assert [*importlib.import_module(f"graphgpt.{name}").__path__] == [str(ROOT / name)]
    assert importlib.import_module("graphgpt.runners.training.data").__name__ == "graphgpt.runners.training.data"
    assert (CHECKOUT, CONFIG_DIR) == (ROOT, ROOT / "configs")


def test_no_file_is_a_symbolic_link() -> None:
    """Windows makes a text file of each, unless its user may do more than others."""
    listed = subprocess.run(["git", "ls-files", "--stage"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("no git repository")
    assert [line for line in listed.stdout.splitlines() if line.startswith("120000")] == []


@pytest.mark.parametrize("name", ["train", "evaluate"])
def test_programs_are_short_and_do_nothing_when_imported(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hydra.core.global_hydra import GlobalHydra

    path = ROOT / f"{name}.py"
    assert len(path.read_text(encoding="utf-8").splitlines()) < 80
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["python", "no_such_key=1"])
    spec = importlib.util.spec_from_file_location(f"imported_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert callable(module.main)
    assert list(tmp_path.iterdir()) == []
    assert not GlobalHydra.instance().is_initialized()


def test_programs_have_one_name_in_a_checkout_and_another_where_they_are_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert program("train") == [sys.executable, str(ROOT / "train.py")]
    assert typed("evaluate", "checkpoint=a b", "limit=1") == "python evaluate.py 'checkpoint=a b' limit=1"
    started = (
        ["/bin/train.py", "seed=1", "++name=a", "hydra.run.dir=runs/a"],
        [str(ROOT / "graphgpt/cli/train.py"), "seed=1"],
        ["/bin/graphgpt", "runs"],
        ["a.py", "b"],
    )
    assert [*map(as_typed, started)] == ["python train.py seed=1 name=a", "python train.py seed=1", "graphgpt runs", "python a.py b"]
    monkeypatch.setattr("graphgpt.machine.installation.CHECKOUT", None)
    assert program("train") == [sys.executable, "-m", "graphgpt.cli.train"]
    assert typed("evaluate", "limit=1") == "graphgpt evaluate limit=1"
    assert as_typed(started[1]) == "graphgpt train seed=1"


#: Libraries that take longer to import than it takes to answer what options there are.
SLOW = {"torch", "numba", "numpy", "pyarrow", "lightning", "peft", "transformers", "sklearn", "torch_geometric", "datasets", "bitsandbytes"}


@pytest.mark.parametrize(
    "call",
    [
        "import graphgpt.config.experiment, graphgpt.launch.program",
        "sys.argv = ['train.py', '--help']; runpy.run_path('train.py', run_name='__main__')",
        "sys.argv = ['evaluate.py', '--help']; runpy.run_path('evaluate.py', run_name='__main__')",
        "import graphgpt.cli.main; graphgpt.cli.main.main(['ls'])",
    ],
)
def test_what_needs_no_tensors_loads_no_slow_library(call: str) -> None:
    loaded = set(report(f"import json, runpy, sys\n{call}\nprint(json.dumps([*sys.modules]))"))
    assert not loaded & SLOW


def test_a_mistake_on_the_command_line_loads_no_training_library() -> None:
    code = """
import json, runpy, sys
sys.argv = ["train.py", "model/tower=gtt"]
try:
    runpy.run_path("train.py", run_name="__main__")
except SystemExit as end:
    assert end.code == 2
print(json.dumps([*sys.modules]))
"""
    loaded = set(report(code))
    assert not loaded & (SLOW - {"torch", "numba", "numpy", "pyarrow"})


def test_compiled_graph_extensions_are_not_needed() -> None:
    """A subgraph is sampled and a tower reads it where PyG's compiled extensions cannot be imported at all."""
    code = """
import json, sys
for name in ("pyg_lib", "torch_scatter", "torch_sparse", "torch_cluster", "torch_spline_conv"):
    sys.modules[name] = None
import numpy as np, torch
from graphgpt.graphs.graph import build_graph
from graphgpt.graphs.subgraph import sample_subgraph
from graphgpt.models.tower import GraphReader
from graphgpt.models.towers.graph_transformer import GraphTransformer
from graphgpt.models.towers.sgc import SGC
graph = build_graph(ids=list("abcd"), titles=list("abcd"), bodies=[""] * 4, labels=[0] * 4, class_names=["x"],
                    edges=np.array([[0, 1], [1, 2], [2, 3]]), card={"name": "path"}).with_features(torch.eye(4))
subgraph = sample_subgraph(graph, 1, hops=2, fanout=3, seed=0)
batch = GraphReader().collate([subgraph.input(graph)] * 2)
print(json.dumps([len(tower(tower.Config(name="tower"), 4)(batch)) for tower in (SGC, GraphTransformer)]))
"""
    assert report(code) == [8, 8]
