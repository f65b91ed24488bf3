"""A model of pictures called from Python, and talked to."""

import io
from pathlib import Path

import pytest
from helpers import train
from PIL import Image

from graphgpt import Assistant
from graphgpt.cli.main import main
from graphgpt.errors import DataError, GraphGPTError
from graphgpt.models.answering import score
from graphgpt.prompts.instruction import Instruction, Message
from graphgpt.prompts.prediction import AnswerSettings


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folder of a model that reads pictures."""
    run = tmp_path_factory.mktemp("trained")
    data = ["dataset=openmoji", "dataset.limit=4", "dataset.size=32", "model/tower=pixels", "model/llm=tiny_random"]
    steps = ["runner.max_steps=2", "runner.global_batch_size=4", "runner.threads=1", "runner.accelerator=cpu", "logger=none"]
    train(run, ["model=image", "task=image_classification", *data, *steps])
    return run


@pytest.fixture(scope="module")
def assistant(checkpoint: Path) -> Assistant:
    return Assistant.from_pretrained(checkpoint, device="cpu")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("pictures")
    for color in ("red", "blue"):
        Image.new("RGB", (40, 30), color).save(folder / f"{color}.png")
    return [folder / "red.png", folder / "blue.png"]


def test_pictures_go_before_the_question_or_where_it_says(assistant: Assistant, pictures: list[Path]) -> None:
    talk = assistant.conversation(system="Be brief.")
    answer = talk.ask("Which colors?", images=pictures, max_new_tokens=4)
    assert "<image: red.png>\n<image: blue.png>\nWhich colors?" in talk.prompt() and "Be brief." in talk.prompt()
    assert talk.messages[-1] == Message("assistant", answer)
    talk.ask("And <image> beside <image>?", images=pictures, max_new_tokens=4)
    assert "And <image: red.png> beside <image: blue.png>?" in talk.prompt() and "Which colors?" in talk.prompt()
    talk.ask("What was <image>?", max_new_tokens=4)
    assert "What was <image>?" in talk.prompt()  # without a picture, a word like any other
    sentence = r"^ask: the question has 1 <image> for 2 pictures\.$"
    with pytest.raises(DataError, match=sentence):
        talk.ask("Only <image>?", images=pictures)
    assert len(talk.messages) == 7


def test_what_is_seen_matters_and_nothing_is_kept(assistant: Assistant, pictures: list[Path]) -> None:
    red, blue = ([Message("user", assistant.picture(path), "\nWhich color?")] for path in pictures)
    chances = assistant.score(red, ["red", "blue", "green"])
    assert sum(chances) == pytest.approx(1) and chances != pytest.approx(assistant.score(blue, ["red", "blue", "green"]))
    prompt = assistant.read(red)
    told = score(assistant.model, [prompt], [assistant.processor.answer(name) for name in ("red", "blue", "green")])[0].softmax(dim=0)
    assert chances == pytest.approx(told.tolist())
    assert "".join(assistant.answer(red, max_new_tokens=6)) == assistant.ask("Which color?", images=pictures[:1], max_new_tokens=6)


def test_what_is_no_picture_is_said_before_anything_is_written(assistant: Assistant, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("hello")
    for name, sentence in (("text.png", "is no picture of a kind that is read"), ("gone.png", "there is no such file")):
        with pytest.raises(DataError, match=sentence):
            assistant.ask("What is it?", images=[tmp_path / name])


def test_a_model_of_words_reads_no_pictures(pictures: list[Path], tmp_path: Path) -> None:
    (tmp_path / "data.json").write_text('[{"instruction": "Say hello.", "output": "Hello."}]')
    data = ["model=text", "dataset=alpaca", f"dataset.path={tmp_path}/data.json", "task=conversations", "model/llm=tiny_random"]
    train(tmp_path / "run", [*data, "runner.max_steps=1", "runner.threads=1", "runner.accelerator=cpu", "logger=none"])
    assistant = Assistant.from_pretrained(tmp_path / "run", device="cpu")
    assert isinstance(assistant.ask("Say hello.", max_new_tokens=3), str)
    with pytest.raises(DataError, match=r"^images: the model reads words alone, no pictures; train one that does with model=image\.$"):
        assistant.ask("What is it?", images=pictures)


def say(checkpoint: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *lines: str) -> list[str]:
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
    main(["chat", str(checkpoint), "--device", "cpu", "--max-new-tokens", "4"])
    return capsys.readouterr().out.splitlines()


def test_a_chat_about_pictures(
    checkpoint: Path, pictures: list[Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = say(checkpoint, capsys, monkeypatch, f"/image {pictures[0]}", "Which color?", "/prompt", "/new", "/prompt", "/help", "/node 1")
    assert out[0] == "No picture is shown: /image FILE shows one."
    assert f"{pictures[0]}, 40 x 30, goes with the next question." in out
    assert sum("<image: red.png>" in line for line in out) == 1
    assert out[-1].startswith("There is no command '/node'.") and any(line.startswith("/image FILE") for line in out)


def test_a_graph_for_a_model_of_pictures(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["chat", str(checkpoint), "--graph", str(tmp_path)])
    assert f"--graph: {checkpoint} reads image, no graph; leave it out." in capsys.readouterr().err


def test_options_out_of_range(assistant: Assistant) -> None:
    with pytest.raises(GraphGPTError, match=r"^ask: max_new_tokens must be at least 1"):
        assistant.ask("What?", max_new_tokens=0)


def test_choices_may_count_by_what_the_picture_adds(assistant: Assistant, pictures: list[Path]) -> None:
    model, choices = assistant.model, ("red", "a rather long and unlikely answer", "blue")
    asked = [
        Instruction(
            id=path.stem,
            messages=(Message("user", assistant.picture(path), "\nWhich color?"), Message("assistant", path.stem)),
            truth=choices.index(path.stem),
            choices=choices,
            relative=True,
        )
        for path in pictures
    ]
    found = [*model.predictions(["choice 1", "choice 2", "choice 3"], asked, AnswerSettings())]
    answers = [model.processor.answer(name) for name in choices]
    for one, instruction in zip(found, asked, strict=True):
        with_it, without = (score(model, [model.processor.prompt(given)], answers)[0] for given in (instruction, instruction.without()))
        assert one.scores == pytest.approx((with_it - without).tolist(), abs=1e-4)
    [alone] = model.predictions(["choice 1", "choice 2", "choice 3"], [asked[0].without()], AnswerSettings())
    assert alone.scores == pytest.approx([0, 0, 0], abs=1e-4)
