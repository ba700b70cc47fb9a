"""The loss of every step of a training, from tensorboard's files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from google.protobuf.message import DecodeError
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.tensorflow_stub import errors
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import PyRecordReader_New

from ocp_scn.errors import InputError

TRAINING, VALIDATION = "train/loss", "val/loss"
# Of longer means float32 keeps too few digits to take them apart.
_LONGEST_MEAN = 10_000


class Curve(NamedTuple):
    """Steps (N,) and losses (N,)."""

    steps: np.ndarray
    losses: np.ndarray


class Log(NamedTuple):
    """What is on record of a training.

    Attributes:
        training: the loss as it is logged, in fairchem-core 1 a mean over the steps since a line was printed.
        validation: that of evaluations.
        starts: (N,) for each logged step of the training, the first step of the process that made it.
        lost: what could not be read, a line for each damaged file.
    """

    training: Curve
    validation: Curve
    starts: np.ndarray
    lost: list[str]


def read_log(folder: Path) -> Log | None:
    """Read tensorboard's files; None without any.

    Steps that were made anew, after an interruption, replace those before.

    Raises:
        InputError: for a file that cannot be read.
    """
    found: dict[str, dict[int, tuple[float, int]]] = {TRAINING: {}, VALIDATION: {}}
    files = sorted(folder.glob("*tfevents*")) if folder.is_dir() else []
    lost: list[str] = []
    for file in files:
        start: int | None = None
        for event in _events(file, lost):
            if event.session_log.status == SessionLog.START:
                for tag, values in found.items():
                    found[tag] = {step: value for step, value in values.items() if step < event.step}
            for value in event.summary.value:
                if value.tag in found and value.HasField("simple_value"):
                    if value.tag == TRAINING and start is None:
                        start = event.step
                    found[value.tag][event.step] = value.simple_value, start or 0
    if not files:
        return None
    rows = {tag: sorted((step, *value) for step, value in values.items()) for tag, values in found.items()}
    columns = {tag: np.array(values, dtype=np.float64).reshape(-1, 3) for tag, values in rows.items()}
    curves = {tag: Curve(values[:, 0], values[:, 1]) for tag, values in columns.items()}
    return Log(curves[TRAINING], curves[VALIDATION], columns[TRAINING][:, 2], lost)


def _events(file: Path, lost: list[str]) -> Iterator[Event]:
    count = 0
    try:
        reader = PyRecordReader_New(str(file))
        while True:
            reader.GetNext()
            yield Event.FromString(reader.record())
            count += 1
    except errors.OutOfRangeError:
        return
    except (errors.DataLossError, DecodeError):
        lost.append(f"the loss curve lacks what comes after {count} records of {file}, which is damaged")
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}") from error


def step_losses(log: Log, print_every: int | None) -> Curve | None:
    """Return the loss of every step whose loss is on record; None if the log contradicts ``print_every``.

    fairchem-core 1 logs the mean m_k of the k losses since it printed a line or began: the loss of a step is
    k m_k − (k − 1) m_(k−1).

    Args:
        log: of a training.
        print_every: the steps after which a mean begins anew; None for a log of losses themselves.
    """
    steps, means = log.training
    if print_every is None:
        return log.training
    first = np.maximum(log.starts, (steps - 1) // print_every * print_every + 1)
    count = steps - first + 1
    before, gap = np.roll(means, 1), np.diff(steps, prepend=-1.0)
    losses = np.where(count == 1, means, count * means - (count - 1) * before)
    known = (count == 1) | ((gap == 1) & (count > 1) & (count < _LONGEST_MEAN))
    steps, losses = steps[known], losses[known]
    if (losses < -1e-3 * np.abs(means).max(initial=0)).any():  # no loss is negative
        return None
    return Curve(steps, np.maximum(losses, 0))


def smoothed(curve: Curve) -> Curve:
    """Return running means over a fortieth of the steps, at least 20 of them, drawn in their middle."""
    width = max(len(curve.steps) // 40, min(20, len(curve.steps) // 4), 1)
    sums = [np.cumsum(np.concatenate([[0.0], values])) for values in curve]
    return Curve(*((total[width:] - total[:-width]) / width for total in sums))
