"""The report of an evaluation or a training run: one HTML file that opens offline, and the score table for the terminal.

Scores, intervals and probabilities are fractions between 0 and 1; they are shown as percentages.
"""

import io
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from rich import box
from rich.table import Table
from rich.text import Text

from graphgpt.errors import amount
from graphgpt.files.atomic import write_text
from graphgpt.metrics import ACCURACY, Declared, Metric


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One training run in the lineage of the checkpoint.

    Args:
        name: What was trained on, as in the configuration: ``graph_matching``.
        steps: The logged steps.
        loss: The training loss at each of them.
        val: Validation metrics by name, each as (steps, values).
        seconds: How long it took.
        facts: Anything else worth a line, such as the number of trainable parameters.
        curves: Whatever else was logged, by what it is called, each as (steps, values).
        declared: What the validation metrics are.
    """

    name: str
    steps: list[int]
    loss: list[float]
    val: dict[str, tuple[list[int], list[float]]]
    seconds: float
    facts: dict[str, str]
    curves: dict[str, tuple[list[int], list[float]]] = field(default_factory=dict)
    declared: Declared = field(default_factory=Declared)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the score table.

    Args:
        name: Of the method.
        metrics: By name; one that is not defined is left out.
        intervals: 95 % intervals of the metrics, where there are any.
        deviations: Standard deviations of the metrics over the seeds, where there are several.
        note: A few words under the name.
        is_model: Whether it is the model that is evaluated, or a part of it, rather than what it is held against.
    """

    name: str
    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    deviations: dict[str, float] = field(default_factory=dict)
    note: str = ""
    is_model: bool = False


@dataclass(frozen=True, kw_only=True)
class Neighborhood:
    """A subgraph that a sample is about.

    Args:
        nodes: Titles; the first is the node that is asked about.
        classes: Each node's index in the report's class names; -1 where it is unknown.
        edges: As indices into ``nodes``.
    """

    nodes: list[str]
    classes: list[int]
    edges: list[tuple[int, int]]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One item shown in full.

    Args:
        id: Of the sample.
        title: What its nodes are called.
        prompt: What the model read, in pieces, each with whether it stands for an input (``<graph: 14 tokens>``).
        pictures: What stood behind the image tokens, small, as addresses that hold the picture itself.
        subgraphs: What stood behind the graph tokens, in their order; none for a question of text only.
        truth: The right answer.
        answer: The candidate that the model chose, None where there are no candidates.
        candidates: Every candidate with its probability, best first.
        generated: What the model wrote when it was let to write freely.
        metrics: What the written answer scores, where there are no candidates.
        right: Whether the written answer is right, where no candidate was chosen and it can be told.
        answers: What the model wrote while it was trained, as (steps done, answer).
    """

    id: str
    title: str
    prompt: Sequence[tuple[str, bool]]
    subgraphs: list[Neighborhood]
    pictures: list[str]
    truth: str
    answer: str | None
    candidates: list[tuple[str, float]]
    generated: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    right: bool | None = None
    answers: list[tuple[int, str]] = field(default_factory=list)

    @property
    def characters(self) -> int:
        """Length of the prompt."""
        return sum(len(piece) for piece, _ in self.prompt)


@dataclass(frozen=True, kw_only=True)
class Report:
    """Everything the page shows. Parts that are empty leave no trace in it.

    Args:
        title: The heading.
        summary: The outcome in one sentence.
        created: When, as it should read.
        command: The command line that made the report.
        facts: The base model, the dataset and the like.
        stages: The training runs, oldest first.
        rows: The score table; the first row with ``is_model`` gives the big number.
        main_metric: The name of that number.
        declared: What the numbers are.
        items: How many were asked about.
        remarks: Sentences under the table.
        wordings: Metrics by wording, where several were tried.
        class_names: The classes, or the candidates.
        confusion: Counts of items as ``[true class][predicted class]``.
        calibration: ``ece`` and ``bins`` with ``confidence``, ``accuracy`` and ``items``; None where nothing is known.
        by_homophily: Groups of items with ``label``, ``items`` and ``value``, the main figure.
        by_degree: Likewise.
        samples: Items shown in full.
        next_steps: What to try next, as (what it does, command line).
    """

    title: str
    summary: str
    created: str
    command: str
    facts: dict[str, str]
    stages: list[Stage]
    rows: list[Row]
    main_metric: str
    declared: Declared
    items: int
    remarks: list[str]
    wordings: dict[str, dict[str, float]]
    class_names: list[str]
    confusion: list[list[int]]
    calibration: dict[str, Any] | None
    by_homophily: list[dict[str, Any]]
    by_degree: list[dict[str, Any]]
    samples: list[Sample]
    next_steps: list[tuple[str, str]]


def write_report(report: Report, path: Path) -> None:
    """Write the report as one HTML file, all or nothing."""
    write_text(path, _render(report))


def _columns(rows: Sequence[Row], main: str) -> list[str]:
    """The metrics that occur, the main one first."""
    names = dict.fromkeys(name for row in rows for name in row.metrics)
    return [main, *(name for name in names if name != main)]


#: So many metrics fit a terminal of 80 columns, beside the main one and its interval.
_TERMINAL = 2


def score_table(rows: Sequence[Row], main: str, declared: Declared) -> Table:
    """The score table for the terminal; fits 80 columns.

    Args:
        rows: Its lines.
        main: The metric that comes first, with its interval or, for several seeds, its standard deviation.
        declared: What the metrics are.
    """
    first, *others = (declared[name] for name in _columns(rows, main)[: 1 + _TERMINAL])
    alike = {metric.unit for metric in (first, *others)} == {"%"}
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), caption="in per cent" if alike else None, caption_justify="right")
    table.add_column("Method", overflow="fold", min_width=24)
    spread = "± (seeds)" if any(row.deviations for row in rows) else "95 % interval"
    heads = [metric.title if alike else with_unit(metric) for metric in (first, *others)]
    for head in (heads[0], spread, *heads[1:]):
        table.add_column(head, justify="right", no_wrap=True)
    for row in rows:
        # Names may hold square brackets, which rich would take for markup in a plain string.
        name = Text(row.name)
        if row.note:
            name.append(f"\n{row.note}", style="not bold dim")
        uncertain = _number(row.deviations.get(main), first) if spread.startswith("±") else _interval(row.intervals.get(main), first)
        cells = (_number(row.metrics.get(main), first), uncertain, *(_number(row.metrics.get(other.name), other) for other in others))
        table.add_row(name, *cells, style="bold" if row.is_model else None)
    return table


def with_unit(metric: Metric) -> str:
    """The head of a column."""
    return f"{metric.title} {metric.unit}".rstrip()


def _render(report: Report) -> str:
    env = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    env.filters |= {"number": _number, "interval": _interval, "duration": _duration, "head": with_unit}
    template = env.from_string(Path(__file__).with_name("page.html").read_text(encoding="utf-8"))
    main = report.declared[report.main_metric]
    scored = [row for row in report.rows if main.name in row.metrics]
    columns = [report.declared[name] for name in _columns(report.rows, main.name)]
    return template.render(
        report=report,
        main=main,
        columns=columns,
        legend=[metric.legend for metric in columns if metric.legend],
        whole=main.whole(row.metrics[main.name] for row in scored),
        deviations=any(row.deviations for row in report.rows),
        model=next((row for row in scored if row.is_model), None),
        baseline=main.best([row for row in scored if not row.is_model], lambda row: row.metrics[main.name]),
        plots=[_plots(stage, f"s{i}") for i, stage in enumerate(report.stages)],
        charts=_charts(report),
        confusion=_confusion(report.class_names, report.confusion) if any(map(any, report.confusion)) else None,
        samples=[
            (
                sample,
                [drawing for part in sample.subgraphs if (drawing := _drawing(part, report.class_names))],
                sample.characters,
            )
            for sample in report.samples
        ],
    )


#: What is no metric of a task, such as a probability.
_SHARE = Metric(name="share", title="Share")


def _number(value: float | None, metric: Metric = _SHARE) -> str:
    return "–" if value is None or math.isnan(value) else metric.number(value)  # noqa: RUF001


def _interval(interval: tuple[float, float] | None, metric: Metric) -> str:
    return "–" if interval is None else f"{_number(interval[0], metric)}–{_number(interval[1], metric)}"  # noqa: RUF001


def _duration(seconds: float) -> str:
    total = round(seconds)
    hours, minutes = divmod(total // 60, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {total % 60:02} s" if minutes else f"{total} s"


# Curves


@dataclass(frozen=True, kw_only=True)
class _Plot:
    """A curve as SVG, what it shows, and a sentence on it."""

    name: str
    text: str
    svg: Markup


# matplotlib knows no CSS variables, so it draws in colours that nothing else has; these then become the page's own.
_INKS = {"#0000a1": "var(--accent)", "#0000a2": "var(--muted)", "#0000a3": "var(--line)"}
_ACCENT, _MUTED, _LINE = _INKS


def _plots(stage: Stage, prefix: str) -> list[_Plot]:
    plots = []
    points, left_out = _finite(stage.steps, stage.loss)
    if points:
        steps, loss = [list(column) for column in zip(*points, strict=True)]
        mean, window = smoothed(loss)
        text = f"{mean[0]:.4g} at the start, {mean[-1]:.4g} at the end"
        text += f" (bold: mean of {window} logged steps)." if window > 1 else "."
        plots.append(
            _Plot(
                name="Training loss", text=text + left_out, svg=_curve(steps, mean, loss if window > 1 else None, f"{prefix}-loss", "loss")
            )
        )
    titles = {name: _within_a_sentence(stage.declared[name].title) for name in stage.val}
    others = {f"Validation: {titles[name]}": (curve, titles[name]) for name, curve in stage.val.items()}
    others |= {name: (curve, name.lower()) for name, curve in stage.curves.items()}
    for i, (name, ((other_steps, values), axis)) in enumerate(others.items()):
        points, left_out = _finite(other_steps, values)
        if points:
            steps, values = [list(column) for column in zip(*points, strict=True)]
            ends = dict.fromkeys([(steps[0], values[0]), (steps[-1], values[-1])])
            text = ", ".join(f"{value:.4g} at step {step}" for step, value in ends) + f".{left_out}"
            plots.append(_Plot(name=name, text=text, svg=_curve(steps, values, None, f"{prefix}-other{i}", axis)))
    return plots


def _within_a_sentence(title: str) -> str:
    """A title where no sentence begins; AUC and the like keep their letters."""
    return title if title[1:2].isupper() else title[:1].lower() + title[1:]


def _finite(steps: Sequence[int], values: Sequence[float]) -> tuple[list[tuple[int, float]], str]:
    """The points that can be drawn, and what to say of the others."""
    points = [(step, value) for step, value in zip(steps, values, strict=True) if math.isfinite(value)]
    count = len(steps) - len(points)
    return points, f" Not drawn: {count} that {'is' if count == 1 else 'are'} not finite." if count else ""


def smoothed(loss: list[float]) -> tuple[list[float], int]:
    """A curve as reports show it in bold, and the mean of how many values each of its points is."""
    window = max(1, len(loss) // 20)
    return _running_mean(loss, window), window


def _running_mean(values: list[float], window: int) -> list[float]:
    """The mean of the window around each value; near the ends, of the part of it that exists."""
    sums = [0.0, *accumulate(values)]
    spans = [(max(0, i - window // 2), min(len(values), i - window // 2 + window)) for i in range(len(values))]
    return [(sums[end] - sums[start]) / (end - start) for start, end in spans]


def _curve(steps: list[int], bold: list[float], faint: list[float] | None, prefix: str, axis: str) -> Markup:
    from matplotlib.ticker import MaxNLocator

    def draw(axes: Any) -> None:
        if faint is not None:
            axes.plot(steps, faint, color=_ACCENT, alpha=0.28, linewidth=1)
        axes.plot(steps, bold, color=_ACCENT, linewidth=2.2, marker="o" if len(bold) <= 30 else "", markersize=4.5)
        axes.margins(x=0.02)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10], integer=True))
        if len(steps) == 1:
            axes.set_xticks(steps)
        if len({*bold, *(faint or ())}) == 1:  # matplotlib would magnify nothing, and go below zero for it
            axes.set_ylim(min(0.0, 2 * bold[0]), max(2 * bold[0], 0.0) or 1.0)
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10]))
        axes.set_xlabel("step", color=_MUTED)
        axes.set_ylabel(axis, color=_MUTED)

    return _picture(draw, prefix)


def _picture(draw: Callable[[Any], None], prefix: str) -> Markup:
    """What ``draw`` draws into a pair of axes, as SVG in the page's colours; ``prefix`` keeps its ids apart from other pictures'."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": prefix, "font.size": 12}):
        # SVG units are 1/72 inch: the plot is 460 by 250 of them and stays legible when scaled to the width of a phone.
        figure = Figure(figsize=(460 / 72, 250 / 72), layout="constrained")
        axes = figure.subplots()
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.spines["bottom"].set_color(_LINE)
        axes.grid(axis="y", color=_LINE, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.tick_params(length=0, labelcolor=_MUTED, pad=6)
        draw(axes)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].replace("<svg", '<svg aria-hidden="true" focusable="false"', 1)
    # Inside a page its style sheet would apply to everything, and its ids would meet those of the other plots.
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{prefix}-", svg)
    for ink, variable in _INKS.items():
        svg = svg.replace(ink, variable)
    return Markup(svg)  # Made of numbers and our own words, never of the report's own text.


# Where the answers are right, and how sure


def _charts(report: Report) -> list[_Plot]:
    figure = ACCURACY if report.confusion else report.declared[report.main_metric]
    charts = []
    if report.calibration and report.calibration["bins"]:
        text = (
            f"Expected calibration error {_number(report.calibration['ece'])} %: the mean distance between how sure the model is and "
            "how often it is right. Each dot is a range of probabilities, its size the share of the items; on the line they agree."
        )
        charts.append(_Plot(name="Calibration", text=text, svg=_reliability(report.calibration["bins"], "calibration")))
    if report.by_homophily:
        name = f"{figure.title} by local homophily"
        text = "By the share of the node's neighbors, in the whole graph, that have its class."
        charts.append(
            _Plot(
                name=name,
                text=f"{text} {_in_words(report.by_homophily, figure)}",
                svg=_bars(report.by_homophily, "homophily", "neighbors of the same class", figure),
            )
        )
    if report.by_degree:
        text = f"By the number of neighbors, in groups of about one size. {_in_words(report.by_degree, figure)}"
        charts.append(
            _Plot(name=f"{figure.title} by degree", text=text, svg=_bars(report.by_degree, "degree", "number of neighbors", figure))
        )
    return charts


def _in_words(groups: Sequence[dict[str, Any]], figure: Metric) -> str:
    unit = f" {figure.unit}".rstrip()
    return "; ".join(f"{group['label']}: {_number(group['value'], figure)}{unit} of {group['items']}" for group in groups) + "."


def _bars(groups: Sequence[dict[str, Any]], prefix: str, across: str, figure: Metric) -> Markup:
    def draw(axes: Any) -> None:
        places = range(len(groups))
        whole = figure.whole(group["value"] for group in groups)
        values = [100 * group["value"] / whole for group in groups]
        axes.bar(places, values, color=_ACCENT, width=0.62)
        for place, value, group in zip(places, values, groups, strict=True):
            axes.text(place, value + 2, amount(group["items"], "item"), color=_MUTED, ha="center", fontsize=10)
        axes.set_xticks(places, [group["label"] for group in groups])
        axes.set_ylim(0, 110)
        axes.set_yticks(range(0, 101, 25), [f"{whole * tick / 100:.3g}" for tick in range(0, 101, 25)] if not figure.unit else None)
        axes.set_xlim(-0.6, max(1.6, len(groups) - 0.4))
        axes.set_xlabel(across, color=_MUTED)
        axes.set_ylabel(f"{figure.title}, in per cent" if figure.unit else figure.title, color=_MUTED)

    return _picture(draw, prefix)


def _reliability(bins: Sequence[dict[str, Any]], prefix: str) -> Markup:
    total = sum(bin["items"] for bin in bins)

    def draw(axes: Any) -> None:
        axes.plot([0, 100], [0, 100], color=_LINE, linewidth=1.5)
        sizes = [20 + 500 * bin["items"] / total for bin in bins]
        axes.scatter([100 * bin["confidence"] for bin in bins], [100 * bin["accuracy"] for bin in bins], s=sizes, color=_ACCENT, alpha=0.75)
        axes.set_xlim(0, 104)
        axes.set_ylim(-6, 108)
        axes.set_xticks(range(0, 101, 25))
        axes.set_yticks(range(0, 101, 25))
        axes.set_xlabel("probability of the answer, in per cent", color=_MUTED)
        axes.set_ylabel("right, in per cent", color=_MUTED)

    return _picture(draw, prefix)


# Confusions

_MAX_CLASSES = 40
#: Pixels that the cells of the matrix share beside its names and sums, on a page 1,120 wide.
_CELLS = 640
_TOP_CONFUSIONS = 5


@dataclass(frozen=True, kw_only=True)
class _Confusion:
    """What the page says of the confusion matrix.

    Args:
        shown: The classes that get a row and a column.
        totals: How many test nodes each class has.
        total: How many there are.
        top: The most frequent confusions as (count, true class, predicted class).
    """

    shown: list[int]
    totals: list[int]
    total: int
    top: list[tuple[int, int, int]]

    @property
    def cell(self) -> int:
        """Width of a cell in pixels."""
        return min(25, _CELLS // max(1, len(self.shown)))

    def share(self, true: int, count: int) -> float:
        """``count`` as a part of its row."""
        return count / self.totals[true] if self.totals[true] else 0.0


def _confusion(class_names: list[str], confusion: list[list[int]]) -> _Confusion:
    size = range(len(class_names))
    weights = [sum(confusion[i]) + sum(row[i] for row in confusion) for i in size]
    shown = sorted(sorted(size, key=lambda i: -weights[i])[:_MAX_CLASSES])
    wrong = [(confusion[i][j], i, j) for i in size for j in size if i != j and confusion[i][j]]
    wrong.sort(key=lambda entry: -entry[0])
    totals = [sum(row) for row in confusion]
    return _Confusion(shown=shown, totals=totals, total=sum(totals), top=wrong[:_TOP_CONFUSIONS])


# Subgraphs

_WIDTH, _HEIGHT, _MARGIN = 480, 400, 40
_FONT = 11
# Lengths to cut labels to, each with what the cut costs.
_LABEL_LENGTHS = {26: 0.0, 15: 250.0}
_DIRECTIONS = ((0.0, 1.0), (0.0, -1.0), (1.0, 0.0), (-1.0, 0.0), (0.7, 0.8), (-0.7, 0.8), (0.7, -0.8), (-0.7, -0.8))
# Dark enough for a white letter on them, light enough for a dark page.
_COLOURS = ["#3f63d6", "#b85c00", "#1f8055", "#c23a5b", "#7d4fc4", "#7d6600", "#137a8c", "#8f5a35", "#b04a96", "#5c7526"]
_GREY = "#6b7688"


@dataclass(frozen=True, kw_only=True)
class _Label:
    """A line of text by its baseline; ``anchor`` is the end of it that lies at ``x``, in SVG's words."""

    text: str
    x: float
    y: float
    anchor: str


@dataclass(frozen=True, kw_only=True)
class _Dot:
    """A node of the drawing. ``mark`` is the letter of its class; ``label`` is none where there is no room for one."""

    x: float
    y: float
    radius: int
    colour: str
    mark: str
    title: str
    kind: str
    label: _Label | None


@dataclass(frozen=True, kw_only=True)
class _Drawing:
    """A subgraph, its centre first, and the legend as (letter, colour, what it means)."""

    width: int
    height: int
    dots: list[_Dot]
    lines: list[tuple[int, int]]
    legend: list[tuple[str, str, str]]


def _drawing(sample: Neighborhood, class_names: list[str]) -> _Drawing | None:
    if not sample.nodes:
        return None
    lines = sorted({(min(edge), max(edge)) for edge in sample.edges if edge[0] != edge[1]})
    places = _layout(len(sample.nodes), lines)
    kinds = [class_names[index] if 0 <= index < len(class_names) else "" for index in sample.classes]
    counts = Counter(kind for kind in kinds if kind)
    # The centre's class comes first, then the most frequent: they get the letters and colours there are.
    order = sorted(counts, key=lambda kind: (kind != kinds[0], -counts[kind], kind))
    marks = {kind: (chr(ord("A") + i), colour) for i, (kind, colour) in enumerate(zip(order, _COLOURS, strict=False))}
    legend = [(*marks[kind], kind) for kind in marks]
    if len(order) > len(marks):
        legend.append(("+", _GREY, "another class"))
    if "" in kinds:
        legend.append(("?", _GREY, "class unknown"))
    dots = []
    labels = _labels(sample.nodes, places, lines)
    for i, (title, kind, (x, y), label) in enumerate(zip(sample.nodes, kinds, places, labels, strict=True)):
        mark, colour = marks.get(kind, ("+" if kind else "?", _GREY))
        dots.append(_Dot(x=x, y=y, radius=_radius(i), colour=colour, mark=mark, title=title, kind=kind or "class unknown", label=label))
    return _Drawing(width=_WIDTH, height=_HEIGHT, dots=dots, lines=lines, legend=legend)


def _radius(index: int) -> int:
    return 8 if index else 13


def _shorten(title: str, length: int) -> str:
    title = " ".join(title.split())
    return title if len(title) <= length else title[: length - 1].rstrip(" ,;:-") + "…"


def _layout(count: int, lines: list[tuple[int, int]]) -> list[tuple[float, float]]:
    """Where the nodes lie: a spring layout stretched to fill the drawing."""
    import networkx as nx

    graph = nx.Graph()
    graph.add_nodes_from(range(count))
    graph.add_edges_from(lines)
    spots = nx.spring_layout(graph, seed=7, iterations=200, k=1.6 / math.sqrt(count))
    columns = []
    for axis, extent in enumerate((_WIDTH, _HEIGHT)):
        values = [float(spots[i][axis]) for i in range(count)]
        low, span = min(values), max(values) - min(values)
        columns.append(
            [round(_MARGIN + (extent - 2 * _MARGIN) * (value - low) / span if span > 1e-9 else extent / 2, 1) for value in values]
        )
    return list(zip(*columns, strict=True))


_Box = tuple[float, float, float, float]


def _overlap(a: _Box, b: _Box) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def _labels(titles: list[str], places: list[tuple[float, float]], lines: list[tuple[int, int]]) -> list[_Label | None]:
    """The labels, placed one after the other where each covers the least of what is there, or none where there is no room.

    The page lists all nodes in words too.
    """
    taken = [((x - r, y - r, x + r, y + r), 6.0) for r, (x, y) in zip(map(_radius, range(len(places))), places, strict=True)]
    # An edge counts by way of points along it; among very many it cannot be helped.
    parts = min(16, 1 + 1000 // max(1, len(lines)))
    for a, b in lines:
        (ax, ay), (bx, by) = places[a], places[b]
        for x, y in ((ax + k / parts * (bx - ax), ay + k / parts * (by - ay)) for k in range(1, parts)):
            taken.append(((x - 2, y - 2, x + 2, y + 2), 0.6))
    labels: list[_Label | None] = []
    for i, (title, (x, y)) in enumerate(zip(titles, places, strict=True)):
        gap = _radius(i) + (9 if i == 0 else 4)
        best, best_box, best_cost = None, None, 700.0 if i else math.inf
        for length, toll in _LABEL_LENGTHS.items():
            for direction in _DIRECTIONS:
                label, box = _place(_shorten(title, length), x, y, gap, direction)
                outside = max(0.0, -box[1]) + max(0.0, box[3] - _HEIGHT)
                cost = toll + 1000 * outside + sum(weight * _overlap(box, other) for other, weight in taken)
                if cost < best_cost:
                    best, best_box, best_cost = label, box, cost
        labels.append(best)
        if best_box:
            taken.append((best_box, 6.0))
    return labels


def _place(text: str, x: float, y: float, gap: float, direction: tuple[float, float]) -> tuple[_Label, _Box]:
    """The label in one direction from the node at (x, y), and the box it fills."""
    dx, dy = direction
    anchor = "middle" if dx == 0 else "start" if dx > 0 else "end"
    wide = len(text) * _FONT * 0.58
    x, y = x + dx * gap, y + dy * (gap + _FONT / 2)
    left = x - {"start": 0.0, "middle": wide / 2, "end": wide}[anchor]
    # A label at the border moves inwards rather than out of the picture.
    shift = max(0.0, 2 - left) - max(0.0, left + wide - (_WIDTH - 2))
    box = (left + shift, y - _FONT / 2 - 1, left + shift + wide, y + _FONT / 2 + 1)
    # The baseline lies below the middle of the line of text.
    return _Label(text=text, x=round(x + shift, 1), y=round(y + _FONT * 0.35, 1), anchor=anchor), box
