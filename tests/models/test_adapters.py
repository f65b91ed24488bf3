"""Importing the library of adapters brings no foreign words and no look at the network."""

import importlib
import sys
from pathlib import Path

import pytest

from graphgpt.models.adapters import import_bitsandbytes


def test_no_kernel_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the package that would fetch it is installed or not, and others may still use that package."""
    (tmp_path / "kernels.py").write_text("")
    (tmp_path / "bitsandbytes.py").write_text("try:\n    import kernels\nexcept ImportError:\n    kernels = None\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] in ("bitsandbytes", "kernels")]:
        monkeypatch.delitem(sys.modules, name)
    import_bitsandbytes()
    assert sys.modules["bitsandbytes"].kernels is None  # type: ignore[attr-defined]
    assert importlib.import_module("kernels").__file__ == str(tmp_path / "kernels.py")
    for name in ("bitsandbytes", "kernels"):
        monkeypatch.delitem(sys.modules, name)
