"""Datasets of pictures: what is read, how it is divided, and what is said of what cannot be read."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import parsed
from PIL import Image

from graphgpt.errors import DataError
from graphgpt.graphs.dataset import SplitConfig
from graphgpt.images import emoji
from graphgpt.images.collection import Collection, described
from graphgpt.images.splits import split_pictures
from graphgpt.registry import DATASETS


def dataset(name: str, **fields: Any) -> Any:
    cls = DATASETS.get(name)
    return cls(parsed(cls.Config, {"name": name, **fields}))


def photo(path: Path, colour: str = "red") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), colour).save(path)
    return path


def rows(collection: Collection) -> list[tuple[str, str, int]]:
    return [(row["id"], row["title"], row["label"]) for row in collection.table.to_pylist()]


def test_a_folder_for_each_class(tmp_path: Path) -> None:
    for name in ("cats/a_cat.png", "cats/more/b.jpg", "dogs/c.png", "alone.png", "dogs/notes.txt"):
        photo(tmp_path / name) if not name.endswith(".txt") else (tmp_path / name).write_text("no picture")
    collection = dataset("image_folder", path=str(tmp_path)).open()
    assert rows(collection) == [
        ("alone.png", "alone", -1),
        ("cats/a_cat.png", "a cat", 0),
        ("cats/more/b.jpg", "b", 0),
        ("dogs/c.png", "c", 1),
    ]
    assert collection.class_names == ("cats", "dogs") and collection.split is None
    assert collection.image(1).load().size == (8, 8)


def test_folders_may_be_splits(tmp_path: Path) -> None:
    for split in ("train", "test"):
        photo(tmp_path / split / "cats" / "a.png")
    collection = dataset("image_folder", path=str(tmp_path)).open()
    assert collection.split is not None and collection.split.tolist() == [0, 2] and collection.class_names == ("cats",)


def table(folder: Path, *lines: str) -> str:
    (folder / "photos.csv").write_text("\n".join(["image,title,label,split", *lines, ""]))
    return str(folder / "photos.csv")


def test_a_table_of_pictures(tmp_path: Path) -> None:
    photo(tmp_path / "a.png"), photo(tmp_path / "b.png", "blue")
    collection = dataset("image_csv", path=table(tmp_path, "a.png,Something red,warm,train", "b.png,,cold,test")).open()
    assert rows(collection) == [("a.png", "Something red", 1), ("b.png", "b", 0)]
    assert split_pictures(collection, SplitConfig(), needs_labels=True).tolist() == [0, 2]
    assert collection.image(0).key != collection.image(1).key


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("gone.png,,,", "photos.csv, line 3: {folder}/gone.png: there is no such file."),
        ("bad.png,,,", "photos.csv, line 3: {folder}/bad.png: is no picture of a kind that is read"),
        ("../b.png,,,", "photos.csv, line 3: the picture '../b.png' lies outside of {folder}."),
        ("b.png,,,trian", "photos.csv, line 3: the split 'trian' is unknown. Did you mean 'train'?"),
        ("a.png,,,", "The collection 'photos' has the id 'a.png' more than once."),
    ],
)
def test_what_is_wrong_in_a_table(line: str, sentence: str, tmp_path: Path) -> None:
    photo(tmp_path / "a.png"), photo(tmp_path / "b.png")
    (tmp_path / "bad.png").write_text("no picture")
    with pytest.raises(DataError) as caught:
        dataset("image_csv", path=table(tmp_path, "a.png,,,", line)).open()
    assert sentence.format(folder=tmp_path) in str(caught.value)


def test_pictures_that_cannot_be_read_are_counted(tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    (tmp_path / "bad.png").write_bytes(b"")
    lines = ["a.png,,,", "bad.png,,,", "gone.png,,,"]
    with pytest.raises(DataError, match=r"line 3: .*bad\.png: is empty\. dataset\.on_bad=skip leaves such pictures out\.$"):
        dataset("image_csv", path=table(tmp_path, *lines)).open()
    collection = dataset("image_csv", path=table(tmp_path, *lines), on_bad="skip").open()
    assert len(collection) == 1
    [note] = collection.card["notes"]
    assert note.startswith("left out, for they cannot be read: 2 pictures; the first: ") and "line 3" in note


def test_nothing_to_read(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="has no picture in it"):
        dataset("image_folder", path=str(tmp_path / "empty")).open()
    assert DATASETS.get("image_folder").problems(
        parsed(DATASETS.get("image_folder").Config, {"name": "image_folder", "path": "/gone"})
    ) == ["dataset.path: there is no folder /gone."]


def test_a_changed_picture_is_read_again(tmp_path: Path) -> None:
    photo(tmp_path / "x" / "a.png")
    before = dataset("image_folder", path=str(tmp_path)).open()
    photo(tmp_path / "x" / "b.png", "blue")
    assert len(dataset("image_folder", path=str(tmp_path)).open()) == len(before) + 1


@pytest.mark.parametrize("damage", ["card.json", "pictures.arrow", "questions.arrow"])
def test_a_damaged_cache_is_a_sentence(damage: str, tmp_path: Path) -> None:
    photo(tmp_path / "x" / "a.png")
    made = dataset("image_folder", path=str(tmp_path))
    made.open()
    (made.folder() / damage).write_bytes(b"{")
    with pytest.raises(DataError, match=damage.replace(".", r"\.")):
        made.open()


# Emoji.


def test_emoji_have_names_and_classes() -> None:
    collection = dataset("openmoji", limit=3, size=32).open()
    assert len(collection) == 27 and len(collection.class_names) == 9
    assert collection.titles[0].as_py() == "grinning face" and collection.image(0).load().size == (32, 32)
    assert "CC BY-SA 4.0" in collection.card["licence"]
    assert any(line.startswith("licence: ") for line in described(collection))
    assert np.asarray(collection.image(0).load())[0, 0].tolist() == [255, 255, 255]


def test_variants_by_skin_tone_stay_together() -> None:
    collection = dataset("openmoji", limit=12, size=16, skin_tones=True).open()
    groups = collection.groups
    variants = groups != torch.arange(len(groups))
    assert 20 < int(variants.sum()) < len(groups)
    split = split_pictures(collection, SplitConfig(), needs_labels=True)
    assert torch.equal(split, split[groups]) and {0, 1, 2} <= set(split.tolist())
    alone = split_pictures(dataset("openmoji", limit=12, size=16).open(), SplitConfig(), needs_labels=True)
    assert torch.equal(split[~variants], alone)


def test_every_thing_of_the_scenes_has_a_drawing() -> None:
    from graphgpt.datasets.emoji_scenes import THINGS, plural

    known = {one.name for one in emoji.read()}
    assert len({noun for name, noun in THINGS.items() if name in known}) >= 48
    assert (plural("dog"), plural("bus"), plural("bunch of grapes"), plural("octopus")) == (
        "dogs",
        "buses",
        "bunches of grapes",
        "octopuses",
    )


@pytest.fixture(scope="module")
def scenes() -> Collection:
    made: Collection = dataset("emoji_scenes", scenes=60, size=96, things=8).open()
    return made


def test_scenes_are_what_is_said_of_them(scenes: Collection) -> None:
    """What a caption names is there: as many cells are not white as it counts."""
    numbers = {"a": 1, "an": 1, "two": 2, "three": 3, "four": 4}
    for item in range(len(scenes)):
        pixels = np.asarray(scenes.image(item).load())
        cells = [pixels[32 * row : 32 * row + 32, 32 * column : 32 * column + 32] for row in range(3) for column in range(3)]
        filled = sum(bool((cell < 250).any()) for cell in cells)
        title = scenes.titles[item].as_py().lower().rstrip(".").replace(" and ", ", ")
        assert filled == sum(numbers[phrase.split()[0]] for phrase in title.split(", "))
        assert scenes.class_names[int(scenes.y[item])] == ("one", "two", "three", "four")[filled - 1]


def test_questions_are_balanced_and_true(scenes: Collection) -> None:
    asked = scenes.questions.to_pylist()
    yes_no = Counter(one["answers"][0] for one in asked if one["kind"] == "yes_no")
    assert yes_no == {"yes": 60, "no": 60}
    for one in asked:
        title = scenes.titles[one["picture"]].as_py().lower()
        if one["kind"] == "yes_no":
            noun = one["question"].removeprefix("Is there ").removesuffix(" in the picture?").split(" ", 1)[1]
            assert (noun in title) == (one["answers"][0] == "yes"), (title, one)
    assert {one["kind"] for one in asked} == {"caption", "yes_no", "count", "short", "box"}


def test_scenes_follow_from_the_seed(scenes: Collection) -> None:
    again = dataset("emoji_scenes", scenes=60, size=96, things=8)
    other = dataset("emoji_scenes", scenes=60, size=96, things=8, seed=1)
    assert again.fingerprint() != other.fingerprint()
    fewer = dataset("emoji_scenes", scenes=60, size=96, things=8, most=1, picture="drawing").open()
    assert fewer.class_names == ("one",)
    assert again.open().fingerprint == scenes.fingerprint != other.open().fingerprint
    assert json.loads((again.folder() / "card.json").read_text())["name"] == "emoji_scenes"
