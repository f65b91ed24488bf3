"""Time and memory of building a large graph folder from CSV files, and of opening it, each in a process of its own.

python benchmarks/data_build.py [--nodes 1000000] [--edges 10000000] [--folder DIR]
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import csv

CLASSES = 40
OPEN = """
import json, sys, time
from pathlib import Path
import resource
from graphgpt.graphs.graph import TextAttributedGraph
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
started = time.perf_counter()
graph = TextAttributedGraph.open(Path(sys.argv[1]))
opened = time.perf_counter() - started
graph.title(graph.num_nodes // 2), graph.neighbors(graph.num_nodes // 2)
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(json.dumps({"nodes": graph.num_nodes, "edges": graph.num_edges, "milliseconds": 1e3 * opened, "megabytes": grown / 1024}))
"""


def write_tables(folder: Path, nodes: int, edges: int) -> None:
    """Random nodes of about 250 characters, random edges with some nodes of high degree."""
    random = np.random.RandomState(0)
    words = np.array([f"word{i}" for i in range(5_000)], dtype=object)
    pool = [" ".join(random.choice(words, 30)) for _ in range(10_000)]
    ids = pa.array([f"n{i}" for i in range(nodes)])
    picks = pa.array(random.randint(0, len(pool), nodes))
    labels = pa.array([f"Class {i}" for i in range(CLASSES)]).take(pa.array(random.randint(0, CLASSES, nodes)))
    table = {
        "id": ids,
        "title": pa.array([f"Title of node {i}" for i in range(nodes)]),
        "body": pa.array(pool).take(picks),
        "label": labels,
    }
    csv.write_csv(pa.table(table), folder / "nodes.csv")
    source, target = (ids.take(pa.array((nodes * random.rand(edges) ** power).astype(np.int64))) for power in (2, 1))
    csv.write_csv(pa.table({"source": source, "target": target}), folder / "edges.csv")


def measure(folder: Path, nodes: int, edges: int) -> None:
    """Write, build, open; print what each took."""
    write_tables(folder, nodes, edges)
    sizes = {name: (folder / name).stat().st_size / 1e6 for name in ("nodes.csv", "edges.csv")}
    print("tables: " + ", ".join(f"{name} {size:,.0f} MB" for name, size in sizes.items()), flush=True)
    command = [sys.executable, "-m", "graphgpt.cli.main", "data", "build", "--nodes", "nodes.csv", "--edges", "edges.csv", "--out", "graph"]
    started = time.perf_counter()
    subprocess.run([*command, "--force"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - started
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(
        f"build: {seconds:.0f} s ({used.ru_utime + used.ru_stime:.0f} s of processor time), {used.ru_maxrss / 2**20:.2f} GiB at most",
        flush=True,
    )
    done = subprocess.run([sys.executable, "-c", OPEN, str(folder / "graph")], check=True, capture_output=True, text=True)
    found = json.loads(done.stdout.splitlines()[-1])
    print(f"open: {found['milliseconds']:.0f} ms, {found['megabytes']:.0f} MB ({found['nodes']:,} nodes, {found['edges']:,} edges)")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Build and open a large graph folder.")
    parser.add_argument("--nodes", type=int, default=1_000_000)
    parser.add_argument("--edges", type=int, default=10_000_000)
    parser.add_argument("--folder", type=Path, help="where to work; a temporary folder unless given")
    options = parser.parse_args()
    if options.folder is not None:
        options.folder.mkdir(parents=True, exist_ok=True)
        measure(options.folder, options.nodes, options.edges)
    else:
        with tempfile.TemporaryDirectory() as temporary:
            measure(Path(temporary), options.nodes, options.edges)
