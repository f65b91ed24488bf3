"""TF-IDF followed by a truncated singular value decomposition (latent semantic analysis)."""

import itertools
from collections.abc import Sequence
from typing import Literal

import regex
import torch
from pydantic import Field
from torch import Tensor

from graphgpt.errors import DataError
from graphgpt.graphs.text_encoder import LanguageModelSource, TextEncoder, TextEncoderConfig
from graphgpt.registry import TEXT_ENCODERS
from graphgpt.schema import configclass

_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}ー"
_WORD = rf"[[\p{{L}}\p{{N}}\p{{M}}_]--[{_UNSPACED}]]+"
#: Of the pictographs only those that no text in Latin letters has as a sign, such as that of a copyright.
_EMOJI = r"[\p{Extended_Pictographic}&&[\u2600-\U0001FFFF]]"
#: A run of writing without spaces, a word, or an emoji; of Latin letters, words are what ``\\w+`` finds in the module ``re``.
_TOKEN = regex.compile(rf"(?V1)(?P<unspaced>[{_UNSPACED}]+)|{_WORD}|{_EMOJI}")


def tokens(text: str) -> list[str]:
    """What counts as words in a text: where it is written without spaces, every character and every two neighbours; emoji; words."""
    found: list[str] = []
    for match in _TOKEN.finditer(text):
        run = match[0]
        if match["unspaced"]:
            found += [*run, *map("".join, itertools.pairwise(run))]
        else:
            found.append(run)
    return found


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
        words: Literal["spaced", "any_script"] = "spaced"
        """``any_script``: also what is written without spaces (Chinese, Japanese, Thai, ...), by its characters, and emoji;
        ``spaced``: only what stands between spaces and signs. Both are the same for texts in Latin letters."""

    def encode(self, texts: Sequence[str], llm: LanguageModelSource) -> Tensor:
        from sklearn.decomposition import TruncatedSVD
        from sklearn.feature_extraction.text import TfidfVectorizer

        words = {"token_pattern": r"(?u)\b\w+\b"} if self.config.words == "spaced" else {"tokenizer": tokens, "token_pattern": None}
        try:
            weights = TfidfVectorizer(sublinear_tf=True, max_features=self.config.max_vocabulary, **words).fit_transform(texts)
        except ValueError as error:  # an empty vocabulary
            raise DataError("The text encoder 'tfidf_svd' finds no word in any node's text.") from error
        dim = min(self.config.dim, min(weights.shape) - 1)
        if dim < 1:
            return torch.from_numpy(weights.toarray()).float()
        return torch.from_numpy(TruncatedSVD(dim, random_state=self.config.seed).fit_transform(weights)).float()
