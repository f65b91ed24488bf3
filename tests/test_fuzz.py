"""Inputs made wrong at random: each is refused in a sentence, or taken for what it says.

Less than a minute's worth, the same examples in every run. ``GRAPHGPT_FUZZ_MINUTES=60 python -m pytest -s tests/test_fuzz.py`` goes on for
so long with new ones, past what it finds, and prints what it counted.
"""

import csv
import io
import itertools
import json
import logging
import os
import random
import re
import shutil
import time
import traceback
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

from graphgpt.checkpoints.folder import read_history, read_manifest
from graphgpt.config.command_line import check_command_line
from graphgpt.config.experiment import EvaluationConfig, ExperimentConfig, evaluated_experiment
from graphgpt.config.grammar import quoted
from graphgpt.datasets.csv_files import NO_TEXT, CsvConfig, CsvFiles
from graphgpt.datasets.graphgpt_json import ALIASES, ROLES, open_records
from graphgpt.errors import GraphGPTError
from graphgpt.files.atomic import cache_dir
from graphgpt.graphs.graph import TextAttributedGraph
from graphgpt.graphs.inspection import check
from graphgpt.graphs.subgraph import sample_subgraph
from graphgpt.launch.outermost import refused_by_the_system
from graphgpt.schema import SPLITS, flat

MINUTES = float(os.environ.get("GRAPHGPT_FUZZ_MINUTES", "0"))

#: What somebody, or some program, may have left in a text.
SCRAPS = [
    *("\x00", "\x1b[31m", "\x85", "\u2028", "\ufeff", "\u202e", "\u00a0", "e\u0301", "\t", "\n", "\r", "\r\n", " ", "  "),
    *"é引😀\"',;{}[]()~\\=:#&*%@|-/<>!$?^`½٣",
    *(": ", " #", "# ", "&a ", "*a", "- ", "---\n", "<<: ", "${x}", "${oc.env:HOME}", "!!python/object:os.system ", "[/bold]", "%s {0}"),
    *("null", "None", "none", "nan", "NaN", "inf", "-inf", "N/A", "true", "True", "yes", "on", "off", "2026-01-01"),
    *("-1", "-0", "007", "010", "1.", ".5", "1.0", "1e3", "1e999", "0x10", "0o17", "1_000", "1:30", "<graph>", "..", "../x", "~/x"),
    *("a" * 300, "9" * 40, "é" * 90, "f(1,2)", "a,b", "[a, b]", "{a: 1}", "'a'", '"a"'),
]
#: What may stand in place of a value.
VALUES: list[Any] = [
    *(None, True, False, -1, 0, 1, 3, 1.0, 1.5, 2**31, 10**30, 1e308, float("nan"), float("inf")),
    *("", " ", "x", "é", "../x", "/", "a" * 5000, "\ud800", [], {}, [1], ["x"], [None], {"x": 1}, {"name": "x"}, deep(90)),
]


class Wrong(AssertionError):
    """Something was taken for what it is not."""


# Ways to damage


def damaged_text(chance: random.Random, text: str) -> str:
    """One piece inserted, left out, doubled or replaced; or the end missing."""
    start = chance.randint(0, len(text))
    end = min(len(text), start + chance.choice((1, 1, 1, 3, 20)))
    way, scrap = chance.randrange(5), chance.choice(SCRAPS)
    middle = (scrap + text[start:end], "", text[start:end] * 2, scrap, None)[way]
    return text[:start] if middle is None else text[:start] + middle + text[end:]


def damaged_bytes(chance: random.Random, data: bytes) -> bytes:
    """As a text, in another encoding, or with one bit in place of another."""
    way = chance.randrange(8)
    if way == 0:
        return data.decode(errors="replace").encode(chance.choice(["utf-8-sig", "utf-16", "utf-16-le", "latin-1"]), "replace")
    if way < 5 or not data:
        encoding = "utf-8" if b"\x00" not in data and chance.random() < 0.8 else "latin-1"
        return damaged_text(chance, data.decode(encoding)).encode(encoding, "replace")
    place = chance.randrange(len(data))
    return data[:place] + bytes([data[place] ^ (1 << chance.randrange(8))]) + data[place + 1 :]


def places(value: Any) -> Iterator[tuple[Any, ...]]:
    """Paths to all values of a record."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (key,)
        yield from ((key, *rest) for rest in places(item))


def at(value: Any, place: tuple[Any, ...]) -> Any:
    for key in place:
        value = value[key]
    return value


def damaged_record(chance: random.Random, value: Any, values: list[Any] = VALUES) -> Any:
    """A value gone, another in its place, called otherwise, doubled, or one of its letters changed."""
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        if not (found := list(places(value))):
            break
        place = chance.choice(found)
        parent, old, way = at(value, place[:-1]), at(value, place), chance.randrange(7)
        if way == 0 and isinstance(parent, dict):  # called otherwise, in its place
            name = damaged_text(chance, str(place[-1]))
            new: Any = {name if key == place[-1] else key: item for key, item in parent.items()}
            value = edited(value, place[:-1], new) if place[:-1] else new
            continue
        if way == 1 and isinstance(parent, list):
            new = [*parent[: place[-1]], old, *parent[place[-1] :]]
            value = edited(value, place[:-1], new) if place[:-1] else new
            continue
        other = at(value, chance.choice(found))
        choices = [GONE, chance.choice(values), chance.choice(values), [old], {"x": old}, other]
        new = chance.choice([*choices, damaged_text(chance, old) if isinstance(old, str) else str(old)])
        value = edited(value, place, new)
    return value


# What is damaged


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
            check_sentence(str(error))
            return False
        except OSError as error:
            check_sentence(refused_by_the_system(error) or "")
            return False
        return True

    def read(self, chance: random.Random) -> None:
        """Damage one and read it."""
        raise NotImplementedError


def check_sentence(text: str) -> None:
    """That a refusal is words, not too many, and fit for a terminal."""
    lines = text.strip().splitlines()
    if not lines or len(lines) > 20 or max(map(len, lines)) > 1500 or re.search(r"Traceback|object at 0x", text):
        raise Wrong(f"this is no sentence: {text!r}")


class Checkpoints(Kind):
    """Records of a checkpoint, read by every verb that reads any."""

    examples = 25
    names = (
        *("manifest.json", "history.json", "scores.json", "graph/tower.json", "config.yaml", "metrics.jsonl"),
        *("graph/projector.safetensors", "trained.parquet"),
    )

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.trained = Trained(folder)
        (folder / "damaged").mkdir()

    def read(self, chance: random.Random) -> None:
        name = chance.choice(self.names)
        whole = next(file for file in (self.trained.checkpoint / name, self.trained.run / name) if file.is_file()).read_bytes()
        written = None
        if name == "metrics.jsonl" and chance.random() < 0.5:
            lines = damaged_record(chance, [json.loads(line) for line in whole.splitlines()])
            content = "".join(f"{json.dumps(line)}\n" for line in lines).encode()
        elif not name.endswith((".json", ".yaml")) or chance.random() < 0.3:
            content = damaged_bytes(chance, whole)
        else:
            content = json.dumps(damaged_record(chance, yaml.safe_load(whole))).encode()
            written = (yaml.safe_load if name.endswith(".yaml") else json.loads)(content)
        run = rewritten(self.trained, self.folder / "damaged", name, content)
        refused: GraphGPTError | None = None
        some = [*self.trained.verbs(run), *(self.trained.command_lines(run) if chance.random() < 0.1 else ())]
        for verb in some:
            try:
                verb()
            except GraphGPTError as error:
                refused = error
                check_sentence(str(error))
        if refused:
            raise refused
        folder = run / "checkpoint"
        found: dict[str, Callable[[], Any]] = {"manifest.json": lambda: read_manifest(folder), "history.json": lambda: read_history(folder)}
        if name in found and written is not None and nan_as_text(found[name]()) != nan_as_text(written):
            raise Wrong(f"another {name} was read than stands there")
        if name == "config.yaml" and written is not None:
            evaluation = check_command_line(EvaluationConfig, "evaluate", [f"checkpoint={folder}"])
            compare(written, evaluated_experiment(evaluation), {"start_from", "resume", "model.tower.init_from", "model.tower.weights"})


def nan_as_text(value: Any) -> Any:
    """A record of JSON which is equal to itself."""
    return json.loads(json.dumps(value), parse_constant=str)


def compare(written: Any, config: Any, but: set[str] = frozenset()) -> None:  # type: ignore[assignment]
    """That a configuration says what was written."""
    for key, value in flat(written).items():
        found = attribute(config, key)
        if key not in but and found is not GONE and found != value and not taken_for(str(value), found):
            raise Wrong(f"{key}: {value!r} was taken for {found!r}")


def attribute(config: Any, key: str) -> Any:
    """The value of a key such as ``runner.max_steps``; ``GONE`` where it is a choice, or none."""
    for part in key.split("."):
        config = config.get(part, GONE) if isinstance(config, dict) else getattr(config, part, GONE)
    return GONE if isinstance(config, dict) or hasattr(config, "__dataclass_fields__") else config


#: Words for what is no text.
WORDS = {
    None: ("null", "none", "~", ""),
    True: ("true", "yes", "on", "y", "t", "1", "1.", "1.0"),
    False: ("false", "no", "off", "n", "f", "0", "-0", "0.", "0.0"),
}


def taken_for(typed: str, value: Any) -> bool:
    """Whether a value is what was typed."""
    typed = typed.strip()
    if value is None or isinstance(value, bool):
        return typed.lower() in WORDS[value]
    if isinstance(value, list | tuple):
        parts = typed.strip("[] ").split(",") if typed.strip("[] ") else []
        if len(parts) == len(value) and not re.search(r"""['"\\[{(]""", typed[1:]):
            return all(taken_for(part, one) for part, one in zip(parts, value, strict=True))
        return True
    if isinstance(value, int | float):
        try:
            return (int(typed, 0) if "0x" in typed or "0b" in typed else float(typed)) == value
        except ValueError:
            return False
    # Quotes, brackets, functions and references are what they are for.
    if re.match(r"""[\[{'"]|\w+\(""", typed) or re.search(r"\$\{|\\|,", typed):
        return True
    return value.strip() in (typed, os.path.expanduser(typed))  # noqa: PTH111


#: What somebody sets, as it is typed.
SETTINGS = {
    "name": "abc",
    "seed": "3",
    "dataset.domain": "citation",
    "dataset.node": "paper",
    "dataset.classes": "[A, B]",
    "dataset.sampler.fanout": "4",
    "dataset.split.seed": "4",
    "model.tower.layers": "2",
    "runner.max_steps": "5",
    "runner.lr.projector": "0.1",
    "runner.val_every": "2",
    "runner.checkpoint.monitor": "val/loss",
    "test": "true",
}


#: The same for an evaluation.
OF_EVALUATIONS = {
    "name": "abc",
    "seed": "3",
    "seeds": "2",
    "split": "val",
    "limit": "5",
    "devices": "1",
    "shard": "2/4",
    "batch_size": "2",
    "ablation": "[no_graph, zeroed]",
    "baselines": "[majority]",
    "leakage": "off",
    "bootstrap": "10",
    "generate": "true",
    "dataset.domain": "citation",
    "dataset.sampler.fanout": "3",
    "task.wording": "1",
    "threads": "1",
    "accelerator": "cpu",
}


def damaged_settings(chance: random.Random, settings: dict[str, str] = SETTINGS) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Settings of which one or two are damaged, and those."""
    found, changed = [*settings.items()], []
    for _ in range(chance.choice((1, 1, 2))):
        place = chance.randrange(len(found))
        key, value = found[place]
        other = chance.choice([*settings.items()])
        ways = [(damaged_text(chance, key), value), (other[0], value), (key, other[1]), (key, ""), (key + chance.choice(SCRAPS), value)]
        values = [(key, chance.choice(SCRAPS)), (key, damaged_text(chance, value)), (key, value + chance.choice(SCRAPS))]
        found[place] = chance.choice([*ways, *values * 3])
        changed.append(found[place])
    return found, changed


class CommandLines(Kind):
    """Settings as somebody types them."""

    program, schema, settings = "train", ExperimentConfig, SETTINGS

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.words = [*csv_overrides(folder), "task=node_classification", "model/tower=gcn"]

    def read(self, chance: random.Random) -> None:
        found, changed = damaged_settings(chance, self.settings)
        quotes = chance.random() < 0.3
        typed = [f"{key}={quoted(value) if quotes and (key, value) in changed else value}" for key, value in found]
        if chance.random() < 0.1:
            typed[chance.randrange(len(typed))] = chance.choice(["+", "++", "~", "-", "@", ""]) + chance.choice(typed)
        config: Any = check_command_line(self.schema, self.program, [*self.words, *typed])
        last = dict(found)
        for key, value in changed:
            read = attribute(config, key)
            if read is GONE or last.get(key) != value or "${" in value or any(word[:1] in "+~-@" for word in typed):
                continue
            if read != value if quotes and isinstance(read, str) and not value.startswith("~") else not taken_for(value, read):
                raise Wrong(f"{key}={value!r} was taken for {read!r}")


class Evaluations(CommandLines):
    """The same of an evaluation."""

    examples = 20
    program, schema, settings = "evaluate", EvaluationConfig, OF_EVALUATIONS

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.words = [f"checkpoint={Trained(folder).run}"]


class OwnFiles(Kind):
    """An experiment file of the user's own."""

    examples = 30
    choices = "# What I try.\ndefaults:\n  - override /task: node_classification\n  - override /model/tower: gcn\n"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.words = csv_overrides(folder)
        self.file = Path.cwd() / "graphgpt_configs" / "experiment" / "mine.yaml"
        self.file.parent.mkdir(parents=True)

    def read(self, chance: random.Random) -> None:
        damage = chance.random()
        found, changed = damaged_settings(chance) if damage < 0.6 else ([*SETTINGS.items()], [])
        text = self.choices + in_yaml(dict(found))
        content = damaged_bytes(chance, text.encode()) if damage > 0.5 else text.encode()
        self.file.write_bytes(content)
        config = check_command_line(ExperimentConfig, "train", [*self.words, "experiment=mine"])
        stands: Any = yaml.safe_load(content.decode("utf-8-sig"))
        compare({name: part for name, part in (stands or {}).items() if name != "defaults"}, config)
        for key, value in changed if damage <= 0.5 else ():
            read = attribute(config, key)
            plain = re.fullmatch(r"[\w.+-][\w./+-]*", value)
            if plain and read is not GONE and dict(found).get(key) == value and not taken_for(value, read):
                raise Wrong(f"{key}: {value} was taken for {read!r}")


def in_yaml(typed: dict[str, str], indent: str = "") -> str:
    """Settings by dotted keys as nested mappings, the values as they are typed."""
    tops = list(dict.fromkeys(key.partition(".")[0] for key in typed))
    lines = []
    for top in tops:
        below = {key.partition(".")[2]: value for key, value in typed.items() if key.startswith(f"{top}.")}
        lines.append(f"{indent}{top}:\n{in_yaml(below, indent + '  ')}" if below else f"{indent}{top}: {typed[top]}\n")
    return "".join(lines)


class Tables(Kind):
    """Nodes and edges as spreadsheets and scripts write them."""

    examples = 200

    def read(self, chance: random.Random) -> None:
        count = chance.randint(2, 7)
        cells = ["A", "B", "a", "1", "1.0", "One title", "a text, with a comma", 'said "so"', "n1", "train", *SCRAPS]
        nodes = [{"id": f"n{i}", "title": f"Title {i}", "body": f"Body {i}", "label": "AB"[i % 2]} for i in range(count)]
        if chance.random() < 0.3:
            nodes = [node | {"split": SPLITS[i % 3]} for i, node in enumerate(nodes)]
        edges = [{"source": f"n{i}", "target": f"n{(i + 1) % count}"} for i in range(count)]
        for rows, most in ((nodes, 3), (edges, 1)):
            for _ in range(chance.randint(0, most)):
                chance.choice(rows)[chance.choice([*rows[0]])] = chance.choice(cells)
        form: dict[str, Any] = {"delimiter": chance.choice(",,,;\t|"), "quoting": chance.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])}
        damaged = chance.choice(["nodes", "edges", "", ""])
        tables = {}
        for name, rows in (("nodes", nodes), ("edges", edges)):
            text = io.StringIO()
            writer = csv.DictWriter(text, list(rows[0]), lineterminator=chance.choice(["\n", "\r\n", "\r"]), **form)
            writer.writeheader()
            writer.writerows(rows)
            content = text.getvalue().encode(chance.choice(["utf-8", "utf-8-sig"]))
            content = damaged_bytes(chance, content) if name == damaged else content
            (self.folder / f"{name}.csv").write_bytes(content)
            tables[name] = plain_table(content, form["delimiter"])
        paths = {name: str(self.folder / f"{name}.csv") for name in ("nodes", "edges")}
        options: Any = {
            "unknown_nodes": chance.choice(["raise", "raise", "skip"]),
            "normalize": chance.random() < 0.2,
            "classes": chance.choice([None, None, ["B", "A"]]),
        }
        graph = CsvFiles(CsvConfig(name="csv", text_encoder={"name": "any"}, **paths, **options)).build()
        use(graph)
        self.compare(graph, tables["nodes"], tables["edges"], options["unknown_nodes"] == "skip")

    def compare(
        self, graph: TextAttributedGraph, nodes: list[dict[str, str]] | None, edges: list[dict[str, str]] | None, skip: bool
    ) -> None:
        """What a plain reading finds against what was read."""
        if nodes is None or edges is None:
            return
        names, said, ids = (*graph.class_names, ""), " ".join(graph.card["notes"]), graph.ids.to_pylist()
        if ids != [row["id"].strip() for row in nodes]:
            raise Wrong(f"other ids: {ids}")
        for i, row in enumerate(nodes):
            title, body, label, split = (row.get(name, "") for name in ("title", "body", "label", "split"))
            title, body = ("" if text.strip() in NO_TEXT and "taken for no text" in said else text for text in (title, body))
            title = title.strip() or " ".join(body.split()[:8]) or f"node {ids[i]}"
            for what, wanted, found in (("title", title, graph.title(i)), ("body", body, graph.body(i))):
                if found != wanted:
                    raise Wrong(f"{what} {found!r}, but {wanted!r} was written")
            if names[graph.y[i]] != label.strip() and label.strip() and label.strip() not in said:
                raise Wrong(f"label {names[graph.y[i]]!r}, but {label!r} was written, and nothing was said ({said})")
            part = -1 if graph.split is None else int(graph.split[i])
            if ("", *SPLITS)[part + 1] != split.strip():
                raise Wrong(f"split {part}, but {split!r} was written")
        pairs = {frozenset((row["source"].strip(), row["target"].strip())) for row in edges}
        known = {pair for pair in pairs if pair <= {*ids}}
        if pairs != known and not (skip and "left out" in said):
            raise Wrong("unknown nodes were left out")
        read = {frozenset((ids[i], ids[j])) for i in range(len(ids)) for j in graph.neighbors(i).tolist()}
        if read != {pair for pair in known if len(pair) > 1}:
            raise Wrong("other edges")


def plain_table(content: bytes, delimiter: str) -> list[dict[str, str]] | None:
    """The csv module's reading of a table; None where it is another one's to say."""
    try:
        text = content.decode("utf-8-sig")
        rows = [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True) if row]
    except (ValueError, csv.Error):
        return None
    header = [name.strip() for name in rows[0]] if rows else []
    if (not {"id", "title"} <= {*header} and {*header} != {"source", "target"}) or re.search(r'(^|\W) +"|^sep=', text, re.MULTILINE):
        return None
    return [dict(zip(header, row, strict=False)) for row in rows[1:]]


def use(graph: TextAttributedGraph) -> None:
    """Read of a graph what training reads."""
    for node in range(graph.num_nodes):
        graph.title(node), graph.body(node)
        sample_subgraph(graph, node, hops=2, fanout=3, seed=0)


class GraphFolders(Kind):
    """What ``graphgpt data build`` wrote, changed since."""

    examples = 200

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.sound = make_graph()
        self.sound.save(folder / "sound")

    def read(self, chance: random.Random) -> None:
        folder = self.folder / "graph"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.folder / "sound", folder)
        file = chance.choice(sorted(folder.iterdir()))
        content = file.read_bytes()
        if file.suffix == ".json" and chance.random() < 0.7:
            file.write_text(json.dumps(damaged_record(chance, json.loads(content))))
        else:
            file.write_bytes(damaged_bytes(chance, content))
        said = [line for line, fine in check(folder) if not fine]
        for line in said:
            check_sentence(line)
        graph = TextAttributedGraph.open(folder)
        use(graph)
        if not said and file.name != "card.json" and contents(graph) != contents(self.sound):
            raise Wrong("another graph was taken for sound")


def contents(graph: TextAttributedGraph) -> Any:
    """What a graph's fingerprint is of."""
    return [*(getattr(graph, name).tolist() for name in ("rowptr", "col", "y")), graph.titles.to_pylist(), graph.bodies.to_pylist()]


class Conversations(Kind):
    """Instruction files."""

    examples = 200

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.graphs = open_graphs(folder)

    def read(self, chance: random.Random) -> None:
        shutil.rmtree(cache_dir() / "instructions", ignore_errors=True)
        records: Any = json.loads(json.dumps(RECORDS))
        if chance.random() < 0.7:
            records = damaged_record(chance, records)
            content = json.dumps(records).encode()
        else:
            text = json.dumps(records, ensure_ascii=chance.random() < 0.5, indent=chance.choice([None, 2]))
            content = damaged_bytes(chance, text.encode())
        way: Any = chance.choice(["raise", "raise", "skip"])
        read = open_records(write_records(self.folder, content), self.graphs, way)
        found = [read[i] for i in range(len(read))]
        try:
            records = json.loads(content.decode("utf-8-sig"))
        except (ValueError, RecursionError) as error:
            if way == "raise":
                raise Wrong("what is no JSON was read") from error
            return
        if way == "raise" and len(found) != len(records):
            raise Wrong(f"{len(found)} of {len(records)} records")
        for one in found:
            self.compare(one, records[one.number])

    def compare(self, read: Any, record: dict[str, Any]) -> None:
        """What stands there against what was read."""
        if read.id != record["id"]:
            raise Wrong(f"record {read.id!r} instead of {record['id']!r}")
        said = [{ALIASES.get(name, name): value for name, value in turn.items()} for turn in by_name(record, "conversations")]
        turns = tuple(turn["value"] for turn in said[ROLES.get(said[0]["from"]) != "human" :])
        if read.turns != turns:
            raise Wrong(f"other turns: {read.turns}")
        graph = {name: value for name, value in (record.get("graph") or {}).items() if value is not None}
        ends = ("_1", "_2") if read.id.endswith("LP") or ("node_list_1" in graph and "node_list" not in graph) else ("",)
        for part, end in zip(read.subgraphs, itertools.cycle(ends), strict=False):
            if (part.nodes.tolist(), part.edge_index.tolist()) != (graph[f"node_list{end}"], graph[f"edge_index{end}"]):
                raise Wrong(f"another graph: {part}")


def by_name(of: dict[str, Any], name: str) -> Any:
    return of[name] if name in of else next(of[other] for other, ours in ALIASES.items() if ours == name and other in of)


KINDS: dict[str, Callable[[Path], Kind]] = {
    kind.__name__: kind for kind in (Checkpoints, CommandLines, Evaluations, OwnFiles, Tables, GraphFolders, Conversations)
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
            until = time.monotonic() + 400 / kind.examples  # longer for those of which each takes long
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
