"""Installed from a wheel, with no checkout in sight: training, of several processes too, and evaluation from an empty folder."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from helpers import csv_overrides

ROOT = Path(__file__).parents[1]
PARTS = ("graphgpt", "configs", "datasets", "runners", "pyproject.toml", "setup.py", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a wheel of this tree puts into site-packages. It is built from a copy, which may hold what a user's own tree does."""
    pytest.importorskip("setuptools", minversion="77")
    source, wheels, target = (tmp_path_factory.mktemp(name) for name in ("source", "wheels", "installed"))
    for name in PARTS:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    (source / "configs" / "local").mkdir(exist_ok=True)
    (source / "configs" / "local" / "default.yaml").write_text("seed: 1\n")
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-index", "--no-build-isolation", "-w", wheels, source]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    [wheel] = wheels.iterdir()
    zipfile.ZipFile(wheel).extractall(target)
    return target


def python(installed: Path, cwd: Path, *arguments: str) -> str:
    """What a fresh Python says that sees the installed package alone, in a folder of its own."""
    environment = os.environ | {"PYTHONPATH": str(installed), "COLUMNS": "200"}
    done = subprocess.run([sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_holds_every_file_of_the_package_and_nobodys_own(installed: Path) -> None:
    kept = {".py", ".yaml", ".html", ".typed"}
    beside = {(Path("graphgpt") / name, ROOT / name) for name in ("configs", "datasets", "runners")}
    expected = {
        place / file.relative_to(folder)
        for place, folder in {*beside, (Path("graphgpt"), ROOT / "graphgpt")}
        for file in folder.rglob("*")
        if file.suffix in kept and "local" not in file.parts
    }
    assert {file.relative_to(installed) for file in (installed / "graphgpt").rglob("*") if file.suffix in kept} == expected
    [metadata] = installed.glob("*.dist-info")
    assert "graphgpt = graphgpt.cli.main:main" in (metadata / "entry_points.txt").read_text()


def test_trains_in_two_processes_and_evaluates_from_any_folder(installed: Path, tmp_path: Path) -> None:
    where = "import graphgpt.files.configs as files; print(files.CHECKOUT, files.CONFIG_DIR)"
    assert python(installed, tmp_path, "-c", where).split() == ["None", str(installed / "graphgpt/configs")]
    settings = [one for one in csv_overrides(tmp_path) if not one.startswith("logger")]
    steps = ["runner.max_steps=2", "runner.global_batch_size=2", "runner.val_every=0", "runner/strategy=ddp", "runner.devices=2"]
    train = ["-m", "graphgpt", "train", "experiment=small_graph/node_classification", "name=two"]
    said = python(installed, tmp_path, *train, *settings, *steps)
    [run] = (tmp_path / "runs/two").iterdir()
    assert f"Saved {run}/checkpoint" in said
    assert "`graphgpt train experiment=small_graph/node_classification " in (run / "checkpoint/README.md").read_text()

    few = ["limit=2", "baselines=false", "ablation=none", "bootstrap=0", "samples=0", "threads=1", "accelerator=cpu"]
    said = python(installed, tmp_path, "-m", "graphgpt", "evaluate", f"checkpoint={run.relative_to(tmp_path)}", *few)
    assert "node_classification on 2 test items of csv" in said
    assert f"    graphgpt evaluate checkpoint={run.relative_to(tmp_path)} limit=null" in said
