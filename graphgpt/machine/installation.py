"""Where the parts of the toolkit lie, and what its programs are called there: in a checkout or installed."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

PACKAGE = Path(__file__).parents[1]

#: The root of a checkout, where ``configs``, ``runners`` and ``datasets`` lie beside the package; None where they were installed into it.
CHECKOUT = None if (PACKAGE / "configs").is_dir() else PACKAGE.parent


def program(name: str) -> list[str]:
    """How another process starts ``train`` or ``evaluate``, from any folder: the command line that its arguments follow."""
    return [sys.executable, str(CHECKOUT / f"{name}.py")] if CHECKOUT else [sys.executable, "-m", f"graphgpt.cli.{name}"]


def typed(name: str, *arguments: object) -> str:
    """What a user types here to start ``train`` or ``evaluate`` with arguments."""
    return " ".join([f"python {name}.py" if CHECKOUT else f"graphgpt {name}", *(shlex.quote(str(one)) for one in arguments)])


def as_typed(argv: Sequence[str]) -> str:
    """The command line of a process (``sys.argv``) as a user types it to do the same again, whichever way it was started.

    That is without the run folder, which each run is told, and which holds this one already.
    """
    started = Path(argv[0])
    arguments = [argument.removeprefix("++") for argument in argv[1:] if not argument.startswith("hydra.run.dir=")]
    if started.name in ("train.py", "evaluate.py"):
        return typed(started.stem, *arguments)
    command = ["graphgpt"] if started.stem == "graphgpt" or PACKAGE in started.parents else ["python", argv[0]]
    return shlex.join([*command, *arguments])
