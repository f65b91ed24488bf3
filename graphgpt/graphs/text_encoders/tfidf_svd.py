"""TF-IDF followed by a truncated singular value decomposition (latent semantic analysis)."""

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor

from graphgpt.errors import DataError
from graphgpt.graphs.text_encoder import LanguageModelSource, TextEncoder, TextEncoderConfig
from graphgpt.registry import TEXT_ENCODERS
from graphgpt.schema import configclass


@TEXT_ENCODERS.register("tfidf_svd")
class TfidfSvd(TextEncoder):
    """Bag of words, weighted and compressed; no download, seconds on a CPU (scikit-learn)."""

    fitted = True

    @configclass
    class Config(TextEncoderConfig):
        dim: int = Field(default=128, ge=1)
        """Features per node; fewer when the vocabulary or the graph is smaller."""
        max_vocabulary: int = Field(default=20000, ge=1)
        """Most frequent words kept."""
        seed: int = 0
        """Of the randomised decomposition."""

    def encode(self, texts: Sequence[str], llm: LanguageModelSource) -> Tensor:
        from sklearn.decomposition import TruncatedSVD
        from sklearn.feature_extraction.text import TfidfVectorizer

        if not any(character.isalnum() for text in texts for character in text):
            raise DataError("The text encoder 'tfidf_svd' finds no word in any node's text.")
        words = TfidfVectorizer(sublinear_tf=True, max_features=self.config.max_vocabulary, token_pattern=r"(?u)\b\w+\b").fit_transform(
            texts
        )
        dim = min(self.config.dim, min(words.shape) - 1)
        if dim < 1:
            return torch.from_numpy(words.toarray()).float()
        return torch.from_numpy(TruncatedSVD(dim, random_state=self.config.seed).fit_transform(words)).float()
