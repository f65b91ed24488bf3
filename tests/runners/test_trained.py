"""A checkpoint knows what it was trained on, and no evaluation scores that as if it were new."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import csv_overrides, make_graph, make_task, train

from graphgpt import GraphAssistant
from graphgpt.assembly import build_model, build_task
from graphgpt.checkpoints.folder import load_checkpoint, verify_checkpoint
from graphgpt.checkpoints.trained import FILE, Trained, read_trained, trained_items, write_trained
from graphgpt.cli.chat import GraphChat
from graphgpt.cli.main import main
from graphgpt.config.command_line import check_command_line
from graphgpt.config.experiment import EvaluationConfig, evaluated_experiment
from graphgpt.errors import CheckpointError, DataError
from graphgpt.evaluation.account import remarks
from graphgpt.evaluation.evaluation import evaluate
from graphgpt.evaluation.unseen import unseen
from graphgpt.graphs.graph import TextAttributedGraph, build_graph
from graphgpt.tasks.task import Task

MOMENT = ["runner.max_steps=1", "runner.global_batch_size=2"]
LABELS = [("Red", "Green", "Blue", "White")[i * i % 7 % 4] for i in range(42)]


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tables")


@pytest.fixture(scope="module")
def classified(tables: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folder of a node classification on tables, under a split of its own."""
    run = tmp_path_factory.mktemp("classified")
    train(run, [*csv_overrides(tables, LABELS), "task=node_classification", "dataset.split.seed=7", *MOMENT])
    return run


@pytest.fixture(scope="module")
def linked(tables: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("linked")
    train(run, [*csv_overrides(tables, LABELS), "task=link_prediction", *MOMENT])
    return run


@pytest.fixture(scope="module")
def graph_folder(classified: Path, tables: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same graph as ``graphgpt data build`` makes it."""
    out = tmp_path_factory.mktemp("built") / "graph"
    main(["data", "build", "--nodes", f"{tables}/nodes.csv", "--edges", f"{tables}/edges.csv", "--out", str(out)])
    return out


def opened(run: Path, *overrides: str) -> tuple[Task, EvaluationConfig]:
    config = check_command_line(EvaluationConfig, "evaluate", [f"checkpoint={run}", *overrides])
    return build_task(evaluated_experiment(config)), config


def ids(task: Task, split: Any) -> set[str]:
    return {task.graph.ids[item].as_py() for item in task.items(split).tolist()}


def changed(folder: Path, out: Path, change: Callable[[list[Any]], list[Any]], *, edges: str = "") -> Path:
    """Another graph folder made of the tables behind a graph, some rows of nodes changed or edges added."""
    head, *rows = (folder / "nodes.csv").read_text().splitlines()
    rows = change(rows)
    kept = {row.split(",")[0] for row in rows}
    ends = [line for line in (folder / "edges.csv").read_text().splitlines()[1:] if set(line.split(",")) <= kept]
    out.mkdir()
    (out / "nodes.csv").write_text("\n".join([head, *rows, ""]))
    (out / "edges.csv").write_text("\n".join(["source,target", *ends]) + f"\n{edges}")
    main(["data", "build", "--nodes", f"{out}/nodes.csv", "--edges", f"{out}/edges.csv", "--out", str(out / "graph")])
    return out / "graph"


def test_training_nodes_are_left_out_whichever_dataset_opens_the_graph(classified: Path, graph_folder: Path, tmp_path: Path) -> None:
    trained, _ = opened(classified)
    task, config = opened(classified, "dataset=folder", f"dataset.path={graph_folder}")
    overlap = ids(task, "test") & ids(trained, "train")
    assert overlap
    asked, facts = unseen(task, config)
    assert ids(asked, "test") == ids(task, "test") - ids(trained, "train")
    assert ids(asked, "train") == ids(task, "train")  # what baselines are fitted on stays
    assert facts["left_out"] == facts["seen"] == len(overlap)


def test_the_report_the_terminal_and_the_metrics_say_how_many(
    classified: Path, graph_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task, config = opened(classified, "dataset=folder", f"dataset.path={graph_folder}", "threads=1", "accelerator=cpu", "samples=0")
    model = build_model(evaluated_experiment(config), task)
    load_checkpoint(model, classified)
    result = evaluate(model, task, config, tmp_path / "evaluation")
    facts = result["trained_on"]
    assert result["items"] == facts["items"] - facts["left_out"] > 0
    sentence = f"Left out: {facts['left_out']} of the {facts['items']} test items, for the checkpoint was trained on them."
    assert sentence in remarks(result)
    assert sentence in " ".join(capsys.readouterr().out.split())
    assert sentence in (tmp_path / "evaluation" / "report.html").read_text()
    assert json.loads((tmp_path / "evaluation" / "metrics.json").read_text())["trained_on"] == facts


@pytest.mark.parametrize("version", ["edges added", "a part of it", "some texts edited"])
def test_another_version_of_the_graph_is_the_same_graph(classified: Path, tables: Path, tmp_path: Path, version: str) -> None:
    change: dict[str, Callable[[list[str]], list[str]]] = {
        "edges added": lambda rows: rows,
        "a part of it": lambda rows: rows[:30],
        "some texts edited": lambda rows: [row.replace("Of ", "About ") if i % 5 == 1 else row for i, row in enumerate(rows)],
    }
    folder = changed(tables, tmp_path / "other", change[version], edges="n0,n20\nn1,n22\n" if version == "edges added" else "")
    trained, _ = opened(classified)
    task, config = opened(classified, "dataset=folder", f"dataset.path={folder}")
    assert task.data["fingerprint"] != trained.data["fingerprint"]
    asked, _ = unseen(task, config)
    assert ids(asked, "test") == ids(task, "test") - ids(trained, "train") < ids(task, "test")


def test_another_graph_with_the_same_ids_is_another_graph(classified: Path, tables: Path, tmp_path: Path) -> None:
    folder = changed(tables, tmp_path / "other", lambda rows: [",".join([row.split(",")[0], "Song", "Of love.", "Pop"]) for row in rows])
    task, config = opened(classified, "dataset=folder", f"dataset.path={folder}")
    asked, facts = unseen(task, config)
    assert facts["left_out"] == 0
    assert ids(asked, "test") == ids(task, "test")


def test_nodes_without_texts_are_told_apart_by_class_and_neighbors() -> None:
    def graph(classes: list[int], edges: list[list[int]]) -> TextAttributedGraph:
        nothing = [""] * len(classes)
        names = [str(i) for i in range(len(classes))]
        made = build_graph(
            ids=names, titles=nothing, bodies=nothing, labels=classes, class_names=["a", "b"], edges=edges, card={"name": "bare"}
        )
        return made.with_features(torch.ones(len(classes), 2))

    first = make_task("node_classification", graph([0, 1] * 6, [[i, i + 1] for i in range(11)]))
    again = make_task("node_classification", graph([0, 1] * 6, [[i, i + 1] for i in range(11)] + [[0, 5]]))
    other = make_task("node_classification", graph([1, 0] * 6, [[0, i] for i in range(1, 12)]))
    record = Trained(tasks=("node_classification",), items=trained_items(first, first.items("train")))
    everything = torch.arange(12)
    assert everything[record.seen(again, everything)].tolist() == first.items("train").tolist()
    assert not record.seen(other, everything).any()  # though one or the other looks the same


def test_a_split_of_training_items_alone_is_refused(classified: Path, graph_folder: Path) -> None:
    split = graph_folder.parent / "split.csv"
    turned = {"train": "test", "test": "train", "val": "val"}
    lines = [line.rsplit(",", 1) for line in (classified / "split.csv").read_text().splitlines()[1:]]
    split.write_text("id,split\n" + "".join(f"{name},{turned[part]}\n" for name, part in lines))
    task, config = opened(classified, "dataset.split.name=file", f"dataset.split.path={split}")
    with pytest.raises(DataError, match=r"^split: .* was trained on every test item of 'csv' \(25\), so their score would say"):
        unseen(task, config)


def test_the_training_split_itself_may_be_asked_for(classified: Path) -> None:
    task, config = opened(classified, "split=train")
    asked, facts = unseen(task, config)
    assert ids(asked, "train") == ids(task, "train")
    assert facts["seen"] == facts["items"] == 25
    result = {"task": "node_classification", "split": "train", "trained_on": facts, "shard": None, "leakage": None}
    said = remarks(result | {"answer_in_own_text": None, "wordings": None})
    assert said == ["The checkpoint was trained on 25 of the 25 train items: what it remembers counts."]


def test_pairs_that_training_asked_about_are_left_out(linked: Path) -> None:
    def pairs(task: Any, split: Any) -> set[frozenset[int]]:
        return {frozenset(task.edges.pairs[item].tolist()) for item in task.items(split).tolist()}

    trained, _ = opened(linked)
    task, config = opened(linked, "task.split.seed=5", "task.split.test=0.5")
    overlap = pairs(task, "test") & pairs(trained, "train")
    assert overlap
    asked, facts = unseen(task, config)
    assert facts["left_out"] == len(overlap)
    assert pairs(asked, "test") == pairs(task, "test") - overlap
    own, config = opened(linked)
    assert unseen(own, config)[1]["left_out"] == 0


def test_what_earlier_stages_saw_is_inherited(classified: Path, tables: Path, tmp_path: Path) -> None:
    run = tmp_path / "second"
    train(run, [*csv_overrides(tables, LABELS), "task=link_prediction", f"start_from={classified}", "model/lora=default", *MOMENT])
    trained, _ = opened(classified)
    record = read_trained(run / "checkpoint")
    assert record.tasks == ("node_classification", "link_prediction")
    nodes = torch.arange(trained.graph.num_nodes)
    assert nodes[record.seen(trained, nodes)].tolist() == trained.items("train").tolist()
    verify_checkpoint(run)
    assert FILE in json.loads((run / "checkpoint" / "manifest.json").read_text())["files"]


def test_each_part_of_a_mixture_has_its_own_items(tables: Path, tmp_path: Path) -> None:
    run = tmp_path / "mixed"
    train(run, [*csv_overrides(tables, LABELS), "task=mixture", "runner.train_samples=20", *MOMENT])
    record = read_trained(run / "checkpoint")
    assert "mixture" not in record.tasks
    task, _ = opened(run)
    found = {name: int(record.seen(part, part.items("train")).sum()) for name, part in task.parts.items()}
    assert all(found.values())
    assert sum(found.values()) <= 20  # no more than training draws from
    assert not any(record.seen(part, part.items("test")).any() for part in task.parts.values())


def test_a_checkpoint_without_the_record_says_so(classified: Path, tmp_path: Path) -> None:
    """As those are that were written before there was one."""
    old = tmp_path / "old"
    shutil.copytree(classified / "checkpoint", old)
    (old / FILE).unlink()
    manifest = json.loads((old / "manifest.json").read_text())
    del manifest["files"][FILE]
    (old / "manifest.json").write_text(json.dumps(manifest))
    task, config = opened(old)
    asked, facts = unseen(task, config)
    assert asked is task
    assert not facts["known"]
    result = {"task": "node_classification", "split": "test", "trained_on": facts, "shard": None, "leakage": None}
    [said] = remarks(result | {"answer_in_own_text": None, "wordings": None})
    assert said.startswith("Which items the checkpoint was trained on is not known")


def test_a_record_that_cannot_be_read_is_said(classified: Path, tmp_path: Path) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(classified / "checkpoint", folder)
    (folder / FILE).write_bytes(b"PAR1 no table PAR1")
    with pytest.raises(CheckpointError, match=r"trained.parquet cannot be read as the record of a training: "):
        read_trained(folder)


@pytest.mark.parametrize("bit", [1, 16])
def test_a_record_with_one_bit_changed_never_ends_in_a_traceback(classified: Path, tmp_path: Path, bit: int) -> None:
    """As a disk, or a transfer, changes one; pyarrow has an error of its own for each place."""
    folder = tmp_path / "damaged"
    shutil.copytree(classified / "checkpoint", folder)
    whole = (folder / FILE).read_bytes()
    refused = 0
    for place in range(0, len(whole), 8):
        (folder / FILE).write_bytes(whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :])
        try:
            read_trained(folder)
        except CheckpointError:
            refused += 1
    assert refused > 50


def test_a_million_nodes_stay_small(tmp_path: Path) -> None:
    class Large:
        reveals = "class"
        config = make_task("node_classification", make_graph()).config
        data = {"name": "large", "fingerprint": "f"}

        def by_part(self, items: Any) -> Any:
            return [(self, items)]

        def identities(self, items: Any) -> Any:
            return [f"paper{i * 7919 % 10**7}" for i in items.tolist()], ["text"] * len(items)

    table = trained_items(Large(), torch.arange(100_000))  # type: ignore[arg-type]
    write_trained(table, tmp_path)
    assert (tmp_path / FILE).stat().st_size < 1_000_000


def test_a_table_of_answers_says_which_nodes_were_trained_on(classified: Path, graph_folder: Path) -> None:
    trained, _ = opened(classified)
    assistant = GraphAssistant.from_pretrained(classified, graph_folder, device="cpu")
    table = assistant.classify(nodes=range(trained.graph.num_nodes))
    assert set(table["id"][table["trained_on"]]) == ids(trained, "train")
    [node, *_], [other, *_] = trained.items("train").tolist(), trained.items("test").tolist()
    assert assistant.classify(node).trained_on is True
    assert assistant.classify(other).trained_on is False
    assistant.trained = None
    assert assistant.classify(nodes=[node])["trained_on"].isna().all()
    assert assistant.classify(node).trained_on is None


def test_a_link_of_a_model_that_never_learned_links_says_so(classified: Path, linked: Path, capsys: pytest.CaptureFixture[str]) -> None:
    remark = "says little: the model was never trained to tell whether nodes are connected, but on node_classification; "
    assistant = GraphAssistant.from_pretrained(classified, device="cpu")
    chance = assistant.link(3, 17)
    assert 0 <= chance <= 1
    assert f"{chance:.3f}" == f"{float(chance):.3f}"
    assert chance.remark == f"{remark}task=link_prediction trains that"
    assert repr(chance) == f"{float(chance)!r} ({chance.remark})"
    GraphChat(assistant).take("/link 3 17")
    assert f"P(connected) = {chance:.3f} ({remark}" in capsys.readouterr().out
    links = GraphAssistant.from_pretrained(linked, device="cpu")
    assert links.link(3, 17).remark == ""
    task: Any = opened(linked)[0]
    [first, *_] = task.edges.pairs[task.items("train")].tolist()
    assert links.link(*reversed(first)).trained_on is True
    assert links.classify(3).remark.startswith("says little: the model was never trained to tell classes of nodes, but on link_prediction")
    assert assistant.classify(3).remark == ""
