"""A sentence-transformers model: the extra ``sentence``."""

import functools
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from graphgpt.errors import DataError
from graphgpt.files.records import read_record
from graphgpt.files.untrusted import unloadable
from graphgpt.graphs.text_encoder import LanguageModelSource, TextEncoder, TextEncoderConfig
from graphgpt.registry import TEXT_ENCODERS
from graphgpt.schema import configclass


@TEXT_ENCODERS.register("sentence_transformers")
class SentenceTransformers(TextEncoder):
    """Any sentence-transformers model, by hub id or local folder."""

    @configclass
    class Config(TextEncoderConfig):
        path: str = "sentence-transformers/all-MiniLM-L6-v2"
        """Hub id or local folder."""
        batch_size: int = Field(default=64, ge=1)
        """Texts per forward pass."""

    @staticmethod
    def problems(config: Any) -> list[str]:
        if importlib.util.find_spec("sentence_transformers") is None:
            return ["The text encoder 'sentence_transformers' needs the package sentence-transformers: pip install 'graphgpt[sentence]'."]
        return []

    @functools.cached_property
    def model(self) -> Any:
        """The encoder itself, loaded once however many parts of a graph it reads."""
        from sentence_transformers import SentenceTransformer

        path = self.config.path
        refusal = f"The text encoder 'sentence_transformers' cannot load '{path}':"
        # The library imports whatever module a folder's list of layers names.
        file = Path(path).expanduser() / "modules.json"
        layers = read_record(file, list[dict[str, Any]], "a list of layers", DataError) if file.is_file() else []
        if foreign := [str(layer.get("type")) for layer in layers if not str(layer.get("type")).startswith("sentence_transformers.")]:
            raise DataError(f"{refusal} its {file.name} names '{foreign[0]}', and code of a model's folder is not run.")
        try:
            return SentenceTransformer(path, trust_remote_code=False)
        except Exception as error:  # what a damaged file ends in is not for the library to say
            raise DataError(f"{refusal} {unloadable(path, error)}") from error

    def encode(self, texts: Sequence[str], llm: LanguageModelSource) -> Tensor:
        x = self.model.encode(list(texts), batch_size=self.config.batch_size, convert_to_numpy=True, show_progress_bar=True)
        return torch.from_numpy(x).float()
