"""Ready-made instructions: asked as released, token by token, alone or mixed in a batch, scored exactly."""

import hashlib
import json
import math
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import make_model, make_processor, parsed, written
from released_files import (
    ARXIV,
    CORA,
    FEATURES,
    LINK,
    MATCHING,
    OWN_TEXT,
    PUBMED,
    RECORDS,
    changed,
    conversation,
    graph_data,
    make_instructions,
    write_graphs,
    write_records,
)

from graphgpt.assembly import build_model, build_runner, build_task
from graphgpt.config.command_line import check_command_line
from graphgpt.config.experiment import EvaluationConfig, ExperimentConfig, evaluated_experiment
from graphgpt.errors import ConfigError, DataError
from graphgpt.evaluation.evaluation import evaluate
from graphgpt.prompts.batch import training_batch
from graphgpt.prompts.prediction import Prediction
from graphgpt.prompts.processor import IGNORE
from graphgpt.registry import TASKS


def make(task: Any, item: int, **arguments: Any) -> Any:
    return task.instruction(item, **({"seed": 0, "training": True} | arguments))


# What a record becomes.


def test_a_record_is_asked_as_released(tmp_path: Path) -> None:
    task = make_instructions(tmp_path)
    assert task.items("train").tolist() == [0, 1, 2, 3, 4, 5]
    assert not len(task.items("val")) and not len(task.items("test"))
    pubmed, link, matching, text = (make(task, i) for i in (0, 3, 4, 5))
    assert [(message.role, written(message)) for message in pubmed.messages] == [
        ("user", PUBMED["conversations"][0]["value"]),
        ("assistant", "Experimentally induced diabetes"),
    ]
    [graph] = pubmed.inputs
    assert torch.equal(graph.x, graph_data("pubmed").x[PUBMED["graph"]["node_list"]])
    assert graph.edge_index.tolist() == PUBMED["graph"]["edge_index"]
    assert graph.num_tokens == 21
    assert [torch.equal(part.x, graph_data("pubmed").x[nodes]) for part, nodes in zip(link.inputs, ([5, 6, 7], [9, 19_716]), strict=True)]
    assert [written(message) for message in matching.messages] == [turn["value"] for turn in MATCHING["conversations"][1:]]
    assert text.inputs == () and [message.role for message in text.messages] == ["user", "assistant"] * 2
    assert (task.facts.widths["graph"], task.data["name"], task.data["features"]) == (FEATURES, "records", FEATURES)
    assert task.summary == "records, 6 records (2 arxiv, 1 cora, 1 pubmed, 1 pubmed (2 graphs), 1 text only), 8 features"


def test_it_goes_to_another_process(tmp_path: Path) -> None:
    task = pickle.loads(pickle.dumps(make_instructions(tmp_path)))
    here = make(make_instructions(tmp_path), 1)
    assert [message.shown for message in make(task, 1).messages] == [message.shown for message in here.messages]


# Golden tokens: Vicuna's form on bytes. Put together here once more by hand, and held to a hash so that neither can drift.

SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
BOS, EOS, PATCH, START, END = 256, 257, -1, -2, -3
#: Length, and the beginning of the SHA-256 of ids and labels.
GOLDEN = {
    "pubmed_test_10": (643, "ef675709ea80f127"),
    "arxiv_train_100": (632, "6a3bc8b51fc05ef4"),
    "cora_test_3": (618, "579824684d9ec803"),
    "pubmed_train_5_9_LP": (836, "64ac47ca24edb09c"),
    "arxiv_train_graphmatch_127_hop_1_neighbors_10": (937, "969414130a48d3f2"),
    "chat_1": (260, "85cddb722fda9bdd"),
}


def byte_ids(text: str) -> list[int]:
    """Ids of bytes in byte-level BPE: in the order of the characters that stand for them."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    order = [*printable, *(byte for byte in range(256) if byte not in printable)]
    return [order.index(byte) for byte in text.encode()]


def by_hand(record: dict[str, Any]) -> tuple[list[int], list[int]]:
    """Ids and labels of a record."""
    turns = record["conversations"][record["conversations"][0]["from"] != "human" :]
    graph = record.get("graph") or {}
    sizes = [len(nodes) for name in ("node_list", "node_list_1", "node_list_2") if (nodes := graph.get(name))]
    ids = [BOS, *byte_ids(SYSTEM + " ")]
    labels = [IGNORE] * len(ids)
    for human, model in zip(turns[::2], turns[1::2], strict=True):
        prompt: list[int] = []
        for i, text in enumerate(f"USER: {human['value']} ASSISTANT:".split("<graph>")):
            prompt += ([START] + [PATCH] * sizes.pop(0) + [END] if i else []) + byte_ids(text)
        answer = [*byte_ids(" " + model["value"]), EOS]
        ids += prompt + answer
        labels += [IGNORE] * len(prompt) + answer
    assert not sizes
    return ids, labels


@pytest.mark.parametrize("number", range(len(RECORDS)))
def test_golden_tokens(tmp_path: Path, number: int) -> None:
    example = make_processor(make_model(template="vicuna_v1"))(make(make_instructions(tmp_path), number))
    ids, labels = by_hand(RECORDS[number])
    assert list(example.ids) == ids
    assert list(example.labels) == labels
    digest = hashlib.sha256(np.array([ids, labels], dtype="<i4").tobytes()).hexdigest()
    assert (len(ids), digest[:16]) == GOLDEN[example.id]


# Mixed batches.


@pytest.mark.parametrize("tower", ["sgc", "graph_transformer"])
@pytest.mark.parametrize("template", ["vicuna_v1", "chat"])
def test_a_mixed_batch_gives_the_losses_of_each_alone(tmp_path: Path, tower: str, template: str) -> None:
    task = make_instructions(tmp_path)
    model = make_model(tower=tower, template=template, max_length=4096)
    processor = make_processor(model)
    examples = [processor(make(task, item)) for item in (5, 3, 0, 2, 4, 1)]
    assert [len(example.inputs) for example in examples] == [0, 2, 1, 1, 1, 1]
    total, count = model(training_batch(examples, model.readers))
    for i, example in enumerate(examples):
        alone, tokens = model(training_batch([example], model.readers))
        assert tokens[0] == count[i] == sum(label != IGNORE for label in example.labels)
        torch.testing.assert_close(total[i] / count[i], alone[0] / tokens[0], atol=1e-4, rtol=1e-4)
    pairs = [training_batch(examples[first : first + 3], model.readers) for first in (0, 3)]
    torch.testing.assert_close(
        model.loss(training_batch(examples, model.readers)), (model.loss(pairs[0]) + model.loss(pairs[1])) / 2, atol=1e-4, rtol=1e-4
    )


def test_both_graphs_of_a_pair_are_read(tmp_path: Path) -> None:
    lists = {"first": {}, "other first": {"node_list_1": [70, 71, 72]}, "other second": {"node_list_2": [80, 81]}}
    task = make_instructions(tmp_path, [changed(LINK, graph=nodes) for nodes in lists.values()])
    model = make_model()
    processor = make_processor(model)
    losses = {model.loss(training_batch([processor(make(task, i))], model.readers)).item() for i in range(3)}
    assert len(losses) == 3


# Splits.


def many(count: int) -> list[dict[str, Any]]:
    return [changed(CORA, id=f"cora_{i}", graph={"node_list": [i]}) for i in range(count)]


def test_splits_by_share_and_seed(tmp_path: Path) -> None:
    def split(**fields: Any) -> list[list[int]]:
        task = make_instructions(tmp_path, many(50), {"split": fields})
        return [task.items(name).tolist() for name in ("train", "val", "test")]

    train, val, test = split(val=0.1, test=0.3, seed=4)
    assert (len(train), len(val), len(test)) == (30, 5, 15)
    assert sorted(train + val + test) == list(range(50))
    assert split(val=0.1, test=0.3, seed=4) == [train, val, test]
    assert split(val=0.1, test=0.3, seed=5)[2] != test


def test_a_file_for_test(tmp_path: Path) -> None:
    other = write_records(tmp_path, many(3), "other.json")
    task = make_instructions(tmp_path, RECORDS, {"eval_instructions": str(other)})
    assert [len(task.items(name)) for name in ("train", "val", "test")] == [6, 0, 3]
    assert [make(task, int(item)).id for item in task.items("test")] == ["cora_0", "cora_1", "cora_2"]
    assert task.data["name"] == "records+other"
    alone = make_instructions(tmp_path, RECORDS, {"eval_instructions": str(other), "instructions": None})
    assert [len(alone.items(name)) for name in ("train", "val", "test")] == [0, 0, 3]
    assert alone.data["fingerprint"] != task.data["fingerprint"]


# Scores.


def said(text: str, expected: str) -> Prediction:
    return Prediction(id="x", prompt_tokens=1, truth=None, scores=None, expected=expected, text=text)


def test_written_answers_are_compared_exactly(tmp_path: Path) -> None:
    task = make_instructions(tmp_path)
    assert (task.candidates, task.measures(task.config)[0].name) == (None, "exact_match")
    answers = [said(" Rule \n learning", "rule learning"), said("Rule learning.", "rule learning"), said("", "yes")]
    assert [task.answer_metrics(answer)["exact_match"] for answer in answers] == [1.0, 0.0, 0.0]
    assert task.metrics(answers) == {"exact_match": 1 / 3}


def test_written_answers_may_name_a_candidate(tmp_path: Path) -> None:
    names = ["Biology", "Biology of Plants", "Type 1 diabetes", "cs.HC, Human-Computer Interaction"]
    task = make_instructions(tmp_path, candidates=names, scoring="written")
    assert (task.candidates, task.measures(task.config)[0].name) == (None, "label_match")

    def match(text: str, expected: str) -> tuple[float, float]:
        metrics = task.answer_metrics(said(text, expected))
        return metrics["label_match"], metrics["invalid"]

    assert match("I say biology of  plants, not Biology.", "Biology of Plants") == (1, 0)
    assert match("I say Biology, not Biology of Plants.", "Biology of Plants") == (0, 0)
    assert match("Microbiology", "Biology") == (0, 1)  # part of a word names nothing
    assert match("Type 1 diabetes2", "Type 1 diabetes") == (0, 1)
    assert match("cs.HC, human-computer interaction", "cs.HC, Human-Computer Interaction") == (1, 0)
    assert match("No idea", "No idea") == (0, 1)  # nothing named is no match, even where nothing was expected


def test_candidates_are_scored_by_likelihood(tmp_path: Path) -> None:
    records = [
        changed(LINK, id=f"pubmed_{i}_LP", conversations=conversation("<graph> <graph>?", answer)) for i, answer in enumerate(["yes", "No"])
    ]
    task = make_instructions(tmp_path, records, candidates=["no", "yes"])
    assert (task.candidates, task.measures(task.config)[0].name) == (["no", "yes"], "accuracy")
    assert [make(task, i).truth for i in range(2)] == [1, 0]
    metrics = task.rank_metrics(np.array([1, 0]), np.array([[0.0, 1.0], [0.2, 0.3]]))
    assert metrics["accuracy"] == 0.5


def test_an_answer_that_is_no_candidate(tmp_path: Path) -> None:
    task = make_instructions(tmp_path, candidates=["Rule learnin", "Neural networks"])
    message = f"{tmp_path / 'records.json'}, record 2 ('cora_test_3'): the answer 'Rule learning' is not among task.candidates. "
    with pytest.raises(DataError, match=re.escape(message) + "Did you mean 'Rule learnin'?"):
        make(task, 2)


# The items' own texts.


def test_own_texts_are_hidden(tmp_path: Path) -> None:
    task = make_instructions(tmp_path)
    arxiv = written(make(task, 1, hide_text=True).messages[0])
    before, after = ARXIV["conversations"][0]["value"].split("Abstract: We study gloves that type — on paper. \n Title: Typing in the air")
    assert arxiv == f"{before}Abstract: (hidden) \n Title: (hidden){after}"
    link = written(make(task, 3, hide_text=True).messages[0])
    assert "Insulin" not in link and "Mice" not in link and "Rats" not in link
    assert link.count("Abstract: (hidden) Title: (hidden) ") == 2 and link.count("<graph>") == 2
    assert make(task, 5, hide_text=True).messages == make(task, 5).messages  # no text of its own


def test_own_texts_take_no_graph_with_them(tmp_path: Path) -> None:
    task = make_instructions(tmp_path, own_text="(.*)")
    with pytest.raises(
        DataError, match=r"records\.json, record 0 .*: task\.own_text takes a <graph> away with the texts; leave it outside"
    ):
        make(task, 0, hide_text=True)


# The config, and the programs.


def problems(**fields: Any) -> list[str]:
    cls = TASKS.get("instructions")
    return cls.problems(parsed(cls.Config, {"name": "instructions", "own_text": "(x)", **fields}))


def test_config_says_what_cannot_work() -> None:
    assert problems() == []
    assert problems(own_text="x") == ["task.own_text: 'x' has no group; put what is to be hidden into round brackets."]
    assert problems(own_text="(")[0].startswith("task.own_text: '(' is no regular expression: ")
    assert problems(scoring="written") == ["task.candidates: must be given for task.scoring=written, which looks for them in the answers."]
    for candidates in (["a"], ["a", " A"], ["a", ""]):
        assert problems(candidates=candidates) == [
            f"task.candidates: {candidates} are not two or more different answers (case and spaces aside)."
        ]


def command(folder: Path, records: Any = RECORDS) -> list[str]:
    files = [f"dataset.instructions={write_records(folder, records)}", f"dataset.graphs={write_graphs(folder)}"]
    small = ["runner.threads=1", "runner.accelerator=cpu", "logger=none", "runner.checkpoint.every_n_steps=0"]
    return ["dataset=graphgpt_json", "task=instructions", "model/llm=tiny_random", *files, *small]


def test_trains_on_a_mixed_batch(tmp_path: Path) -> None:
    overrides = ["runner.max_steps=1", "runner.global_batch_size=6", "runner.micro_batch_size=6", "model.max_length=4096"]
    experiment = check_command_line(ExperimentConfig, "train", [*command(tmp_path), *overrides])
    task = build_task(experiment)
    build_runner(experiment).train(build_model(experiment, task), task, experiment, tmp_path / "run")
    [line] = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert 0 < line["train/loss"] < 20 and math.isfinite(line["train/loss"])
    manifest = json.loads((tmp_path / "run" / "checkpoint" / "manifest.json").read_text())
    assert manifest["data"] == task.data


def test_evaluates_released_records(tmp_path: Path) -> None:
    """Written answers to every kind of record, then candidates by likelihood, with the graph tokens and without."""
    overrides = ["runner.max_steps=1", "runner.global_batch_size=2", "runner.micro_batch_size=2", "model.max_length=4096"]
    experiment = check_command_line(ExperimentConfig, "train", [*command(tmp_path), *overrides])
    task = build_task(experiment)
    model = build_model(experiment, task)
    build_runner(experiment).train(model, task, experiment, tmp_path / "run")

    def rows(name: str, records: Any, *more: str) -> dict[str, dict[str, float]]:
        path = write_records(tmp_path, records, f"{name}.json")
        data = ["dataset=graphgpt_json", f"dataset.eval_instructions={path}", f"dataset.graphs={write_graphs(tmp_path)}"]
        short = ["threads=1", "accelerator=cpu", "max_new_tokens=2", "bootstrap=10", "samples=2"]
        config = check_command_line(EvaluationConfig, "evaluate", [f"checkpoint={tmp_path / 'run'}", *data, *short, *more])
        asked = build_task(evaluated_experiment(config))
        result = evaluate(model, asked, config, tmp_path / name)
        assert (tmp_path / name / "report.html").is_file()
        return {row["name"]: row["metrics"] for row in result["rows"]}

    with pytest.raises(DataError, match=r"^split: .* was trained on every test item of 'same' \(6\)"):
        rows("same", RECORDS)
    written = rows("written", [changed(record, id=f"{record['id']}_again") for record in RECORDS])
    assert set(written["Graph tokens"]) == {"exact_match"} and len(written) >= 2
    pairs = [changed(LINK, id=f"pubmed_{i}_LP", conversations=conversation("<graph> <graph>?", "yes" if i % 2 else "no")) for i in range(4)]
    scored = rows("scored", pairs, "task.candidates=[no,yes]")
    assert 0 <= scored["Graph tokens"]["accuracy"] <= 1


def test_task_and_dataset_that_do_not_go_together(tmp_path: Path) -> None:
    other = [override for override in command(tmp_path) if not override.startswith("task=")]
    with pytest.raises(ConfigError, match=r"'graph_matching' asks about a graph with texts, which dataset\.name=graphgpt_json has not;"):
        check_command_line(ExperimentConfig, "train", other)
    instead = "choose one of: alpaca, conversations, dolly, graphgpt_json, sharegpt"
    with pytest.raises(ConfigError, match=rf"brings, which dataset\.name=stdlib_docs has not; {instead}\."):
        check_command_line(ExperimentConfig, "train", ["task=instructions", "model/llm=tiny_random"])


RELEASED = {
    "graphgpt_matching": "graph-matching/train_instruct_graphmatch.json",
    "graphgpt_mix": "Arxiv-PubMed-mix-NC-LP/arxiv_pub_node_st_cot_link_mix.json",
    "graphgpt_arxiv_std": "GraphGPT-eval-instruction/arxiv_test_instruct_std.json",
    "graphgpt_arxiv_cot": "GraphGPT-eval-instruction/arxiv_test_instruct_cot.json",
    "graphgpt_cora_std": "GraphGPT-eval-instruction/cora_test_instruct_std.json",
    "graphgpt_cora_cot": "GraphGPT-eval-instruction/cora_test_instruct_cot.json",
    "graphgpt_pubmed_std": "GraphGPT-eval-instruction/pubmed_test_instruct_std.json",
    "graphgpt_pubmed_cot": "GraphGPT-eval-instruction/pubmed_test_instruct_cot.json",
    "graphgpt_pubmed_lp": "GraphGPT-eval-instruction/pubmed_test_instruct_LP.json",
}


@pytest.mark.parametrize("name", RELEASED)
def test_released_sets_are_ready_made(name: str) -> None:
    config = check_command_line(ExperimentConfig, "train", [f"dataset={name}", "task=instructions", "model/llm=tiny_random"]).dataset
    key, other = (
        ("instructions", "eval_instructions") if name in ("graphgpt_matching", "graphgpt_mix") else ("eval_instructions", "instructions")
    )
    assert (getattr(config, key), getattr(config, other)) == (f"hub:Jiabin99/{RELEASED[name]}", None)
    assert config.graphs == "hub:Jiabin99/All_pyg_graph_data/graph_data_all.pt"


def test_shipped_config_is_the_one_tested(tmp_path: Path) -> None:
    assert check_command_line(ExperimentConfig, "train", command(tmp_path)).task.own_text == OWN_TEXT
