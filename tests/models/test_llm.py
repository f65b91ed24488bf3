"""Loading a language model: what of other libraries' output is left."""

import importlib
from typing import Any

import pytest

from graphgpt.models.llm import _no_bars


def test_converting_a_file_draws_no_bar(capsys: pytest.CaptureFixture[str]) -> None:
    reader: Any = importlib.import_module("transformers.modeling_gguf_pytorch_utils")
    before = reader.tqdm
    with _no_bars():
        assert list(reader.tqdm([1, 2], desc="Converting and de-quantizing GGUF tensors...")) == [1, 2]
    assert reader.tqdm is before
    assert capsys.readouterr().err == ""
