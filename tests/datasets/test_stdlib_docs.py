"""The ``stdlib_docs`` dataset: a small library whose graph is known, and the library of the Python that runs the tests."""

import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

from graphgpt.datasets.stdlib_docs import CHAPTERS, StdlibDocs, StdlibDocsConfig, build_stdlib
from graphgpt.errors import DataError
from graphgpt.graphs.graph import TextAttributedGraph
from graphgpt.registry import DATASETS

SOURCES: dict[str, str | bytes] = {
    "json/__init__.py": '''
        """Documents to objects and back."""
        from .decoder import Decoder as D, load as _load
        from json.tool import *

        def parse(text, queue):
            """Turn a text into objects.

                Indented by four.
            And no more.
            """
            queue.put(text)  # a parameter, not the module
            return D(text), run

        def short():
            """Too short."""
            import queue as q
            return q.put, parse
        ''',
    "json/decoder.py": '''
        """Decoders."""
        import json.tool
        import queue

        class Base:
            """What all decoders have in common."""

            def scan(self):
                """Find the next token there."""

        class Decoder(Base):
            """Turns texts into many objects."""

            scan_all = [text for text in ()]

            def decode(self, text):
                """Turn one text into objects."""
                def inner():
                    """Is nested in a method."""
                    return self.scan(), helper
                return inner

            def fail(self):
                raise queue.Empty

            @property
            def state(self):
                """How far it has come."""

            @state.setter
            def state(self, value):
                """Is not the first docstring."""
                json.tool.run()

        def helper(load=None):
            """Help with what is left."""
            try:
                load()
            except ValueError as scan:
                scan()

        def load():
            """Load a text and decode."""
        ''',
    "json/tool.py": '''
        """A tool for the shell."""

        def run():
            """Run the tool with arguments."""
            return _private()

        def _private():
            """Is imported by no star, but used."""
        ''',
    "json/tests/__init__.py": '"""Tests of it are left out."""',
    "queue.py": '''
        """Queues for threads that talk."""
        from unknown import something
        from json import _load, D
        try:
            from _queue import Empty
        except ImportError:
            class Empty(Exception):
                """Raised when there is nothing."""

        class Full(Empty, D):
            """Raised when there is no room."""

        async def put(item, *, json):
            """Put an item into it."""
            global count
            count = something(json.parse, item)
            _load()
        ''',
    "site-packages/requests.py": '"""Is not of the standard library."""',
    "test/test_json.py": '"""Tests are no documented module."""',
    "unlisted.py": '"""No chapter documents this module."""',
    "string.py": '"""Does not parse, in the least."""\ndef (',
    "struct.py": b'"""Does not decode: caf\xe9, in the least."""',
}

EDGES = {
    "contains": {
        "json json.parse",
        "json json.decoder.Base",  # the module json.decoder has too short a docstring
        "json json.decoder.Decoder",
        "json json.decoder.helper",
        "json json.decoder.load",
        "json json.tool",
        "json.decoder.Base json.decoder.Base.scan",
        "json.decoder.Decoder json.decoder.Decoder.decode",
        "json.decoder.Decoder json.decoder.Decoder.state",
        "json.decoder.Decoder.decode json.decoder.Decoder.decode.inner",
        "json.tool json.tool.run",
        "json.tool json.tool._private",
        "queue queue.Empty",
        "queue queue.Full",
        "queue queue.put",
    },
    "inherits": {
        "json.decoder.Base json.decoder.Decoder",
        "queue.Empty queue.Full",
        "json.decoder.Decoder queue.Full",  # by way of the name that json gives it
    },
    "imports": {
        "json queue",  # by json.short and json.decoder
        "json.decoder.load queue",  # json._load
        "json.decoder.Decoder queue",  # json.D
    },
    "refers to": {
        "json.decoder.Decoder json.parse",  # D
        "json.parse json.tool.run",  # by way of the star
        "json queue.put",  # by json.short, which is no node
        "json.decoder.Base.scan json.decoder.Decoder.decode.inner",  # self.scan, inherited
        "json.decoder.Decoder.decode.inner json.decoder.helper",
        "json.decoder.Decoder queue.Empty",  # by Decoder.fail, which is no node
        "json.decoder.Decoder.state json.tool.run",
        "json.tool._private json.tool.run",
        "json.decoder.load queue.put",
    },
}


@pytest.fixture
def library(tmp_path: Path) -> Path:
    folder = tmp_path / "python3"
    for name, source in SOURCES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(source if isinstance(source, bytes) else dedent(source).encode())
    return folder


@pytest.fixture(scope="module")
def real() -> TextAttributedGraph:
    return StdlibDocs(StdlibDocsConfig(name="stdlib_docs", text_encoder={"name": "any"})).build()


def dataset(library: Path, min_words: int = 4) -> StdlibDocs:
    return StdlibDocs(StdlibDocsConfig(name="stdlib_docs", text_encoder={"name": "any"}, library=str(library), min_words=min_words))


def edges(graph: TextAttributedGraph) -> set[str]:
    ids = graph.ids.to_pylist()
    return {f"{ids[i]} {ids[j]}" for i in range(graph.num_nodes) for j in graph.neighbors(i).tolist() if i < j}


def test_nodes_of_a_small_library(library: Path) -> None:
    graph = build_stdlib(library)
    ids = graph.ids.to_pylist()
    assert ids == sorted({end for pairs in EDGES.values() for pair in pairs for end in pair.split()})
    assert graph.class_names == ("Concurrent Execution", "Internet Data Handling")
    assert graph.y.tolist() == [0 if name.startswith("queue") else 1 for name in ids]
    assert graph.title(ids.index("json.tool")) == "json.tool"
    assert graph.title(ids.index("json.decoder.Base.scan")) == "scan"
    assert graph.body(ids.index("json.parse")) == "Turn a text into objects.\n\n    Indented by four.\nAnd no more."
    assert graph.body(ids.index("json.decoder.Decoder.state")) == "How far it has come."


def test_edges_of_a_small_library(library: Path) -> None:
    graph = build_stdlib(library)
    assert edges(graph) == set().union(*EDGES.values())
    assert graph.card["edges_of_kind"] == {kind: len(pairs) for kind, pairs in EDGES.items()}


def test_card_of_a_small_library(library: Path) -> None:
    card = build_stdlib(library).card
    assert card["name"] == "stdlib_docs"
    assert card["library"] == "python3"
    assert card["files"] == 4
    assert card["files_skipped"] == ["string.py", "struct.py"]
    assert card["modules_left_out"] == ["unlisted"]
    assert card["nodes_of_kind"] == {"module": 3, "class": 4, "function": 10}


def test_min_words(library: Path) -> None:
    ids = dataset(library, min_words=2).build().ids.to_pylist()
    assert "json.short" in ids and "json.decoder" not in ids
    assert "json.decoder" in dataset(library, min_words=1).build().ids.to_pylist()


def test_definitions_that_mean_each_other_come_to_an_end(tmp_path: Path) -> None:
    (tmp_path / "code.py").write_text('from codeop import a\nfrom codeop import *\nclass A(A): "One two three four."\na, b, A.c')
    (tmp_path / "codeop.py").write_text('from code import a\nfrom code import *\nclass B(code.B): "One two three four."\na, b\nB.c')
    assert build_stdlib(tmp_path).ids.to_pylist() == ["code.A", "codeop.B"]


def test_same_graph_whatever_the_hash_seed_and_the_place(library: Path, tmp_path: Path) -> None:
    program = "import sys, pathlib, graphgpt.datasets.stdlib_docs as m; print(m.build_stdlib(pathlib.Path(sys.argv[1])).fingerprint)"
    elsewhere = library.rename(tmp_path / "elsewhere")
    seen = {build_stdlib(elsewhere).fingerprint, build_stdlib(elsewhere).fingerprint}
    for seed in ("1", "2"):
        command = [sys.executable, "-c", program, str(elsewhere)]
        done = subprocess.run(command, env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True)
        seen.add(done.stdout.strip())
    assert len(seen) == 1


def test_fingerprint_follows_sources_and_config_not_place(library: Path, tmp_path: Path) -> None:
    before = dataset(library).fingerprint()
    moved = library.rename(tmp_path / "moved")
    assert dataset(moved).fingerprint() == before
    assert dataset(moved, min_words=5).fingerprint() != before
    (moved / "unlisted.py").write_text("")
    assert dataset(moved).fingerprint() == before
    (moved / "queue.py").write_text("")
    assert dataset(moved).fingerprint() != before


def test_missing_library(tmp_path: Path) -> None:
    assert StdlibDocs.problems(dataset(tmp_path).config) == []
    assert StdlibDocs.problems(dataset(tmp_path / "no").config) == [
        f"dataset.library={tmp_path / 'no'} is not a folder: name the folder of a standard library that holds os.py."
    ]


def test_refuses_a_library_without_sources(tmp_path: Path) -> None:
    (tmp_path / "python311.zip").touch()
    with pytest.raises(DataError, match=r"holds 0 source files of the Python standard library .*: set dataset\.library to a folder"):
        dataset(tmp_path).build()


def test_is_registered() -> None:
    assert DATASETS.get("stdlib_docs") is StdlibDocs


def test_every_module_has_one_chapter() -> None:
    modules = " ".join(CHAPTERS.values()).split()
    assert len(modules) == len(set(modules))


def test_real_library(real: TextAttributedGraph) -> None:
    assert real.num_nodes > 5000
    assert real.num_edges > 2 * real.num_nodes
    assert real.homophily() > 0.7
    assert len(real.class_names) > 20
    assert list(real.class_names) == [chapter for chapter in CHAPTERS if chapter in real.class_names]
    assert sorted(set(real.y.tolist())) == list(range(len(real.class_names)))
    assert real.card["files_skipped"] == []


def test_real_library_holds_nothing_else(real: TextAttributedGraph) -> None:
    ids = real.ids.to_pylist()
    assert len(set(ids)) == len(ids)
    assert not {"numpy", "pip", "pytest", "test", "idlelib"} & {name.partition(".")[0] for name in ids}
    assert all("-packages" not in name and ".tests." not in name for name in ids)
    assert all(len(body.split()) >= 4 for body in real.bodies.to_pylist())


def test_real_library_knows_its_own(real: TextAttributedGraph) -> None:
    chapter = {name: real.class_names[y] for name, y in zip(real.ids.to_pylist(), real.y.tolist(), strict=True)}
    assert chapter["json.dumps"] == "Internet Data Handling"
    assert chapter["textwrap.TextWrapper.fill"] == "Text Processing Services"
    assert chapter["collections.OrderedDict"] == "Data Types"
    found = edges(real)
    assert {"json json.dumps", "json.dumps json.encoder.JSONEncoder", "collections.Counter collections.Counter.most_common"} <= found
