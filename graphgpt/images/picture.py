"""A picture in a file: read as what a person sees, or refused in one sentence."""

import logging
import struct
import warnings
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from graphgpt.errors import DataError, first_line
from graphgpt.files.atomic import file_sha256, fingerprint

log = logging.getLogger(__name__)

#: Kinds of files that are read; others that Pillow knows are no pictures of a camera, a scanner or the web, or run other programs.
FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF")
#: Most pixels of a picture, of which each takes three bytes and more while it is decoded.
MOST_PIXELS = 100_000_000

#: What an ablation does to a picture: one grey, or its parts in another order.
Change = Literal["", "blank", "scrambled"]
#: Parts along each side that are dealt out anew.
PARTS = 4


@dataclass(frozen=True, eq=False)
class ImageInput:
    """What stands where ``<image>`` stood in a wording.

    Args:
        path: Of the file.
        title: What messages and reports call it.
        known: Identifies the content, where that is known already; else the file is read for it.
        change: What is done to it once it is read.
        seed: Of the change.
    """

    modality: ClassVar[str] = "image"

    path: Path
    title: str = ""
    known: str = ""
    change: Change = ""
    seed: int = 0

    @cached_property
    def key(self) -> str:
        """Identifies the content, and what is done to it.

        Raises:
            DataError: there is no such file.
        """
        content = self.known or content_key(self.path)
        return fingerprint(content, self.change, self.seed if self.change == "scrambled" else 0) if self.change else content

    @property
    def shown(self) -> str:
        return f"<image: {self.title or self.path.name}>"

    def load(self) -> Image.Image:
        """The picture, 8 bits of red, green and blue.

        Raises:
            DataError: it cannot be read.
        """
        picture = open_picture(self.path)
        if self.change == "blank":
            return Image.new("RGB", picture.size, (128, 128, 128))
        return scrambled(picture, self.seed) if self.change == "scrambled" else picture


def content_key(path: Path) -> str:
    """Identifies a file's content.

    Raises:
        DataError: there is no such file, or it may not be read.
    """
    try:
        return file_sha256(path)[:16]
    except OSError as error:
        raise DataError(f"{path}: {_why(error)}.") from error


def open_picture(path: Path) -> Image.Image:
    """A picture as a person sees it, in 8 bits of red, green and blue: upright, on white where it is transparent, its first frame.

    Raises:
        DataError: it is no picture of a kind that is read, is damaged, or has more than ``MOST_PIXELS``; the sentence names the file.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            picture = Image.open(path, formats=FORMATS)
        with picture:
            width, height = picture.size
            if width * height > MOST_PIXELS:
                raise DataError(f"{path}: has {width:,} x {height:,} pixels; at most {MOST_PIXELS:,} are read.")
            if getattr(picture, "n_frames", 1) > 1:
                log.warning("%s has several frames: the first is read.", path)
                picture.seek(0)
            picture.load()
            return _as_seen(ImageOps.exif_transpose(picture))
    except Image.DecompressionBombError as error:
        raise DataError(f"{path}: has more than {MOST_PIXELS:,} pixels, the most that are read.") from error
    except UnidentifiedImageError as error:
        what = "is empty" if path.stat().st_size == 0 else f"is no picture of a kind that is read ({', '.join(FORMATS)})"
        raise DataError(f"{path}: {what}.") from error
    except OSError as error:
        raise DataError(f"{path}: {_why(error)}.") from error
    except (SyntaxError, ValueError, EOFError, struct.error, IndexError, KeyError, OverflowError, MemoryError) as error:
        raise DataError(f"{path}: cannot be decoded ({first_line(error)}).") from error


def _why(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    # Of the system's refusals the words; Pillow's own have no number.
    return error.strerror.lower() if error.strerror else f"cannot be decoded ({first_line(error)})"


def _as_seen(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith(("I", "F")):
        # 16 bits of grey, under any of Pillow's names for them: converted by Pillow, all above 255 would be white.
        values = np.asarray(picture).astype(np.float64)
        if picture.mode == "F":
            values *= 255 / max(1.0, values.max(initial=0.0)) if values.max(initial=0.0) > 1 else 255
        else:
            values /= 257
        picture = Image.fromarray(np.clip(np.round(values), 0, 255).astype(np.uint8))
    if "A" in picture.mode or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    return picture.convert("RGB")


def scrambled(picture: Image.Image, seed: int) -> Image.Image:
    """The parts of a picture in another order: nothing in it is lost but where it was."""
    side = PARTS
    square = picture.resize((max(side, picture.width // side * side), max(side, picture.height // side * side)))
    pixels = np.asarray(square)
    height, width = pixels.shape[0] // side, pixels.shape[1] // side
    parts = pixels.reshape(side, height, side, width, 3).transpose(0, 2, 1, 3, 4).reshape(side * side, height, width, 3)
    dealt = parts[np.random.RandomState(seed % 2**32).permutation(side * side)]
    return Image.fromarray(dealt.reshape(side, side, height, width, 3).transpose(0, 2, 1, 3, 4).reshape(pixels.shape))


def within(folder: Path, name: str, where: str) -> Path:
    """The file of a name below a folder.

    Args:
        folder: That names are relative to.
        name: As a record has it.
        where: The record, for messages.

    Raises:
        DataError: the name leads out of the folder.
    """
    path = folder / name
    if Path(name).is_absolute() or not path.resolve().is_relative_to(folder.resolve()):
        raise DataError(f"{where}: the picture '{name}' lies outside of {folder}.")
    return path
