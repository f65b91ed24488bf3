"""What is said about every setting: docs/reference.md, ``graphgpt ls`` of an option or a key; what the cache holds."""

import subprocess
import sys
from pathlib import Path

import pytest

from graphgpt.cli.main import main
from graphgpt.cli.reference import ROOTS, keys, reference, settings, settings_at
from graphgpt.errors import GraphGPTError
from graphgpt.files import cache
from graphgpt.registry import REGISTRIES


def test_the_page_is_what_the_code_says() -> None:
    page = Path(__file__).parents[1] / "docs" / "reference.md"
    assert page.read_text(encoding="utf-8") == reference(), "run: graphgpt reference > docs/reference.md"


def test_every_setting_says_what_it_is() -> None:
    classes = [*ROOTS.values(), *(registry.get(name).Config for registry in REGISTRIES.values() for name in registry.names())]
    silent = [
        f"{cls.__module__}: {one.key}"
        for cls in classes
        if cls.__module__.startswith("graphgpt.")
        for one in settings(cls)
        if not one.about
    ]
    assert not silent


@pytest.mark.parametrize(
    ("what", "lines"),
    [
        ("tower/gat", ["heads whole number, at least 1 8 8 Attention heads; divides dim."]),
        ("runner.checkpoint", ["runner.checkpoint.keep whole number, at least 1 1 How many resumable checkpoints stay, the newest."]),
        ("model.lora.rslora", ["model.lora.rslora true or false false Scale by alpha / sqrt(rank) instead"]),
        ("seed", ["seed whole number, at least 0 0 Same seed, same run", "seed whole number, at least 0 0 Draws the items"]),
        ("runner", ["lightning Training by Lightning.", "max_steps whole number, at least 1"]),
        ("optimizer/adamw", ["_target_: torch.optim.AdamW"]),
        ("experiment/stage1", ["name: stage1"]),
        ("llm/tiny_random", ["path text must be given random:tiny Hub id, local folder"]),
    ],
)
def test_ls_of_an_option_or_a_key(what: str, lines: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    main(["ls", what])
    shown = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    for line in lines:
        assert any(found.startswith(line) for found in shown), line


@pytest.mark.parametrize(
    ("what", "nearest"), [("towr/gat", "tower/gat"), ("runner.checkpont", "runner.checkpoint"), ("model.lora.rnk", "model.lora.rank")]
)
def test_ls_of_what_is_not_there(what: str, nearest: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["ls", what])
    assert capsys.readouterr().err == f"There is no kind '{what}'. Did you mean '{nearest}'?\n"


def test_keys_are_those_of_every_choice() -> None:
    assert {"model.tower.heads", "dataset.text_encoder.dim", "runner.lr", "model.tower.position.name"} <= keys()
    assert next(one.key for one in settings_at("dataset.sampler")) == "dataset.sampler.hops"


def test_ls_lists_the_classes_of_a_module_beside_the_user(tmp_path: Path) -> None:
    """In a process of its own, as the installed command starts: without the working folder among the places of modules."""
    (tmp_path / "my_module.py").write_text(
        "from graphgpt.models.towers.sgc import SGC\nfrom graphgpt.registry import TOWERS\n\n\n"
        '@TOWERS.register("mine")\nclass Mine(SGC):\n    """What I do."""\n'
    )
    (tmp_path / "graphgpt_configs").mkdir()
    (tmp_path / "graphgpt_configs" / "own.yaml").write_text("plugins: [my_module]\n")
    script = "import sys; sys.path[:] = [one for one in sys.path if one]; from graphgpt.cli.main import main; main(['ls', 'tower'])"
    done = subprocess.run([sys.executable, "-P", "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert done.stderr == ""
    assert "tower/mine  yours: What I do. (my_module)" in done.stdout


def test_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("GRAPHGPT_CACHE", str(tmp_path))
    for name, size in (("graphs/a-1", 2000), ("features/b", 5000), ("features/.half", 9)):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "data").write_bytes(bytes(size))
    main(["cache"])
    first, largest, other = capsys.readouterr().out.splitlines()
    assert first == f"{tmp_path}: 2 entries, 7 kB; all of it is made again when needed."
    assert largest.startswith("      5 kB")
    assert largest.endswith("features/b  (texts of a graph as numbers, made by a text encoder)")
    assert "graphs/a-1" in other
    with pytest.raises(GraphGPTError, match=r"There is no 'graph/a-1' in .*\. Did you mean 'graphs/a-1'\?"):
        cache.clear(["features/b", "graph/a-1"])
    main(["cache", "--clear", "features"])
    assert capsys.readouterr().out == "Removed 1 entry, 5 kB.\n"
    assert [cache.name_of(entry) for entry in cache.entries()] == ["graphs/a-1"]
    main(["cache", "--clear"])
    assert cache.entries() == []
