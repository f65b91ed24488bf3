"""The notebook in ``examples/`` runs from its first cell to its last."""

import json
import shutil
import sysconfig
from pathlib import Path
from typing import Any

import pytest
from test_assistant import train

NOTEBOOK = Path(__file__).parents[1] / "examples" / "walkthrough.ipynb"
LIBRARY = ["json", "argparse.py", "csv.py", "heapq.py", "os.py", "queue.py", "statistics.py", "textwrap.py"]


def test_the_walkthrough_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """On a small part of the standard library, with a checkpoint that was trained for a moment."""
    library = tmp_path / "library"
    library.mkdir()
    for name in LIBRARY:
        source = Path(sysconfig.get_path("stdlib")) / name
        if source.is_dir():
            shutil.copytree(source, library / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, library)
    small = ["model/llm=tiny_random", "runner.threads=1", "runner.accelerator=cpu", "logger=none"]
    data = ["dataset=stdlib_docs", f"dataset.library={library}", "task=node_classification", "model.max_length=4096"]
    monkeypatch.setenv("GRAPHGPT_CHECKPOINT", str(train(tmp_path / "run", [*data, *small])))
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    names: dict[str, Any] = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"{NOTEBOOK.name}, cell {cell['id']}", "exec"), names)
    out = capsys.readouterr().out
    assert "json.dumps -> " in out
    assert "Title: dumps" in out
    assert "And what is it not for?" in out
    assert len(names["table"]) >= 40
    assert names["other"].graph.num_nodes == 3
    assert all(not cell.get("outputs") for cell in notebook["cells"])
