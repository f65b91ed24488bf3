"""Inputs made wrong at random: each is refused in a sentence, or taken for what it says.

A minute's worth of the same examples in every run. ``GRAPHGPT_FUZZ_MINUTES=60 python -m pytest -s tests/test_fuzz.py`` goes on for so
long with new ones, past what it finds, and prints what it counted.
"""

import csv
import io
import json
import logging
import os
import random
import shutil
import time
import traceback
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from damage import GONE, Trained, deep, edited, rewritten
from helpers import csv_overrides, make_graph
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from released_files import RECORDS, open_graphs, write_records

from graphgpt.checkpoints.folder import read_manifest
from graphgpt.command_line import check_command_line
from graphgpt.config import ExperimentConfig
from graphgpt.datasets.csv_files import NO_TEXT, CsvConfig, CsvFiles
from graphgpt.datasets.graphgpt_json import open_records
from graphgpt.errors import GraphGPTError
from graphgpt.graphs.graph import TextAttributedGraph
from graphgpt.graphs.inspection import check
from graphgpt.graphs.labels import NO_LABEL
from graphgpt.graphs.subgraph import sample_subgraph
from graphgpt.schema import flat

MINUTES = float(os.environ.get("GRAPHGPT_FUZZ_MINUTES", "0"))

#: What somebody, or some program, may have left in a text.
SCRAPS = [
    *(
        "\x00",
        "\ufeff",
        "\u202e",
        "é",
        "e\u0301",
        "引用",
        "😀",
        '"',
        "'",
        ",",
        ";",
        "\t",
        "\n",
        "\r",
        " ",
        "  ",
        "{",
        "}",
        "[",
        "]",
        "(",
        ")",
    ),
    *(
        "${x}",
        "${oc.env:HOME}",
        "~",
        "\\",
        "=",
        ":",
        ": ",
        "#",
        " #",
        "&a ",
        "*a",
        "!!python/object:os.system ",
        "%",
        "@",
        "|",
        "- ",
        "---\n",
        "<<",
    ),
    *("<graph>", "null", "None", "nan", "-1", "1.0", "1e999", "0x10", "1_000", "true", "yes", "..", "/", "a" * 300, "9" * 40),
]
#: What may stand in place of a value.
VALUES: list[Any] = [
    None,
    True,
    False,
    -1,
    0,
    3,
    1.5,
    10**30,
    1e308,
    float("nan"),
    "",
    "x",
    "é",
    "../x",
    "a" * 5000,
    [],
    {},
    [1],
    ["x"],
    {"x": 1},
    deep(90),
]


class Wrong(AssertionError):
    """Something was taken for what it is not."""


def damaged_text(chance: random.Random, text: str) -> str:
    """One piece inserted, left out, doubled or replaced; or the end missing."""
    start = chance.randint(0, len(text))
    end = min(len(text), start + chance.choice((1, 1, 1, 3, 20)))
    way, scrap = chance.randrange(5), chance.choice(SCRAPS)
    middle = (scrap + text[start:end], "", text[start:end] * 2, scrap, None)[way]
    return text[:start] if middle is None else text[:start] + middle + text[end:]


def damaged_bytes(chance: random.Random, data: bytes) -> bytes:
    """As a text, or with one bit in place of another."""
    if chance.random() < 0.5 or not data:
        return damaged_text(chance, data.decode("latin-1")).encode("latin-1", "replace")
    place = chance.randrange(len(data))
    return data[:place] + bytes([data[place] ^ (1 << chance.randrange(8))]) + data[place + 1 :]


def places(value: Any) -> Iterator[tuple[Any, ...]]:
    """Paths to all values of a record."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (key,)
        yield from ((key, *rest) for rest in places(item))


def damaged_record(chance: random.Random, value: Any) -> Any:
    """A value gone, another in its place, called otherwise, doubled, or one of its letters changed."""
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        if not (found := list(places(value))):
            break
        place = chance.choice(found)
        old: Any = value
        for key in place:
            old = old[key]
        new = chance.choice(
            [GONE, chance.choice(VALUES), [old], {"x": old}, damaged_text(chance, old) if isinstance(old, str) else str(old)]
        )
        value = edited(value, place, new)
    return value


class Kind:
    """What is damaged, and how it is told whether that was taken for what it says."""

    #: Examples in a run of all tests.
    examples = 40

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def attempt(self, chance: random.Random) -> bool:
        """Whether a damaged input is taken.

        Raises:
            Wrong: it is, for something else.
            Exception: any other than a refusal.
        """
        try:
            self.read(chance)
        except GraphGPTError as error:
            lines = str(error).strip().splitlines()
            if not lines or max(map(len, lines)) > 1500 or "Traceback" in str(error):
                raise Wrong(f"this is no sentence: {error}") from error
            return False
        return True

    def read(self, chance: random.Random) -> None:
        """Damage one and read it."""
        raise NotImplementedError


class Checkpoints(Kind):
    """Records of a checkpoint, read by every verb that reads any."""

    examples = 25

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.trained = Trained(folder)
        (folder / "damaged").mkdir()

    def read(self, chance: random.Random) -> None:
        name = chance.choice(["manifest.json", "history.json", "scores.json", "tower.json", "config.yaml", "projector.safetensors"])
        whole = (self.trained.checkpoint / name).read_bytes()
        if name.endswith(".safetensors") or chance.random() < 0.3:
            content = damaged_bytes(chance, whole)
        else:
            content = json.dumps(damaged_record(chance, yaml.safe_load(whole))).encode()
        run = rewritten(self.trained, self.folder / "damaged", name, content)
        refused: GraphGPTError | None = None
        some = [*self.trained.verbs(run), *(self.trained.command_lines(run) if chance.random() < 0.1 else ())]
        for verb in some:
            try:
                verb()
            except GraphGPTError as error:
                refused = error
        if refused:
            raise refused
        if name == "manifest.json" and read_manifest(run / "checkpoint") != json.loads(content):
            raise Wrong("another manifest was read than stands there")


def taken_for(typed: str, value: Any) -> bool:
    """Whether a value is what was typed, as far as that is plain."""
    typed = typed.strip()
    if value is None or isinstance(value, bool):
        return (
            typed.lower() in {None: ("null", "none", "~", ""), True: ("true", "yes", "on", "y"), False: ("false", "no", "off", "n")}[value]
        )
    if isinstance(value, int | float):
        try:
            return float(typed.replace("_", "")) == value
        except ValueError:
            return False
    if any(sign in typed for sign in "\\$'\"[]{}()#,") or not isinstance(value, str):
        return True  # a grammar of its own; its tests are elsewhere
    return value.strip() in (typed, typed.replace("~", str(Path.home()), 1)) or value.endswith(typed.lstrip("./"))


class CommandLines(Kind):
    """Settings as somebody types them."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.words = [
            *csv_overrides(folder),
            *("task=node_classification", "model/tower=gcn", "model.tower.layers=2", "runner.max_steps=5", "runner.lr.projector=0.1"),
            *(
                "seed=3",
                "dataset.domain=citation",
                "runner.val_every=2",
                "runner.checkpoint.monitor=val/loss",
                "name=abc",
                "dataset.split.seed=4",
            ),
        ]

    def read(self, chance: random.Random) -> None:
        words = [*self.words]
        changed = []
        for _ in range(chance.choice((1, 1, 2))):
            place = chance.randrange(len(words))
            key, _, value = words[place].partition("=")
            other = chance.choice(self.words).partition("=")
            way = chance.randrange(6)
            if way == 0:
                key = damaged_text(chance, key)
            elif way == 1:
                value = chance.choice(SCRAPS)
            elif way == 2:
                key = other[0]
            elif way == 3:
                value = other[2]
            else:
                value = damaged_text(chance, value)
            words[place] = f"{key}={value}"
            changed.append((key, value))
        config = check_command_line(ExperimentConfig, "train", words)
        for key, value in changed:
            found = attribute(config, key)
            last = [word for word in words if word.startswith(f"{key}=")][-1]
            if found is not GONE and last == f"{key}={value}" and not taken_for(value, found):
                raise Wrong(f"{last!r} was taken for {found!r}")


def attribute(config: Any, key: str) -> Any:
    """The value of a key such as ``runner.max_steps``; ``GONE`` where it is a choice, or none."""
    for part in key.split("."):
        config = config.get(part, GONE) if isinstance(config, dict) else getattr(config, part, GONE)
    return config if isinstance(config, str | int | float | None) else GONE


class OwnFiles(Kind):
    """An experiment file of the user's own."""

    examples = 30
    text = """\
# What I try.
name: mine
defaults:
  - override /task: node_classification
  - override /model/tower: gcn
seed: 3
model:
  tower: {layers: 2}
runner:
  max_steps: 5
  lr:
    projector: 0.1
dataset:
  domain: citation
  sampler: {fanout: 4}
"""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.words = csv_overrides(folder)
        self.file = Path.cwd() / "graphgpt_configs" / "experiment" / "mine.yaml"
        self.file.parent.mkdir(parents=True)

    def read(self, chance: random.Random) -> None:
        content = damaged_bytes(chance, self.text.encode())
        self.file.write_bytes(content)
        config = check_command_line(ExperimentConfig, "train", [*self.words, "experiment=mine"])
        stands: Any = yaml.safe_load(content.decode("utf-8-sig"))
        for key, value in flat({name: part for name, part in (stands or {}).items() if name != "defaults"}).items():
            found = attribute(config, key)
            if found is not GONE and found != value and not taken_for(str(value), found):
                raise Wrong(f"{key}: {value!r} was taken for {found!r}")


class Tables(Kind):
    """Nodes and edges as spreadsheets and scripts write them."""

    def read(self, chance: random.Random) -> None:
        count = chance.randint(2, 7)
        cells = ["A", "B", "A", "1", "1.0", "One title", "a text, with a comma", 'said "so"', *SCRAPS]
        nodes = [{"id": f"n{i}", "title": f"Title {i}", "body": f"Body {i}", "label": "AB"[i % 2]} for i in range(count)]
        edges = [{"source": f"n{i}", "target": f"n{(i + 1) % count}"} for i in range(count)]
        for row, column in ((chance.choice(nodes), chance.choice(["id", "title", "body", "label"])) for _ in range(chance.randint(0, 3))):
            row[column] = chance.choice(cells)
        if chance.random() < 0.2:
            chance.choice(edges)["source"] = chance.choice(cells)
        form = {"delimiter": chance.choice(",,,;\t|"), "quoting": chance.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])}
        damage = chance.random() < 0.5
        for name, rows in (("nodes", nodes), ("edges", edges)):
            text = io.StringIO()
            writer = csv.DictWriter(text, list(rows[0]), lineterminator=chance.choice(["\n", "\r\n"]), **form)  # type: ignore[arg-type]
            writer.writeheader()
            writer.writerows(rows)
            content = text.getvalue().encode(chance.choice(["utf-8", "utf-8-sig"]))
            (self.folder / f"{name}.csv").write_bytes(damaged_bytes(chance, content) if damage and name == "nodes" else content)
        paths = {name: str(self.folder / f"{name}.csv") for name in ("nodes", "edges")}
        graph = CsvFiles(CsvConfig(name="csv", text_encoder={"name": "any"}, **paths)).build()
        check_neighbours(graph)
        if not damage:
            self.compare(graph, nodes, edges)

    def compare(self, graph: TextAttributedGraph, nodes: list[dict[str, str]], edges: list[dict[str, str]]) -> None:
        """What was written against what was read."""
        names = (*graph.class_names, "")
        said = " ".join(graph.card["notes"])
        if graph.ids.to_pylist() != [row["id"].strip() for row in nodes]:
            raise Wrong(f"other ids: {graph.ids.to_pylist()}")
        for i, row in enumerate(nodes):
            title, body, label = ("" if row[name].strip() in NO_TEXT else row[name].strip() for name in ("title", "body", "label"))
            for what, wanted, found in (("title", title or body, graph.title(i)), ("body", body, graph.body(i))):
                if wanted and found.split() != wanted.split():
                    raise Wrong(f"{what} {found!r}, but {wanted!r} was written")
            label = "" if label.casefold() in NO_LABEL else unicodedata.normalize("NFC", label)
            if unicodedata.normalize("NFC", names[graph.y[i]]) != label and repr(label)[1:-1] not in said:
                raise Wrong(f"label {names[graph.y[i]]!r}, but {label!r} was written, and nothing was said ({said})")
        pairs = {frozenset((row["source"].strip(), row["target"].strip())) for row in edges}
        ids = graph.ids.to_pylist()
        if {frozenset((ids[i], ids[j])) for i in range(len(ids)) for j in graph.neighbors(i).tolist()} != {
            one for one in pairs if len(one) > 1
        }:
            raise Wrong("other edges")


def check_neighbours(graph: TextAttributedGraph) -> None:
    """Read of a graph what training reads."""
    for node in range(graph.num_nodes):
        graph.title(node), graph.body(node)
        sample_subgraph(graph, node, hops=2, fanout=3, seed=0)


class GraphFolders(Kind):
    """What ``graphgpt data build`` wrote, changed since."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        make_graph().save(folder / "sound")

    def read(self, chance: random.Random) -> None:
        graph = self.folder / "graph"
        shutil.rmtree(graph, ignore_errors=True)
        shutil.copytree(self.folder / "sound", graph)
        file = chance.choice(sorted(graph.iterdir()))
        content = file.read_bytes()
        if file.suffix == ".json" and chance.random() < 0.7:
            file.write_text(json.dumps(damaged_record(chance, json.loads(content))))
        else:
            file.write_bytes(damaged_bytes(chance, content))
        for _ in check(graph):
            pass
        check_neighbours(TextAttributedGraph.open(graph))


class Conversations(Kind):
    """Instruction files."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.graphs = open_graphs(folder)

    def read(self, chance: random.Random) -> None:
        records: Any = json.loads(json.dumps(RECORDS))
        if chance.random() < 0.7:
            records = damaged_record(chance, records)
            file = write_records(self.folder, json.dumps(records))
        else:
            text = json.dumps(records, ensure_ascii=chance.random() < 0.5, indent=chance.choice([None, 2]))
            content = damaged_bytes(chance, text.encode())
            file = write_records(self.folder, content)
            records = json.loads(content) if is_json(content) else None
        way: Any = chance.choice(["raise", "raise", "skip"])
        read = open_records(file, self.graphs, way)
        found = [read[i] for i in range(len(read))]
        if way == "raise" and records is None:
            raise Wrong("what is no JSON was read")
        if way == "raise" and [one.id for one in found] != [str(record["id"]) for record in records]:
            raise Wrong(f"other records: {[one.id for one in found]}")


def is_json(content: bytes) -> bool:
    try:
        json.loads(content)
    except (ValueError, RecursionError):
        return False
    return True


KINDS: dict[str, Callable[[Path], Kind]] = {
    kind.__name__: kind for kind in (Checkpoints, CommandLines, OwnFiles, Tables, GraphFolders, Conversations)
}


@pytest.mark.parametrize("name", KINDS)
def test_what_is_damaged_is_refused_or_means_what_it_says(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    kind = KINDS[name](tmp_path)
    counts: Counter[bool] = Counter()

    @given(st.randoms(use_true_random=False))
    @settings(max_examples=kind.examples, suppress_health_check=list(HealthCheck))
    def try_one(chance: random.Random) -> None:
        counts[kind.attempt(chance)] += 1

    try_one()
    assert counts[False] and counts[True], "all or nothing was refused: is it damaged at all, or nothing else?"


@pytest.mark.skipif(not MINUTES, reason="GRAPHGPT_FUZZ_MINUTES says for how long")
def test_for_as_long_as_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(logging.root.manager, "disable", logging.WARNING)  # a million lines
    kinds = {}
    for name, kind in KINDS.items():
        (tmp_path / name).mkdir()
        kinds[name] = kind(tmp_path / name)
    counts = {name: Counter[str]() for name in kinds}
    failures: dict[str, str] = {}
    began = said = time.monotonic()
    while time.monotonic() - began < 60 * MINUTES:
        for name, kind in kinds.items():
            until = time.monotonic() + 2
            while time.monotonic() < until:
                seed = random.SystemRandom().randrange(2**32)
                try:
                    outcome = "taken" if kind.attempt(random.Random(seed)) else "refused"
                except Exception as error:
                    outcome = "failed"
                    last = [frame for frame in traceback.extract_tb(error.__traceback__) if "site-packages" not in frame.filename][-1]
                    where = f"{name}: {type(error).__name__} in {Path(last.filename).name}:{last.lineno}"
                    if where not in failures:
                        failures[where] = f"random.Random({seed}): {str(error)[:600]}"
                        print(f"\n{where}\n  {failures[where]}", flush=True)
                counts[name][outcome] += 1
        if time.monotonic() - said > 60:
            said = time.monotonic()
            print(f"\n{(said - began) / 60:.0f} min: { ({name: dict(count) for name, count in counts.items()}) }", flush=True)
    print(f"\n{ ({name: dict(count) for name, count in counts.items()}) }")
    assert not failures, "\n".join(f"{where}: {what}" for where, what in failures.items())
