"""Conversation templates: which tokens they make, and which of them the model learns to write."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import pytest
from helpers import CONFIGS, Stub, parsed, shipped_template, stub_readers
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from graphgpt.checkpoints.upgrade import model_settings
from graphgpt.errors import GraphGPTError
from graphgpt.models.llm import LLMConfig, load_tokenizer
from graphgpt.prompts.instruction import Instruction, Message
from graphgpt.prompts.processor import IGNORE, Example, Processor
from graphgpt.registry import TEMPLATES
from graphgpt.schema import parse

BYTES = load_tokenizer(LLMConfig(path="random:tiny"))
NAMES = ("vicuna_v1", "chat")
SYSTEM = shipped_template("vicuna_v1")["system"]
CONTROL = {"<|im_start|>": 256, "<|im_end|>": 257, "<|pad|>": 258}


@dataclass(frozen=True)
class Picture(Stub):
    modality: ClassVar[str] = "image"


def byte_ids(text: str) -> list[int]:
    """Ids of a text without control tokens: bytes in the order of the characters that stand for them in byte-level BPE."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    order = [*printable, *(byte for byte in range(256) if byte not in printable)]
    return [order.index(byte) for byte in text.encode()]


def ids_of(text: str) -> list[int]:
    """Ids of a template's text, in which control tokens count."""
    parts = re.split("|".join(re.escape(token) for token in sorted(CONTROL)).join("()"), text)
    return [i for part in parts for i in ([CONTROL[part]] if part in CONTROL else byte_ids(part))]


def processor(name: str, tokenizer: Any = BYTES, **fields: Any) -> Processor:
    fields = shipped_template(name) | fields
    cls = TEMPLATES.get(fields["name"])
    template = cls(parsed(cls.Config, fields), tokenizer)
    return Processor(tokenizer, template, max_length=100_000)


def conversation(*turns: str, system: str | None = None) -> Instruction:
    """User and assistant in turn."""
    messages = [Message("system", system)] if system is not None else []
    messages += [Message("assistant" if i % 2 else "user", turn) for i, turn in enumerate(turns)]
    return Instruction(id="sample", messages=tuple(messages))


def expected(*pieces: tuple[str, bool]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Ids and labels of pieces (text, supervised)."""
    ids = [i for text, _ in pieces for i in ids_of(text)]
    labels = [i if supervised else IGNORE for text, supervised in pieces for i in ids_of(text)]
    return tuple(ids), tuple(labels)


def outcome(example: Example) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return example.ids, example.labels


def supervised_spans(example: Example) -> list[tuple[int, ...]]:
    """Runs of supervised tokens."""
    spans: list[list[int]] = []
    for before, label in zip([IGNORE, *example.labels], example.labels, strict=False):
        if label != IGNORE:
            if before == IGNORE:
                spans.append([])
            spans[-1].append(label)
    return [tuple(span) for span in spans]


def test_the_byte_level_tokenizer_is_as_the_tests_read_it() -> None:
    assert ids_of("<|im_start|>Hi é\n<|im_end|>") == [256, 39, 72, 220, 127, 102, 198, 257]
    assert BYTES("<|im_start|>Hi é\n<|im_end|>", add_special_tokens=False)["input_ids"] == ids_of("<|im_start|>Hi é\n<|im_end|>")


def test_vicuna_one_turn() -> None:
    example = processor("vicuna_v1")(conversation("Which class?", "Theory"))
    assert outcome(example) == expected(
        (f"<|im_start|>{SYSTEM} USER: Which class? ASSISTANT:", False),
        (" Theory<|im_end|>", True),
    )


def test_vicuna_system_is_the_released_one() -> None:
    assert SYSTEM == (
        "A chat between a curious user and an artificial intelligence assistant. "
        "The assistant gives helpful, detailed, and polite answers to the user's questions."
    )


def test_vicuna_two_turns() -> None:
    example = processor("vicuna_v1")(conversation("One?", "First", "Two?", "Second"))
    assert outcome(example) == expected(
        (f"<|im_start|>{SYSTEM} USER: One? ASSISTANT:", False),
        (" First<|im_end|>", True),
        ("USER: Two? ASSISTANT:", False),
        (" Second<|im_end|>", True),
    )


@pytest.mark.parametrize(("fields", "system"), [({"system": "Be brief."}, None), ({}, "Be brief."), ({"system": "Be long."}, "Be brief.")])
def test_vicuna_with_another_system(fields: dict[str, str], system: str | None) -> None:
    """A system message of the conversation wins over the template's, and that over the built-in one."""
    example = processor("vicuna_v1", **fields)(conversation("One?", "First", system=system))
    assert outcome(example) == expected(("<|im_start|>Be brief. USER: One? ASSISTANT:", False), (" First<|im_end|>", True))


def test_chat_one_turn() -> None:
    example = processor("chat")(conversation("Which class?", "Theory"))
    assert outcome(example) == expected(
        ("<|im_start|>user\nWhich class?<|im_end|>\n<|im_start|>assistant\n", False), ("Theory<|im_end|>", True), ("\n", False)
    )


def test_chat_two_turns() -> None:
    example = processor("chat")(conversation("One?", "First", "Two?", "Second"))
    assert outcome(example) == expected(
        ("<|im_start|>user\nOne?<|im_end|>\n<|im_start|>assistant\n", False),
        ("First<|im_end|>", True),
        ("\n<|im_start|>user\nTwo?<|im_end|>\n<|im_start|>assistant\n", False),
        ("Second<|im_end|>", True),
        ("\n", False),
    )


@pytest.mark.parametrize(("fields", "system"), [({"system": "Be brief."}, None), ({}, "Be brief."), ({"system": "Be long."}, "Be brief.")])
def test_chat_with_a_system(fields: dict[str, str], system: str | None) -> None:
    example = processor("chat", **fields)(conversation("One?", "First", system=system))
    assert outcome(example) == expected(
        ("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nOne?<|im_end|>\n<|im_start|>assistant\n", False),
        ("First<|im_end|>", True),
        ("\n", False),
    )


@pytest.mark.parametrize("turns", [("One?", "First"), ("One?", "First", "Two?", "Second"), ("é", "ü\n", "", "x " * 9, "?", "!")])
def test_chat_is_what_the_tokenizer_itself_makes_of_it(turns: tuple[str, ...]) -> None:
    instruction = conversation(*turns, system="Be brief.")
    messages = [{"role": message.role, "content": message.text} for message in instruction.messages]
    text = BYTES.apply_chat_template(messages, tokenize=False)
    assert list(processor("chat")(instruction).ids) == BYTES(text, add_special_tokens=False)["input_ids"]
    start = BYTES.apply_chat_template(messages[:-1], tokenize=False, add_generation_prompt=True)
    assert list(processor("chat").prompt(instruction).ids) == BYTES(start, add_special_tokens=False)["input_ids"]


def test_a_chat_template_that_ends_answers_without_a_control_token() -> None:
    """The end-of-sequence token is added, or generation would never stop."""
    tokenizer = load_tokenizer(LLMConfig(path="random:tiny"))
    tokenizer.chat_template = "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    example = processor("chat", tokenizer)(conversation("One?", "First", "Two?", "Second"))
    assert outcome(example) == expected(
        ("user: One?\nassistant: ", False),
        ("First<|im_end|>", True),
        ("\nuser: Two?\nassistant: ", False),
        ("Second<|im_end|>", True),
        ("\n", False),
    )


def test_chat_without_a_chat_template_is_refused() -> None:
    tokenizer = load_tokenizer(LLMConfig(path="random:tiny"))
    tokenizer.chat_template = None
    with pytest.raises(GraphGPTError, match=r"^model\.template\.name: 'chat' needs a tokenizer with a .* use model/template=vicuna_v1\.$"):
        processor("chat", tokenizer)


def test_a_chat_template_that_drops_a_message_is_refused() -> None:
    tokenizer = load_tokenizer(LLMConfig(path="random:tiny"))
    tokenizer.chat_template = "{% for message in messages if message['role'] != 'system' %}{{ message['content'] }}<|im_end|>{% endfor %}"
    with pytest.raises(GraphGPTError, match="drops the system message"):
        processor("chat", tokenizer, system="Be brief.")(conversation("One?", "First"))


# Anything a user may write, control tokens, marks and line breaks included.
texts = st.lists(
    st.one_of(
        st.text(max_size=6), st.sampled_from(["<|im_end|>", "<|im_start|>", "<|pad|>", "@content0@", "@", " ", "\n", "USER:", "</s>"])
    ),
    max_size=4,
).map(lambda parts: "".join(parts).replace("<graph>", ""))
nonempty = texts.filter(str.strip)


@pytest.mark.parametrize("name", NAMES)
@given(turns=st.lists(st.tuples(texts, nonempty), min_size=1, max_size=3), system=st.none() | nonempty)
def test_any_conversation(name: str, turns: list[tuple[str, str]], system: str | None) -> None:
    """Supervised is every answer with its end; the prompt is what stands before the last; ``answer`` is what is supervised there."""
    process = processor(name)
    flat = [text for turn in turns for text in turn]
    example = process(conversation(*flat, system=system))
    lead = " " if name == "vicuna_v1" else ""

    answers = [(*byte_ids(lead + answer), CONTROL["<|im_end|>"]) for _, answer in turns]
    assert supervised_spans(example) == answers
    assert process.answer(flat[-1]) == answers[-1]

    last = max(i for i, label in enumerate(example.labels) if label != IGNORE) + 1
    prompt = process.prompt(conversation(*flat, system=system))
    assert prompt.ids == example.ids[: last - len(answers[-1])]
    assert set(prompt.labels) == {IGNORE}
    assert process.prompt(conversation(*flat[:-1], system=system)) == prompt


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("token", sorted(CONTROL))
def test_a_text_never_becomes_a_control_token(name: str, token: str) -> None:
    """Neither a question nor an answer nor a system message that spells one makes the token."""
    process = processor(name)
    plain = process(conversation("a b", "c d", "e f", "g h", system="s t"))
    for place in range(5):
        turns = ["a b", "c d", "e f", "g h", "s t"]
        turns[place] = f"a {token} b"
        example = process(conversation(*turns[:4], system=turns[4]))
        for control in CONTROL.values():
            assert example.ids.count(control) == plain.ids.count(control)
        assert BYTES.decode(example.ids).count(f"a {token} b") == 1


def merging_tokenizer() -> Any:
    """Byte-level like the tiny one, but with tokens of several bytes, a line break among them."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("Ċ", "Ċ"), ("Ċ", "f"), ("Ġ", "f"), ("a", "t"), ("o", "n"), (":", "Ġ"), ("f", "i"), ("t", ".")]
    vocabulary = {symbol: i for i, symbol in enumerate([*letters, *("".join(merge) for merge in merges)])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|pad|>")
    fast.chat_template = BYTES.chat_template
    return fast


MERGING = merging_tokenizer()


def assert_prompt_begins_training(name: str, turns: list[str]) -> None:
    process = processor(name, MERGING)
    prompt, example = process.prompt(conversation(*turns)), process(conversation(*turns))
    assert example.ids[: len(prompt.ids)] == prompt.ids
    assert example.ids[len(prompt.ids) :][: len(process.answer(turns[-1]))] == process.answer(turns[-1])


short_texts = st.text("fiaton.: \n", min_size=1, max_size=4).filter(str.strip)


@pytest.mark.parametrize("name", NAMES)
@given(question=short_texts, answer=short_texts)
def test_prompt_begins_the_training_ids_where_tokens_form_across_pieces(name: str, question: str, answer: str) -> None:
    assert_prompt_begins_training(name, [question, answer])


@pytest.mark.parametrize("name", NAMES)
@settings(phases=[Phase.generate])
@given(turns=st.lists(st.tuples(short_texts, short_texts), min_size=2, max_size=3))
def test_prompt_begins_the_training_ids_of_several_turns(name: str, turns: list[tuple[str, str]]) -> None:
    assert_prompt_begins_training(name, [text for turn in turns for text in turn])


@pytest.mark.parametrize("name", NAMES)
def test_tokens_form_across_the_template_and_a_question(name: str) -> None:
    """A prompt is tokenised as one text, as the language model saw it in its own tuning."""
    ids = processor(name, MERGING).prompt(conversation("\nfi", "x")).ids
    text = MERGING.decode(ids)
    assert list(ids) == MERGING(text, add_special_tokens=False)["input_ids"]


def sentencepiece_like(kind: str) -> Any:
    """A tokenizer that puts a space before every text: as Llama 2's (``legacy``), or by its pre-tokenizer (``metaspace``)."""
    characters = sorted({chr(code) for code in range(33, 127)} | {"▁", "\n"})
    words = ["▁USER", "▁ASSISTANT", "USER", "ASSISTANT", "▁Theory", "▁the", "er", "▁a", "▁▁"]
    if kind == "legacy":
        merges: list[tuple[str, str]] = []
        symbols = list(characters)
        for word in words:
            for end in range(2, len(word) + 1):
                if word[:end] not in symbols:
                    symbols.append(word[:end])
                    merges.append((word[: end - 1], word[end - 1]))
        vocabulary = {symbol: i for i, symbol in enumerate(["<unk>", "<s>", "</s>", *symbols])}
        tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", fuse_unk=True))
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    else:
        scores = [("<unk>", 0.0), *((character, -10.0) for character in characters), *((word, -3.0) for word in words)]
        tokenizer = Tokenizer(models.Unigram(scores, unk_id=0))
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
        tokenizer.decoder = decoders.Metaspace(prepend_scheme="always", split=False)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="</s>")


SENTENCEPIECE = {kind: sentencepiece_like(kind) for kind in ("legacy", "metaspace")}


@pytest.mark.parametrize("kind", SENTENCEPIECE)
@pytest.mark.parametrize("turns", [("What is the class?", "Theory"), ("One?", "the Theory", "And then?", "Theory!")])
def test_vicuna_with_a_tokenizer_that_adds_a_space(kind: str, turns: Sequence[str]) -> None:
    """Tokens are those of the whole text: no doubled space, ``USER:`` and ``ASSISTANT:`` as the language model knows them."""
    tokenizer = SENTENCEPIECE[kind]
    process = processor("vicuna_v1", tokenizer)
    example = process(conversation(*turns))
    rounds = [f"USER: {question} ASSISTANT: {answer}</s>" for question, answer in zip(turns[::2], turns[1::2], strict=True)]
    whole = tokenizer(f"<s>{SYSTEM} " + "".join(rounds), add_special_tokens=False)["input_ids"]
    assert tokenizer.convert_ids_to_tokens(example.ids) == tokenizer.convert_ids_to_tokens(whole)

    tokens = tokenizer.convert_ids_to_tokens(example.ids)
    assert tokens.count("▁USER") == tokens.count("▁ASSISTANT") == len(rounds)
    assert "▁▁" not in tokens and not any(a == b == "▁" for a, b in pairwise(tokens))
    answers = [tuple(tokenizer(f"{answer}</s>", add_special_tokens=False)["input_ids"]) for answer in turns[1::2]]
    assert supervised_spans(example) == answers
    assert process.answer(turns[-1]) == answers[-1]
    prompt = process.prompt(conversation(*turns))
    assert prompt.ids == example.ids[: len(example.ids) - len(answers[-1])]


@pytest.mark.parametrize("kind", SENTENCEPIECE)
@pytest.mark.parametrize("token", ["</s>", "<s>"])
def test_vicuna_control_token_in_a_text_with_such_a_tokenizer(kind: str, token: str) -> None:
    tokenizer = SENTENCEPIECE[kind]
    example = processor("vicuna_v1", tokenizer)(conversation(f"the {token} Theory", f"Theory {token} the"))
    assert example.ids.count(tokenizer.convert_tokens_to_ids("<s>")) == 1
    assert example.ids.count(tokenizer.convert_tokens_to_ids("</s>")) == 1
    assert supervised_spans(example)[0][-1] == tokenizer.convert_tokens_to_ids("</s>")
    tokens = tokenizer.convert_ids_to_tokens(example.ids)
    assert "▁▁" not in tokens and not any(a == b == "▁" for a, b in pairwise(tokens))


# LLaVA's forms, spelled out as its training sees them (its conversation.py and train.py).

LLAVA_SYSTEM = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions."
)
SEES = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant is able to understand the visual content "
    "that the user provides, and assist the user with a variety of tasks using natural language.The visual content will be provided with "
    "the following format: <Image>visual content</Image>."
)
LLAMA_SYSTEM = (
    "You are a helpful language and vision assistant. You are able to understand the visual content that the user provides, "
    "and assist the user with a variety of tasks using natural language."
)
MPT_SYSTEM = "A conversation between a user and an LLM-based AI assistant. The assistant gives helpful and honest answers."
BOS, EOS, PICTURE = "<|im_start|>", "<|im_end|>", "<picture>"


def mpt(system: str, picture: str) -> list[tuple[str, bool]]:
    return [
        (f"{BOS}{BOS}system\n{system}{EOS}{BOS}user\n{picture}\nOne?{EOS}{BOS}assistant\n", False),
        (f"First{EOS}", True),
        (f"{BOS}user\nTwo?{EOS}{BOS}assistant\n", False),
        (f"Second{EOS}", True),
    ]


def v1(system: str, picture: str) -> list[tuple[str, bool]]:
    return [
        (f"{BOS}{system} USER: {picture}\nOne? ASSISTANT:", False),
        (f" First{EOS}", True),
        ("USER: Two? ASSISTANT:", False),
        (f" Second{EOS}", True),
    ]


def v0(system: str, picture: str) -> list[tuple[str, bool]]:
    return [
        (f"{BOS}{system}\n\n### Human: {picture}\nOne?\n### Assistant:", False),
        (" First\n###", True),
        (" Human: Two?\n### Assistant:", False),
        (" Second\n###", True),
    ]


def inst(first: str, between: str) -> list[tuple[str, bool]]:
    return [
        (f"{BOS}[INST] {first}{PICTURE}\nOne? [/INST]", False),
        (f" First {EOS}", True),
        (f"{between}[INST] Two? [/INST]", False),
        (f" Second {EOS}", True),
    ]


TAGGED = f"<Image>{PICTURE}</Image>"
FORMS = {
    "vicuna_v0": v0(LLAVA_SYSTEM, PICTURE),
    "vicuna_v0_mmtag": v0(SEES, TAGGED),
    "vicuna_v1": v1(SYSTEM, PICTURE),
    "llava_v1": v1(LLAVA_SYSTEM, PICTURE),
    "vicuna_v1_mmtag": v1(SEES, TAGGED),
    "plain": [(f"{BOS}{PICTURE}", False), ("First\n", True), ("Second\n", True)],
    "llama_2": inst(f"<<SYS>>\n{LLAMA_SYSTEM}\n<</SYS>>\n\n", BOS),
    "mistral": inst("", ""),
    "mpt": mpt(MPT_SYSTEM, PICTURE),
    "chatml": mpt("Answer the questions.", PICTURE),
}


def test_every_shipped_form_is_spelled_out_here() -> None:
    assert {path.stem for path in (CONFIGS / "model" / "template").glob("*.yaml")} == {*FORMS, "chat"}


@pytest.mark.parametrize("shows", [True, False])
@pytest.mark.parametrize("name", FORMS)
def test_forms_with_a_picture_and_without(name: str, shows: bool) -> None:
    """Two turns: ids and labels; where the picture is taken away, what it stood in goes too."""
    reader = stub_readers()["graph"]
    process = processor(name)
    process.readers = {"image": reader}
    picture = Picture(3)
    asked = Message("user", picture, "\nOne?") if shows else Message("user", "\nOne?")
    turns = (asked, Message("assistant", "First"), Message("user", "Two?"), Message("assistant", "Second"))
    example = process(Instruction(id="sample", messages=turns))
    ids: list[int] = []
    labels: list[int] = []
    for text, supervised in FORMS[name]:
        before, found, behind = (text if shows else text.replace(TAGGED, PICTURE)).partition(PICTURE)
        new = [*ids_of(before), *(reader.ids(picture, True) if found and shows else ()), *ids_of(behind)]
        ids += new
        labels += new if supervised else [IGNORE] * len(new)
    assert (list(example.ids), list(example.labels)) == (ids, labels)
    assert process.prompt(Instruction(id="sample", messages=turns)).ids == example.ids[: -len(process.answer("Second"))]


@pytest.mark.parametrize("name", FORMS)
@given(
    turns=st.lists(st.tuples(nonempty, nonempty), min_size=1, max_size=3),
    shown=st.booleans(),
    kind=st.sampled_from(["bytes", *SENTENCEPIECE]),
)
def test_what_is_supervised_is_the_answers_and_their_ends(name: str, turns: list[tuple[str, str]], shown: bool, kind: str) -> None:
    """Whatever the form and the tokenizer: there is no mismatch of lengths for which a sample would be thrown away."""
    tokenizer = BYTES if kind == "bytes" else SENTENCEPIECE[kind]
    process = processor(name, tokenizer)
    process.readers = {"image": stub_readers()["graph"]}
    messages = [Message(role, text) for turn in turns for role, text in zip(("user", "assistant"), turn, strict=True)]
    if shown:
        messages[0] = Message("user", Picture(2), messages[0].text)
    example = process(Instruction(id="sample", messages=tuple(messages)))
    learned = [i for i in example.labels if i != IGNORE]
    assert learned == [i for _, answer in turns for i in process.answer(answer)]
    if kind == "bytes":
        end = process.template.terminator
        assert BYTES.decode(learned).replace(" ", "") == "".join(answer + end for _, answer in turns).replace(" ", "")


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"user": "USER:"}, "template.user: 'USER:' does not fit: must have {content} or {inputs} once"),
        (
            {"assistant": "A: {content}!"},
            "template.assistant: 'A: {content}!' does not fit: must end with {content}; what follows an answer is 'end'",
        ),
        ({"end": " "}, "template.end: ' ' does not fit: must not be empty, or no answer would ever end"),
        ({"around": {"image": "<Image>"}}, "template.around: {'image': '<Image>'} does not fit: must have {content} once"),
    ],
)
def test_a_form_that_says_nothing_is_refused(fields: dict[str, Any], sentence: str) -> None:
    problems: list[str] = []
    parse(TEMPLATES.get("turns").Config, shipped_template("vicuna_v1") | fields, problems, "template")
    assert len(problems) == 1 and problems[0].startswith(sentence), problems


def test_an_answer_ends_where_its_text_says() -> None:
    """No token ends an answer of ``vicuna_v0``, but three signs do; as long as they may come, what may begin them is held back."""
    process = processor("vicuna_v0")
    assert process.ends == {CONTROL[EOS]} and process.stop == "\n###"
    ids = byte_ids(" A cat.\n### Human: And?")
    seen = [process.written(ids[:end], more=True) for end in range(1, len(ids) + 1)]
    assert max((text for text, _ in seen), key=len) == "A cat."
    assert [ended for _, ended in seen].index(True) == len(" A cat.\n###") - 1
    assert process.written(byte_ids(" A cat.\n##")) == ("A cat.\n##", False)
    assert processor("vicuna_v1").stop is None


@pytest.mark.parametrize("system", [None, "Be brief."])
def test_a_checkpoint_from_before_templates_were_written_down(system: str | None) -> None:
    found = model_settings({"name": "multimodal_llm", "template": {"name": "vicuna_v1", "system": system}})["template"]
    assert parsed(TEMPLATES.get("turns").Config, found) == parsed(
        TEMPLATES.get("turns").Config, shipped_template("vicuna_v1") | ({} if system is None else {"system": system})
    )
