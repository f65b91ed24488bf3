"""What somebody else made: files of ``torch.save`` and configs, used without running anything or writing anywhere that they ask for."""

import os
import pickle
import re
import warnings
import zipfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from graphgpt.errors import DataError, first_line
from graphgpt.files.kinds import another_kind


def load_untrusted(path: Path, what: str, stand_ins: Mapping[str, Any] | None = None) -> Any:
    """What ``torch.save`` wrote, on the CPU; tensors are memory-mapped where the file allows it.

    Args:
        path: The file.
        what: What such a file is called in messages, with its article.
        stand_ins: By the full name of a class that may be named in the file, an empty class that takes its place.

    Raises:
        DataError: the file names anything else than tensors, plain containers and the stand-ins, or is damaged.
    """
    import torch  # not above: configs are judged here too, and wait for nothing

    if problem := another_kind(path, "torch", "pickle"):
        raise DataError(f"{path} {problem}; expected {what} that torch.save wrote.")
    try:
        with (
            _only(stand_ins or {}),
            torch.sparse.check_sparse_tensor_invariants(),
            warnings.catch_warnings(action="ignore", category=UserWarning),  # that sparse tensors are in beta state
        ):
            # Files from before torch 1.6 are no archives and cannot be mapped.
            return torch.load(str(path), map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        if named := _named_in(error):
            raise DataError(f"{path} is refused: it names '{named}', which {what} does not need and which could run code.") from error
        raise DataError(f"{path} is refused: it is no file of tensors in torch.save's form ({first_line(error)[:200]}).") from error
    except OSError:
        raise
    # What reading a damaged file ends in is not for torch to say: any of a dozen built-in exceptions.
    except Exception as error:
        raise DataError(f"{path} is damaged, or not written by torch.save ({first_line(error)[:200]}).") from error


def _named_in(error: BaseException) -> str | None:
    """The function that torch's reader of pickles found and did not call."""
    refused = re.search(r"GLOBAL ([\w.]+)", str(error))
    return refused[1] if refused else None


def unloadable(path: str, error: BaseException) -> str:
    """Why a library of models cannot load the folder or the model on the hub that ``path`` names: the end of a sentence."""
    if isinstance(error, ValueError) and "trust_remote_code" in str(error):
        return "it brings code of its own (auto_map in its config), and code of a model's folder is not run; take a model without."
    if named := _named_in(error):
        return f"its weights name '{named}', which weights do not need and which could run code."
    if isinstance(error, pickle.UnpicklingError):
        return "its weights are no file of tensors in torch.save's form."
    if isinstance(error, OSError) and not Path(path).expanduser().is_dir():
        return f"it is no local folder, and the hub does not give it ({first_line(error)})"
    return f"it is damaged, or of a form that is not known here ({first_line(error)[:200]})."


def leads_out(node: Any, key: str, given: Collection[str] = ()) -> list[tuple[str, str]]:
    """The texts in a folder's settings that are paths or addresses outside of it, each with its key.

    Args:
        node: Plain settings.
        key: Where they stand.
        given: Keys that the user sets, and so answers for, with all below them.
    """
    if key in given:
        return []
    if isinstance(node, Mapping):
        return [found for name, value in node.items() for found in leads_out(value, f"{key}.{name}", given)]
    if isinstance(node, list):
        return [found for i, value in enumerate(node) for found in leads_out(value, f"{key}.{i}", given)]
    return [(key, node)] if isinstance(node, str) and _leads_out(node) else []


def _leads_out(text: str) -> bool:
    """An absolute path, one that climbs, a home, a drive, or an address such as ``file:...`` or ``https://...``; not one that the
    user's environment has too, as for a tracking server."""
    path = re.sub(r"^sqlite:///(?=[^/])", "", text)  # a file, and relative
    climbs = ".." in re.split(r"[/\\]", path)
    elsewhere = path.startswith(("/", "\\", "~")) or re.match(r"[A-Za-z][A-Za-z0-9+.-]*:[/\\.]|file:|sqlite:", path) is not None
    return (climbs or elsewhere) and text not in os.environ.values()


@contextmanager
def _only(stand_ins: Mapping[str, Any]) -> Iterator[None]:
    """Allow-list the stand-ins alone: libraries allow-list their own classes on import, and their code would run."""
    import torch

    before = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals([(cls, name) for name, cls in stand_ins.items()])
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)
