"""Time how fast commands answer and trainings make their first step: ``python -m benchmarks.startup``."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import yaml

from benchmarks.models import BUILT_IN
from benchmarks.store import ROOT, machine, table, write_json
from ocp_scn.data.sample import make_sample

RESULTS = ROOT / "docs/results/startup.json"
EXAMPLE = ROOT / "configs/s2ef/example/scn.yml"
EPILOG = """example:
  python -m benchmarks.startup --repeats 5
The commands take turns. The training is that of configs/s2ef/example/scn.yml on 10 systems: main.py with our
model, and fairchem's own command with its SCN, both with the same settings. fairchem imports all of its
models first, which needs torch-sparse. Without torch-sparse its training is left out."""
OURS = [sys.executable, str(ROOT / "main.py")]
THEIRS = [str(Path(sys.executable).with_name("fairchem"))]


def seconds_to_end(command: Sequence[str]) -> float:
    """Return how long a command takes."""
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


def seconds_to_first_step(command: Sequence[str]) -> float:
    """Return how long a training takes until it prints the loss of its first step; then end it."""
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if "loss:" in line:
                seconds = time.perf_counter() - start
                process.kill()
                return seconds
    raise RuntimeError(f"{command} ended without a step:\n{''.join(lines[-20:])}")


def write_config(folder: Path, data: Path, model: str) -> Path:
    """Write the example's configuration for some data and model; return the file."""
    config = yaml.safe_load(EXAMPLE.read_text())
    for split in ("train", "val", "test"):
        config["dataset"][split]["src"] = str(data / "s2ef" / split)
    config["model"]["name"] = model
    path = folder / f"{model}.yml"
    path.write_text(yaml.safe_dump(config))
    return path


def commands(folder: Path) -> dict[tuple[str, str], Callable[[], float]]:
    """Return the measurements by task and command line."""
    data = folder / "data"
    make_sample(data, systems=10, progress=False)

    def training(line: list[str], model: str) -> float:
        config = write_config(folder, data, model)
        words = ["--mode", "train", "--config-yml", str(config), "--cpu", "--run-dir", str(folder)]
        every = ["--print-every", "1", *(["--verbose"] if line == OURS else [])]
        return seconds_to_first_step([*line, *words, *every])

    found = {
        ("--help", "ours"): lambda: seconds_to_end([*OURS, "--help"]),
        ("--help", "fairchem"): lambda: seconds_to_end([*THEIRS, "--help"]),
        ("first step", "ours"): lambda: training(OURS, "ocp_scn"),
    }
    if find_spec("torch_sparse"):
        found["first step", "fairchem"] = lambda: training(THEIRS, BUILT_IN)
    return found


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.startup",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--repeats", type=int, default=5, help="number of turns (default: %(default)s)")
    parser.add_argument(
        "--results", type=Path, default=RESULTS, help="JSON file (default: docs/results/startup.json)"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    args = build_parser().parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        measurements = commands(Path(folder))
        rounds = [{key: measure() for key, measure in measurements.items()} for _ in range(args.repeats)]
    records = []
    for task, name in measurements:
        values = [found[task, name] for found in rounds]
        records.append({"task": task, "command": name, "seconds": float(np.median(values)), "all": values})
    print(table(["task", "command", "seconds"], [[r["task"], r["command"], r["seconds"]] for r in records]))
    write_json(args.results, {**machine(), "records": records})
    print(f"wrote {args.results}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
