"""Pictures of every odd kind: decoded as a person sees them, or refused in one sentence."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from graphgpt.errors import DataError
from graphgpt.images.picture import ImageInput, open_picture, within

Write = Callable[[Path], None]
RED, WHITE = (255, 0, 0), (255, 255, 255)


def pixel(path: Path, place: tuple[int, int] = (0, 0)) -> tuple[int, ...]:
    picture = open_picture(path)
    assert picture.mode == "RGB"
    found = picture.getpixel(place)
    assert isinstance(found, tuple)
    return found


def palette_with_a_hole(path: Path) -> None:
    picture = Image.new("P", (4, 4), 1)
    picture.putpalette([0, 0, 255, 255, 0, 0])
    picture.putpixel((3, 3), 0)
    picture.save(path, transparency=0)


def sideways(path: Path) -> None:
    picture = Image.new("RGB", (6, 2), "white")
    picture.putpixel((0, 0), RED)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter
    picture.save(path, exif=exif)


def moving(path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue", "lime")]
    frames[0].save(path, save_all=True, append_images=frames[1:])


def grey_of_16_bits(path: Path) -> None:
    Image.fromarray(np.array([[0, 257 * 100], [257 * 200, 65535]], dtype=np.uint16)).save(path)


@pytest.mark.parametrize(
    ("name", "write", "place", "expected"),
    [
        ("palette.png", palette_with_a_hole, (0, 0), RED),
        ("palette.png", palette_with_a_hole, (3, 3), WHITE),
        ("alpha.png", lambda path: Image.new("RGBA", (3, 3), (255, 0, 0, 0)).save(path), (1, 1), WHITE),
        ("half.png", lambda path: Image.new("LA", (3, 3), (0, 128)).save(path), (1, 1), (127, 127, 127)),
        ("grey.png", grey_of_16_bits, (1, 0), (100, 100, 100)),
        ("grey.tiff", grey_of_16_bits, (1, 1), (255, 255, 255)),
        ("grey8.png", lambda path: Image.new("L", (2, 2), 7).save(path), (0, 0), (7, 7, 7)),
        ("bits.png", lambda path: Image.new("1", (2, 2), 1).save(path), (0, 0), WHITE),
        ("moving.gif", moving, (0, 0), RED),
        ("one.png", lambda path: Image.new("RGB", (1, 1), "red").save(path), (0, 0), RED),
        ("red.webp", lambda path: Image.new("RGB", (2, 2), "red").save(path, lossless=True), (0, 0), RED),
        ("red.bmp", lambda path: Image.new("RGB", (2, 2), "red").save(path), (0, 0), RED),
    ],
)
def test_it_is_read_as_it_is_seen(name: str, write: Write, place: tuple[int, int], expected: tuple[int, ...], tmp_path: Path) -> None:
    write(tmp_path / name)
    assert pixel(tmp_path / name, place) == expected


def test_inks_become_light(tmp_path: Path) -> None:
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "inks.jpg")
    red, green, blue = pixel(tmp_path / "inks.jpg")
    assert red > 200 and green < 60 and blue < 60


def test_a_camera_held_sideways(tmp_path: Path) -> None:
    sideways(tmp_path / "turned.png")
    picture = open_picture(tmp_path / "turned.png")
    assert picture.size == (2, 6) and picture.getpixel((1, 0)) == RED


def test_several_frames_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    moving(tmp_path / "moving.gif")
    open_picture(tmp_path / "moving.gif")
    assert caplog.messages == [f"{tmp_path / 'moving.gif'} has several frames: the first is read."]


def truncated(path: Path) -> None:
    Image.fromarray(np.random.RandomState(0).randint(0, 255, (64, 64, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:2000])


def huge(path: Path) -> None:
    """A header that says 20,000 x 20,000, and nothing behind it."""
    Image.new("1", (20_000, 20_000)).save(path)


@pytest.mark.parametrize(
    ("name", "write", "sentence"),
    [
        ("cut.png", truncated, "cannot be decoded (image file is truncated"),
        ("cut.jpg", truncated, "cannot be decoded (image file is truncated"),
        ("text.png", lambda path: path.write_text("no picture"), "is no picture of a kind that is read (PNG, JPEG, GIF, WEBP, BMP, TIFF)."),
        ("empty.png", lambda path: path.write_bytes(b""), "is empty."),
        ("missing.png", lambda path: None, "there is no such file."),
        ("huge.png", huge, "has more than 100,000,000 pixels, the most that are read."),
        ("drawing.eps", lambda path: path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"), "is no picture of a kind"),
        ("folder.png", lambda path: path.mkdir(), "is a directory."),
    ],
)
def test_what_cannot_be_read_is_said(name: str, write: Write, sentence: str, tmp_path: Path) -> None:
    write(tmp_path / name)
    with pytest.raises(DataError) as caught:
        open_picture(tmp_path / name)
    assert str(caught.value).startswith(f"{tmp_path / name}: {sentence}")


def test_a_large_one_within_pillows_own_limit(tmp_path: Path) -> None:
    Image.new("1", (11_000, 10_000)).save(tmp_path / "large.png")
    with pytest.raises(DataError, match=r"large\.png: has 11,000 x 10,000 pixels; at most 100,000,000 are read\.$"):
        open_picture(tmp_path / "large.png")


def test_keys_are_of_the_content(tmp_path: Path) -> None:
    for name, colour in (("a.png", "red"), ("b.png", "red"), ("c.png", "blue")):
        Image.new("RGB", (8, 8), colour).save(tmp_path / name)
    a, b, c = (ImageInput(path=tmp_path / name) for name in ("a.png", "b.png", "c.png"))
    assert a.key == b.key != c.key
    assert len({a.key, *(ImageInput(path=a.path, change=change, seed=1).key for change in ("blank", "scrambled"))}) == 3
    assert ImageInput(path=a.path, known="k").key == "k"
    with pytest.raises(DataError, match=r"gone\.png: there is no such file\.$"):
        _ = ImageInput(path=tmp_path / "gone.png").key


def test_changes_keep_what_they_say(tmp_path: Path) -> None:
    pixels = np.arange(16 * 16 * 3, dtype=np.uint8).reshape(16, 16, 3)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    mixed = np.asarray(ImageInput(path=tmp_path / "a.png", change="scrambled", seed=3).load())
    assert not np.array_equal(mixed, pixels) and np.array_equal(np.sort(mixed.flatten()), np.sort(pixels.flatten()))
    assert np.asarray(ImageInput(path=tmp_path / "a.png", change="blank").load()).tolist() == np.full((16, 16, 3), 128).tolist()


@pytest.mark.parametrize("name", ["../secret.png", "/etc/hostname", "a/../../b.png"])
def test_a_path_that_leaves_its_folder(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^records\.json, record 3: the picture '.*' lies outside of "):
        within(tmp_path, name, "records.json, record 3")
    assert within(tmp_path, "a/b.png", "") == tmp_path / "a/b.png"


def test_a_link_that_leaves_its_folder(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "link").symlink_to(tmp_path)
    with pytest.raises(DataError, match="lies outside of"):
        within(tmp_path / "in", "link/a.png", "x")
