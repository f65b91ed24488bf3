"""From an instruction to token ids: placeholders, limits, and what is refused in which words."""

import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from helpers import Stub, make_dataset_config, make_task, parsed, shipped_template, stub_readers
from hypothesis import given
from hypothesis import strategies as st

from graphgpt.errors import DataError, SampleTooLong
from graphgpt.graphs.graph import TextAttributedGraph
from graphgpt.models.llm import LLMConfig, load_tokenizer
from graphgpt.prompts.instruction import Instruction, Message, Role
from graphgpt.prompts.processor import IGNORE, Example, Processor
from graphgpt.prompts.tokens import Token, token_id
from graphgpt.prompts.wording import placed
from graphgpt.registry import TEMPLATES
from graphgpt.tasks.task import Task

PATCH, START, END, BLANK = (token_id(0, token) for token in (Token.PATCH, Token.START, Token.END, Token.BLANK))
TOKENIZER = load_tokenizer(LLMConfig(path="random:tiny"))


def processor(template: str = "chat", max_length: int = 10_000, **arguments: Any) -> Processor:
    fields = shipped_template(template)
    cls = TEMPLATES.get(fields["name"])
    return Processor(TOKENIZER, cls(parsed(cls.Config, fields), TOKENIZER), max_length, **({"readers": stub_readers()} | arguments))


def instruction(*turns: str, sizes: Sequence[int] = (), first: Role = "user") -> Instruction:
    roles: tuple[Role, Role] = ("user", "assistant") if first == "user" else ("assistant", "user")
    inputs = {"graph": (Stub(size) for size in sizes)}
    return Instruction(id="sample-7", messages=tuple(Message(roles[i % 2], *placed(turn, inputs)) for i, turn in enumerate(turns)))


def text_of(example: Example) -> str:
    return str(TOKENIZER.decode([token for token in example.ids if token >= 0]))


def blocks_of(example: Example) -> list[list[int]]:
    """Runs of modality tokens."""
    runs: list[list[int]] = []
    for before, token in zip((0, *example.ids), example.ids, strict=False):
        if token < 0:
            if before >= 0 or before == END:
                runs.append([])
            runs[-1].append(token)
    return runs


def test_an_input_is_framed_and_stands_where_its_placeholder_stood() -> None:
    example = processor()(instruction("Look: <graph> what?", "That", sizes=[3]))
    start = example.ids.index(START)
    assert example.ids[start : start + 5] == (START, PATCH, PATCH, PATCH, END)
    assert TOKENIZER.decode(example.ids[:start]) == "<|im_start|>user\nLook: "
    assert TOKENIZER.decode(example.ids[start + 5 :]) == " what?<|im_end|>\n<|im_start|>assistant\nThat<|im_end|>\n"
    assert example.inputs == (Stub(3),)
    assert example.id == "sample-7"


@pytest.mark.parametrize("template", ["chat", "vicuna_v1"])
@given(sizes=st.lists(st.integers(1, 5), max_size=4), texts=st.lists(st.text(max_size=5), min_size=10, max_size=10))
def test_any_number_of_inputs_in_any_place(template: str, sizes: list[int], texts: list[str]) -> None:
    """Every input has as many patches as it has tokens, in order, unsupervised; the text is the same as without them."""
    texts = [text.replace("<", "") for text in texts]
    places = [texts[0]] + [f"{'<graph>' if i < len(sizes) else ''}{texts[i + 1]}" for i in range(4)]
    turns = ["".join(places[:3]), "yes" + texts[5], "".join(places[3:]), "no" + texts[6]]
    example = processor(template)(instruction(*turns, sizes=sizes))
    assert blocks_of(example) == [[START, *[PATCH] * size, END] for size in sizes]
    assert [item.num_tokens for item in example.inputs] == sizes
    assert all(label == IGNORE for token, label in zip(example.ids, example.labels, strict=True) if token < 0)
    assert all(label in (IGNORE, token) for token, label in zip(example.ids, example.labels, strict=True))
    removed = processor(template)(instruction(*turns, sizes=sizes).without())
    assert tuple(token for token in example.ids if token >= 0) == removed.ids


@pytest.mark.parametrize("template", ["chat", "vicuna_v1"])
def test_removed_graph_tokens_leave_the_text_intact(template: str) -> None:
    process = processor(template)
    bare = instruction("One <graph> and two <graph>.", "Both", sizes=[2, 3]).without("graph")
    example = process(bare)
    assert example.inputs == ()
    assert min(example.ids) >= 0
    assert "One  and two ." in text_of(example)
    assert example.ids == processor(template)(instruction("One  and two .", "Both")).ids
    prompt = process.prompt(bare)
    assert prompt.inputs == () and example.ids[: len(prompt.ids)] == prompt.ids


def test_two_graphs_in_one_prompt() -> None:
    example = processor()(instruction("First <graph> second <graph>", "Linked", sizes=[1, 4]))
    assert blocks_of(example) == [[START, PATCH, END], [START, PATCH, PATCH, PATCH, PATCH, END]]
    assert text_of(example).startswith("<|im_start|>user\nFirst  second ")


def test_the_original_reads_only_the_last_of_several_graphs() -> None:
    asked = instruction("First <graph> second <graph>", "Linked", sizes=[2, 3])
    example = processor(readers=stub_readers(last_only=True))(asked)
    assert blocks_of(example) == [[START, BLANK, BLANK, END], [START, PATCH, PATCH, PATCH, END]]
    assert example.inputs == (Stub(3),)
    assert len(example.ids) == len(processor()(asked).ids)
    alone = instruction("First <graph>", "Linked", sizes=[2])
    assert processor(readers=stub_readers(last_only=True))(alone) == processor()(alone)


def test_adjacent_placeholders() -> None:
    example = processor()(instruction("<graph><graph>", "Linked", sizes=[1, 1]))
    assert blocks_of(example) == [[START, PATCH, END], [START, PATCH, END]]


def test_text_only() -> None:
    example = processor()(instruction("Hello", "Hi"))
    assert example.inputs == () and min(example.ids) >= 0
    assert text_of(example) == "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\nHi<|im_end|>\n"


def test_a_text_may_spell_what_it_likes() -> None:
    """Where an input goes is known before any text is there: nothing is looked for in it."""
    asked = Instruction(
        id="a", messages=(Message("user", "See ", Stub(2), ", not a <graph> or <graph: 3 tokens>."), Message("assistant", "<graph>"))
    )
    example = processor()(asked)
    assert blocks_of(example) == [[START, PATCH, PATCH, END]]
    assert ", not a <graph> or <graph: 3 tokens>." in text_of(example) and "assistant\n<graph><|im_end|>" in text_of(example)
    assert asked.prompt == "See <graph: 2 tokens>, not a <graph> or <graph: 3 tokens>."


def test_prompt_needs_no_answer() -> None:
    """What stands as the answer does not matter, and neither does whether one stands there."""
    process = processor()
    prompts = [process.prompt(instruction("Which <graph>?", *answer, sizes=[2])) for answer in ([], [""], ["A"], ["Something long"])]
    assert all(prompt == prompts[0] for prompt in prompts)
    assert text_of(prompts[0]) == "<|im_start|>user\nWhich ?<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize("template", ["chat", "vicuna_v1"])
def test_nothing_supervised_is_refused(template: str) -> None:
    with pytest.raises(DataError, match=r"^Sample 'sample-7' has no answer to learn from"):
        processor(template)(instruction("Only a question"))


@pytest.mark.parametrize("template", ["chat", "vicuna_v1"])
def test_an_empty_answer_is_refused(template: str) -> None:
    """As the message of the refusal says."""
    with pytest.raises(DataError, match=r"^Sample 'sample-7' has no answer to learn from"):
        processor(template)(instruction("A question", ""))


@pytest.mark.parametrize("template", ["chat", "vicuna_v1"])
def test_a_conversation_that_ends_with_a_question_is_refused(template: str) -> None:
    """As the message of the refusal says."""
    with pytest.raises(DataError, match=r"^Sample 'sample-7' has no answer to learn from"):
        processor(template)(instruction("A question", "An answer", "Another question"))


@pytest.mark.parametrize("template", ["chat", "vicuna_v1"])
def test_several_are_as_each_alone(template: str) -> None:
    """Texts that they share, that spell a control token, that are empty or begin with a space do not change places."""
    turns = ["<graph>", "Look: <graph> what?", " ", "<|im_end|>", "Look: ", "no", "yes"]
    samples = [
        instruction(question, answer, *more, sizes=[2] * f"{question}{more}".count("<graph>"))
        for question in turns
        for answer in ("yes", "<|im_end|>", " no")
        for more in ((), ("<graph> and <|im_start|>", "yes"))
    ]
    process = processor(template)
    assert process.several(samples) == [processor(template)(sample) for sample in samples]
    assert process.several([]) == []
    with pytest.raises(DataError, match=r"^Sample 'sample-7' has no answer"):
        process.several([*samples, instruction("Only a question")])


def test_too_long_names_sample_length_and_limit() -> None:
    sample = instruction("Look at <graph>", "Done", sizes=[20])
    length = len(processor()(sample).ids)
    assert len(processor(max_length=length)(sample).ids) == length
    with pytest.raises(DataError, match=f"^Sample 'sample-7' has {length} tokens, more than model.max_length={length - 1};"):
        processor(max_length=length - 1)(sample)


def test_too_long_a_prompt_is_refused_too() -> None:
    sample = instruction("Look at <graph>", "Done", sizes=[20])
    length = len(processor().prompt(sample).ids)
    with pytest.raises(DataError, match=f"has {length} tokens, more than model.max_length={length - 1};"):
        processor(max_length=length - 1).prompt(sample)


@pytest.mark.parametrize("name", ["node_classification", "graph_matching"])
def test_shipped_tasks(name: str, graph: TextAttributedGraph, make_task: Callable[..., Task]) -> None:
    """One token per node of the subgraph, and the answer is what the task calls one."""
    task = make_task(name, graph)
    sample = task.instruction(4, seed=3, training=True)
    example = processor()(sample)
    nodes = sample.subgraphs[0].nodes
    assert example.ids.count(PATCH) == len(nodes) > 1
    assert (example.ids.count(START), example.ids.count(END)) == (1, 1)
    supervised = [label for label in example.labels if label != IGNORE]
    assert TOKENIZER.decode(supervised) == sample.messages[-1].text + "<|im_end|>"
    assert make_dataset_config().node in text_of(example)


@given(st.integers(0, 120), st.integers(0, 400), st.integers(1, 9), st.integers(60, 300))
def test_what_is_too_long_loses_text_and_nothing_else(title: int, body: int, tokens: int, limit: int) -> None:
    """As an example with its answer and as a prompt: graph tokens, question and answer stay, and what fits is not touched."""
    texts = ("t" * title + "|", " ".join(["word"] * (body // 5)) + "|")
    asked = instruction(f"<graph> {texts[0]} and {texts[1]} Which?", "The answer", sizes=[tokens])
    asked = dataclasses.replace(asked, texts=texts)
    whole, cuts = processor(), processor(max_length=limit, too_long="cut")
    for make in ("__call__", "prompt"):
        before = getattr(whole, make)(asked)
        try:
            after = getattr(cuts, make)(asked)
        except SampleTooLong as error:
            assert f"model.max_length={limit}, and no text left to cut; raise it." in str(error)
            continue
        assert len(after.ids) <= limit
        assert (after == before) == (len(before.ids) <= limit)
        assert after.ids.count(PATCH) == tokens and after.inputs == before.inputs
        assert [label for label in after.labels if label != IGNORE] == [label for label in before.labels if label != IGNORE]
        assert "Which?" in text_of(after)


def test_a_prompt_is_cut_where_training_leaves_its_sample_out() -> None:
    """Someone waits for the answer."""
    asked = dataclasses.replace(instruction("x" * 300 + " Which?", "That"), texts=("x" * 300,))
    skips = processor(max_length=100, too_long="skip")
    with pytest.raises(SampleTooLong):
        skips(asked)
    assert len(skips.prompt(asked).ids) <= 100
    with pytest.raises(SampleTooLong, match=r"model\.max_length=100; raise it, or set model\.too_long=cut\.$"):
        processor(max_length=100).prompt(asked)


@pytest.mark.parametrize(
    ("name", "sampler", "fields", "advice"),
    [
        ("node_classification", {"max_tokens": 2}, {}, "task.max_chars or dataset.sampler.max_tokens"),
        ("node_classification", {"max_tokens": 60}, {}, "task.max_chars or dataset.sampler.fanout"),
        ("node_classification", {}, {}, "task.max_chars or dataset.sampler.fanout"),
        ("node_classification", {"layout": "hop_field"}, {}, "task.max_chars or dataset.sampler.hops"),
        ("link_prediction", {"max_tokens": 2}, {"wording": "titles_only"}, "task.max_chars or dataset.sampler.max_tokens"),
        ("link_prediction", {}, {"wording": "bare", "wordings": {"bare": "<graph> <graph>?"}}, "dataset.sampler.fanout"),
        ("graph_matching", {"max_tokens": 3}, {}, "task.max_chars or dataset.sampler.max_tokens"),
        ("node_classification", {}, {"wording": "text", "wordings": {"text": "{text}?"}}, "task.max_chars"),
    ],
)
def test_what_is_too_long_is_told_what_limits_it(
    name: str, sampler: dict[str, Any], fields: dict[str, Any], advice: str, graph: TextAttributedGraph
) -> None:
    asked = make_task(name, graph, sampler=sampler, **fields).instruction(0, seed=0, training=False)
    with pytest.raises(SampleTooLong, match=rf"model\.max_length=9; raise it, lower {re.escape(advice)}, or set model\.too_long=cut\.$"):
        processor(max_length=9).prompt(asked)
