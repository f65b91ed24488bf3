"""A comparison of runs as a table in the terminal, as CSV, as Markdown, and as one HTML page with a picture."""

import csv
import io
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from graphgpt.errors import amount
from graphgpt.files.atomic import write_text
from graphgpt.metrics import Metric
from graphgpt.runs.runs import FAILED, FINISHED, STOPPED, Comparison, Group, Run, compare

#: In a sweep's folder: its runs compared.
PAGE = "runs.html"

Columns = list[tuple[str, list[str]]]
"""A table: head and cells of each column."""

Extent = tuple[int | None, int | None]
"""What stands beside the settings: so many scores, and so many of time and parameters; None is all of them."""

#: What a terminal may have room for, most first; CSV, Markdown and HTML have all.
_TERMINAL: tuple[Extent, ...] = ((3, None), (1, None), (1, 1), (1, 0))
_ALL: Extent = (None, None)
#: More runs than this are not listed one by one in the terminal, where their groups are.
_LISTED = 40
_NOTHING = "-"
#: Heads of the columns with names of folders.
_RUN, _FIRST_RUN = "run", "first run"


def show(runs: Sequence[Run], folder: Path, comparison: Comparison | None = None) -> None:
    """Print what differs between runs, their scores, and why those failed that did.

    Args:
        runs: They.
        folder: What they lie in, for their names.
        comparison: Of them, where it is sorted already.
    """
    console = Console(highlight=False)
    if not runs:
        console.print(f"There is no run in {folder}.", markup=False)
        return
    comparison = comparison or compare(runs)
    shown: list[str] = []
    if not comparison.seeds or len(runs) <= _LISTED:
        columns, keys = _that_fits(comparison, _of_runs, folder, console.width)
        console.print(_as_table(columns))
        shown += keys
    if comparison.seeds:
        columns, keys = _that_fits(comparison, _of_groups, folder, console.width)
        console.print(_as_table(columns), Text("± is the standard deviation over seeds.", style="dim"))
        shown += keys
    if left := [key for key in comparison.keys if key not in shown]:
        names = ", ".join(left[:5]) + (f" and {len(left) - 5} more" if len(left) > 5 else "")
        console.print(Text(f"They also differ in {names}: see --csv, --markdown or --html.", style="dim"), soft_wrap=True)
    for one in runs:
        if one.error:
            console.print(Text(f"{_name(one, folder)} {one.state}: {one.error}"))


def _that_fits(
    comparison: Comparison, table: Callable[[Comparison, Path, Extent], Columns], folder: Path, width: int
) -> tuple[Columns, list[str]]:
    """A table that a terminal has room for, and the settings in it; with fewer scores where more would hide what tells the runs apart."""
    found = []
    for extent in _TERMINAL:
        (head, cells), *others = table(replace(comparison, keys={}), folder, extent)
        room = width - sum(2 + _width(column) for column in others)
        kinds, keys = _telling(comparison.runs, comparison.keys, room)
        if head == _RUN or kinds < len(comparison.groups):  # groups need a name only where settings do not tell them apart
            # A long one goes on in the next line.
            kinds, keys = _telling(comparison.runs, comparison.keys, room - min(_width((head, cells)), width // 3))
        found.append((kinds, keys, extent))
    kinds, keys, extent = max(found, key=lambda one: one[0])  # the first of equals has most scores
    return table(replace(comparison, keys=keys), folder, extent), [*keys]


def _telling(runs: Sequence[Run], names: Mapping[str, str], room: int) -> tuple[int, dict[str, str]]:
    """The settings that tell most runs apart, as many as have room.

    Choices come first, then what tells more apart, then what is short.

    Args:
        runs: They.
        names: What each setting is called.
        room: Characters in a line, two of them after each setting.

    Returns:
        How many kinds of runs are told apart, and the settings with their names.
    """
    cells = {key: [_setting(one, key) for one in runs] for key in names}
    sizes = {key: 2 + _width((name, cells[key])) for key, name in names.items()}
    kept: list[str] = []
    kinds = [0] * len(runs)
    while fitting := [key for key in names if key not in kept and sizes[key] <= room]:
        counts = {key: len({*zip(kinds, cells[key], strict=True)}) for key in fitting}
        tells = [key for key in fitting if counts[key] > len({*kinds})] or fitting
        best = max(tells, key=lambda key: (key.endswith(".name"), counts[key], -sizes[key]))
        kept.append(best)
        room -= sizes[best]
        numbers: dict[tuple[int, str], int] = {}
        kinds = [numbers.setdefault(kind, len(numbers)) for kind in zip(kinds, cells[best], strict=True)]
    return len({*kinds}), {key: name for key, name in names.items() if key in kept}


def _width(column: tuple[str, list[str]]) -> int:
    head, cells = column
    return max(map(cell_len, [head, *cells]))


def _as_table(columns: Columns) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for head, cells in columns:
        right = all(re.fullmatch(r"[-\d.,e±s h min]*", cell) for cell in cells)
        named = head in (_RUN, _FIRST_RUN)
        table.add_column(Text(head), justify="right" if right and not named else "left", overflow="fold", no_wrap=not named)
    for row in _rows(columns):
        table.add_row(*map(Text, row))  # values may hold square brackets, which rich would take for markup
    return table


def _rows(columns: Columns) -> list[list[str]]:
    return [[*row] for row in zip(*(cells for _, cells in columns), strict=True)]


def _of_runs(comparison: Comparison, folder: Path, extent: Extent = _ALL) -> Columns:
    """A table of single runs."""
    runs, (scores, facts) = comparison.runs, extent
    seeds = len({one.settings.get("seed") for one in runs}) > 1
    return [
        (_RUN, [_name(one, folder) for one in runs]),
        *((short, [_setting(one, key) for one in runs]) for key, short in comparison.keys.items()),
        *([("seed", [value_text(one.settings.get("seed")) for one in runs])] if seeds else []),
        ("state", [one.state for one in runs]),
        *((score, [number(one.scores.get(score)) for one in runs]) for score in comparison.scores[:scores]),
        *[
            ("time", [duration(one.seconds) for one in runs]),
            ("trained", [_NOTHING if one.parameters is None else f"{one.parameters:,}" for one in runs]),
        ][:facts],
    ]


def _of_groups(comparison: Comparison, folder: Path, extent: Extent = _ALL) -> Columns:
    """A table of groups; where the settings in it do not tell them apart, each goes by the first of its runs."""
    groups, (scores, facts) = comparison.groups, extent
    columns = [(short, [_setting(group.runs[0], key) for group in groups]) for key, short in comparison.keys.items()]
    if len({*map(tuple, _rows(columns))}) < len(groups) > 1:
        columns.insert(0, (_FIRST_RUN, [_name(group.runs[0], folder) for group in groups]))
    return [
        *columns,
        ("runs", [_how_many(group) for group in groups]),
        *((score, [with_deviation(group, score) for group in groups]) for score in comparison.scores[:scores]),
        *[("time", [duration(_mean([one.seconds for one in group.runs if one.state == FINISHED])) for group in groups])][:facts],
    ]


def _how_many(group: Group) -> str:
    finished = sum(one.state == FINISHED for one in group.runs)
    return str(finished) if finished == len(group.runs) else f"{finished} of {len(group.runs)}"


def _name(one: Run, folder: Path) -> str:
    return one.folder.name if one.folder == folder else str(one.folder.relative_to(folder))


def _setting(one: Run, key: str) -> str:
    """As the command line would spell it; a dash where the run has no such setting."""
    return value_text(one.settings[key]) if key in one.settings else _NOTHING


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def value_text(value: Any) -> str:
    """A setting as the command line would spell it."""
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def number(value: float | None) -> str:
    """Four digits; a dash for nothing."""
    return _NOTHING if value is None else f"{value:.4g}"


def with_deviation(group: Group, score: str) -> str:
    """Mean and standard deviation, to the digits that the latter leaves room for."""
    if score not in group.means:
        return _NOTHING
    mean, deviation = group.means[score], group.deviations.get(score)
    if deviation is None:
        return number(mean)
    if not deviation or not math.isfinite(deviation):
        return f"{number(mean)} ± {deviation:g}"
    digits = max(0, 1 - math.floor(math.log10(deviation)))
    return f"{mean:.{digits}f} ± {deviation:.{digits}f}"


def duration(seconds: float | None) -> str:
    """Such as ``45 s``, ``12 min``, ``3 h 05 min``."""
    if seconds is None:
        return _NOTHING
    minutes = round(seconds / 60)
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02} min"


def write_csv(comparison: Comparison, file: Path) -> None:
    """One line per run with every differing setting by its whole key, every score in full, and its folder."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*comparison.keys, "seed", "state", *comparison.scores, "seconds", "parameters", "folder", "error"])
    for one in comparison.runs:
        settings = [one.settings.get(key) for key in [*comparison.keys, "seed"]]
        scores = [one.scores.get(score) for score in comparison.scores]
        writer.writerow([*map(_csv_value, settings), one.state, *scores, one.seconds, one.parameters, one.folder, one.error])
    write_text(file, text.getvalue())


def _csv_value(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list | dict) else value


def write_markdown(comparison: Comparison, folder: Path, file: Path) -> None:
    """The tables with all scores, for a README or an issue."""
    tables = [_of_groups(comparison, folder)] if comparison.seeds else []
    write_text(file, "\n".join(map(_markdown, [*tables, _of_runs(comparison, folder)])))


def _markdown(columns: Columns) -> str:
    lines = [[head for head, _ in columns], ["---"] * len(columns), *_rows(columns)]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


# The page


def write_page(comparison: Comparison, folder: Path, file: Path, *, score: str | None = None) -> None:
    """One HTML file that opens offline: a picture of the scores over what varies, the tables, and what failed.

    Args:
        comparison: The runs.
        folder: What they lie in.
        file: To write.
        score: The one that is drawn; None takes the first.
    """
    score = score or next(iter(comparison.scores), None)
    metric = comparison.declared[score] if score else None
    drawn = [group for group in comparison.groups if score in group.means]
    varying = {key: name for key, name in comparison.keys.items() if len({_setting(group.runs[0], key) for group in drawn}) > 1}
    _, keys = _telling([group.runs[0] for group in drawn], varying, _DRAWN)
    several = len(drawn) > 1 or any(group.deviations for group in drawn)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(Path(__file__).with_name("page.html").read_text(encoding="utf-8"))
    states = [one.state for one in comparison.runs]
    page = template.render(
        title=f"Runs in {folder}",
        count=len(states),
        finished=states.count(FINISHED),
        failed=states.count(FAILED),
        stopped=states.count(STOPPED),
        score=score,
        varying=", ".join(keys.values()),
        left_out=amount(len(varying) - len(keys), "setting") if len(varying) > len(keys) else "",
        best=_best(drawn, metric, keys, folder) if metric else None,
        compared=len(drawn) > 1,
        picture=_picture(drawn, metric, keys) if several and metric else None,
        bars=_are_few(drawn, keys) and any(group.deviations for group in drawn),
        groups=_table(_of_groups(comparison, folder)) if comparison.seeds else None,
        runs=_table(_of_runs(comparison, folder)),
        errors=[(_name(one, folder), one.state, one.error) for one in comparison.runs if one.error],
    )
    write_text(file, page)


def _table(columns: Columns) -> tuple[list[str], list[list[str]]]:
    """Heads and rows."""
    return [head for head, _ in columns], _rows(columns)


def _best(drawn: Sequence[Group], metric: Metric, keys: Mapping[str, str], folder: Path) -> tuple[str, str] | None:
    """The best group's score and what it has that others have not; of the only one, its first run."""
    best = metric.best(drawn, lambda group: group.means[metric.name])
    if best is None:
        return None
    has = ", ".join(f"{short} = {_setting(best.runs[0], key)}" for key, short in keys.items())
    return with_deviation(best, metric.name), f"with {has}" if has else f"in {_name(best.runs[0], folder)}" if len(best.runs) == 1 else ""


# matplotlib knows no CSS variables, so it draws in colours that nothing else has; these then become the page's own.
_INKS = {"#0000a1": "var(--accent)", "#0000a2": "var(--muted)", "#0000a4": "var(--ink)", "#0000a5": "var(--card)"}
_ACCENT, _MUTED, _INK, _CARD = _INKS
#: Of the second thing that varies: as many as can be told apart.
_COLOURS = ("#3b6fd4", "#d9822b", "#2f9e6e", "#b5489b", "#8a7a3b", "#5bb0c9")
#: More lines of dots than this are no picture any more.
_MOST_LINES = 36
#: Characters of the settings that a picture is about.
_DRAWN = 96


def _picture(drawn: Sequence[Group], metric: Metric, keys: Mapping[str, str]) -> Markup:
    """Dots with error bars where one or two things vary, parallel coordinates where more do."""
    return _dots(drawn, metric.name, keys) if _are_few(drawn, keys) else _parallel(drawn, metric, keys)


def _are_few(drawn: Sequence[Group], keys: Mapping[str, str]) -> bool:
    """Whether a line for each group says what varies."""
    return len(keys) <= 2 and len(drawn) <= _MOST_LINES


def _dots(drawn: Sequence[Group], score: str, keys: Mapping[str, str]) -> Markup:
    """A line per group: its mean, its deviation and its runs, over the range that the scores take, for bars from 0 would look equal."""
    first, second = [*keys, None, None][:2]
    kinds = list(dict.fromkeys(_setting(group.runs[0], second) for group in drawn)) if second else [""]
    ordered = sorted(drawn, key=lambda group: _order(group.values[first])) if first else [*drawn]

    def draw(axes: Any) -> None:
        place, ticks, labels, before = 0.0, [], [], None
        for group in ordered:
            value = _setting(group.runs[0], first) if first else "all"
            place += 0.0 if before is None else (1.0 if value == before else 1.5)
            before = value
            kind = kinds.index(_setting(group.runs[0], second)) if second else 0
            colour = _COLOURS[kind % len(_COLOURS)] if second else _ACCENT
            mean = group.means[score]
            values = [one.scores[score] for one in group.runs if one.state == FINISHED and score in one.scores]
            if len(values) > 1:
                axes.errorbar(mean, place, xerr=group.deviations[score], color=colour, capsize=4, linewidth=1.5)
                axes.scatter(values, [place] * len(values), s=14, color=_INK, alpha=0.5, zorder=3)
            axes.scatter([mean], [place], s=70, color=colour, zorder=2)
            right = max([mean + group.deviations.get(score, 0.0), *values])
            axes.annotate(with_deviation(group, score), (right, place), (10, 0), textcoords="offset points", va="center", color=_INK)
            ticks.append(place)
            labels.append(", ".join(map(_cut, [value, kinds[kind]] if second else [value])))
        axes.set_yticks(ticks, labels)
        axes.set_ylim(place + 0.7, -0.7)
        axes.margins(x=0.25)
        axes.ticklabel_format(axis="x", useOffset=False)
        axes.grid(axis="x", color=_MUTED, alpha=0.25, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.set_xlabel(f"{score} (the axis does not begin at 0)")
        axes.set_ylabel(", ".join(keys.values()))

    return _svg(draw, width=9, height=1.1 + 0.42 * len(ordered))


def _parallel(drawn: Sequence[Group], metric: Metric, keys: Mapping[str, str]) -> Markup:
    """A line per group over an axis per setting, and the score at the right; the better, the stronger."""
    score = metric.name
    columns = [([group.runs[0].settings.get(key, _NOTHING) for group in drawn], short) for key, short in keys.items()]
    columns.append(([group.means[score] for group in drawn], score))
    axes_of = [_axis(values) for values, _ in columns]
    means = [group.means[score] for group in drawn]
    rank = sorted(range(len(drawn)), key=lambda i: means[i], reverse=metric.less_is_better)

    def draw(axes: Any) -> None:
        for strength, i in enumerate(rank):
            best = strength == len(rank) - 1
            heights = [places[i] for places, _ in axes_of]
            alpha = 0.15 + 0.6 * strength / max(1, len(rank) - 1)
            axes.plot(range(len(columns)), heights, color=_ACCENT, alpha=1.0 if best else alpha, linewidth=3 if best else 1.3)
        for place, ((_, name), (_, ticks)) in enumerate(zip(columns, axes_of, strict=True)):
            axes.axvline(place, ymax=0.92, color=_MUTED, linewidth=1)  # below its name
            for height, label in ticks:
                box = {"facecolor": _CARD, "edgecolor": "none", "alpha": 0.8, "pad": 1}
                axes.annotate(label, (place, height), (4, 3), textcoords="offset points", color=_INK, fontsize=9, bbox=box)
            axes.annotate(name, (place, 1.08), ha="center", color=_INK, fontsize=10, annotation_clip=False)
        axes.set_xlim(-0.35, len(columns) - 0.4)
        axes.set_ylim(-0.08, 1.16)
        axes.set_xticks([])
        axes.set_yticks([])

    return _svg(draw, width=max(6.4, 1.5 * len(columns)), height=4.2)


def _axis(values: Sequence[Any]) -> tuple[list[float], list[tuple[float, str]]]:
    """Where values stand on an axis from 0 to 1, and its ticks; numbers over more than a factor of 20 stand by their logarithm."""
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    if len(numbers) == len(values) and len(set(numbers)) > 1:
        low, high = min(numbers), max(numbers)
        scale: Callable[[float], float] = math.log if low > 0 and high / low > 20 else float
        places = [(scale(value) - scale(low)) / (scale(high) - scale(low)) for value in numbers]
        marked = {place: number(value) for place, value in zip(places, numbers, strict=True)}
        if len(marked) > 6:
            marked = {0.0: number(low), 1.0: number(high)}
        return places, list(marked.items())
    kinds = list(dict.fromkeys(value_text(value) for value in sorted(values, key=_order)))
    spread = {kind: i / (len(kinds) - 1) if len(kinds) > 1 else 0.5 for i, kind in enumerate(kinds)}
    return [spread[value_text(value)] for value in values], [(place, _cut(kind)) for kind, place in spread.items()]


def _cut(text: str) -> str:
    """The end of a long text, where paths differ."""
    return text if len(text) <= 24 else f"…{text[-23:]}"


def _order(value: Any) -> tuple[int, float, str]:
    """Numbers by size, then all else by spelling."""
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return (0, float(value), "") if plain else (1, 0.0, value_text(value))


def _svg(draw: Callable[[Any], None], *, width: float, height: float) -> Markup:
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "runs", "font.size": 11, "text.parse_math": False}):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.subplots()
        draw(axes)
        axes.tick_params(colors=_INK, length=0)
        axes.xaxis.label.set_color(_INK)
        axes.yaxis.label.set_color(_INK)
        for side in axes.spines.values():
            side.set_visible(False)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].replace("<svg", '<svg role="img"', 1)
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.DOTALL)
    for ink, variable in _INKS.items():
        svg = svg.replace(ink, variable)
    return Markup(svg)  # matplotlib escapes the texts in it
