"""The rows of the equivariance tables, and the settings that each of them changes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ocp_scn import SCNConfig

SET_BY_ROWS = ("mmax", "num_taps", "eval_num_taps", "use_grid", "num_bands", "grid_resolution", "otf_graph")
ROLL_TAPS = (1, 2, 3, 4, 6, 8, 16)


@dataclass(frozen=True)
class Row:
    """One line of the table: what it changes in the settings, and the precision."""

    name: str
    changes: dict[str, Any] = field(default_factory=dict)
    dtype: str = "float32"


def product_rows() -> Iterator[Row]:
    """Yield all orders x taps x aggregations; m = 0 has no use of taps, nor a plain sum of bands."""
    for mmax, taps in ((0, 1), *((m, t) for m in (1, 2) for t in (1, 4, 8))):
        for bands in (0, 1, 2):
            grid = {"use_grid": True, "num_bands": bands} if bands else {"use_grid": False}
            yield Row("default", {"mmax": mmax, "num_taps": taps, **grid})


def variation_rows(lmax: int) -> Iterator[Row]:
    """Yield changes of evaluation, one at a time and together, of three of the rows above."""
    finer = {"grid_resolution": 4 * (lmax + 1)}
    plain = {"mmax": 0, "num_taps": 1, "use_grid": False}
    grid = {"mmax": 0, "num_taps": 1, "use_grid": True, "num_bands": 2}
    paper = {"mmax": 1, "num_taps": 4, "use_grid": True, "num_bands": 2}
    for base in (plain, grid, paper):
        yield Row("gauss, 128 points", base | gauss(8))
        yield Row("gauss, 512 points", base | gauss(16))
        yield Row("float64", base, "float64")
        if base is plain:
            yield Row("gauss, 512 points, float64", base | gauss(16), "float64")
            continue
        yield Row("finer grid", base | finer)
        taps = {}
        if base is paper:
            yield Row("16 taps in evaluation", base | {"eval_num_taps": 16})
            taps = {"eval_num_taps": 16}
        yield Row("all of these", base | finer | gauss(16) | taps, "float64")


def checkpoint_rows(config: SCNConfig) -> Iterator[Row]:
    """Yield what can be changed without training anew, one at a time, then one on top of the other."""
    n = math.ceil(math.sqrt(config.num_sphere_samples / 2))
    single = [
        Row(f"{count} taps in evaluation", {"eval_num_taps": count})
        for count in (4, 8, 16)
        if config.mmax > 0
    ]
    yield Row("as trained")
    yield from single
    steps = [
        *single[-1:],
        Row("same edges", {"otf_graph": False}),
        Row("float64", {}, "float64"),
        *([Row("finer grid", {"grid_resolution": 4 * (config.lmax + 1)})] if config.use_grid else []),
        Row(f"gauss, {8 * n * n} points", gauss(2 * n)),
    ]
    yield from (step for step in steps if step not in single)
    yield Row(f"gauss, {2 * n * n} points", gauss(n))
    together, name = steps[0], steps[0].name
    for step in steps[1:]:
        dtype = max(together.dtype, step.dtype)  # float64 stays
        together = Row(f"{name} + {step.name}", together.changes | step.changes, dtype)
        name = "…"  # the line above
        yield together


def planned_rows(settings: dict[str, Any], *, trained: bool) -> list[Row]:
    """Return all rows for rotations of a model with initial or trained weights."""
    config = SCNConfig.from_settings(settings)
    if trained:
        return [*checkpoint_rows(config)]
    return [*product_rows(), *variation_rows(config.lmax)]


def roll_rows(settings: dict[str, Any]) -> Iterator[Row]:
    """Yield random rolls with more and more taps."""
    for taps in ROLL_TAPS:
        yield Row("random rolls", {**settings, "eval_num_taps": taps, "evaluation_roll": "random"})


def gauss(n: int) -> dict[str, Any]:
    """Return the settings of a readout at n latitudes times 2 n longitudes."""
    return {"sphere_quadrature": "gauss", "num_sphere_samples": 2 * n * n}
