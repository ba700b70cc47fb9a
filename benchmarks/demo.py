"""Put the numbers and figures of ``make demo`` into the pages: ``python -m benchmarks.demo``."""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.store import ROOT, machine, write_json
from ocp_scn.report.tables import format_table

RESULTS = ROOT / "docs/results/demo.json"
PAGES = (ROOT / "README.md", ROOT / "docs/results.md")
FIGURES = {"parity_s2ef_test.png": "demo_parity.png", "loss_s2ef.png": "demo_loss.png"}
_TABLE = re.compile(r"(<!-- demo: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
EPILOG = """example:
  make demo && .venv/bin/python -m benchmarks.demo
The command writes the metrics of the run to docs/results/demo.json and its figures to docs/images, and
replaces the tables of the demo in README.md and docs/results.md."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.demo",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "run", nargs="?", type=Path, default=ROOT / "runs/demo", help="folder of the run (default: runs/demo)"
    )
    report = parser.parse_args(argv).run / "report"
    metrics = json.loads((report / "metrics.json").read_text())
    write_json(RESULTS, {"metrics": metrics, **machine()})
    for name, target in FIGURES.items():
        shutil.copy(report / name, ROOT / "docs/images" / target)
    for page in PAGES:
        page.write_text(with_tables(page.read_text(), metrics))
    print(f"wrote {RESULTS}, docs/images and the tables of README.md and docs/results.md")
    return 0


def with_tables(text: str, metrics: dict[str, Any]) -> str:
    """Return a page with the tables of these metrics between its marks ``<!-- demo: TASK -->``."""
    return _TABLE.sub(lambda found: found[1] + format_table(found[2], metrics[found[2]]) + found[3], text)


if __name__ == "__main__":
    sys.exit(main())
