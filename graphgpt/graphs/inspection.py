"""What is in a graph, and whether it is sound."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from graphgpt.errors import DataError, amount, first_line, shortened
from graphgpt.graphs.graph import TextAttributedGraph, identity, strings
from graphgpt.schema import SPLITS

#: From which share of the nodes something is worth a warning.
MANY = 0.1
#: Below so many nodes a class can hardly be learned or scored.
TINY = 10


@dataclass(frozen=True)
class Summary:
    """What there is to know about a graph before training on it.

    Args:
        degrees: Neighbours of every node, shape ``[n]``.
        lengths: Characters of every node's title and body, shape ``[n]``.
        class_sizes: Nodes of every class, shape ``[c]``.
        split_sizes: Nodes of every split and class, shape ``[3, c + 1]``, the last column for unlabelled ones; None without a split.
        same_title: Nodes whose title another node has as well.
        same_text: Nodes whose title and body another node has as well.
        naming: Labelled nodes in whose text their class name stands, whatever the case of its letters.
    """

    degrees: np.ndarray
    lengths: np.ndarray
    class_sizes: np.ndarray
    split_sizes: np.ndarray | None
    same_title: int
    same_text: int
    naming: int


def summarize(graph: TextAttributedGraph) -> Summary:
    """Count everything, reading the texts batch by batch."""
    n, classes = graph.num_nodes, len(graph.class_names)
    y = graph.y.numpy()
    split_sizes = None
    if graph.split is not None:
        split = graph.split.numpy()
        cells = split[split >= 0].astype(np.int64) * (classes + 1) + np.where(y < 0, classes, y)[split >= 0]
        split_sizes = np.bincount(cells, minlength=len(SPLITS) * (classes + 1)).reshape(len(SPLITS), classes + 1)
    names = [name.casefold() for name in graph.class_names]
    title_hash, text_hash, naming = np.empty(n, dtype=np.int64), np.empty(n, dtype=np.int64), 0
    for node, (title, body) in enumerate(zip(strings(graph.titles), strings(graph.bodies), strict=True)):
        # 64 bits of a hash in place of the text: equal by chance once in millions of graphs of a million nodes each.
        title_hash[node], text_hash[node] = hash(title), hash((title, body))
        if y[node] >= 0:
            naming += names[y[node]] in f"{title}\n{body}".casefold()
    return Summary(
        degrees=graph.rowptr.diff().numpy(),
        lengths=sum((pc.utf8_length(column).to_numpy() for column in (graph.titles, graph.bodies)), np.zeros(n, dtype=np.int64)),
        class_sizes=np.bincount(y[y >= 0], minlength=classes),
        split_sizes=split_sizes,
        same_title=_shared(title_hash),
        same_text=_shared(text_hash),
        naming=naming,
    )


def _shared(values: np.ndarray) -> int:
    """How many of the values occur more than once."""
    counts = np.unique(values, return_counts=True)[1]
    return int(counts[counts > 1].sum())


def warnings(graph: TextAttributedGraph, summary: Summary) -> Iterator[str]:
    """What may surprise in training or in the scores, one sentence each."""
    card, n = graph.card, max(graph.num_nodes, 1)
    yield from card.get("notes", [])
    labelled = int(summary.class_sizes.sum())
    if not labelled:
        yield "No node has a label: only tasks that need none (graph_matching, link_prediction, node_description) can be trained."
    elif (unlabelled := n - labelled) >= MANY * n:
        yield f"{unlabelled / n:.0%} of the nodes have no label: they are neighbours, and in no split."
    sizes_of = dict(zip(graph.class_names, summary.class_sizes.tolist(), strict=True))
    used = [name for name, size in sizes_of.items() if size]
    if len(used) == 1:
        yield f"All labelled nodes are of one class, '{used[0]}': there is nothing to tell apart."
    if empty := [name for name, size in sizes_of.items() if not size]:
        yield f"{amount(len(empty), 'class has', 'classes have')} no node: {_some(empty)}."
    tiny = [name for name, size in sizes_of.items() if 0 < size < TINY]
    if tiny and labelled:
        yield f"{amount(len(tiny), 'class has', 'classes have')} fewer than {TINY} nodes: {_some(tiny)}."
    if numbered := [name for name in graph.class_names if name.removeprefix("class ").strip().isdigit()]:
        yield f"{amount(len(numbered), 'class is', 'classes are')} named by a number ('{numbered[0]}'): a prompt needs words."
    if summary.naming >= MANY * max(labelled, 1):
        yield f"The class name stands in the text of {summary.naming / labelled:.0%} of the labelled nodes: reading it is enough there."
    if (isolated := int((summary.degrees == 0).sum())) >= MANY * n:
        yield f"{isolated / n:.0%} of the nodes have no neighbour: the graph says nothing about them."
    if (without := card.get("without_text", 0)) >= MANY * n:
        yield f"{without / n:.0%} of the nodes came without any text: they go by their id."
    if summary.same_title >= MANY * n:
        yield f"{summary.same_title / n:.0%} of the nodes share their title with another: graph_matching cannot tell them apart."
    if summary.same_text >= MANY * n:
        yield f"{summary.same_text / n:.0%} of the nodes share all of their text with another: test nodes may have a copy in training."
    if len(used) > 1 and (homophily := card.get("homophily")) is not None and homophily < 1 / max(len(graph.class_names), 1) + MANY:
        yield f"Homophily is {homophily:.2f}, no more than chance would give: averaging over neighbours blurs the classes."
    if graph.split is None:
        yield "The data bring no split: training draws one (dataset.split.name=random, planetoid or file)."
    elif summary.split_sizes is not None:
        for part, sizes in zip(SPLITS, summary.split_sizes, strict=True):
            if part != "val" and not sizes[:-1].sum():
                yield f"The {part} split has no labelled node."
    for key, what in (("self_loops_dropped", "self-loops"), ("duplicate_edges_dropped", "edges that were there already")):
        if dropped := card.get(key, 0):
            yield f"{dropped:,} {what} (in either direction) were dropped." if "edges" in what else f"{dropped:,} {what} were dropped."


def _some(names: list[str]) -> str:
    return ", ".join(f"'{name}'" for name in names[:3]) + (", ..." if len(names) > 3 else "")


def show(graph: TextAttributedGraph) -> None:
    """Print a graph's summary and warnings."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False)
    summary = summarize(graph)
    labelled = int(summary.class_sizes.sum())

    def table(title: str, *columns: str) -> Table:
        made = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
        for place, column in enumerate(columns):
            made.add_column(column, justify="left" if place == 0 else "right")
        return made

    words = graph.card.get("words", {})
    facts = table(str(graph.card["name"]), "", "")
    facts.show_header = False
    isolated = int((summary.degrees == 0).sum())
    homophily = graph.card.get("homophily")
    for what, value in {
        "nodes": f"{graph.num_nodes:,}",
        "edges": f"{graph.num_edges:,}",
        "classes": f"{len(graph.class_names):,}",
        "labelled": _share(labelled, graph.num_nodes),
        "isolated": _share(isolated, graph.num_nodes),
        "homophily": "none" if homophily is None else f"{homophily:.3f}",
        "features": "none of its own" if graph.x is None else f"{graph.x.shape[1]:,}",
        "same title as another": _share(summary.same_title, graph.num_nodes),
        "same text as another": _share(summary.same_text, graph.num_nodes),
        "class name in own text": _share(summary.naming, labelled),
        "fingerprint": graph.fingerprint,
        **{f"prompts call it ({word})": escape(str(value)) for word, value in words.items()},
    }.items():
        facts.add_row(what, value)
    console.print(facts, "")

    spread = table("Spread", "", "smallest", "10%", "median", "mean", "90%", "largest")
    for what, values in (("degree", summary.degrees), ("characters of text", summary.lengths)):
        if len(values):
            low, tenth, median, most, high = np.percentile(values, [0, 10, 50, 90, 100], method="nearest")
            spread.add_row(what, *(f"{value:,}" for value in (low, tenth, median)), f"{values.mean():,.1f}", f"{most:,}", f"{high:,}")
    console.print(spread, "")

    degrees = table("Nodes by degree", "degree", "nodes", "")
    degrees.columns[2].justify = "left"
    for label, count in by_degree(summary.degrees):
        degrees.add_row(label, f"{count:,}", _bar(count, graph.num_nodes))
    console.print(degrees, "")

    if graph.class_names:
        header = [] if summary.split_sizes is None else list(SPLITS)
        classes = table("Nodes by class", "class", "nodes", "share", *header, "")
        classes.columns[-1].justify = "left"
        for label in np.argsort(-summary.class_sizes, kind="stable"):
            size = int(summary.class_sizes[label])
            parts = [] if summary.split_sizes is None else [f"{count:,}" for count in summary.split_sizes[:, label]]
            share = size / max(labelled, 1)
            classes.add_row(escape(graph.class_names[label]), f"{size:,}", f"{share:.1%}", *parts, _bar(size, labelled))
        console.print(classes, "")
    if summary.split_sizes is not None:
        console.print(_split_line(summary.split_sizes, labelled > 0), "")

    for warning in warnings(graph, summary):
        console.print(f"[yellow]![/] {escape(warning)}", soft_wrap=True)


def _split_line(sizes: np.ndarray, by_label: bool) -> str:
    """What a task finds in every split: nodes without a label are in none, where others have one."""
    counts = (sizes[:, :-1] if by_label else sizes).sum(axis=1)
    line = "Split: " + ", ".join(f"{count:,} {part}" for part, count in zip(SPLITS, counts, strict=True))
    left = int(sizes[:, -1].sum()) if by_label else 0
    return line + (f"; {left:,} without a label left out" if left else "")


def by_degree(degrees: np.ndarray) -> list[tuple[str, int]]:
    """How many nodes have 0, 1, 2, 3-4, 5-8, 9-16, ... neighbours."""
    found = Counter(int(d) if d < 2 else int(np.ceil(np.log2(d))) + 1 for d in degrees.tolist())
    labels = {0: "0", 1: "1", 2: "2"}
    return [(labels.get(k, f"{2 ** (k - 2) + 1:,}-{2 ** (k - 1):,}"), found[k]) for k in range(max(found, default=-1) + 1)]


def _share(count: int, whole: int) -> str:
    return f"{count:,} ({count / whole:.1%})" if whole else f"{count:,}"


def _bar(count: int, whole: int) -> str:
    return "█" * round(30 * count / max(whole, 1)) or ("▏" if count else "")


def check(folder: Path) -> Iterator[tuple[str, bool]]:
    """Check a graph folder; nothing after the first check makes sense where the folder cannot be opened.

    Yields:
        What was checked, or what is wrong with it, and whether it passed.
    """
    try:
        graph = TextAttributedGraph.open(folder)
    except DataError as error:
        yield f"files: {error}", False
        return
    yield f"files: card, numbers and texts of {amount(graph.num_nodes, 'node')} can be read, and shapes and ranges fit together", True
    checks: list[tuple[str, Callable[[TextAttributedGraph], str | None], str]] = [
        ("neighbours", _neighbor_problem, "numbers of nodes, ascending, none twice, none the node itself"),
        ("symmetry", _symmetry_problem, "every edge is there in both directions"),
        ("labels", _label_problem, "each is a class or unknown, and every class has a name of its own"),
        ("texts", _text_problem, "ids differ, titles are not empty"),
        ("features", _feature_problem, "finite, a row per node" if graph.x is not None else "none of its own; a text encoder makes them"),
        (
            "split",
            _split_problem,
            "every node is in one part at most, and there are nodes to train and to test on"
            if graph.split is not None
            else "none of its own",
        ),
        ("card", _card_problem, "counts and fingerprint are those of the data"),
    ]
    for name, problem_of, fine in checks:
        try:
            problem = problem_of(graph)
        except DataError as error:
            problem = str(error)
        yield f"{name}: {shortened(problem) if problem else fine}", problem is None


def _rows(graph: TextAttributedGraph) -> np.ndarray:
    """The node to which every entry of ``col`` belongs, shape ``[m]``."""
    return np.repeat(np.arange(graph.num_nodes), graph.rowptr.diff().numpy())


def _neighbor_problem(graph: TextAttributedGraph) -> str | None:
    row, col = _rows(graph), graph.col.numpy()
    checks = [
        (row == col, "is the node itself"),
        (np.append(False, (row[1:] == row[:-1]) & (col[1:] <= col[:-1])), "is not above the one before it"),
    ]
    for wrong, what in checks:
        if wrong.any():
            place = int(wrong.argmax())
            return f"the neighbour {col[place]} of node {row[place]} (entry {place} of col) {what}; {int(wrong.sum())} such."
    return None


def _symmetry_problem(graph: TextAttributedGraph) -> str | None:
    n = max(graph.num_nodes, 1)
    row, col = _rows(graph), graph.col.numpy()
    lonely = np.setdiff1d(row * n + col, col * n + row)
    return (
        f"node {lonely[0] // n} has the neighbour {lonely[0] % n}, but not the other way round; {len(lonely)} such."
        if len(lonely)
        else None
    )


def _label_problem(graph: TextAttributedGraph) -> str | None:
    if twice := [name for name, count in Counter(graph.class_names).items() if count > 1 or not name.strip()]:
        return f"the class name '{twice[0]}' is empty or there more than once."
    return None


def _text_problem(graph: TextAttributedGraph) -> str | None:
    for name, column in (("id", graph.ids), ("title", graph.titles), ("body", graph.bodies)):
        try:
            column.validate(full=True)
        except pa.ArrowException as error:
            return f"the column {name} is damaged ({first_line(error)})."
    seen: set[str] = set()
    for node, name in enumerate(strings(graph.ids)):
        if not name or name in seen:
            return f"node {node} has the id '{name}', expected one that no other node has."
        seen.add(name)
    for node, title in enumerate(strings(graph.titles)):
        if not title.strip():
            return f"node {node} ('{graph.ids[node].as_py()}') has an empty title."
    return None


def _feature_problem(graph: TextAttributedGraph) -> str | None:
    if graph.x is None:
        return None
    try:
        graph.with_features(graph.x)
    except DataError as error:
        return str(error)
    return None


def _split_problem(graph: TextAttributedGraph) -> str | None:
    if graph.split is None:
        return None
    split = graph.split.numpy()
    empty = [part for index, part in enumerate(SPLITS) if part != "val" and not (split == index).any()]
    return f"no node is in {' or '.join(empty)}." if empty else None


def _card_problem(graph: TextAttributedGraph) -> str | None:
    for name, found in (("nodes", graph.num_nodes), ("edges", graph.num_edges)):
        if graph.card.get(name) != found:
            return f"it says {graph.card.get(name)} {name}, found {found}."
    of_data = identity(graph)
    return (
        None
        if of_data == graph.fingerprint
        else f"its fingerprint is {graph.fingerprint}, that of the data {of_data}: they were changed by hand."
    )
