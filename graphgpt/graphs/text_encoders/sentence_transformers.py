"""A sentence-transformers model: the extra ``sentence``."""

import functools
import importlib.util
from collections.abc import Sequence
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from graphgpt.errors import DataError, first_line
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

        try:
            return SentenceTransformer(self.config.path)
        except (OSError, ValueError) as error:
            raise DataError(
                f"The text encoder 'sentence_transformers' cannot load '{self.config.path}': "
                f"it is no local folder of one, and the hub does not give it ({first_line(error)})"
            ) from error

    def encode(self, texts: Sequence[str], llm: LanguageModelSource) -> Tensor:
        x = self.model.encode(list(texts), batch_size=self.config.batch_size, convert_to_numpy=True, show_progress_bar=True)
        return torch.from_numpy(x).float()
