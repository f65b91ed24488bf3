"""Reading an instruction file of GraphGPT's form: memory and time against ``json.load``, each in a process of its own.

    python benchmarks/ingest.py [--records 1000000] [--folder FOLDER]

1,000,000 records are about 1 GB; the folder needs about three times that, and is emptied at the end.
"""

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

NODES, FEATURES = 20_000, 128
WORDS = ["graph", "node", "edge", "token", "model", "paper", "theory", "cell", "insulin", "diabetes", "type", "learning"]


def records(count: int) -> Iterator[dict[str, object]]:
    """One-graph, two-graph and text-only records in turn, of the released sizes: 21 nodes, 22 edges and some 100 words."""
    generator = random.Random(0)
    for number in range(count):
        text = " ".join(generator.choices(WORDS, k=100))
        graph = []
        for _ in range(2 if number % 10 == 0 else 1):
            nodes = generator.sample(range(NODES), 21)
            graph.append((nodes, [[i + 1 for i in range(20)] + [0, 3], [i // 5 for i in range(20)] + [2, 1]]))
        if number % 10 == 0:
            fields = {f"{name}_{i + 1}": part for i, (nodes, edges) in enumerate(graph) for name, part in named(nodes, edges).items()}
            prompt, answer = f"Tokens: <graph> Abstract: {text} Title: x The other sequence of graph tokens: <graph> connected?", "yes"
            yield record(f"pubmed_train_{number}_LP", fields, prompt, answer)
        elif number % 10 == 1:
            yield record(f"chat_{number}", None, f"Abstract: {text} What is it about?", "Graphs.")
        else:
            prompt = f"Given a citation graph: \n<graph>\nAbstract: {text} \n Title: x \n Question: Which type? "
            yield record(f"pubmed_train_{number}", named(*graph[0]), prompt, "Type 1 diabetes")


def named(nodes: list[int], edges: list[list[int]]) -> dict[str, object]:
    return {"node_idx": nodes[0], "edge_index": edges, "node_list": nodes}


def record(name: str, graph: object, prompt: str, answer: str) -> dict[str, object]:
    return {"id": name, "graph": graph, "conversations": [{"from": "human", "value": prompt}, {"from": "gpt", "value": answer}]}


def write(folder: Path, count: int) -> None:
    """``records.json`` and ``graphs.pt``."""
    import torch
    from torch_geometric.data import Data

    torch.save({"pubmed": Data(x=torch.randn(NODES, FEATURES))}, folder / "graphs.pt")
    with (folder / "records.json").open("w", encoding="utf-8") as file:
        for number, item in enumerate(records(count)):
            file.write(("[" if number == 0 else ",\n") + json.dumps(item))
        file.write("]\n")


def ingest(folder: Path) -> str:
    """Read the file into the cache, then a thousand records from there."""
    from graphgpt.datasets.graphgpt_json import GraphgptJson, GraphgptJsonConfig

    config = GraphgptJsonConfig(name="graphgpt_json", graphs=str(folder / "graphs.pt"), instructions=str(folder / "records.json"))
    found = GraphgptJson(config).open()
    picked = random.Random(1).choices(range(len(found)), k=1000)
    start = time.perf_counter()
    for item in picked:
        _ = found[item].subgraphs
    lookup = (time.perf_counter() - start) / len(picked)
    start = time.perf_counter()
    GraphgptJson(config).open()
    again = time.perf_counter() - start
    return f"{len(found):,} records; a record in {lookup * 1e6:.0f} us; opened again in {again * 1e3:.0f} ms"


def load(folder: Path) -> str:
    """The plain way."""
    with (folder / "records.json").open(encoding="utf-8") as file:
        return f"{len(json.load(file)):,} records"


def measured(what: str, folder: Path) -> str:
    """A line about one of the above, run in a process of its own."""
    start = time.perf_counter()
    output = subprocess.run(
        [sys.executable, __file__, "--run", what, "--folder", str(folder)],
        env={**os.environ, "GRAPHGPT_CACHE": str(folder / "cache")},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout
    return f"{what:8} {time.perf_counter() - start:6.1f} s  {output.strip()}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, help="where to write; default: the system's temporary folder")
    parser.add_argument("--run", choices=["ingest", "load"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        found = {"ingest": ingest, "load": load}[options.run](options.folder)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"{peak:5.2f} GiB peak  {found}")
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        write(folder, options.records)
        size = (folder / "records.json").stat().st_size
        print(f"{options.records:,} records, {size / 2**30:.2f} GiB")
        for what in ("ingest", "load"):
            print(measured(what, folder), flush=True)


if __name__ == "__main__":
    main()
