"""``graphgpt chat``, typed into through a pipe."""

import io
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import csv_overrides
from test_assistant import by_hand, train

from graphgpt import GraphAssistant
from graphgpt.cli.main import main

Say = Callable[..., tuple[int, list[str], str]]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folder of a node classification on forty-two nodes."""
    return train(tmp_path_factory.mktemp("trained"), [*csv_overrides(tmp_path_factory.mktemp("csv")), "task=node_classification"])


@pytest.fixture
def say(checkpoint: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Say:
    """``say(*lines, folder=..., options=[...])``: exit code, what was answered, what went to the error stream."""

    def say(*lines: str, folder: str = str(checkpoint), options: tuple[str, ...] = ()) -> tuple[int, list[str], str]:
        monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        code = 0
        try:
            main(["chat", folder, "--device", "cpu", "--max-new-tokens", "6", *options])
        except SystemExit as left:
            code = left.code if isinstance(left.code, int) else 1
        captured = capsys.readouterr()
        return code, captured.out.splitlines(), captured.err

    return say


BEGIN = [
    "Graph csv: 42 nodes, 42 edges.",
    "No node is chosen, so the model sees no graph: /node 0 chooses one.",
    "Ask anything; /help lists the commands, /quit leaves.",
]


def test_nothing_is_asked(say: Say) -> None:
    assert say() == (0, BEGIN, "")
    assert say("", "  ", "/quit", "/nonsense") == (0, BEGIN, "")


def test_the_newest_checkpoint(checkpoint: Path, say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("runs").mkdir()
    Path("runs/mine").symlink_to(checkpoint, target_is_directory=True)
    assert say(folder="latest") == (0, BEGIN, "latest: runs/mine\n")
    code, out, err = say(folder="runs")
    assert (code, out, err) == (2, [], "runs holds no checkpoint itself; there are, newest first, runs/mine.\n")


def test_a_conversation(say: Say, checkpoint: Path) -> None:
    talk = GraphAssistant.from_pretrained(checkpoint, device="cpu").conversation(17)
    answers = [talk.ask(question, max_new_tokens=6) for question in ("What is it?", "Why?")]
    code, out, err = say("What is it?", "Why?", "/prompt", options=("--node", "17"))
    assert (code, err) == (0, "")
    assert out[1] == "Node 17 (n17): Blue 17"
    said = "\n".join(out[3:])
    shown = [answer or "(The model says nothing.)" for answer in answers]
    assert said == "\n".join([*shown, talk.prompt()])
    assert "<graph: 3 tokens>" in said
    assert said.index("What is it?") < said.index("Why?")


def test_system_message(say: Say) -> None:
    _, out, _ = say("/prompt", options=("--system", "Be brief."))
    assert out[3:5] == ["<|im_start|>system", "Be brief.<|im_end|>"]


def test_node_begins_anew(say: Say) -> None:
    _, out, _ = say("/node 17", "One?", "/node n3", "/prompt", "/new", "/prompt", "/node id:n5", options=("--node", "5"))
    text = "\n".join(out)
    assert [line for line in out if line.startswith("Node ")] == [
        "Node 5 (n5): Blue 5",
        "Node 17 (n17): Blue 17",
        "Node 3 (n3): Red 3",
        "Node 3 (n3): Red 3",
        "Node 5 (n5): Blue 5",
    ]
    assert text.count("Title of the paper: Red 3") == 2
    assert "One?" not in text


def test_link_and_classes(say: Say, checkpoint: Path) -> None:
    assistant = GraphAssistant.from_pretrained(checkpoint, device="cpu")
    _, out, _ = say("/link 3 n17", "/classify", "/classify 3", "/node 3", "/classify")
    assert out[3].startswith(f"P(connected) = {assistant.link(3, 17):.3f} (says little: ")
    assert out[4] == "/classify: no node is chosen; /classify N asks about one."
    classes = [f"{chance:6.1%}  {name}" for name, chance in assistant.classify(3).probabilities.items()]
    if assistant.classify(3).trained_on:
        classes.append("(the model was trained on this answer)")
    assert out[5 : 5 + len(classes)] == classes
    assert out[-len(classes) :] == classes


def test_another_graph(say: Say, checkpoint: Path, tmp_path: Path) -> None:
    width = GraphAssistant.from_pretrained(checkpoint, device="cpu").graph.features.shape[1]
    by_hand(width, words={"node": "letter"}).save(tmp_path / "my graph")
    by_hand(3).save(tmp_path / "narrow")
    _, out, err = say(
        f"/graph {tmp_path}/narrow", f"/graph '{tmp_path}/my graph'", "/node b", "/prompt", "/node 3", options=("--node", "5")
    )
    assert err == ""
    assert (
        out[3] == f"The graph 'mine' has 3 features per node (from the data), and the model was trained on {width}: make them the same way."
    )
    assert out[4] == "Graph mine: 3 nodes, 2 edges."
    assert "Node 1 (b): Beta" in out
    assert "Title of the letter: Beta" in out
    assert out[-1] == "There is no node 3: the graph 'mine' has the nodes 0 to 2."
    _, out, _ = say("/classify a", options=("--graph", str(tmp_path / "my graph")))
    assert out[0] == "Graph mine: 3 nodes, 2 edges."
    assert out[-1] == "The graph 'mine' has no classes to choose from: give their names as classes=[...]."


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("/nod 17", "There is no command '/nod'. Did you mean '/node'?"),
        ("/xyzzy", "There is no command '/xyzzy'. Known: /classify, /graph, /help, /link, /new, /node, /prompt, /quit."),
        ("/node", "/node is followed by N; found ''."),
        ("/link 3", "/link is followed by A B; found '3'."),
        ("/quit now", "/quit is followed by nothing; found 'now'."),
        ("/node 'x", "'/node 'x' cannot be read: no closing quotation."),
        ("/node 42", "There is no node 42: the graph 'csv' has the nodes 0 to 41."),
        ("/node nn41", "The graph 'csv' has no node with the id 'nn41'. Did you mean 'n41'?"),
        ("/link 3 3", "link: takes two different nodes, and both are 3."),
        ("Is <graph> a graph?", "ask: <graph> may stand once, in the first question about a node; here it stands 1 time."),
    ],
)
def test_a_mistake_is_said_and_the_chat_goes_on(say: Say, line: str, sentence: str) -> None:
    code, out, err = say(line, "/new")
    assert (code, err) == (0, "")
    assert out == [*BEGIN, sentence, *BEGIN[:2]]


def test_help_names_every_command(say: Say) -> None:
    _, out, _ = say("/help")
    assert [line.split()[0] for line in out[3:]] == ["/node", "/graph", "/link", "/classify", "/new", "/prompt", "/help", "/quit"]


def test_what_cannot_be_begun(say: Say, tmp_path: Path) -> None:
    code, _, err = say(options=("--node", "99"))
    assert (code, err) == (2, "There is no node 99: the graph 'csv' has the nodes 0 to 41.\n")
    code, out, err = say(options=("--graph", str(tmp_path / "none")))
    assert (code, out) == (2, [])
    assert err == f"{tmp_path / 'none'}: there is no such graph folder; 'graphgpt data build' makes one.\n"


def test_a_number_that_is_an_id_too(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from dataclasses import replace

    import pyarrow as pa

    from graphgpt.cli.chat import GraphChat

    assistant = GraphAssistant.from_pretrained(checkpoint, device="cpu")
    ids = pa.chunked_array([pa.array([str(100 - i) for i in range(42)], pa.large_string())])
    chat = GraphChat(assistant.with_graph(replace(assistant.graph, ids=ids)))
    for line in ("/node 17", "/node id:17", "/node 83", "/node id:83", "/node 300"):
        chat.take(line)
    said = re.findall(r"^(?:Node \d+ \(\d+\)|The|There).*", capsys.readouterr().out, re.MULTILINE)
    assert [line.partition(":")[0] for line in said] == [
        "Node 17 (83)",
        "The graph 'csv' has no node with the id '17'.",
        "Node 17 (83)",
        "Node 17 (83)",
        "There is no node 300",
    ]
