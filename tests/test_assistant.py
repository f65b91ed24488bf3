"""A checkpoint called from Python."""

import itertools
import json
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import helpers
import numpy as np
import pytest
import torch
from helpers import csv_overrides, make_dataset_config, make_model, uneven_overrides, written

from graphgpt import GraphAssistant
from graphgpt.assembly import build_model, build_task
from graphgpt.assistant.graph_assistant import Classification
from graphgpt.checkpoints.folder import load_checkpoint
from graphgpt.config.command_line import check_command_line
from graphgpt.config.experiment import EvaluationConfig, evaluated_experiment
from graphgpt.errors import CheckpointError, DataError, GraphGPTError
from graphgpt.evaluation.evaluation import evaluate
from graphgpt.graphs.graph import TextAttributedGraph, build_graph
from graphgpt.models.answering import generate
from graphgpt.prompts.instruction import Instruction, Message

LABELS = ["Red", "Green", "Blue", "White"]


def train(folder: Path, overrides: Sequence[str]) -> Path:
    """A checkpoint as train.py makes it."""
    steps = ["runner.max_steps=4", "runner.global_batch_size=4", "runner.micro_batch_size=4", "runner.lr.lora=2e-2"]
    helpers.train(folder, [*overrides, "model/lora=default", *steps])
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return uneven_overrides(tmp_path_factory.mktemp("csv"))


@pytest.fixture(scope="module")
def checkpoint(data: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folder of a node classification."""
    return train(tmp_path_factory.mktemp("trained"), [*data, "task=node_classification"])


@pytest.fixture(scope="module")
def assistant(checkpoint: Path) -> GraphAssistant:
    return GraphAssistant.from_pretrained(checkpoint, device="cpu")


def predictions(checkpoint: Path, folder: Path, *overrides: str) -> list[dict[str, Any]]:
    """The lines of ``predictions.jsonl`` of an evaluation without more than it needs."""
    rest = ["limit=null", "ablation=none", "baselines=false", "samples=0", "bootstrap=0", "threads=1", "accelerator=cpu", "leakage=off"]
    config = check_command_line(EvaluationConfig, "evaluate", [f"checkpoint={checkpoint}", *rest, *overrides])
    experiment = evaluated_experiment(config)
    task = build_task(experiment)
    model = build_model(experiment, task)
    load_checkpoint(model, config.checkpoint)
    evaluate(model, task, config, folder)
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]


# Classes


@pytest.mark.parametrize("seed", [0, 3])
def test_classes_are_those_of_an_evaluation(checkpoint: Path, tmp_path: Path, seed: int) -> None:
    """The same nodes in batches of the same size: equal to the last bit."""
    lines = predictions(checkpoint, tmp_path, f"seed={seed}", "batch_size=5")
    assistant = GraphAssistant.from_pretrained(checkpoint, seed=seed, device="cpu")
    table = assistant.classify(nodes=[line["item"] for line in lines], batch_size=5)
    assert len(table) == len(lines) == 12
    assert table["id"].tolist() == [line["id"] for line in lines]
    names = list(assistant.graph.class_names)
    assert table.columns.tolist() == ["node", "id", "answer", "probability", "trained_on", *names]
    scores = torch.tensor([[line["scores"][name] for name in names] for line in lines])
    np.testing.assert_array_equal(table[names].to_numpy(), scores.softmax(dim=1).numpy())
    assert table["answer"].tolist() == [names[i] for i in scores.argmax(dim=1).tolist()]
    np.testing.assert_array_equal(table["probability"], table[names].max(axis=1))


def test_a_thousand_nodes_are_those_of_an_evaluation(tmp_path: Path) -> None:
    """More than a thousand test nodes, of prompts of very different lengths."""
    labels = [LABELS[i % 4] for i in range(1030)]
    everything = ["dataset.split.train=0.01", "dataset.split.val=0.01"]
    folder = train(tmp_path / "run", [*csv_overrides(tmp_path, labels, step=4), *everything, "task=node_classification"])
    lines = predictions(folder, tmp_path / "evaluation", "batch_size=16")
    assert len(lines) >= 1000
    assistant = GraphAssistant.from_pretrained(folder, device="cpu")
    table = assistant.classify(nodes=[line["item"] for line in lines], batch_size=16)
    names = list(assistant.graph.class_names)
    scores = torch.tensor([[line["scores"][name] for name in names] for line in lines])
    np.testing.assert_array_equal(table[names].to_numpy(), scores.softmax(dim=1).numpy())
    assert table["answer"].tolist() == [names[i] for i in scores.argmax(dim=1).tolist()]


def test_one_node_is_as_in_the_table(assistant: GraphAssistant) -> None:
    table = assistant.classify(nodes=[17, "n3", 17], batch_size=2)
    assert table["node"].tolist() == [17, 3, 17]
    for row, node in enumerate([17, "n3", np.int64(17)]):
        found = assistant.classify(node)
        assert (found.node, found.id, found.answer) == (table["node"][row], table["id"][row], table["answer"][row])
        assert [*found.probabilities] == sorted(found.probabilities, key=lambda name: -found.probabilities[name])
        assert found.probability == found.probabilities[found.answer] == pytest.approx(table["probability"][row], abs=1e-5)
        assert sum(found.probabilities.values()) == pytest.approx(1, abs=1e-5)


def test_a_classification_shows_what_the_model_was_shown(assistant: GraphAssistant) -> None:
    found = assistant.classify(node=17)
    assert isinstance(found, Classification)
    assert found.subgraph.nodes[0] == 17
    assert set(found.subgraph.nodes[1:].tolist()) <= {15, 16, 18, 19}
    assert f"<graph: {found.subgraph.num_tokens} tokens>" in found.prompt
    assert "Title: Red 17\n" in found.prompt
    assert "Choose one of: Blue; Green; Red; White." in found.prompt
    assert found.prompt.startswith("<|im_start|>user\n")
    assert found.prompt.endswith("<|im_start|>assistant\n")


def test_other_classes(assistant: GraphAssistant) -> None:
    found = assistant.classify(17, classes=["warm", "cold"])
    assert set(found.probabilities) == {"warm", "cold"}
    assert "Choose one of: warm; cold." in found.prompt
    assert assistant.classify(nodes=[1], classes=["id", "node"]).columns.tolist() == [
        *("node", "id", "answer", "probability", "trained_on"),
        *("id", "node"),
    ]
    with pytest.raises(DataError, match=r"^classes: 'warm' is empty or there twice\.$"):
        assistant.classify(17, classes=["warm", "cold", "warm"])


def test_no_nodes_are_an_empty_table(assistant: GraphAssistant) -> None:
    table = assistant.classify(nodes=[])
    assert len(table) == 0
    assert table.columns.tolist() == ["node", "id", "answer", "probability", "trained_on", "Blue", "Green", "Red", "White"]


def test_what_cannot_be_classified(assistant: GraphAssistant) -> None:
    for call in ({}, {"node": 1, "nodes": [1]}):
        with pytest.raises(GraphGPTError, match=r"^classify: give either node=\.\.\. or, for several of them, nodes=\.\.\.\.$"):
            assistant.classify(**call)  # type: ignore[call-overload]
    with pytest.raises(GraphGPTError, match=r"^classify: batch_size=0 must be at least 1\.$"):
        assistant.classify(nodes=[1], batch_size=0)


@pytest.mark.parametrize(
    ("node", "sentence"),
    [
        (60, "There is no node 60: the graph 'csv' has the nodes 0 to 59."),
        (-1, "There is no node -1: the graph 'csv' has the nodes 0 to 59."),
        ("n177", "The graph 'csv' has no node with the id 'n177'. Did you mean 'n17'?"),
        ("xyz", "The graph 'csv' has no node with the id 'xyz'."),
    ],
)
def test_a_node_that_is_not_there(assistant: GraphAssistant, node: int | str, sentence: str) -> None:
    calls = (
        lambda: assistant.classify(node),
        lambda: assistant.classify(nodes=[0, node]),
        lambda: assistant.link(node, 0),
        lambda: assistant.ask("What?", node),
        lambda: assistant.conversation(node),
    )
    for call in calls:
        with pytest.raises(DataError) as error:
            call()
        assert str(error.value) == sentence


# Links


def test_a_link_is_a_probability_and_its_edge_does_not_matter(graph: TextAttributedGraph) -> None:
    from graphgpt.graphs.edge_splits import undirected_edges, without_edges

    pair = undirected_edges(graph)[7]
    first, second = pair.tolist()
    model = make_model()
    with_edge = GraphAssistant(model, graph, make_dataset_config())
    without = GraphAssistant(model, without_edges(graph, pair[None]), make_dataset_config())
    chance = with_edge.link(first, second)
    assert 0 < chance < 1
    assert chance == without.link(first, second)
    assert chance == with_edge.link(f"n{first}", f"n{second}")
    with pytest.raises(DataError, match=r"^link: takes two different nodes, and both are 4\.$"):
        with_edge.link(4, "n4")


def test_links_of_a_checkpoint_that_learned_them(data: list[str], tmp_path: Path) -> None:
    """Its own wording and its own scores: an evaluation's, where that one sees the same graph."""
    folder = train(tmp_path / "links", [*data, "task=link_prediction", "task.wording=titles_only"])
    assistant = GraphAssistant.from_pretrained(folder, device="cpu")
    assert assistant.tasks["link_prediction"].wording == "titles_only"
    assert 0 < assistant.link("n3", "n4") < 1
    assert len(assistant.classify(nodes=[1, 2])) == 2


def test_a_mixture_brings_the_settings_of_its_parts(data: list[str], tmp_path: Path) -> None:
    wordings = ["task.parts.nodes.task.wording=title_only", "task.parts.links.task.wording=titles_only"]
    assistant = GraphAssistant.from_pretrained(train(tmp_path / "run", [*data, "task=mixture", *wordings]), device="cpu")
    assert {name: task.wording for name, task in assistant.tasks.items()} == {
        "node_classification": "title_only",
        "link_prediction": "titles_only",
    }
    assert "Choose one of" not in assistant.classify(17).prompt
    again = GraphAssistant.from_pretrained(tmp_path / "run", graph=assistant.graph, device="cpu")
    assert again.classify(17).prompt == assistant.classify(17).prompt


# Conversations


def test_an_answer_is_that_of_generate(assistant: GraphAssistant) -> None:
    """The loop that streams writes what transformers writes."""
    talk = assistant.conversation("n17")
    pieces = list(talk.ask("What is it about?", stream=True, max_new_tokens=24))
    assert len(pieces) > 1
    answer = "".join(pieces)
    assert answer == assistant.ask("What is it about?", node=17, max_new_tokens=24)
    asked = Instruction(id="q", messages=(talk.messages[0],))
    with torch.inference_mode():
        assert answer == generate(assistant.model, [assistant.processor.prompt(asked)], 24)[0]


def test_an_answer_depends_on_the_graph(assistant: GraphAssistant) -> None:
    prompts = [assistant.conversation(node).prompt() for node in (17, None)]
    assert "<graph: 3 tokens>" in prompts[0]
    assert "Red 17" in prompts[0]
    assert prompts[1] == "<|im_start|>user\n<|im_end|>\n<|im_start|>assistant\n"


def test_history(assistant: GraphAssistant) -> None:
    talk = assistant.conversation(17, system="Be brief.")
    first = talk.ask("One?", max_new_tokens=5)
    assert [message.role for message in talk.messages] == ["system", "user", "assistant"]
    assert written(talk.messages[1]).endswith("\nOne?")
    assert talk.messages[2].text == first
    talk.ask("Two?", max_new_tokens=5)
    assert talk.messages[3] == Message("user", "Two?")
    read = talk.prompt()
    assert read.index("Be brief.") < read.index("<graph: 3 tokens>") < read.index("One?") < read.index("Two?")
    assert read.count("<graph") == 1
    assert read.endswith("Two?<|im_end|>\n<|im_start|>assistant\n")


def test_a_question_may_place_the_graph_itself(assistant: GraphAssistant) -> None:
    talk = assistant.conversation(17)
    talk.ask("In <graph>, which is first?", max_new_tokens=2)
    assert written(talk.messages[0]) == "In <graph>, which is first?"
    assert "In <graph: 3 tokens>, which is first?" in talk.prompt()
    sentence = "^ask: <graph> may stand once, in the first question about a node; here it stands 1 time.$"
    with pytest.raises(DataError, match=sentence):
        talk.ask("And <graph>?")
    with pytest.raises(DataError, match=sentence):
        assistant.ask("And <graph>?")
    assert len(talk.messages) == 2


def test_what_the_model_says_is_no_placeholder(assistant: GraphAssistant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphgpt.assistant.assistant.write_answer", lambda *_, **__: iter(["a <gra", "ph> b"]))
    talk = assistant.conversation(17)
    assert talk.ask("One?") == "a <graph> b"
    talk.ask("Two?")
    assert "a <graph> b" in talk.prompt()


def test_an_answer_that_is_broken_off_is_remembered_as_far_as_it_was_heard(assistant: GraphAssistant) -> None:
    talk = assistant.conversation(17)
    pieces = talk.ask("One?", stream=True)
    heard = "".join(itertools.islice(pieces, 2))
    assert talk.messages[1] == Message("assistant", heard)
    pieces.close()
    assert talk.messages[1] == Message("assistant", heard)


def test_a_conversation_that_is_too_long(assistant: GraphAssistant) -> None:
    talk = assistant.conversation(17)
    talk.ask("One?", max_new_tokens=1)
    with pytest.raises(DataError, match=r"^Sample 'conversation' has \d+ tokens, more than .* A new conversation begins short\.$"):
        talk.ask("Why? " * 500)
    assert len(talk.messages) == 2


def test_drawn_answers_follow_from_the_seed(assistant: GraphAssistant) -> None:
    def ask(seed: int) -> str:
        return assistant.ask("One?", 17, temperature=2.0, seed=seed, max_new_tokens=12)

    assert ask(1) == ask(1)
    assert len({ask(seed) for seed in range(4)}) > 1


@pytest.mark.parametrize("options", [{"max_new_tokens": 0}, {"temperature": -1.0}])
def test_options_out_of_range(assistant: GraphAssistant, options: dict[str, Any]) -> None:
    with pytest.raises(GraphGPTError, match=r"^ask: max_new_tokens must be at least 1 and temperature at least 0; found "):
        assistant.ask("What?", **options)


@pytest.mark.parametrize("cut", [1, 2, 3, 5, 9])
def test_letters_of_several_bytes_are_never_cut(tiny_model: Any, monkeypatch: pytest.MonkeyPatch, cut: int) -> None:
    """A byte-level model made to write a text: pieces are whole letters, and joined they are what it wrote."""
    from helpers import make_processor

    from graphgpt.models.streaming import write_answer

    model = tiny_model()
    processor = make_processor(model)
    text = "  naïve 日本 “x”\n\n  end "
    script = [*processor.tokenizer(text, add_special_tokens=False)["input_ids"], processor.tokenizer.eos_token_id]
    place = iter(script)

    class Output:
        past_key_values = None

        @property
        def logits(self) -> torch.Tensor:
            return torch.nn.functional.one_hot(torch.tensor([[next(place)]]), 259).float()

    monkeypatch.setattr(model.llm, "forward", lambda **_: Output())
    prompt = processor.prompt(Instruction(id="q", messages=(Message("user", "hi"),)))
    limit = len(script) if cut == 9 else len(script) // cut
    pieces = list(write_answer(model, processor, prompt, limit, turn=threading.Lock()))
    written = processor.tokenizer.decode(script[:limit], skip_special_tokens=True)
    assert "".join(pieces) == written.strip()
    assert not any("\ufffd" in piece for piece in pieces[:-1])


# Graphs


def test_a_graph_in_memory(checkpoint: Path, assistant: GraphAssistant) -> None:
    """The checkpoint's own graph given by hand is asked about in the same words, with the same features."""
    again = GraphAssistant.from_pretrained(checkpoint, graph=assistant.graph, device="cpu")
    assert again.classify(17).prompt == assistant.classify(17).prompt
    assert again.classify(17).probabilities == assistant.classify(17).probabilities


def by_hand(features: int, **card: Any) -> TextAttributedGraph:
    graph = build_graph(
        ids=["a", "b", "c"],
        titles=["Alpha", "Beta", "Gamma"],
        bodies=["First.", "Second.", "Third."],
        labels=[-1, -1, -1],
        class_names=[],
        edges=np.array([[0, 1], [1, 2]]),
        card={"name": "mine", **card},
    )
    return graph.with_features(torch.ones(3, features)) if features else graph


def test_a_graph_of_tensors_and_texts(assistant: GraphAssistant, tmp_path: Path) -> None:
    width = assistant.graph.features.shape[1]
    graph = by_hand(width, words={"node": "letter", "category": "alphabet"})
    graph.save(tmp_path / "mine")
    for source in (graph, tmp_path / "mine", str(tmp_path / "mine")):
        other = assistant.with_graph(source)
        found = other.classify("b", classes=["Latin", "Greek"])
        assert "Which alphabet does this letter of a graph graph belong to?" in found.prompt
        assert sorted(found.subgraph.nodes.tolist()) == [0, 1, 2]
        assert other.model is assistant.model
    assert assistant.classify("n1").node == 1
    with pytest.raises(DataError, match=r"^The graph 'mine' has no classes to choose from: give their names as classes=\[\.\.\.\]\.$"):
        other.classify("b")


def test_features_of_another_width(checkpoint: Path, assistant: GraphAssistant) -> None:
    width = assistant.graph.features.shape[1]
    with pytest.raises(DataError) as error:
        GraphAssistant.from_pretrained(checkpoint, graph=by_hand(3))
    source = "from the text encoder 'tfidf_svd'"
    assert str(error.value) == (
        f"The graph 'mine' has 3 features per node (from the data), and {checkpoint / 'checkpoint'} was trained on {width} ({source}): "
        "make them the same way."
    )
    with pytest.raises(DataError, match=rf"3 features per node \(from the data\), and the model was trained on {width}: make "):
        assistant.with_graph(by_hand(3))


def test_features_that_an_encoder_learned_elsewhere_are_warned_of(assistant: GraphAssistant, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(DataError, match=r"features per node \(from the text encoder 'tfidf_svd'\)"):
        assistant.with_graph(by_hand(0))
    assert "'tfidf_svd' learns its features from the texts of one graph" in caplog.text


def test_a_graph_folder_that_is_not_there(assistant: GraphAssistant, tmp_path: Path) -> None:
    (tmp_path / "my_graph").mkdir()
    with pytest.raises(DataError) as error:
        assistant.with_graph(tmp_path / "my_grpah")
    assert str(error.value) == (
        f"{tmp_path / 'my_grpah'}: there is no such graph folder; 'graphgpt data build' makes one. Did you mean 'my_graph'?"
    )
    with pytest.raises(DataError, match=r"is not a graph folder: card.json is missing"):
        assistant.with_graph(tmp_path / "my_graph")


def test_a_checkpoint_whose_own_data_are_gone_is_still_good_for_another_graph(tmp_path: Path) -> None:
    source = tmp_path / "data"
    source.mkdir()
    folder = train(tmp_path / "run", [*csv_overrides(source), "task=node_classification"])
    width = GraphAssistant.from_pretrained(folder, device="cpu").graph.features.shape[1]
    for file in source.iterdir():
        file.unlink()
    assistant = GraphAssistant.from_pretrained(folder, graph=by_hand(width), device="cpu")
    assert assistant.dataset.sampler.max_tokens == 3
    assert set(assistant.classify("a", classes=["x", "y"]).probabilities) == {"x", "y"}
    with pytest.raises(GraphGPTError, match=r"nodes\.csv"):
        GraphAssistant.from_pretrained(folder, device="cpu")


def test_a_folder_without_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        GraphAssistant.from_pretrained(tmp_path)


# Surroundings


def test_threads_take_turns(assistant: GraphAssistant) -> None:
    """Everything at once, several times, says what it says alone."""

    def work(node: int) -> tuple[Any, ...]:
        pieces = assistant.ask("Who?", node, stream=True, max_new_tokens=8)
        return assistant.classify(node).probabilities, assistant.link(node, node + 1), "".join(pieces)

    nodes = [3, 17, 30, 44] * 2
    alone = [work(node) for node in nodes]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, nodes)) == alone


def test_an_open_stream_blocks_nobody(assistant: GraphAssistant) -> None:
    pieces = assistant.ask("Who?", 3, stream=True)
    next(pieces)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(assistant.classify, 17).result(timeout=60).node == 17
    assert isinstance("".join(pieces), str)


def test_the_callers_random_numbers_are_left_alone(checkpoint: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    GraphAssistant.from_pretrained(checkpoint, device="cpu").ask("Who?", 3, temperature=1.0, max_new_tokens=2)
    assert torch.equal(torch.rand(3), expected)


def test_importing_graphgpt_loads_nothing() -> None:
    code = "import graphgpt, sys; print(sorted({'torch', 'pandas', 'transformers'} & set(sys.modules)), hasattr(graphgpt, 'nonsense'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["[]", "False"]


def test_the_assistant_does_not_wait_for_the_training_library() -> None:
    """Importing Lightning takes longer than all else that an answer needs."""
    code = "from graphgpt import GraphAssistant; import sys; print('lightning' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.split() == ["False"]
