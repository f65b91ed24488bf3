"""Reading ranked answers exactly; learning from records of a teacher."""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import CLASS_NAMES, CONFIGS, UNLABELLED, csv_overrides, make_processor, written
from hypothesis import assume, given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from graphgpt.assembly import build_model, build_runner, build_task
from graphgpt.config.command_line import check_command_line
from graphgpt.config.experiment import EvaluationConfig, ExperimentConfig, evaluated_experiment
from graphgpt.errors import ConfigError, DataError
from graphgpt.evaluation.evaluation import evaluate
from graphgpt.graphs.graph import TextAttributedGraph
from graphgpt.models.multimodal_llm import MultimodalLLM
from graphgpt.prompts.batch import training_batch
from graphgpt.prompts.prediction import Prediction
from graphgpt.tasks.chain_of_thought import Answer, AnswerReader, read_records
from graphgpt.tasks.task import Task

CORA = ("Case_Based", "Genetic_Algorithms", "Neural_Networks", "Probabilistic_Methods", "Reinforcement_Learning", "Rule_Learning", "Theory")

# Reading


@pytest.mark.parametrize(
    ("text", "ranking", "final"),
    [
        ("Biology, Art, Biochemistry\n\nIt is about cells.", (1, 0, 2), 1),
        ("biology,  ART", (1, 0), 1),
        ("The likeliest are: Biology, Art and Biochemistry.", (1, 0, 2), 1),
        ("1. Biology\n2. Art\n3. Biochemistry", (1, 0, 2), 1),
        ("1) **Biology**\n\n2) **Art**\n\nBecause of cells.", (1, 0), 1),
        ("- Biology\n\n- Art", (1, 0), 1),
        ("1. Biology. 2. Art.", (1, 0), 1),
        ("Art > Biology", (0, 1), 0),
        ("Art, Biology, Art", (0, 1), 0),
        # What is only talked about is not ranked.
        ("Biology. It is not Art.", (1,), 1),
        ("Biology\n\nArt is unlikely.", (1,), 1),
        ("Biology (rather than Art)", (1,), 1),
        # The longest name counts, and whole names only.
        ("Biochemistry", (2,), 2),
        ("Biochemistry-like", (), None),
        ("Article, Arts, Microbiology, state-of-the-Art, Art.History, Art_1", (), None),
        ("", (), None),
        ("None of these fits.", (), None),
        ("Bio chemistry", (), None),
        # A decision that is announced counts.
        ("Art, Biology\n\nOn reflection it has cells. Final answer: Biology", (0, 1), 1),
        ("Art, Biology. The final answer is **Biology**.", (0, 1), 1),
        ("Cells, not paint.\n**Final answer:**\nBiology, Art", (1, 0), 1),
        ("Final answer: Art. Final answer: Biology, for Art has no cells.", (1,), 1),
        ("Art, Biology\nFinal answer: neither", (0, 1), None),
        ("Art, Biology\nFinal answer: neither.\nBiology was close.", (0, 1), None),
        ("Art, Biology. These led to my final answer.", (0, 1), 0),
    ],
)
def test_reading(text: str, ranking: tuple[int, ...], final: int | None) -> None:
    assert AnswerReader(CLASS_NAMES)(text) == Answer(ranking, final)


@pytest.mark.parametrize(
    ("names", "text", "ranking"),
    [
        (("C", "C++", "C#"), "C++, C, C#", (1, 0, 2)),
        (("C",), "C++ or C#", ()),
        (("cs.LG", "cs", "LG"), "cs.LG.", (0,)),
        (("cs", "LG"), "cs.LG", ()),
        (("Learning", "Machine Learning"), "Machine\nLearning, Learning", (1, 0)),
        (("Type 1 diabetes", "Type 2 diabetes"), "type 2 diabetes, type 1  diabetes", (1, 0)),
        (("US", "us"), "us, US", (1, 0)),
        (("(none)", "a|b"), "a|b, (none)", (1, 0)),
        (("3D vision", "2D vision"), "1. 2D vision\n2. 3D vision", (1, 0)),
        (CORA, "Neural_Networks, Theory", (2, 6)),
        (("Learning", "Networks"), "Rule_Learning, Neural_Networks", ()),
        (("网络", "图"), "网络、图", (0, 1)),
    ],
)
def test_names_of_all_kinds(names: Sequence[str], text: str, ranking: tuple[int, ...]) -> None:
    assert AnswerReader(names)(text).ranking == ranking


WORDS = st.sampled_from(["graph", "Graphs", "theory", "of", "cs.LG", "C++", "deep", "learning", "Über", "2D", "x"])
NAMES = st.lists(st.lists(WORDS, min_size=1, max_size=3).map(" ".join), min_size=1, max_size=8, unique_by=str.casefold)
SEPARATORS = st.sampled_from([", ", "; ", "\n", "\n- ", " and ", ", and ", " > ", "\n* ", " | "])


@given(names=NAMES, data=st.data())
def test_a_list_is_read_as_it_was_written(names: list[str], data: st.DataObject) -> None:
    """Whatever begins like, ends like or contains another name."""
    order = data.draw(st.permutations(range(len(names))))
    separator = data.draw(SEPARATORS)
    change = data.draw(st.sampled_from([str, str.upper, str.lower]))
    said = AnswerReader(names)(separator.join(change(names[i]) for i in order) + data.draw(st.sampled_from(["", ".", "\n\nBecause."])))
    assert said == Answer(tuple(order), order[0])


@given(names=NAMES, before=st.text("ab_9", max_size=3), after=st.text("ab_9+", max_size=3), data=st.data())
def test_a_part_of_a_longer_word_names_nothing(names: list[str], before: str, after: str, data: st.DataObject) -> None:
    assume(before or after)
    name = data.draw(st.sampled_from(names))
    text = before + name + after
    expected = {i for i, other in enumerate(names) if re.search(rf"(?<!\S){re.escape(other)}(?!\S)", text, re.IGNORECASE)}
    assert set(AnswerReader(names)(text).ranking) <= expected


@given(names=NAMES, text=st.lists(WORDS | st.sampled_from([",", ".", "\n\n", "1.", "final answer:", "-", "graphtheory"])).map(" ".join))
def test_what_is_read_stands_there(names: list[str], text: str) -> None:
    said = AnswerReader(names)(text)
    assert len(set(said.ranking)) == len(said.ranking)
    flat = " ".join(text.split()).casefold()
    assert all(" ".join(names[i].split()).casefold() in flat for i in {*said.ranking, said.final} - {None} if i is not None)
    assert said.final is None or "final answer" in flat or said.final == said.ranking[0]


@given(text=st.text(max_size=200))
def test_any_text_can_be_read(text: str) -> None:
    said = AnswerReader(CLASS_NAMES)(text)
    assert (said.final is None) == (not said.ranking) or "final" in text.casefold()


def test_reading_does_not_take_for_ever() -> None:
    """What small models write when they run wild."""
    read = AnswerReader(CLASS_NAMES)
    for wild in ("Art" + "\n" * 3000 + "Art", "Art, " * 3000, "Art" + " \n" * 3000 + "x", "Art" + "1" * 3000 + " Art", "final " * 3000):
        read(wild)


# The task


def record(graph: TextAttributedGraph, node: int, **fields: Any) -> dict[str, Any]:
    truth = graph.class_names[int(graph.y[node])]
    return {"id": f"n{node}", "truth": truth, "answer": f"{truth}, Art\n\nIt says so in {node}."} | fields


def write(path: Path, records: Sequence[dict[str, Any]], end: str = "\n") -> Path:
    path.write_text("\n".join(json.dumps(record) for record in records) + end)
    return path


MakeTask = Callable[..., Task]


@pytest.fixture
def train_nodes(graph: TextAttributedGraph, make_task: MakeTask) -> list[int]:
    nodes: list[int] = make_task("node_classification", graph).items("train").tolist()
    return nodes


def test_it_trains_on_kept_records_of_the_training_split(
    graph: TextAttributedGraph, make_task: MakeTask, train_nodes: list[int], tmp_path: Path
) -> None:
    plain = make_task("node_classification", graph)
    test_node = int(plain.items("test")[0])
    kept, dropped = train_nodes[:3], train_nodes[3]
    records = [*(record(graph, node) for node in kept), record(graph, dropped, kept=False), record(graph, test_node)]
    task = make_task("chain_of_thought", graph, records=str(write(tmp_path / "a.jsonl", records)))
    assert task.items("train").tolist() == kept
    assert task.items("train").dtype == torch.int64
    for split in ("val", "test"):
        assert task.items(split).tolist() == plain.items(split).tolist()
    assert not set(UNLABELLED) & set(task.items("test").tolist())
    instruction = task.instruction(kept[0], seed=3, training=True)
    assert instruction.messages[-1].text == records[0]["answer"]
    assert instruction.truth == int(graph.y[kept[0]])
    assert instruction.id == f"n{kept[0]}"
    without = task.instruction(int(task.items("val")[0]), seed=3, training=False)
    assert without.truth is not None
    assert without.messages[-1].text == graph.class_names[without.truth]


def test_several_answers_to_a_node_take_turns(
    graph: TextAttributedGraph, make_task: MakeTask, train_nodes: list[int], tmp_path: Path
) -> None:
    node = train_nodes[0]
    records = [record(graph, node, answer=f"{name} <graph>", model=name) for name in ("a", "b", "c")]
    task = make_task("chain_of_thought", graph, records=str(write(tmp_path / "a.jsonl", records)))
    said = {task.instruction(node, seed=seed, training=True).messages[-1].text for seed in range(20)}
    assert said == {"a <graph>", "b <graph>", "c <graph>"}
    one = task.instruction(node, seed=7, training=True)
    assert one.messages[-1] == task.instruction(node, seed=7, training=True).messages[-1]


@pytest.mark.parametrize("wording", ["constant_first", "released", "released_arxiv", "released_pubmed"])
@pytest.mark.parametrize("hide_text", [False, True])
def test_prompts(graph: TextAttributedGraph, make_task: MakeTask, wording: str, hide_text: bool) -> None:
    task = make_task("chain_of_thought", graph, wording=wording)
    instruction = task.instruction(7, seed=1, training=False, hide_text=hide_text)
    prompt = written(instruction.messages[0])
    assert prompt.count("<graph>") == len(instruction.inputs) == 1
    assert (graph.title(7) in prompt) == (graph.body(7) in prompt) == (not hide_text)
    assert ("(hidden)" in prompt) == hide_text
    assert not re.search(r"[{}]", prompt)
    if wording in ("constant_first", "released"):
        assert all(name in prompt for name in CLASS_NAMES)
        assert "Give 3 likely" in prompt  # five of three classes


def test_the_released_wording_of_cora(graph: TextAttributedGraph, make_task: MakeTask) -> None:
    prompt = written(make_task("chain_of_thought", graph, wording="released").instruction(7, seed=1, training=False).messages[0])
    head = "Given a citation graph: \n<graph>\nwhere the 0th node is the target paper, with the following information: \nAbstract: "
    assert prompt.startswith(head)
    assert prompt.endswith(
        "1. Art. 2. Biology. 3. Biochemistry. Give 3 likely categories as a comma-separated list ordered from most to least likely. "
        "Please think about the categorization in a step by step manner and avoid making false associations. "
        "Then provide your reasoning for each choice."
    )


def test_the_teacher_reads_text_only(graph: TextAttributedGraph, make_task: MakeTask) -> None:
    task: Any = make_task("chain_of_thought", graph, top_k=2)
    prompt = task.teacher_prompt(7)
    assert "<graph>" not in prompt
    assert prompt.startswith(f"Title: {graph.title(7)}\nText: {graph.body(7)}\n")
    assert "Art; Biology; Biochemistry" in prompt
    assert "the 2 likeliest" in prompt
    shipped = OmegaConf.to_container(OmegaConf.load(CONFIGS / "task" / "chain_of_thought.yaml"))
    short: Any = make_task("chain_of_thought", graph, teacher=shipped["teacher"] | {"max_chars": 12})  # type: ignore[index,call-overload]
    assert len(short.teacher_prompt(7).splitlines()[1]) <= len("Text: ") + 12


def test_metrics(graph: TextAttributedGraph, make_task: MakeTask) -> None:
    task = make_task("chain_of_thought", graph, top_k=2)
    texts = ["Biology, Art", "Art, Biology", "Art, Biochemistry, Biology", "No idea.", None, "Art, Biology\nFinal answer: Biology"]
    predictions = [Prediction(id="n1", prompt_tokens=9, truth=1, scores=None, expected="Biology", text=text) for text in texts]
    each = [task.answer_metrics(prediction) for prediction in predictions]
    assert [m["top1"] for m in each] == [1, 0, 0, 0, 0, 1]
    assert [m["topk"] for m in each] == [1, 1, 0, 0, 0, 1]
    assert [m["invalid"] for m in each] == [0, 0, 0, 1, 1, 0]
    assert task.metrics(predictions) == pytest.approx({"top1": 2 / 6, "topk": 3 / 6, "invalid": 2 / 6})
    assert [metric.name for metric in task.measures(task.config)] == [*each[0]]
    assert task.candidates is None


# What is refused


def test_training_asks_for_records(graph: TextAttributedGraph, make_task: MakeTask) -> None:
    task = make_task("chain_of_thought", graph)
    with pytest.raises(DataError, match=r"^task\.records: training needs a teacher's answers; 'graphgpt data distill' writes them\.$"):
        task.items("train")
    assert len(task.items("test")) > 0


def test_records_without_a_training_node(graph: TextAttributedGraph, make_task: MakeTask, train_nodes: list[int], tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [record(graph, train_nodes[0], kept=False)])
    task = make_task("chain_of_thought", graph, records=str(path))
    with pytest.raises(DataError, match=rf"^{path} has no kept answer for any training node of the graph 'toy'\.$"):
        task.items("train")


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"id": "m7"}, "that graph has no such node"),
        ({"truth": "History"}, "there its class is '(Art|Biology|Biochemistry)'"),
        ({"id": f"n{UNLABELLED[0]}"}, "there it has no class"),
    ],
)
def test_records_of_another_graph(
    graph: TextAttributedGraph, make_task: MakeTask, train_nodes: list[int], tmp_path: Path, fields: dict[str, str], found: str
) -> None:
    records = [record(graph, train_nodes[0]), record(graph, train_nodes[1], **fields)]
    path = write(tmp_path / "a.jsonl", records)
    task = make_task("chain_of_thought", graph, records=str(path))
    expected = rf"^{path}, line 2: the answer is about a node '\w+' of class '\w+', not about the graph 'toy': {found}\. Distil this graph "
    with pytest.raises(DataError, match=expected):
        task.items("train")
    # To evaluate a model on another graph than it was trained on is no mistake.
    assert task.instruction(train_nodes[0], seed=0, training=False).messages[-1].text == records[0]["answer"]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("{", r", line 2: Invalid JSON"),
        ("[1]", r", line 2: "),
        ('{"id": "n1", "truth": "Art"}', r", line 2 'answer': "),
        ('{"id": "n1", "truth": "Art", "answer": 7.5, "kept": "perhaps"}', r", line 2 'kept': "),
        ('{"id": "n1", "truth": "Art", "answer": "Art", "anwser": "Art"}', r", line 2 'anwser': "),
    ],
)
def test_damaged_records(graph: TextAttributedGraph, tmp_path: Path, line: str, expected: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(record(graph, 0)) + f"\n{line}\n")
    with pytest.raises(DataError, match=f"^{path}{expected}.*Expected a line of 'graphgpt data distill'"):
        list(read_records(path))


def test_records_that_are_not_utf8(graph: TextAttributedGraph, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"id": "n1", "truth": "Art", "answer": "\xff"}\n')
    with pytest.raises(DataError, match=f"^{path}, line 1: Invalid JSON"):
        list(read_records(path))


def test_a_line_that_a_crash_cut_short_is_left_out(graph: TextAttributedGraph, tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [record(graph, 0), record(graph, 1)], end="\n" + json.dumps(record(graph, 2))[:20])
    assert [(line, found.id) for line, found in read_records(path)] == [(1, "n0"), (2, "n1")]


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        (
            "task.records=nowhere.jsonl",
            "task.records: there is no file nowhere.jsonl; 'graphgpt data distill ... --out nowhere.jsonl' writes it.",
        ),
        ("task.teacher.wording='{titel}'", "task.teacher.wording: '{titel}' is not known here. Did you mean 'title'?"),
        ("task.teacher.wording='<graph> {title}'", "task.teacher.wording: a teacher reads text only, so '<graph>' must not be in it."),
        ("task.wording=relesed", "task.wording: 'relesed' is not one of task.wordings. Did you mean 'released'?"),
    ],
)
def test_a_config_that_cannot_work(tmp_path: Path, override: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_command_line(ExperimentConfig, "train", [*csv_overrides(tmp_path), "task=chain_of_thought", override])
    assert caught.value.problems == [sentence]


# With a model


def test_the_loss_covers_the_reasoning(
    graph: TextAttributedGraph, make_task: MakeTask, tiny_model: Callable[..., MultimodalLLM], train_nodes: list[int], tmp_path: Path
) -> None:
    path = write(tmp_path / "a.jsonl", [record(graph, node) for node in train_nodes[:2]])
    task = make_task("chain_of_thought", graph, records=str(path))
    model = tiny_model()
    processor = make_processor(model)
    examples = [processor(task.instruction(node, seed=0, training=True)) for node in train_nodes[:2]]
    supervised = [[token for token in example.labels if token >= 0] for example in examples]
    for node, tokens in zip(train_nodes, supervised, strict=False):
        assert f"It says so in {node}." in model.tokenizer.decode(tokens)
    batch = training_batch(examples, model.readers)
    assert len(batch.target) == sum(map(len, supervised))
    loss = model.loss(batch)
    assert torch.isfinite(loss)


def test_trains_for_a_step_and_is_evaluated(tmp_path: Path) -> None:
    data = csv_overrides(tmp_path)
    names = ("Red", "Green", "Blue")
    records = [{"id": f"n{i}", "truth": names[i % 3], "answer": f"{names[i % 3]}, Red\n\nIt says so."} for i in range(42)]
    path = write(tmp_path / "records.jsonl", records)
    short = ["runner.max_steps=1", "runner.global_batch_size=2", "runner.micro_batch_size=2", "runner.val_every=1", "runner.val_samples=2"]
    experiment = check_command_line(
        ExperimentConfig, "train", [*data, "task=chain_of_thought", f"task.records={path}", "model/lora=default", *short]
    )
    task = build_task(experiment)
    model = build_model(experiment, task)
    folder = tmp_path / "run"
    build_runner(experiment).train(model, task, experiment, folder)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert any(0 < line.get("train/loss", 0) < 20 for line in lines)
    assert any(0 < line.get("val/loss", 0) < 20 for line in lines)
    manifest = json.loads((folder / "checkpoint" / "manifest.json").read_text())
    assert re.fullmatch(r"[0-9a-f]{64}", manifest["data"]["records"])
    path.unlink()  # Evaluation does without.
    overrides = [f"checkpoint={folder}", "task.records=null", "limit=3", "ablation=none", "max_new_tokens=4", "bootstrap=5", "samples=1"]
    config = check_command_line(EvaluationConfig, "evaluate", [*overrides, "threads=1", "accelerator=cpu"])
    task = build_task(evaluated_experiment(config))
    result = evaluate(model, task, config, tmp_path / "evaluation")
    lines = [json.loads(line) for line in (tmp_path / "evaluation" / "predictions.jsonl").read_text().splitlines()]
    read: Any = task
    said = [read.read(line["text"]) for line in lines]
    expected = {
        "top1": sum(answer.final == line["truth"] for answer, line in zip(said, lines, strict=True)) / 3,
        "invalid": sum(answer.final is None for answer in said) / 3,
    }
    assert {name: result["rows"][0]["metrics"][name] for name in expected} == pytest.approx(expected)
