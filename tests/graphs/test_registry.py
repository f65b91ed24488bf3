"""Registries: names to classes, with help where a name is wrong."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import scratch

from graphgpt.errors import GraphGPTError
from graphgpt.models.tower import TowerConfig
from graphgpt.registry import REGISTRIES, TOWERS, Registry, load_plugins


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An importable package ``shelf`` of the test's own, empty; it is forgotten afterwards."""
    (tmp_path / "shelf").mkdir()
    (tmp_path / "shelf" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path / "shelf"
    for name in [name for name in sys.modules if name.split(".")[0] == "shelf"]:
        del sys.modules[name]


def registry() -> Registry[Any]:
    return Registry("thing", "graphgpt.models.towers")


class Thing:
    class Config:
        pass


def test_kinds_and_what_ships() -> None:
    assert set(REGISTRIES) == {"model", "tower", "projector", "fusion", "text", "dataset", "text_encoder", "task", "template", "runner"}
    shipped = {
        "model": {"multimodal_llm"},
        "tower": {"graph_transformer", "identity", "sgc"},
        "projector": {"linear", "mlp"},
        "fusion": {"splice"},
        "text": {"embeddings", "transformer"},
        "dataset": {"csv", "stdlib_docs"},
        "text_encoder": {"llm_embedding", "sentence_transformers", "tfidf_svd"},
        "task": {"graph_matching", "node_classification"},
        "template": {"chat", "turns"},
        "runner": {"lightning"},
    }
    for kind, names in shipped.items():
        assert names <= set(REGISTRIES[kind].names())
        assert REGISTRIES[kind].names() == sorted(REGISTRIES[kind].names())


@pytest.mark.parametrize("kind", sorted(REGISTRIES))
def test_every_class_is_ready_for_its_config(kind: str) -> None:
    for name in REGISTRIES[kind].names():
        cls = REGISTRIES[kind].get(name)
        assert "name" in cls.Config.__dataclass_fields__
        assert callable(cls.problems)


def test_unknown_name_with_the_nearest() -> None:
    with pytest.raises(GraphGPTError, match=r"^Unknown tower 'graph_transfomer'\. Did you mean 'graph_transformer'\?$"):
        TOWERS.get("graph_transfomer")


def test_unknown_name_with_all_where_none_is_near(shelf: Path) -> None:
    things: Registry[Any] = Registry("thing", "shelf")
    for name in ("one", "two"):
        things.register(name)(type(name, (Thing,), {}))
    with pytest.raises(GraphGPTError, match=r"^Unknown thing 'xyz'\. Known: one, two\.$"):
        things.get("xyz")


def test_a_name_is_given_once() -> None:
    things = registry()
    things.register("thing")(Thing)
    with pytest.raises(GraphGPTError, match=r"^The thing 'thing' of .*test_registry is registered already, by .*test_registry\.Thing\.$"):
        things.register("thing")(type("Other", (Thing,), {}))
    assert things.get("thing") is Thing


def test_the_same_class_may_be_registered_again() -> None:
    """As when its module is reloaded."""
    things = registry()
    things.register("thing")(Thing)
    again = type("Thing", (), {"Config": Thing.Config, "__module__": Thing.__module__})
    things.register("thing")(again)
    assert things.get("thing") is again


@pytest.mark.parametrize("attributes", [{}, {"Config": None}, {"Config": {"a": 1}}])
def test_a_class_without_config_is_refused(attributes: dict[str, Any]) -> None:
    with pytest.raises(GraphGPTError, match=r"^The thing 'bare' \(.*test_registry\.Bare\) has no Config class\.$"):
        registry().register("bare")(type("Bare", (), attributes))


def test_problems_default_to_none_and_are_kept_where_there_are_some() -> None:
    things = registry()
    plain = things.register("plain")(type("Plain", (), {"Config": Thing.Config}))
    assert plain.problems(None) == []
    strict = things.register("strict")(type("Strict", (), {"Config": Thing.Config, "problems": staticmethod(lambda config: ["No."])}))
    assert strict.problems(None) == ["No."]


def test_build_makes_the_class_that_the_config_names(monkeypatch: pytest.MonkeyPatch) -> None:
    class Recorder:
        Config = TowerConfig

        def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
            self.made = (config.name, args, kwargs)

    scratch(TOWERS, monkeypatch).register("recorder")(Recorder)
    assert TOWERS.build(TowerConfig(name="recorder"), 1, b=2).made == ("recorder", (1,), {"b": 2})


MODULE = """
from {package} import things

@things.register("{name}")
class Found:
    class Config:
        pass
"""


def test_a_file_dropped_into_the_package_is_found(shelf: Path) -> None:
    """A file of the name asked for is read first; only a miss reads all of them."""
    (shelf / "__init__.py").write_text("from graphgpt.registry import Registry\nthings = Registry('thing', 'shelf')\n")
    for module, name in (("one", "one"), ("two", "another")):
        (shelf / f"{module}.py").write_text(MODULE.format(package="shelf", name=name))
    import shelf as package  # type: ignore[import-not-found]

    assert package.things.get("one").__module__ == "shelf.one"
    assert "shelf.two" not in sys.modules
    assert package.things.get("another").__module__ == "shelf.two"
    assert package.things.names() == ["another", "one"]


def test_plugins_are_imported(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (shelf / "mine.py").write_text(MODULE.format(package="graphgpt.registry", name="mine").replace("things", "TOWERS"))
    scratch(TOWERS, monkeypatch)
    load_plugins(["shelf.mine"])
    assert TOWERS.get("mine").__module__ == "shelf.mine"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "No module named 'shelf.mine'"),
        ("import not_there_at_all", "No module named 'not_there_at_all'"),
        ("1 / 0", "division by zero"),
    ],
)
def test_a_plugin_that_cannot_be_imported_is_named(shelf: Path, content: str | None, reason: str) -> None:
    if content is not None:
        (shelf / "mine.py").write_text(content)
    with pytest.raises(GraphGPTError, match=f"^plugins: cannot import 'shelf.mine': {reason}"):
        load_plugins(["shelf.mine"])


def test_a_plugin_with_a_taken_name_says_so(shelf: Path) -> None:
    (shelf / "mine.py").write_text(MODULE.format(package="graphgpt.registry", name="sgc").replace("things", "TOWERS"))
    TOWERS.get("sgc")
    with pytest.raises(GraphGPTError, match=r"cannot import 'shelf\.mine': The tower 'sgc' of shelf\.mine is registered already, by .*SGC"):
        load_plugins(["shelf.mine"])
