"""Every benchmark of the table, one after the other, each in a process of its own: ``make bench``.

    python benchmarks/all.py [NAME ...]

The rows go to ``runs/bench/TIME.json`` too, with the machine and the versions.
"""

import datetime
import json
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import torch
import transformers
from common import HEADER, Row

FOLDER = Path(__file__).parent
NAMES = ("start", "sample", "open", "overhead", "score", "generate", "train_step", "scaling", "ingest")


def main() -> None:
    asked = sys.argv[1:] or [*NAMES, *(["gpu"] if torch.cuda.is_available() else [])]
    begun = time.perf_counter()
    rows: list[Row] = []
    failed: list[str] = []
    for name in asked:
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "rows.json"
            done = subprocess.run([sys.executable, FOLDER / f"{name}.py", "--json", out], stdout=subprocess.PIPE, text=True)
            if out.is_file():
                rows += [Row(**row) for row in json.loads(out.read_text(encoding="utf-8"))]
            if done.returncode:
                failed.append(name)
        print(f"{name}: {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
    print("\n".join([HEADER, *(row.line for row in rows)]))
    result = {"machine": machine(), "minutes": (time.perf_counter() - begun) / 60, "rows": [vars(row) for row in rows]}
    file = Path("runs/bench") / f"{datetime.datetime.now():%Y-%m-%d_%H-%M-%S}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(result, indent=1), encoding="utf-8")
    print(f"\n{result['minutes']:.0f} min; {result['machine']}\n{file}")
    if failed:
        raise SystemExit(f"These did not come to their end: {', '.join(failed)}.")


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    models = (
        [line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line] if Path("/proc/cpuinfo").exists() else []
    )
    return {
        "processor": models[0].split(":")[1].strip() if models else platform.processor(),
        "cores": psutil.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


if __name__ == "__main__":
    main()
