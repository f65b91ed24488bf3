"""Text encoders: texts in, features out, the same every time."""

import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers import parsed
from torch import Tensor

from graphgpt.errors import DataError
from graphgpt.graphs.text_encoder import TextEncoder, standardize
from graphgpt.graphs.text_encoders.tfidf_svd import tokens
from graphgpt.models.llm import LLMConfig, load_llm, load_tokenizer
from graphgpt.registry import TEXT_ENCODERS

TEXTS = ["red blue green", "red red blue", "cat dog", "dog mouse cat horse", "green grass", "mouse", "blue sky, red sky", "horse and cat"]


def encoder(name: str, **fields: Any) -> TextEncoder:
    built: TextEncoder = TEXT_ENCODERS.build(parsed(TEXT_ENCODERS.get(name).Config, {"name": name, **fields}))
    return built


def no_llm() -> tuple[Any, Tensor]:
    raise AssertionError("this encoder must not read the language model")


def source(tokenizer: Any, matrix: Tensor) -> Callable[[], tuple[Any, Any]]:
    """A language model of which there is no more than its embeddings."""
    return lambda: (tokenizer, SimpleNamespace(get_input_embeddings=lambda: SimpleNamespace(weight=matrix)))


def cosine(x: Tensor, a: int, b: int) -> float:
    return float(torch.cosine_similarity(x[a], x[b], dim=0))


def test_tfidf_svd_is_deterministic_and_narrow() -> None:
    x = encoder("tfidf_svd", dim=3).encode(TEXTS, no_llm)
    assert x.shape == (len(TEXTS), 3) and x.dtype == torch.float32 and x.isfinite().all()
    assert torch.equal(x, encoder("tfidf_svd", dim=3).encode(TEXTS, no_llm))


def test_tfidf_svd_brings_texts_with_common_words_together() -> None:
    x = encoder("tfidf_svd", dim=3).encode(TEXTS, no_llm)
    assert cosine(x, 0, 1) > 0.5 > abs(cosine(x, 0, 2))
    assert cosine(x, 2, 3) > 0.5 > abs(cosine(x, 1, 3))


def test_tfidf_svd_keeps_inner_products_when_wide_enough() -> None:
    """All but one dimension: the decomposition then loses next to nothing of what the texts have in common."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    texts = [*TEXTS, "red blue green", "cat dog"]  # Doubled texts leave the matrix a lower rank than it has rows.
    words = torch.from_numpy(TfidfVectorizer(sublinear_tf=True, token_pattern=r"(?u)\b\w+\b").fit_transform(texts).toarray()).float()
    x = encoder("tfidf_svd").encode(texts, no_llm)
    assert x.shape == (len(texts), min(words.shape) - 1)
    torch.testing.assert_close(x @ x.T, words @ words.T, atol=1e-4, rtol=1e-4)


def test_tfidf_svd_reads_words_of_one_letter_and_any_script() -> None:
    x = encoder("tfidf_svd", dim=2).encode(["a b", "a c", "漢字 b", "漢字 c", "é a"], no_llm)
    assert x.shape == (5, 2) and x.any(dim=1).all()


@pytest.mark.parametrize("texts", [["word"], ["word", "word"], ["one", "two"], ["word"] * 5, ["one two three"], ["word", "", "..."]])
def test_tfidf_svd_of_very_little(texts: list[str]) -> None:
    x = encoder("tfidf_svd").encode(texts, no_llm)
    assert x.ndim == 2 and len(x) == len(texts) and x.shape[1] >= 1
    assert standardize(x).isfinite().all()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("two words_1, m² x½ naïve", ["two", "words_1", "m²", "x½", "naïve"]),
        ("深度学习 graph", ["深", "度", "学", "习", "深度", "度学", "学习", "graph"]),
        ("コーヒー", ["コ", "ー", "ヒ", "ー", "コー", "ーヒ", "ヒー"]),
        ("ไทย", ["ไ", "ท", "ย", "ไท", "ทย"]),
        ("हिन्दी 안녕 하세요", ["हिन्दी", "안녕", "하세요"]),
        ("😀🎉 ©", ["😀", "🎉"]),
    ],
)
def test_words_of_any_script(text: str, found: list[str]) -> None:
    assert tokens(text) == found


def test_any_script_is_the_same_for_latin_letters_to_the_digit() -> None:
    texts = [*TEXTS, "m² x½ naïve © café 3.5 snake_case", "don't re-use"]
    spaced, any_script = (encoder("tfidf_svd", dim=3, words=words).encode(texts, no_llm) for words in ("spaced", "any_script"))
    assert torch.equal(spaced, any_script) and torch.equal(spaced, encoder("tfidf_svd", dim=3).encode(texts, no_llm))


def test_texts_without_spaces_come_together_by_what_they_have_in_common() -> None:
    texts = ["深度学习模型", "学习深度网络", "鸟类在森林唱歌", "森林里的鸟类"]
    x = encoder("tfidf_svd", dim=3, words="any_script").encode(texts, no_llm)
    assert min(cosine(x, 0, 1), cosine(x, 2, 3)) > 0.3 > abs(cosine(x, 0, 2))
    assert encoder("tfidf_svd", words="any_script").encode(["😀", "🎉 😀"], no_llm).any()


def test_tfidf_svd_vocabulary_is_limited() -> None:
    x = encoder("tfidf_svd", max_vocabulary=3).encode(TEXTS, no_llm)
    assert x.shape == (len(TEXTS), 2)


def test_tfidf_svd_without_a_word() -> None:
    with pytest.raises(DataError, match=r"^The text encoder 'tfidf_svd' finds no word in any node's text\.$"):
        encoder("tfidf_svd").encode(["...", ""], no_llm)


def test_a_package_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    cls = TEXT_ENCODERS.get("sentence_transformers")
    sentence = "The text encoder 'sentence_transformers' needs the package sentence-transformers: pip install 'graphgpt[sentence]'."
    assert cls.problems(cls.Config(name="sentence_transformers")) == [sentence]


def test_sentence_transformers_that_cannot_be_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: str, trust_remote_code: bool) -> None:
        raise OSError("no such model\nand much more")

    monkeypatch.setitem(sys.modules, "sentence_transformers", SimpleNamespace(SentenceTransformer=fail))
    cls = TEXT_ENCODERS.get("sentence_transformers")
    sentence = r"^The text encoder 'sentence_transformers' cannot load 'nobody/nothing': it is no local folder, .* \(no such model\)$"
    with pytest.raises(DataError, match=sentence):
        cls(cls.Config(name="sentence_transformers", path="nobody/nothing")).encode(TEXTS, no_llm)


def test_standardize() -> None:
    x = standardize(torch.tensor([[1.0, 5.0, 0.0], [3.0, 5.0, 1e3], [5.0, 5.0, -1e3]], dtype=torch.float64))
    assert x.dtype == torch.float32
    torch.testing.assert_close(x.mean(dim=0), torch.zeros(3), atol=1e-6, rtol=0)
    torch.testing.assert_close(x.square().mean(dim=0), torch.tensor([1.0, 0.0, 1.0]))
    assert standardize(torch.ones(1, 4)).tolist() == [[0, 0, 0, 0]]


def test_llm_embedding_is_the_mean_of_the_tokens_rows() -> None:
    tokenizer = load_tokenizer(LLMConfig(path="random:tiny"))
    matrix = torch.randn(259, 6, generator=torch.Generator().manual_seed(0))
    texts = ["AB", "A", "", "é<|im_end|>", "abcdefgh"]
    x = encoder("llm_embedding", max_tokens=5).encode(texts, source(tokenizer, matrix))
    a, b = (tokenizer.convert_tokens_to_ids(letter) for letter in "AB")
    torch.testing.assert_close(x[0], (matrix[a] + matrix[b]) / 2)
    torch.testing.assert_close(x[1], matrix[a])
    assert x[2].tolist() == [0] * 6
    torch.testing.assert_close(x[4], matrix[[tokenizer.convert_tokens_to_ids(letter) for letter in "abcde"]].mean(dim=0))
    assert x.shape == (5, 6) and x.dtype == torch.float32 and x.isfinite().all()


def test_llm_embedding_of_a_bfloat16_matrix_is_averaged_in_float32() -> None:
    tokenizer = load_tokenizer(LLMConfig(path="random:tiny"))
    matrix = torch.randn(259, 6, generator=torch.Generator().manual_seed(0)).bfloat16()
    x = encoder("llm_embedding").encode(["ABC"], source(tokenizer, matrix))
    ids = tokenizer("ABC", add_special_tokens=False)["input_ids"]
    torch.testing.assert_close(x[0], matrix.float()[ids].mean(dim=0))
    assert encoder("llm_embedding").reads_llm and not encoder("tfidf_svd").reads_llm


def test_llm_states_are_what_each_text_has_alone() -> None:
    config = LLMConfig(path="random:tiny")
    tokenizer, llm = load_tokenizer(config), load_llm(config)
    texts = ["AB", "", "a much longer text than the others", "abc"]
    x = encoder("llm_states", max_tokens=12, batch_size=3).encode(texts, lambda: (tokenizer, llm))
    for text, row in zip(texts, x, strict=True):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"][:12]
        states = llm(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states[-1][0] if ids else torch.zeros(1, x.shape[1])
        torch.testing.assert_close(row, states.mean(dim=0), atol=1e-5, rtol=1e-4)
    assert encoder("llm_states").reads_llm and x.dtype == torch.float32
