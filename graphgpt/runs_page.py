"""A comparison of runs as a table in the terminal, as CSV, as Markdown, and as one HTML page with a picture."""

import csv
import io
import json
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from rich.console import Console
from rich.table import Table
from rich.text import Text

from graphgpt.files import write_text
from graphgpt.runs import FAILED, FINISHED, STOPPED, Comparison, Group, Run, compare, less_is_better

#: In a sweep's folder: its runs compared.
PAGE = "runs.html"

#: A terminal shows so many scores where they leave room for a setting; CSV, Markdown and HTML have all of them.
_TERMINAL = 3
#: In a terminal without room the names of runs are folded to so many characters, nothing else is.
_FOLDED = 24
#: More runs than this are not listed one by one in the terminal, where their groups are.
_LISTED = 40
_NOTHING = "-"


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
    shown: set[str] = set()

    def table(make: Callable[[Comparison, int], tuple[list[str], list[list[str]]]]) -> Table:
        narrow, scores = _that_fits(comparison, make, console.width)
        shown.update(narrow.keys)
        return _as_table(*make(narrow, scores))

    if not comparison.seeds or len(runs) <= _LISTED:
        console.print(table(lambda narrow, scores: _rows(narrow, folder, scores)))
    if comparison.seeds:
        console.print(table(_group_rows), Text("± is the standard deviation over seeds.", style="dim"))
    if left := [key for key in comparison.keys if key not in shown]:
        names = ", ".join(left[:5]) + (f" and {len(left) - 5} more" if len(left) > 5 else "")
        console.print(Text(f"They also differ in {names}: see --csv, --markdown or --html.", style="dim"), soft_wrap=True)
    for one in runs:
        if one.error:
            console.print(Text(f"{_name(one, folder)} {one.state}: {one.error}"))


def _that_fits(
    comparison: Comparison, make: Callable[[Comparison, int], tuple[list[str], list[list[str]]]], width: int
) -> tuple[Comparison, int]:
    """The comparison with as many of the settings as a table has room for, and how many scores it then shows.

    Choices (``task``, ``tower``) come before numbers, short values before long ones, and a first setting before scores: rows of a
    table that shows none are told apart by nothing.
    """

    def only(keys: Iterable[str]) -> Comparison:
        return replace(comparison, keys={key: name for key, name in comparison.keys.items() if key in keys})

    def fits(keys: Iterable[str], scores: int) -> bool:
        heads, rows = make(only(keys), scores)
        first, *others = (max(map(len, column)) for column in zip(heads, *rows, strict=True))
        return sum(others, min(first, _FOLDED)) + 2 * len(others) <= width

    def use(key: str) -> tuple[bool, int]:
        return not key.endswith(".name"), max(len(value_text(one.settings.get(key))) for one in comparison.runs)

    kept: list[str] = []
    for scores in range(_TERMINAL, -1, -1):
        for key in sorted(comparison.keys, key=use):
            if fits([*kept, key], scores):
                kept.append(key)
        if kept or not comparison.keys:
            break
    return only(kept), scores


def _as_table(heads: list[str], rows: list[list[str]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for place, head in enumerate(heads):
        right = all(re.fullmatch(r"[-\d.,e±s h min]*", row[place]) for row in rows)
        table.add_column(Text(head), justify="right" if right else "left", overflow="fold", no_wrap=place > 0)
    for row in rows:
        table.add_row(*map(Text, row))  # values may hold square brackets, which rich would take for markup
    return table


def _rows(comparison: Comparison, folder: Path, most: int | None = None) -> tuple[list[str], list[list[str]]]:
    """A table of single runs: heads and rows, with at most so many scores."""
    scores = comparison.scores[:most]
    seeds = len({one.settings.get("seed") for one in comparison.runs}) > 1
    heads = ["run", *comparison.keys.values(), *(["seed"] if seeds else []), "state", *scores, "time", "trained"]
    rows = [
        [
            _name(one, folder),
            *(value_text(one.settings.get(key)) for key in comparison.keys),
            *([value_text(one.settings.get("seed"))] if seeds else []),
            one.state,
            *(number(one.scores.get(score)) for score in scores),
            duration(one.seconds),
            _NOTHING if one.parameters is None else f"{one.parameters:,}",
        ]
        for one in comparison.runs
    ]
    return heads, rows


def _group_rows(comparison: Comparison, most: int | None = None) -> tuple[list[str], list[list[str]]]:
    """A table of groups: heads and rows, with at most so many scores."""
    scores = comparison.scores[:most]
    heads = [*comparison.keys.values(), "runs", *scores, "time"]
    rows = [
        [
            *(value_text(group.values[key]) for key in comparison.keys),
            _how_many(group),
            *(with_deviation(group, score) for score in scores),
            duration(_mean([one.seconds for one in group.runs if one.state == FINISHED])),
        ]
        for group in comparison.groups
    ]
    return heads, rows


def _how_many(group: Group) -> str:
    finished = sum(one.state == FINISHED for one in group.runs)
    return str(finished) if finished == len(group.runs) else f"{finished} of {len(group.runs)}"


def _name(one: Run, folder: Path) -> str:
    return one.folder.name if one.folder == folder else str(one.folder.relative_to(folder))


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
    tables = [_group_rows(comparison)] if comparison.seeds else []
    write_text(file, "\n".join(_markdown(*table) for table in [*tables, _rows(comparison, folder)]))


def _markdown(heads: list[str], rows: list[list[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
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
    drawn = [group for group in comparison.groups if score in group.means]
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(Path(__file__).with_name("runs.html").read_text(encoding="utf-8"))
    states = [one.state for one in comparison.runs]
    page = template.render(
        title=f"Runs in {folder}",
        count=len(states),
        finished=states.count(FINISHED),
        failed=states.count(FAILED),
        stopped=states.count(STOPPED),
        score=score,
        varying=", ".join(comparison.keys.values()),
        best=_best(drawn, score, comparison),
        picture=_picture(comparison, drawn, score) if score and sum(len(group.runs) for group in drawn) > 1 else None,
        groups=_group_rows(comparison) if comparison.seeds else None,
        runs=_rows(comparison, folder),
        errors=[(_name(one, folder), one.state, one.error) for one in comparison.runs if one.error],
    )
    write_text(file, page)


def _best(drawn: Sequence[Group], score: str | None, comparison: Comparison) -> tuple[str, str] | None:
    """The best group's score and what it has that others have not."""
    if not drawn or score is None:
        return None
    best = (min if less_is_better(score) else max)(drawn, key=lambda group: group.means[score])
    return with_deviation(best, score), ", ".join(f"{short} = {value_text(best.values[key])}" for key, short in comparison.keys.items())


# matplotlib knows no CSS variables, so it draws in colours that nothing else has; these then become the page's own.
_INKS = {"#0000a1": "var(--accent)", "#0000a2": "var(--muted)", "#0000a4": "var(--ink)", "#0000a5": "var(--card)"}
_ACCENT, _MUTED, _INK, _CARD = _INKS
#: Of the second thing that varies: as many as can be told apart.
_COLOURS = ("#3b6fd4", "#d9822b", "#2f9e6e", "#b5489b", "#8a7a3b", "#5bb0c9")
#: More bars than this are no picture any more.
_MOST_BARS = 36


def _picture(comparison: Comparison, drawn: Sequence[Group], score: str) -> Markup:
    """Bars with error bars where one or two things vary (dots for a loss), parallel coordinates where more do."""
    few = len(comparison.keys) <= 2 and len(drawn) <= _MOST_BARS
    return (_bars if few else _parallel)(comparison, drawn, score)


def _bars(comparison: Comparison, drawn: Sequence[Group], score: str) -> Markup:
    keys = list(comparison.keys)
    second = keys[1] if len(keys) > 1 else None
    kinds = list(dict.fromkeys(value_text(group.values[second]) for group in drawn)) if second else [""]
    ordered = sorted(drawn, key=lambda group: _order(group.values[keys[0]])) if keys else [*drawn]

    dots = less_is_better(score)  # losses are far from 0 and near each other: bars of 5.562 and 5.565 would be one

    def draw(axes: Any) -> None:
        place, ticks, labels, before = 0.0, [], [], None
        for group in ordered:
            first = value_text(group.values[keys[0]]) if keys else "all"
            place += 0.0 if before is None else (1.0 if first == before else 1.5)
            before = first
            kind = kinds.index(value_text(group.values[second])) if second else 0
            mean = group.means[score]
            colour = _COLOURS[kind % len(_COLOURS)] if second else _ACCENT
            if dots:
                axes.plot([mean], [place], "o", markersize=9, color=colour)
            else:
                axes.barh(place, mean, height=0.8, color=colour)
            values = [one.scores[score] for one in group.runs if one.state == FINISHED and score in one.scores]
            if len(values) > 1:
                axes.errorbar(mean, place, xerr=group.deviations[score], color=_INK, capsize=4, linewidth=1.5)
                axes.scatter(values, [place] * len(values), s=12, color=_INK, alpha=0.5, zorder=3)
            right = max([mean + group.deviations.get(score, 0.0), *values]) if mean >= 0 or dots else 0.0
            axes.annotate(with_deviation(group, score), (right, place), (6, 0), textcoords="offset points", va="center", color=_INK)
            ticks.append(place)
            labels.append(", ".join(map(_cut, [first, kinds[kind]] if second else [first])))
        axes.set_yticks(ticks, labels)
        axes.invert_yaxis()
        axes.margins(x=0.25)
        axes.set_xlabel(f"{score} (the axis does not begin at 0)" if dots else score)
        axes.set_ylabel(", ".join(comparison.keys.values()), color=_INK)

    return _svg(draw, width=6.4, height=1.1 + 0.42 * len(ordered))


def _parallel(comparison: Comparison, drawn: Sequence[Group], score: str) -> Markup:
    """A line per group over an axis per setting, and the score at the right; the better, the stronger."""
    columns = [([group.values[key] for group in drawn], short) for key, short in comparison.keys.items()]
    columns.append(([group.means[score] for group in drawn], score))
    axes_of = [_axis(values) for values, _ in columns]
    means = [group.means[score] for group in drawn]
    rank = sorted(range(len(drawn)), key=lambda i: means[i], reverse=less_is_better(score))

    def draw(axes: Any) -> None:
        for strength, i in enumerate(rank):
            best = strength == len(rank) - 1
            heights = [places[i] for places, _ in axes_of]
            alpha = 0.15 + 0.6 * strength / max(1, len(rank) - 1)
            axes.plot(range(len(columns)), heights, color=_ACCENT, alpha=1.0 if best else alpha, linewidth=3 if best else 1.3)
        for place, ((_, name), (_, ticks)) in enumerate(zip(columns, axes_of, strict=True)):
            axes.axvline(place, color=_MUTED, linewidth=1)
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
