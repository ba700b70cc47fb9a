"""Writes docs/settings.md from the declarations of the model's settings: ``python tools/settings.py``."""

from __future__ import annotations

import sys
from dataclasses import Field, fields
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from ocp_scn.config import CHOICES, SCNConfig  # noqa: E402

PAGE = ROOT / "docs/settings.md"
HEAD = """<!-- Made from ocp_scn/config.py by `python tools/settings.py`; do not edit. -->
# Settings of the model

All settings of the model. They are keys of the section `model` of a configuration, and arguments of
`ocp_scn.SphericalChannelNetwork`. An unknown key, or a value out of range, is refused in one line.
[scn.md](scn.md) explains the model. The last column says what `True` does; after "else" it says what
`False` does.

## Settings of fairchem-core 1.10

Names and defaults are fairchem's, so published configurations load.
"""
BEYOND = """
## Beyond the published model

By default these leave the published model as it is, except that rolls are fixed in evaluation.
[configs.md](configs.md#settings-beyond-the-published-model) says when to use them.
"""
FIRST_BEYOND = "training_roll"


def values(found: Field[Any]) -> str:
    """Return what a setting may be, in words."""
    if found.name in CHOICES:
        return ", ".join(f"`{choice}`" for choice in CHOICES[found.name])
    if found.type == "bool":
        return "`True`, `False`"
    low, high = found.metadata["low"], found.metadata["high"]
    return f"{low} to {high:,}" if high is not None else f"from {low}"


def table(rows: list[Field[Any]]) -> str:
    """Return the table of some settings."""
    lines = ["", "| key | default | values | what it is |", "|---|---|---|---|"]
    for found in rows:
        meaning = found.metadata["meaning"].replace("|", "\\|")
        lines.append(f"| `{found.name}` | `{found.default}` | {values(found)} | {meaning} |")
    return "\n".join(lines) + "\n"


def page() -> str:
    """Return the whole page."""
    found = list(fields(SCNConfig))
    split = [f.name for f in found].index(FIRST_BEYOND)
    return HEAD + table(found[:split]) + BEYOND + table(found[split:])


if __name__ == "__main__":
    PAGE.write_text(page())
    print(f"wrote {PAGE}")
