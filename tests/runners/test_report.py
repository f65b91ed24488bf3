import dataclasses
import io
import math
import os
import random
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console

from graphgpt.metrics import Declared, Metric
from graphgpt.report.page import Neighborhood, Report, Row, Sample, Stage, score_table, write_report
from graphgpt.tasks.link_prediction import LinkPrediction
from graphgpt.tasks.node_classification import CLASSIFICATION

CLASSES = ["Text", "Data <types>", "Files & folders"]
#: What they measure; ``something_else`` is declared by nobody.
DECLARED = Declared.of(
    [
        *LinkPrediction.measures(None),
        *CLASSIFICATION,
        Metric(name="rouge_l", title="ROUGE-L"),
        Metric(name="cider", title="CIDEr-D", legend="CIDEr-D: words in common with the captions, the rarer the more", unit=""),
        Metric(name="distance", title="Distance", less_is_better=True, unit=""),
    ]
)
EVIL = "<script>alert(\"1\")</script> & 'more'"


def make_subgraph(**changes: object) -> Neighborhood:
    subgraph = Neighborhood(
        nodes=["re.compile", "re.match", "str", "os.path.join with a title that is long"],
        classes=[0, 0, -1, 2],
        edges=[(0, 1), (1, 0), (0, 2), (2, 3), (3, 3)],
    )
    return dataclasses.replace(subgraph, **changes)  # type: ignore[arg-type]


def make_sample(**changes: object) -> Sample:
    sample = Sample(
        pictures=[],
        id="library/re.compile",
        title="re.compile",
        prompt=[("Nodes: ", False), ("<graph: 4 tokens>", True), (". Which chapter? 1 < 2", False)],
        subgraphs=[make_subgraph()],
        truth="Text",
        answer="Text",
        candidates=[("Text", 0.75), ("Files & folders", 0.2497), ("Data <types>", 0.0003)],
    )
    return dataclasses.replace(sample, **changes)  # type: ignore[arg-type]


def make_row(name: str, *, interval: tuple[float, float] | None = None, note: str = "", is_model: bool = False, **metrics: float) -> Row:
    return Row(name=name, metrics=metrics, intervals={"accuracy": interval} if interval else {}, note=note, is_model=is_model)


NOTHING: dict[str, object] = {
    "stages": [],
    "samples": [],
    "next_steps": [],
    "facts": {},
    "rows": [],
    "class_names": [],
    "confusion": [],
    "calibration": None,
    "by_homophily": [],
    "by_degree": [],
}


def make_report(**changes: object) -> Report:
    noise = random.Random(0)
    steps = list(range(10, 810, 10))
    report = Report(
        title="GraphGPT on the library",
        summary="Most pages are put where they belong.",
        created="1 March 2026",
        command='graphgpt report --out "report.html"',
        facts={"Base model": "small", "Seed": "17"},
        stages=[
            Stage(
                name="graph_matching", steps=steps, loss=[3 - step / 400 + noise.random() for step in steps], val={}, seconds=59.7, facts={}
            ),
            Stage(
                name="node_classification",
                steps=[1, 2, 3],
                loss=[2.5, math.nan, 1.25],
                val={"accuracy": ([1, 3], [0.25, 0.625])},
                seconds=3725,
                facts={"Samples seen": "24,000"},
            ),
        ],
        rows=[
            make_row("Most frequent", accuracy=0.1133, interval=(0.082, 0.154), macro_f1=0.01),
            make_row("Graph only", accuracy=0.79, macro_f1=0.748, top3=0.91, note="label propagation"),
            make_row("GraphGPT", accuracy=0.8534, interval=(0.8211, 0.8839), macro_f1=0.791, top3=0.943, is_model=True),
        ],
        main_metric="accuracy",
        declared=DECLARED,
        items=42,
        remarks=["Leakage: none of note."],
        wordings={"released": {"accuracy": 0.71}, "other": {"accuracy": 0.69}},
        class_names=CLASSES,
        confusion=[[20, 1, 0], [4, 15, 2], [0, 0, 0]],
        calibration={
            "ece": 0.1234,
            "bins": [{"confidence": 0.4, "accuracy": 0.5, "items": 12}, {"confidence": 0.9, "accuracy": 0.8, "items": 30}],
        },
        by_homophily=[{"label": "no neighbor", "items": 2, "value": 0.5}, {"label": "80–100 %", "items": 40, "value": 0.875}],  # noqa: RUF001
        by_degree=[{"label": "1", "items": 42, "value": 0.85}],
        samples=[make_sample(), make_sample(title="open", answer="Files & folders", generated="Files, perhaps")],
        next_steps=[("Train for longer.", "graphgpt train trainer.max_steps=100")],
    )
    return dataclasses.replace(report, **changes)  # type: ignore[arg-type]


class Page(HTMLParser):
    """The words of a page without its style and script, and what its tags hold."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()
        self.text = re.sub(r"\s+", " ", " ".join(self.words))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in {"meta", "link", "br", "img"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.open):
            self.words.append(data)

    def count(self, tag: str, name: str = "") -> int:
        return sum(1 for found, attrs in self.tags if found == tag and name in ["", *(attrs.get("class") or "").split()])


def render(report: Report, folder: Path) -> str:
    write_report(report, folder / "report.html")
    return (folder / "report.html").read_text(encoding="utf-8")


def test_shows_every_part(tmp_path: Path) -> None:
    html = render(make_report(), tmp_path)
    page = Page(html)
    assert html.startswith("<!doctype html>")
    assert page.open == []
    for head in ("Scores", "By wording", "Training", "Where it is right", "Confusions", "Samples", "Facts", "What to try next"):
        assert head in page.text
    assert page.count("figure", "plot") == 6
    assert page.count("article", "sample") == 2
    assert page.count("tr", "model") == 1
    for words in (
        "GraphGPT on the library",
        "Most pages are put",
        "1 March 2026",
        "Train for longer.",
        "Files, perhaps",
        "✓ right",
        "✗ wrong",
        "Leakage: none of note.",
    ):
        assert words in page.text
    for command in ('graphgpt report --out "report.html"', "graphgpt train trainer.max_steps=100"):
        assert command in page.text


def test_shows_the_numbers_it_was_given(tmp_path: Path) -> None:
    text = Page(render(make_report(), tmp_path)).text
    for number in ("85.3", "82.1–88.4", "79.1", "94.3", "11.3", "8.2–15.4", "79.0", "74.8", "91.0"):  # noqa: RUF001
        assert number in text
    assert "Accuracy on 42 items" in text
    assert "Data <types> was taken for Text 4 times, out of 21 items." in text
    assert "Data <types> was taken for Files & folders twice, out of 21 items." in text
    assert "Text was taken for Data <types> once, out of 21 items." in text
    assert "Time 1 min 00 s" in text
    assert "Time: 1 h 02 min" in text
    assert "Samples seen: 24,000" in text
    assert "2.5 at the start, 1.25 at the end. Not drawn: 1 that is not finite." in text
    assert "0.25 at step 1, 0.625 at step 3." in text
    assert "(bold: mean of 4 logged steps)" in text
    for probability in ("75.0 %", "25.0 %", "< 0.1 %"):
        assert probability in text
    assert "Expected calibration error 12.3 %" in text
    assert "no neighbor: 50.0 % of 2; 80–100 %: 87.5 % of 40." in text  # noqa: RUF001
    assert "Accuracy by degree" in text
    assert "71.0" in text and "69.0" in text
    assert "Base model small" in text
    assert "Seed 17" in text


def test_confusion_cells_hold_the_counts(tmp_path: Path) -> None:
    html = render(make_report(), tmp_path)
    matrix = re.search(r'<table class="matrix" .*?</table>', html, re.DOTALL)
    assert matrix
    rows = re.findall(r"<tr><th scope=\"row\".*?</tr>", matrix[0], re.DOTALL)
    cells = [[re.sub("<[^>]*>", "", cell) for cell in re.findall(r"<td.*?</td>", row, re.DOTALL)] for row in rows]
    assert cells == [["20", "1", "", "21", "95.2"], ["4", "15", "2", "21", "71.4"], ["", "", "", "0", "–"]]  # noqa: RUF001


def test_the_matrix_of_many_classes_has_narrower_cells(tmp_path: Path) -> None:
    for count, pixels in ((3, 25), (29, 22), (60, 16)):
        page = render(make_report(class_names=[f"c{i}" for i in range(count)], confusion=[[1] * count] * count), tmp_path)
        assert f'<table class="matrix" style="--cell: {pixels}px">' in page


def test_every_picture_says_what_its_axes_are(tmp_path: Path) -> None:
    never = ([10, 20], [0.0, 0.0])
    val = {"top3": never, "loss": never, "mrr": never, "macro_f1 of nodes": never, "auc": never}
    mrr = Metric(name="mrr", title="Mean reciprocal rank of a node's text")
    known = Declared(DECLARED | {"mrr": mrr})
    stage = Stage(name="a", steps=[1, 2], loss=[2.0, 1.0], val=val, seconds=1.0, facts={}, declared=known)
    page = render(make_report(stages=[stage]), tmp_path)
    pictures = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    axes = ["loss", "top-3", "loss", "mean reciprocal rank of a node's text", "macro f1 of nodes", "AUC"]
    axes += ["right, in per cent", *["Accuracy, in per cent"] * 2]
    assert all(f">{name}</text>" in picture for name, picture in zip(axes, pictures, strict=False))
    assert "\N{MINUS SIGN}" not in pictures[1]  # a share that stays 0 has no room below
    assert "Validation: top-3" in page and "1 item</text>" in render(
        make_report(by_degree=[{"label": "0", "items": 1, "value": 1.0}]), tmp_path
    )


def test_escapes_everything(tmp_path: Path) -> None:
    evil = make_report(
        title=EVIL,
        summary=EVIL,
        created=EVIL,
        command=EVIL,
        facts={EVIL: EVIL},
        stages=[Stage(name=EVIL, steps=[1, 2], loss=[1.0, 2.0], val={EVIL: ([1], [1.0])}, seconds=1, facts={EVIL: EVIL})],
        rows=[make_row(EVIL, accuracy=0.5, note=EVIL, is_model=flag, **{EVIL: 0.5}) for flag in (True, False)],
        remarks=[EVIL],
        wordings={EVIL: {"accuracy": 1.0}},
        by_degree=[{"label": EVIL, "items": 1, "value": 1.0}],
        class_names=[EVIL, "b"],
        confusion=[[1, 1], [0, 1]],
        samples=[
            make_sample(
                id=EVIL,
                title=EVIL,
                prompt=[(EVIL, False)],
                subgraphs=[make_subgraph(nodes=[EVIL] * 4, classes=[0, 1, 0, 5])],
                truth=EVIL,
                answer=EVIL,
                candidates=[(EVIL, 1.0)],
                generated=EVIL,
            )
        ],
        next_steps=[(EVIL, EVIL)],
    )
    html = render(evil, tmp_path)
    page = Page(html)
    assert html.count("<script") == 1
    assert EVIL in page.text
    assert page.open == []
    # A quote that escaped its attribute would have left pieces of the text as attributes of their own.
    assert not [attrs for _, attrs in page.tags if any("alert" in name or "more" in name for name in attrs)]
    assert "&amp;lt;" not in html


def test_graph_tokens_are_marked_in_the_prompt(tmp_path: Path) -> None:
    html = render(make_report(), tmp_path)
    assert "Nodes: <mark>&lt;graph: 4 tokens&gt;</mark>. Which chapter? 1 &lt; 2</pre>" in html


def test_stands_alone(tmp_path: Path) -> None:
    html = render(make_report(), tmp_path)
    page = Page(html)
    assert not [tag for tag, _ in page.tags if tag in {"link", "img", "iframe", "object"}]
    assert not [attrs for _, attrs in page.tags if "src" in attrs]
    links = [value or "" for _, attrs in page.tags for key, value in attrs.items() if key in {"href", "xlink:href"}]
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert all(link.startswith("#") and link[1:] in ids for link in links)
    assert "@import" not in html
    assert set(re.findall(r"https?://[^\"' ]*", html)) <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}


def test_works_in_light_and_dark(tmp_path: Path) -> None:
    html = render(make_report(), tmp_path)
    assert "prefers-color-scheme: dark" in html
    plots = re.findall(r'<figure class="plot".*?</figure>', html, re.DOTALL)
    assert len(plots) == 6
    # Every colour of a plot is one of the page's, which know both modes.
    assert not [colour for plot in plots for colour in re.findall(r"(?:stroke|fill): (#\w+)", plot)]
    assert all("var(--accent)" in plot and "<text" in plot for plot in plots)


@pytest.mark.parametrize(
    "changes",
    [
        {"stages": []},
        {"samples": []},
        {"next_steps": []},
        {"facts": {}},
        {"rows": []},
        {"class_names": [], "confusion": []},
        {"class_names": ["only"], "confusion": [[3]]},
        {"stages": [Stage(name="", steps=[], loss=[], val={"a": ([], [])}, seconds=0, facts={})]},
        {"stages": [Stage(name="one", steps=[5], loss=[1.0], val={}, seconds=0, facts={})]},
        {"calibration": None},
        {"by_homophily": [], "by_degree": []},
        {"wordings": {}, "remarks": []},
        {"samples": [make_sample(subgraphs=[], candidates=[])]},
        {"samples": [make_sample(subgraphs=[make_subgraph(nodes=[], classes=[], edges=[])])]},
        {"samples": [make_sample(subgraphs=[make_subgraph(nodes=["alone"], classes=[-1], edges=[])])]},
        {"samples": [make_sample(answer=None, candidates=[], metrics={"rouge_l": 0.5})]},
        {"main_metric": "auc"},
    ],
    ids=str,
)
def test_parts_may_be_empty(tmp_path: Path, changes: dict[str, object]) -> None:
    page = Page(render(make_report(**changes), tmp_path))
    assert page.open == []
    assert "GraphGPT on the library" in page.text
    targets = {attrs.get("href") for tag, attrs in page.tags if tag == "a"}
    assert targets == {f"#{attrs['id']}" for tag, attrs in page.tags if tag == "section"}


def test_everything_empty(tmp_path: Path) -> None:
    empty = make_report(**NOTHING)
    page = Page(render(empty, tmp_path))
    assert page.count("section") == 0
    assert page.count("nav") == 0


def test_no_confusions_are_said_to_be_none(tmp_path: Path) -> None:
    assert "None: every item got its class." in Page(render(make_report(class_names=["only"], confusion=[[3]]), tmp_path)).text


def test_a_column_without_values_is_left_out(tmp_path: Path) -> None:
    row = make_row("GraphGPT", accuracy=0.5, macro_f1=0.4, is_model=True)
    text = Page(render(make_report(rows=[row], wordings={}), tmp_path)).text
    assert "Top-3" not in text
    assert "95 % interval" not in text


def test_many_classes_show_the_most_frequent(tmp_path: Path) -> None:
    names = [f"c{i}" for i in range(60)]
    confusion = [[(i + 1 if i == j else 0) for j in range(60)] for i in range(60)]
    page = Page(render(make_report(class_names=names, confusion=confusion), tmp_path))
    assert "Shown are the 40 most frequent of 60 classes." in page.text
    assert page.count("td", "hit") == 40


def test_truth_outside_the_first_candidates_is_named(tmp_path: Path) -> None:
    candidates = [(f"c{i}", 0.1) for i in range(9)] + [("Text", 0.0123)]
    page = Page(render(make_report(samples=[make_sample(answer="c0", candidates=candidates)]), tmp_path))
    assert "The truth, Text, is in place 10 with 1.2 %." in page.text
    assert "c8" not in page.text


def test_a_drawing_has_every_node_and_each_edge_once(tmp_path: Path) -> None:
    page = Page(render(make_report(samples=[make_sample()]), tmp_path))
    assert page.count("line") == 3
    assert page.count("circle", "ring") == 1
    assert page.count("circle") == 5
    assert "os.path.join with a title that is long – Files & folders" in page.text  # noqa: RUF001
    assert "str – class unknown" in page.text  # noqa: RUF001


def test_a_drawing_with_more_classes_than_colours(tmp_path: Path) -> None:
    count = 30
    names = [f"c{i}" for i in range(count)]
    sample = make_sample(subgraphs=[make_subgraph(nodes=names, classes=list(range(count)), edges=[(0, i) for i in range(1, count)])])
    page = Page(render(make_report(class_names=names, confusion=[], samples=[sample]), tmp_path))
    assert "another class" in page.text
    spots = [
        (float(attrs["x"] or 0), float(attrs["y"] or 0))
        for tag, attrs in page.tags
        if tag == "text" and "label" in (attrs.get("class") or "")
    ]
    assert spots and all(0 <= x <= 480 and 0 <= y <= 400 for x, y in spots)


def test_is_small(tmp_path: Path) -> None:
    count = 26
    names = [f"Chapter {i} of the reference" for i in range(count)]
    steps = list(range(300))
    stage = Stage(name="s", steps=steps, loss=[random.Random(i).random() for i in steps], val={}, seconds=1, facts={})
    html = render(
        make_report(class_names=names, confusion=[[1] * count] * count, samples=[make_sample()] * 6, stages=[stage] * 2), tmp_path
    )
    assert len(html.encode()) < 500_000


def test_same_input_same_file(tmp_path: Path) -> None:
    assert render(make_report(), tmp_path) == render(make_report(), tmp_path)


def test_a_report_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")
    with pytest.raises(ValueError):
        write_report(make_report(samples=[make_sample(subgraphs=[make_subgraph(classes=[0])])]), path)

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_report(make_report(stages=[]), path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_makes_the_folder(tmp_path: Path) -> None:
    write_report(make_report(stages=[]), tmp_path / "a" / "b.html")
    assert (tmp_path / "a" / "b.html").stat().st_size > 0


def test_terminal_table_fits_80_columns() -> None:
    rows = [
        *make_report().rows,
        make_row("[bold]Brackets[/bold] " + "long " * 12, accuracy=1, interval=(0, 1), macro_f1=1, top3=1, note="n" * 90),
    ]
    out = io.StringIO()
    Console(file=out, width=80).print(score_table(rows, "accuracy", DECLARED))
    text = out.getvalue()
    assert max(map(len, text.splitlines())) <= 80
    assert re.search(r"Most frequent +11\.3 +8\.2–15\.4 +1\.0 +–", text)  # noqa: RUF001
    assert re.search(r"Graph only +79\.0 +– +74\.8 +91\.0", text)  # noqa: RUF001
    assert re.search(r"GraphGPT +85\.3 +82\.1–88\.4 +79\.1 +94\.3", text)  # noqa: RUF001
    assert re.search(r"100\.0 +0\.0–100\.0 +100\.0 +100\.0", text)  # noqa: RUF001
    assert "label propagation" in text
    assert "[bold]Brackets[/bold]" in text


def test_every_metric_has_a_column_and_the_main_one_comes_first(tmp_path: Path) -> None:
    row = Row(
        name="GraphGPT",
        metrics={"average_precision": 0.81, "auc": 0.92, "hard_auc": 0.7, "something_else": 0.33},
        intervals={"auc": (0.9, 0.94)},
        deviations={"auc": 0.012},
        is_model=True,
    )
    html = render(make_report(rows=[row], main_metric="auc", wordings={}), tmp_path)
    heads = re.findall(r'<th role="columnheader"[^>]*>([^<]*)</th>', html)
    assert heads == ["Method", "AUC %", "95 % interval", "± over seeds", "AP %", "Hard AUC %", "Something else %"]
    text = Page(html).text
    for words in ("AUC on 42 items", "92.0", "90.0–94.0", "1.2", "81.0", "33.0", "area under the ROC curve"):  # noqa: RUF001
        assert words in text


def test_a_sample_of_two_subgraphs_has_two_drawings(tmp_path: Path) -> None:
    sample = make_sample(subgraphs=[make_subgraph(), make_subgraph(nodes=["open"], classes=[1], edges=[])])
    page = Page(render(make_report(samples=[sample]), tmp_path))
    assert page.count("circle", "ring") == 2
    assert "subgraph around re.compile in words" in page.text
    assert "subgraph around open in words" in page.text


def test_a_sample_without_candidates_shows_what_was_written(tmp_path: Path) -> None:
    sample = make_sample(answer=None, candidates=[], generated="Compiles a pattern", truth="Makes a pattern", metrics={"rouge_l": 0.6667})
    page = Page(render(make_report(samples=[sample]), tmp_path))
    assert "ROUGE-L 66.7 %" in page.text
    assert "Compiles a pattern" in page.text and "Makes a pattern" in page.text
    assert "✓ right" not in page.text


def test_several_seeds_show_deviations_in_the_terminal() -> None:
    out = io.StringIO()
    rows = [Row(name="GraphGPT", metrics={"auc": 0.9, "average_precision": 0.8}, deviations={"auc": 0.0123}, is_model=True)]
    Console(file=out, width=80).print(score_table(rows, "auc", DECLARED))
    assert re.search(r"GraphGPT +90\.0 +1\.2 +80\.0", out.getvalue())
    assert "± (seeds)" in out.getvalue()


def test_a_number_that_is_no_share_is_shown_as_it_is(tmp_path: Path) -> None:
    rows = [
        Row(name="Majority", metrics={"cider": 0.25, "accuracy": 0.5}),
        Row(name="GraphGPT", metrics={"cider": 1.25, "accuracy": 0.75}, intervals={"cider": (1.0, 1.5)}, is_model=True),
    ]
    html = render(make_report(rows=rows, main_metric="cider", wordings={}, confusion=[]), tmp_path)
    heads = re.findall(r'<th role="columnheader"[^>]*>([^<]*)</th>', html)
    assert heads == ["Method", "CIDEr-D", "95 % interval", "Accuracy %"]
    assert "width:20.00%" in html and "width:100.00%" in html  # bars end at the highest
    text = Page(html).text
    for words in ("CIDEr-D on 42 items", "1.250", "1.000–1.500", "75.0", "the rarer the more", "CIDEr-D by degree"):  # noqa: RUF001
        assert words in text
    out = io.StringIO()
    Console(file=out, width=80).print(score_table(rows, "cider", DECLARED))
    assert re.search(r"CIDEr-D +95 % interval +Accuracy %", out.getvalue())
    assert re.search(r"GraphGPT +1\.250 +1\.000–1\.500 +75\.0", out.getvalue())  # noqa: RUF001
    assert "in per cent" not in out.getvalue()


def test_the_best_of_the_others_is_the_lowest_where_less_is_better(tmp_path: Path) -> None:
    rows = [
        Row(name=name, metrics={"distance": value}, is_model=name == "GraphGPT")
        for name, value in (("far", 3), ("near", 2), ("GraphGPT", 1))
    ]
    assert "Best of the others: near" in Page(render(make_report(rows=rows, main_metric="distance", wordings={}), tmp_path)).text


def test_of_equals_the_first_is_the_best(tmp_path: Path) -> None:
    rows = [Row(name=name, metrics={"accuracy": 0.5}, is_model=name == "GraphGPT") for name in ("one", "other", "GraphGPT")]
    assert "Best of the others: one" in Page(render(make_report(rows=rows, wordings={}), tmp_path)).text
