"""Opening a hundred times the data: 1,024,000 instructions, a graph folder of 1,000,000 nodes.

    python benchmarks/open.py

Each in a process of its own, after its imports and a check of its command line: the task is built as train.py builds it and one
question drawn. Memory is the most that was resident at a time, pages of mapped files included, above what was before.

The cache of instructions is that of 10,240 records, read by the product, with its Arrow file's batches written a hundred times.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from common import Row, run
from ingest import write as write_records

from graphgpt.assembly import build_task
from graphgpt.config.command_line import check_command_line
from graphgpt.config.composition import register_resolvers
from graphgpt.config.experiment import ExperimentConfig
from graphgpt.graphs.graph import TextWriter, build_graph, finish_graph
from graphgpt.graphs.subgraph import sample_subgraph

TIMES = 100
FEATURES, CLASSES = 128, 40
LLM = "model/llm=tiny_random"  # not opened here


def write_folder(folder: Path, nodes: int) -> None:
    """A graph folder with features of its own: texts of some 150 characters, five edges per node."""
    random = np.random.RandomState(0)
    bodies = [" ".join(f"word{number}" for number in random.randint(0, 5000, 16)) for _ in range(1000)]
    texts = TextWriter()
    for start in range(0, nodes, 10_000):
        part = range(start, min(start + 10_000, nodes))
        texts.add([f"n{i}" for i in part], [f"Title of node {i}" for i in part], [bodies[i % len(bodies)] for i in part])
    graph = finish_graph(
        texts,
        labels=random.randint(0, CLASSES, nodes),
        class_names=[f"Class {i}" for i in range(CLASSES)],
        edges=(nodes * random.rand(5 * nodes, 2) ** 2).astype(np.int64),
        card={"name": "large", "words": {"domain": "citation", "node": "paper", "relation": "cites", "category": "topic"}},
    )
    graph.with_features(torch.from_numpy(random.standard_normal((nodes, FEATURES)).astype(np.float32))).save(folder)


def repeat_cache(cache: Path) -> None:
    """Make the one cached file of records ``TIMES`` as long."""
    [file] = cache.glob("instructions/*/records.arrow")
    reader = pa.ipc.open_file(pa.memory_map(str(file)))
    with pa.OSFile(str(file.with_name("longer")), "wb") as sink, pa.ipc.new_file(sink, reader.schema) as writer:
        for _ in range(TIMES):
            for number in range(reader.num_record_batches):
                writer.write_batch(reader.get_batch(number))
    file.with_name("longer").replace(file)
    card = json.loads(file.with_name("card.json").read_text())
    card |= {"records": TIMES * card["records"], "kinds": {kind: TIMES * count for kind, count in card["kinds"].items()}}
    file.with_name("card.json").write_text(json.dumps(card))


def resident(key: str) -> int:
    """MiB of this process's memory: ``VmRSS`` now, ``VmHWM`` at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) // 1024


def one(place: int, overrides: Sequence[str]) -> dict[str, Any]:
    """Open, draw the training item at ``place``; what it took and what was drawn."""
    register_resolvers()
    experiment = check_command_line(ExperimentConfig, "train", overrides)
    names = ["a", "b"]
    tiny = build_graph(ids=names, titles=names, bodies=names, labels=[0, 0], class_names=["x"], edges=np.array([[0, 1]]), card={"name": ""})
    sample_subgraph(tiny, 0, hops=1, fanout=1, seed=0)  # with the first call, numba imports what it needs
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM counts from here
    before = resident("VmRSS")
    start = time.perf_counter()
    task = build_task(experiment)
    items = task.items("train")
    item = int(items[place])
    drawn = task.instruction(item, seed=0, training=True)
    seconds = time.perf_counter() - start
    texts = [drawn.id, *("".join(part if isinstance(part, str) else "<graph>" for part in message.content) for message in drawn.messages)]
    shapes = [[*part.x.shape, *part.edge_index.shape] for part in drawn.inputs]
    return {"seconds": seconds, "memory": resident("VmHWM") - before, "items": len(items), "item": item, "texts": texts, "shapes": shapes}


def opened(cache: Path, place: int, overrides: Sequence[str]) -> dict[str, Any]:
    """:func:`one` in a fresh process."""
    command = [sys.executable, __file__, "--one", str(place), *overrides, LLM]
    environment = {**os.environ, "GRAPHGPT_CACHE": str(cache)}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"open: {' '.join(command)} failed.")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def rows(name: str, size: int, small: dict[str, Any], large: dict[str, Any], same: str) -> Iterator[Row]:
    seconds, more = large["seconds"], large["memory"] - small["memory"]
    yield Row(benchmark=name, what="seconds", ours=seconds, reference=None, measured=seconds, target=1, at_most=True, same=same)
    what = f"MiB more than of {size:,}"
    yield Row(benchmark=name, what=what, ours=large["memory"], reference=None, measured=more, target=300, at_most=True, same=same)


def measure(options: argparse.Namespace) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        records = 1024 if options.small else 10_240  # whole batches
        write_records(folder, records)
        overrides = ["task=instructions", "dataset=graphgpt_json", f"dataset.graphs={folder / 'graphs.pt'}"]
        overrides.append(f"dataset.instructions={folder / 'records.json'}")
        os.environ["GRAPHGPT_CACHE"] = str(folder / "small")
        one(7, [*overrides, LLM])  # reads them
        shutil.copytree(folder / "small", folder / "large")
        repeat_cache(folder / "large")
        small = opened(folder / "small", 7, overrides)
        large = opened(folder / "large", (TIMES - 1) * records + 7, overrides)
        if (large["items"], large["texts"], large["shapes"]) != (TIMES * small["items"], small["texts"], small["shapes"]):
            raise SystemExit(f"open: of {large['items']:,} items one near the end is {large['texts']}, expected {small['texts']}.")
        yield from rows(f"open: {large['items']:,} instructions", records, small, large, f"the record {TIMES} times")

        sizes = (100, 10_000) if options.small else (10_000, 1_000_000)
        found = []
        for nodes in sizes:
            write_folder(folder / f"graph{nodes}", nodes)
            asked = ["task=node_classification", "dataset=folder", f"dataset.path={folder / f'graph{nodes}'}"]
            found.append(opened(folder / "cache", nodes // 2, asked))
            said, title = "\n".join(found[-1]["texts"]), f"Title of node {found[-1]['item']}"
            if found[-1]["texts"][0] != f"n{found[-1]['item']}" or not (title in said or "(hidden)" in said):
                raise SystemExit(f"open: item {found[-1]['item']} of {nodes:,} nodes reads {said}, expected '{title}' in it.")
        yield from rows(f"open: a graph of {sizes[1]:,} nodes", sizes[0], *found, "id and title of a node")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(one(int(sys.argv[2]), sys.argv[3:])))
    else:
        run(measure, __doc__)
