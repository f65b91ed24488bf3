"""Scenes put together from drawings, so that all that can be asked about them has an exact answer."""

import itertools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from pydantic import Field

from graphgpt.errors import DataError
from graphgpt.files.atomic import file_sha256, fingerprint
from graphgpt.images import emoji
from graphgpt.images.collection import Picture, Question, write_collection
from graphgpt.images.dataset import ImageDataset, ImageDatasetConfig
from graphgpt.registry import DATASETS
from graphgpt.schema import configclass

#: Things that one can tell apart and count: names of emoji in Unicode, with their nouns. The commonest first.
THINGS = {
    "dog face": "dog", "automobile": "car", "red apple": "apple", "umbrella with rain drops": "umbrella", "sunflower": "sunflower",
    "banana": "banana", "cat face": "cat", "key": "key", "slice of pizza": "pizza", "soccer ball": "football", "rocket": "rocket",
    "evergreen tree": "tree", "frog face": "frog", "strawberry": "strawberry", "guitar": "guitar", "airplane": "airplane",
    "house building": "house", "white medium star": "star", "pig face": "pig", "bicycle": "bicycle", "tulip": "tulip",
    "carrot": "carrot", "octopus": "octopus", "books": "book", "alarm clock": "clock", "hammer": "hammer", "fish": "fish",
    "watermelon": "watermelon", "trumpet": "trumpet", "sailboat": "boat", "snowman without snow": "snowman", "bee": "bee",
    "honeybee": "bee", "cactus": "cactus", "mushroom": "mushroom", "lemon": "lemon", "grapes": "bunch of grapes", "tomato": "tomato",
    "bus": "bus", "tractor": "tractor", "penguin": "penguin", "elephant": "elephant", "snail": "snail", "turtle": "turtle",
    "crab": "crab", "doughnut": "doughnut", "birthday cake": "cake", "hamburger": "hamburger", "balloon": "balloon", "bell": "bell",
    "camera": "camera", "light bulb": "lamp", "scissors": "pair of scissors", "violin": "violin", "anchor": "anchor",
    "steam locomotive": "train", "helicopter": "helicopter", "butterfly": "butterfly", "owl": "owl", "basketball and hoop": "basketball",
}  # fmt: skip

_ODD_PLURALS = {
    "fish": "fish",
    "strawberry": "strawberries",
    "tomato": "tomatoes",
    "bus": "buses",
    "cactus": "cactuses",
    "snowman": "snowmen",
}
_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
#: Cells of a scene along each side, and what they are called.
CELLS = 3
_ROWS, _COLUMNS = ("top", "middle", "bottom"), ("left", "centre", "right")


@configclass
class ScenesConfig(ImageDatasetConfig):
    scenes: int = Field(default=1000, ge=10, le=1_000_000)
    """How many."""
    things: int = Field(default=24, ge=4, le=48)
    """How many different things there are, of a list that begins with the clearest."""
    most: int = Field(default=4, ge=1, le=9)
    """At most so many things in a scene."""
    size: int = Field(default=224, ge=48, le=1024)
    """Pixels along each side."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Draws the scenes. Same seed, same scenes, on every machine."""


@DATASETS.register("emoji_scenes")
class EmojiScenes(ImageDataset):
    """One to ``most`` emoji in the cells of a square, no two in one cell, with a caption, and questions whose answers are exact.

    Of each scene: a caption that names everything; whether something is there, once for a thing that is and once for one that is not;
    how many there are of one; what is in a cell; and where a thing is that is there once, as a box (left, top, right, bottom, as shares
    of the sides). Its class is how many things it has.
    """

    Config = ScenesConfig
    config: ScenesConfig

    @classmethod
    def problems(cls, config: ScenesConfig) -> list[str]:
        return [*super().problems(config), *emoji.missing_packages()]

    def fingerprint(self) -> str:
        config = self.config
        choices = [config.scenes, config.things, config.most, config.size, config.seed]
        return fingerprint([file_sha256(Path(file)) for file in (__file__, emoji.__file__)], emoji.versions(), choices)

    def write(self, folder: Path) -> None:
        config = self.config
        known = {one.name: one for one in emoji.read()}
        chosen = list(dict.fromkeys((noun, name) for name, noun in THINGS.items() if name in known))
        chosen = [next(group) for _, group in itertools.groupby(chosen, key=lambda one: one[0])][: config.things]
        if len(chosen) < config.things:
            raise DataError(f"dataset.things: {config.things} are asked for, and there are drawings of {len(chosen)}.")
        nouns = [noun for noun, _ in chosen]
        cell = config.size // CELLS
        drawings = emoji.draw([known[name] for _, name in chosen], folder / "drawings", cell)
        tiles = [np.asarray(Image.open(file).convert("RGB")) for file in drawings]
        (folder / "scenes").mkdir()
        random = np.random.RandomState(config.seed)
        pictures, questions = [], list[Question]()
        for number in range(config.scenes):
            # Of few kinds, so that some things are there more than once.
            count = random.randint(1, config.most + 1)
            kinds = random.choice(len(nouns), size=random.randint(1, count + 1), replace=False)
            content = random.choice(kinds, size=count)
            cells = random.choice(CELLS**2, size=count, replace=False)
            canvas = np.full((config.size, config.size, 3), 255, dtype=np.uint8)
            for kind, place in zip(content, cells, strict=True):
                top, left = place // CELLS * cell, place % CELLS * cell
                canvas[top : top + cell, left : left + cell] = tiles[kind]
            file = folder / "scenes" / f"{number:06}.png"
            Image.fromarray(canvas).save(file)
            name = f"scene-{number}"
            found = [(nouns[kind], int(place)) for kind, place in zip(content, cells, strict=True)]
            asked = [*self._questions(name, found, nouns, random)]
            pictures.append(Picture(id=name, path=file, title=asked[0].answers[0], label=_NUMBERS[count]))
            questions += asked
        used = [_NUMBERS[count] for count in range(1, config.most + 1)]
        write_collection(
            folder, pictures, name="emoji_scenes", questions=questions, class_names=used, more={"licence": emoji.LICENCE}
        )  # fmt: skip

    def _questions(self, scene: str, found: list[tuple[str, int]], nouns: list[str], random: np.random.RandomState) -> Iterator[Question]:
        """All that is asked about a scene, the caption first.

        Args:
            scene: Its id.
            found: Things in it, each with its cell.
            nouns: All there are.
            random: Chooses what is asked.
        """
        count = Counter(noun for noun, _ in found)
        phrases = [amount_of(noun, number) for noun, number in count.items()]
        orders = list(itertools.islice(itertools.permutations(phrases), 6))
        yield Question(picture=scene, kind="caption", question="", answers=tuple(f"{_listed(order).capitalize()}." for order in orders))
        there = str(random.choice(sorted(count)))
        absent = str(random.choice(sorted(set(nouns) - set(count))))
        for noun, answer in ((there, "yes"), (absent, "no")):
            yield Question(picture=scene, kind="yes_no", question=f"Is there {_a(noun)} in the picture?", answers=(answer,))
        number = count[there]
        yield Question(
            picture=scene, kind="count", question=f"How many {plural(there)} are in the picture?", answers=(str(number), _NUMBERS[number])
        )
        noun, place = found[random.randint(len(found))]
        where = f"{_ROWS[place // CELLS]} {_COLUMNS[place % CELLS]}"
        yield Question(picture=scene, kind="short", question=f"What is in the {where} of the picture?", answers=(noun, _a(noun)))
        if single := sorted(noun for noun, number in count.items() if number == 1):
            noun = str(random.choice(single))
            row, column = divmod(dict(found)[noun], CELLS)
            share = self.config.size // CELLS / self.config.size
            box = (column * share, row * share, (column + 1) * share, (row + 1) * share)
            text = ", ".join(f"{value:.2f}" for value in box)
            yield Question(picture=scene, kind="box", question=f"Where is the {noun}?", answers=(f"[{text}]",))


def plural(noun: str) -> str:
    """Several of a noun of ``THINGS``."""
    head, of, rest = noun.partition(" of ")
    if head in _ODD_PLURALS:
        return _ODD_PLURALS[head]
    return f"{head}{'es' if head.endswith(('s', 'ch', 'sh', 'x')) else 's'}{of}{rest}"


def amount_of(noun: str, number: int) -> str:
    """A number of things in words: ``a dog``, ``two cars``."""
    return _a(noun) if number == 1 else f"{_NUMBERS[number]} {plural(noun)}"


def _a(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _listed(phrases: tuple[str, ...]) -> str:
    return " and ".join(filter(None, (", ".join(phrases[:-1]), phrases[-1])))
