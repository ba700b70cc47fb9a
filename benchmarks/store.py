"""Results on disk, in JSON files that are always complete, and their tables."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[1]


def read_json(path: Path) -> list[dict[str, Any]]:
    """Return the records of a file, none if it does not exist."""
    return json.loads(path.read_text()) if path.exists() else []


def write_json(path: Path, records: Any) -> None:
    """Write records aside and put them in place at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_text(json.dumps(records, indent=1, ensure_ascii=False) + "\n")
    aside.replace(path)


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return a Markdown table; numbers are set right."""
    texts = [[value if isinstance(value, str) else f"{value:.4g}" for value in row] for row in rows]
    right = [bool(rows) and not isinstance(rows[0][k], str) for k in range(len(columns))]
    lines = [columns, ["---:" if r else "---" for r in right], *texts]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def machine(device: str = "cpu") -> dict[str, Any]:
    """Return what a measurement on ``cpu`` or ``cuda`` ran on."""
    model = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [
            line.split(":")[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line
        ]
        model = names[0] if names else model
    gpu = {"gpu": torch.cuda.get_device_name()} if device == "cuda" else {}
    return {"processor": model, **gpu, "threads": torch.get_num_threads(), "torch": torch.__version__}
