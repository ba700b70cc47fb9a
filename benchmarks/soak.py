"""Watch memory and results over hours of training and prediction: ``python -m benchmarks.soak``."""

from __future__ import annotations

import argparse
import itertools
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from fairchem.core.common.relaxation.ase_utils import OCPCalculator
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from benchmarks.dynamics import read_atoms
from benchmarks.store import ROOT, machine, read_json, table, write_json
from ocp_scn.data.sample import make_sample

RESULTS = ROOT / "docs/results/soak.json"
EXAMPLE = ROOT / "configs/s2ef/example/scn.yml"
SECONDS_BETWEEN_SAMPLES = 10
# Libraries are loaded and caches filled in this share of a run, which is left out of the slope.
WARM_UP = 0.1
COLUMNS = (
    "part",
    "allocator",
    "hours",
    "calls",
    "MiB at start",
    "at end",
    "highest",
    "slope [MiB per hour]",
    "same results",
)
EPILOG = """examples:
  python -m benchmarks.soak --hours 3 --predictions 20000
  LD_PRELOAD=/usr/lib/x86_64-linux-gnu/libjemalloc.so.2 python -m benchmarks.soak
  python -m benchmarks.soak --hours 0.02 --predictions 60 --systems 10 --results /tmp/soak.json
The command trains with configs/s2ef/example/scn.yml twice, as main.py does: for one epoch, and then for
--hours. The first epoch of both has to have the same losses. Beside the second training another process
predicts energies and forces with the checkpoint of the first one and fairchem's ASE calculator. It takes the
structures one at a time, again and again, and the same structure has to have the same bits every time. Memory
is the resident set. Its slope, with a standard error, is that of a line through all samples after the first
tenth of the run. The file keeps results of other allocators."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    args = build_parser().parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        make_sample(data, systems=args.systems)
        checkpoint = train_an_epoch(Path(folder), data)
        # A process of its own for the predictions, without this one's threads.
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            predictions = pool.submit(soak_predictions, checkpoint, data / "s2ef/train", args.predictions)
            records = [soak_training(Path(folder), data, args.hours), predictions.result()]
    found = [{**record, "allocator": allocator(), **machine()} for record in records]
    kept = read_json(args.results) if args.results.exists() else []
    write_json(args.results, [record for record in kept if record["allocator"] != allocator()] + found)
    print(table(COLUMNS, [row(record) for record in read_json(args.results)]))
    print(f"wrote {args.results}")
    return 0


def train_an_epoch(folder: Path, data: Path) -> Path:
    """Train for an epoch, as run ``short``; return the checkpoint."""
    command = training_command(folder, data, "short", max_epochs=1)
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return folder / "checkpoints/short/checkpoint.pt"


def soak_training(folder: Path, data: Path, hours: float) -> dict[str, Any]:
    """Train for some hours; return the memory's course, and whether it began as the run ``short``."""
    command = training_command(folder, data, "long", max_epochs=10**6)
    times, memory = [], []
    start = time.monotonic()
    log = folder / "long.log"
    with (
        log.open("w") as output,
        subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT) as process,
    ):
        while process.poll() is None and time.monotonic() - start < 3600 * hours:
            time.sleep(SECONDS_BETWEEN_SAMPLES)
            times.append(time.monotonic() - start)
            memory.append(resident_of_tree(process.pid))
        if process.poll() is not None:
            raise RuntimeError(f"the training ended by itself:\n{log.read_text()[-3000:]}")
        process.terminate()
    long, short = (losses(folder / "logs/tensorboard" / name) for name in ("long", "short"))
    same = short == long[: len(short)] and np.isfinite(long).all()
    return {"part": "training", "calls": len(long), "same": bool(same), **course(times, memory)}


def training_command(folder: Path, data: Path, name: str, *, max_epochs: int) -> list[str]:
    """Return the command that trains on ``data`` and keeps everything in ``folder``."""
    splits = [f"--dataset.{split}.src={data / 's2ef' / split}" for split in ("train", "val", "test")]
    run = [f"--run-dir={folder}", f"--timestamp-id={name}", f"--optim.max_epochs={max_epochs}"]
    return [
        sys.executable,
        "main.py",
        "--mode",
        "train",
        "--cpu",
        "--config-yml",
        str(EXAMPLE),
        *run,
        *splits,
    ]


def losses(logs: Path) -> list[float]:
    """Return the loss of each step that is on record."""
    events = EventAccumulator(str(logs), size_guidance={"scalars": 0}).Reload()
    return [scalar.value for scalar in events.Scalars("train/loss")]


def soak_predictions(checkpoint: Path, source: Path, number: int) -> dict[str, Any]:
    """Predict structures of several sizes in turns; return the memory's course, and if results repeat."""
    calculator = OCPCalculator(checkpoint_path=checkpoint, cpu=True, seed=0)
    structures = list(itertools.islice(structures_of(source), 50))
    times, memory = [], []
    first: dict[int, bytes] = {}
    same, start = True, time.monotonic()
    for k in range(number):
        atoms = structures[k % len(structures)].copy()
        atoms.calc = calculator
        found = np.array(atoms.get_potential_energy()).tobytes() + atoms.get_forces().tobytes()
        same &= first.setdefault(k % len(structures), found) == found
        if k % len(structures) == 0:
            times.append(time.monotonic() - start)
            memory.append(resident("self"))
    return {"part": "predictions", "calls": number, "same": same, **course(times, memory)}


def structures_of(source: Path) -> Iterator[Any]:
    """Yield the structures of a data set of sample data, every tenth frame for a variety of sizes."""
    for index in itertools.count(step=10):
        try:
            yield read_atoms(source, index)
        except ValueError:
            return


def course(times: Sequence[float], memory: Sequence[int]) -> dict[str, float]:
    """Return hours; MiB at the start, the end and the highest point; a line's slope and its error."""
    seconds, size = np.array(times), np.array(memory) / 2**20
    kept = seconds >= WARM_UP * seconds[-1]
    x, y = seconds[kept] / 3600, size[kept]
    slope, offset = np.polyfit(x, y, 1)
    spread = ((x - x.mean()) ** 2).sum()
    error = np.sqrt(((y - slope * x - offset) ** 2).sum() / max(len(x) - 2, 1) / spread)
    return {
        "hours": seconds[-1] / 3600,
        "start": y[0],
        "end": y[-1],
        "highest": y.max(),
        "slope": float(slope),
        "slope_error": float(error),
    }


def allocator() -> str:
    """Return the C library and its release, or the allocator that is preloaded."""
    preloaded = Path(os.environ.get("LD_PRELOAD", "")).name
    return preloaded.split(".")[0].removeprefix("lib") or " ".join(platform.libc_ver())


def resident_of_tree(pid: int) -> int:
    """Return the resident memory of a process and all its descendants, bytes."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return resident(pid) + sum(resident_of_tree(int(child)) for child in children)


def resident(pid: int | str) -> int:
    """Return the resident memory of a process, bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


def row(record: dict[str, Any]) -> list[Any]:
    """Return a record as a row of the table."""
    slope = f"{record['slope']:.2f} ± {record['slope_error']:.2f}"
    names = ("part", "allocator", "hours", "calls", "start", "end", "highest")
    return [*(record[name] for name in names), slope, "yes" if record["same"] else "no"]


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.soak",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--hours", type=float, default=3.0, help="length of the training (default: %(default)s)"
    )
    parser.add_argument(
        "--predictions", type=int, default=20_000, help="number of predictions (default: %(default)s)"
    )
    parser.add_argument(
        "--systems", type=int, default=60, help="number of systems in the sample (default: %(default)s)"
    )
    parser.add_argument(
        "--results", type=Path, default=RESULTS, help="JSON file (default: docs/results/soak.json)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
