"""How far outputs change when a structure is turned: ``python -m benchmarks.equivariance``."""

from __future__ import annotations

import argparse
import math
import pickle
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import yaml
from e3nn.o3 import quaternion_to_matrix
from fairchem.core.datasets import LmdbDataset
from torch import Tensor
from torch_geometric.data import Batch

from benchmarks.store import ROOT, machine, read_json, table, write_json
from ocp_scn import InputError, SCNConfig, SphericalChannelNetwork
from ocp_scn.data.sample import build_initial, combinations, intact
from ocp_scn.fairchem.checks import check_data_set, check_weights
from ocp_scn.fairchem.lmdb import to_graph
from ocp_scn.fairchem.neighbors import find_edges
from ocp_scn.graph import build_graph

RESULTS = ROOT / "docs/results/equivariance.json"
DATA = Path("datasets/oc20_sample/val_ood")
INITIAL = "initial"  # the name of weights that no one trained
SETTINGS: dict[str, Any] = {
    "otf_graph": True,
    "lmax": 6,
    "num_interactions": 3,
    "sphere_channels": 16,
    "sphere_channels_reduce": 16,
    "hidden_channels": 64,
    "num_basis_functions": 32,
    "num_sphere_samples": 128,
    "cutoff": 6.0,
    "distance_resolution": 0.1,
    "basis_width_scalar": 2.0,
    # Slabs have neighbours at equal distances, of which a cap, or the border between two
    # resolutions, keeps those that rounding makes nearer: another graph after a rotation.
    "max_num_neighbors": -1,
    "num_resolutions": 1,
}
SET_BY_ROWS = ("mmax", "num_taps", "eval_num_taps", "use_grid", "num_bands", "grid_resolution", "otf_graph")
ROLL_TAPS = (1, 2, 3, 4, 6, 8, 16)
FIGURES = {
    "energy": "energy",
    "energy_relative": "relative",
    "forces": "force",
    "forces_relative": "relative",
}
DTYPES = {"float32": torch.float32, "float64": torch.float64}
EPILOG = """examples:
  python -m benchmarks.equivariance
  python -m benchmarks.equivariance --checkpoint runs/oc20_sample/checkpoints/scn/best_checkpoint.pt \\
      --data datasets/oc20_sample/val_id
Without a checkpoint the weights are initial ones, weight matrices times --scale; figures are means over
--seeds of them. Relative figures are in units of the standard deviation over structures of the energy per
atom, and of the mean absolute force component. docs/equivariance.md explains the rows."""


class Weights(NamedTuple):
    """The settings and parameters that rows share, and what one unit of the outputs is.

    Attributes:
        name: of the records.
        settings: of the model; rows change them.
        state: state dict, or None for initial weights.
        scale: factor of initial weight matrices.
        units: (eV, eV/Å) of an output 1.
    """

    name: str
    settings: dict[str, Any]
    state: dict[str, Tensor] | None = None
    scale: float = 1.0
    units: tuple[float, float] = (1.0, 1.0)


@dataclass(frozen=True)
class Row:
    """One line of the table: what it changes in the settings, and the precision."""

    name: str
    changes: dict[str, Any] = field(default_factory=dict)
    dtype: str = "float32"


class Outputs(NamedTuple):
    """Energies (B,) in eV and forces of each structure (A_i, 3) in eV/Å, float64."""

    energy: Tensor
    forces: list[Tensor]


# --- structures -----------------------------------------------------------------------------------


def read_structures(folder: Path, number: int) -> list[Any]:
    """Return structures of an LMDB data set, from the first to the last in even steps."""
    check_data_set("--data", {"src": str(folder)}, [])
    data = LmdbDataset({"src": str(folder)})
    found = [data[int(i)] for i in np.unique(np.linspace(0, len(data) - 1, number).round())]
    if len(found) < 2:
        raise InputError(f"--data {folder} has {len(found)} structure; expected at least 2")
    return found


def made_structures(number: int, seed: int) -> list[Any]:
    """Return rattled metal slabs with an adsorbate, as `python -m ocp_scn.data sample` starts from."""
    found = []
    for index, combination in enumerate(combinations(number, seed)):
        rng = np.random.default_rng([seed, index])
        atoms = build_initial(combination, rng)
        while not intact(atoms, 1.9):
            atoms = build_initial(combination, rng)
        found.append(to_graph(atoms))
    return found


def with_edges(structure: Any, config: SCNConfig) -> Any:
    """Return a copy that carries its edges, which stay when the copy is turned."""
    copy = structure.clone()
    source, target, offsets, _ = edges_of(batch_of(copy, torch.eye(3).double(), torch.float64), config)
    copy.edge_index, copy.cell_offsets = torch.stack([source, target]), offsets
    return copy


def edges_of(batch: Batch, config: SCNConfig) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return source (E,), target (E,), cell offsets (E, 3) and whether near (E,) of one structure."""
    graph = build_graph(
        *find_edges(batch, config),
        num_resolutions=config.num_resolutions,
        max_num_neighbors=config.max_num_neighbors,
    )
    shift = graph.vec - batch.pos[graph.source] + batch.pos[graph.target]
    offsets = (shift.double() @ torch.linalg.pinv(batch.cell[0].double())).round()
    near = torch.arange(len(shift)) < graph.sizes[0]
    return graph.source, graph.target, offsets, near


def batch_of(structure: Any, rotation: Tensor, dtype: torch.dtype) -> Batch:
    """Return a batch of one structure, turned: atoms and cell."""
    copy = structure.clone()
    copy.pos = (structure.pos.double() @ rotation.T).to(dtype)
    copy.cell = (structure.cell.double() @ rotation.T).to(dtype)
    return Batch.from_data_list([copy])


def random_rotations(number: int, generator: torch.Generator) -> Tensor:
    """Return rotations (number, 3, 3), uniform, float64."""
    quaternions = torch.randn(number, 4, dtype=torch.float64, generator=generator)
    return quaternion_to_matrix(quaternions / quaternions.norm(dim=1, keepdim=True))


def count_changed_graphs(structures: Sequence[Any], rotations: Tensor, config: SCNConfig) -> int:
    """Return how many turned structures have other edges, or other near ones, than before, in float32."""

    def edges(structure: Any, rotation: Tensor) -> set[tuple[float, ...]]:
        source, target, offsets, near = edges_of(batch_of(structure, rotation, torch.float32), config)
        columns = torch.cat([torch.stack([source, target, near], dim=1), offsets], dim=1)
        return set(map(tuple, columns.tolist()))

    before = [edges(structure, torch.eye(3, dtype=torch.float64)) for structure in structures]
    return sum(
        edges(structure, rotation) != known
        for structure, turns, known in zip(structures, rotations, before, strict=True)
        for rotation in turns
    )


# --- models ---------------------------------------------------------------------------------------


def build_model(weights: Weights, row: Row, seed: int) -> SphericalChannelNetwork:
    """Return the model of a row in evaluation mode; ``seed`` is that of initial weights."""
    torch.manual_seed(seed)
    model = SphericalChannelNetwork(**{**weights.settings, **row.changes}).eval()
    if weights.state is None:
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "fc" in name and parameter.ndim == 2:
                    parameter.mul_(weights.scale)
    else:
        model.load_state_dict(weights.state)
    return model.to(DTYPES[row.dtype])


def read_checkpoint(path: Path) -> Weights:
    """Return the weights of a fairchem checkpoint, with the units of its outputs.

    Raises:
        InputError: if there is none, or it is of another model, or has no forces.
    """
    if not path.is_file():
        raise InputError(f"--checkpoint {path} does not exist")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=False)
        model, state = checkpoint["config"]["model"], checkpoint["state_dict"]
        # Until 2023 the settings stood apart from the name.
        settings = dict(checkpoint["config"]["model_attributes"] if isinstance(model, str) else model)
    except (pickle.UnpicklingError, RuntimeError, KeyError, TypeError, EOFError, ValueError) as error:
        raise InputError(f"--checkpoint {path} is not a checkpoint of fairchem: {error!r}") from error
    settings |= {"otf_graph": True}
    settings.pop("name", None)
    check_weights(str(path), state, SphericalChannelNetwork(**settings).state_dict())
    if not SCNConfig(**settings).regress_forces:
        raise InputError(f"--checkpoint {path} predicts no forces (regress_forces=False)")
    normalizers = checkpoint.get("normalizers") or {}
    energy, forces = (float(normalizers.get(key, {}).get("rmsd", 1.0)) for key in ("energy", "forces"))
    state = {name.removeprefix("module.").removeprefix("module."): value for name, value in state.items()}
    return Weights(str(path), settings, state, units=(energy, forces))


def predict(
    model: SphericalChannelNetwork,
    batches: Sequence[Batch],
    units: tuple[float, float],
    generator: torch.Generator | None = None,
) -> Outputs:
    """Return the outputs of each batch of one structure."""
    with torch.no_grad():
        found = [model(batch, generator=generator) for batch in batches]
    energy = torch.cat([out["energy"] for out in found]).double() * units[0]
    return Outputs(energy, [out["forces"].double() * units[1] for out in found])


# --- measurements ---------------------------------------------------------------------------------


def scales(outputs: Outputs) -> tuple[float, float]:
    """Return what deviations are compared with: std of the energy per atom, mean |force component|."""
    sizes = torch.tensor([len(forces) for forces in outputs.forces])
    return float((outputs.energy / sizes).std()), float(torch.cat(outputs.forces).abs().mean())


def figures(
    energy: Tensor, per_atom: Tensor, forces: Tensor, scale: tuple[float, float], prefix: str = ""
) -> dict[str, float]:
    """Return the means of deviations, absolute and relative to the scales of the outputs."""
    return {
        f"{prefix}energy": float(energy.mean()),
        f"{prefix}energy_relative": float(per_atom.mean()) / scale[0],
        f"{prefix}forces": float(forces.mean()),
        f"{prefix}forces_relative": float(forces.mean()) / scale[1],
    }


def difference(
    first: Outputs, second: Outputs, scale: tuple[float, float], prefix: str = ""
) -> dict[str, float]:
    """Return the mean absolute difference of two sets of outputs of the same structures."""
    sizes = torch.tensor([len(forces) for forces in first.forces])
    energy = (first.energy - second.energy).abs()
    forces = (torch.cat(first.forces) - torch.cat(second.forces)).abs()
    return figures(energy, energy / sizes, forces, scale, prefix)


def measure_rotations(
    weights: Weights, row: Row, structures: Sequence[Any], rotations: Tensor, seed: int
) -> tuple[dict[str, float], Outputs]:
    """Return how far outputs change under ``rotations`` (B, R, 3, 3), forces turned back, and the outputs."""
    model, dtype = build_model(weights, row, seed), DTYPES[row.dtype]
    identity = torch.eye(3, dtype=torch.float64)
    still = predict(model, [batch_of(s, identity, dtype) for s in structures], weights.units)
    scale = scales(still)
    found = []
    for turns in rotations.unbind(1):
        batches = [batch_of(s, q, dtype) for s, q in zip(structures, turns, strict=True)]
        turned = predict(model, batches, weights.units)
        back = [forces @ q for forces, q in zip(turned.forces, turns, strict=True)]
        found.append(difference(turned._replace(forces=back), still, scale))
    return {**mean_of(found), "energy_scale": scale[0], "forces_scale": scale[1]}, still


def measure_rolls(
    weights: Weights, row: Row, structures: Sequence[Any], draws: int, seed: int
) -> dict[str, float]:
    """Return the standard deviation of outputs over random rolls of all edges, a mean over structures."""
    model = build_model(weights, row, seed)
    batches = [batch_of(s, torch.eye(3, dtype=torch.float64), DTYPES[row.dtype]) for s in structures]
    drawn = [
        predict(model, batches, weights.units, torch.Generator().manual_seed(draw)) for draw in range(draws)
    ]
    energy = torch.stack([out.energy for out in drawn]).std(dim=0)
    forces = torch.stack([torch.cat(out.forces) for out in drawn]).std(dim=0)
    sizes = torch.tensor([len(structure.pos) for structure in structures])
    return figures(energy, energy / sizes, forces, scales(drawn[0]))


def mean_of(found: Sequence[dict[str, float]]) -> dict[str, float]:
    """Return the mean of each figure."""
    return {key: sum(one[key] for one in found) / len(found) for key in found[0]}


# --- rows -----------------------------------------------------------------------------------------


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


def planned_rows(weights: Weights) -> list[Row]:
    """Return all rows for rotations."""
    config = SCNConfig.from_settings(weights.settings)
    if weights.state is not None:
        return [*checkpoint_rows(config)]
    return [*product_rows(), *variation_rows(config.lmax)]


def roll_rows(settings: dict[str, Any]) -> Iterator[Row]:
    """Yield random rolls with more and more taps."""
    for taps in ROLL_TAPS:
        yield Row("random rolls", {**settings, "eval_num_taps": taps, "evaluation_roll": "random"})


def gauss(n: int) -> dict[str, Any]:
    """Return the settings of a readout at n latitudes times 2 n longitudes."""
    return {"sphere_quadrature": "gauss", "num_sphere_samples": 2 * n * n}


# --- the command ----------------------------------------------------------------------------------


def rotation_records(
    weights: Weights, rows: Sequence[Row], structures: Sequence[Any], rotations: Tensor, seeds: Sequence[int]
) -> list[dict[str, Any]]:
    """Return the deviations of each row; of trained weights also how far it moves outputs from the first."""
    records, as_trained = [], None
    for row in rows:
        runs = [measure_rotations(weights, row, structures, rotations, seed) for seed in seeds]
        record = {"kind": "rotations", **describe(weights, row), **mean_of([found for found, _ in runs])}
        if weights.state is not None:
            still = runs[0][1]
            as_trained = as_trained or still
            record |= difference(still, as_trained, scales(as_trained), "moved_")
        records.append(record)
    return records


def roll_records(
    weights: Weights, structures: Sequence[Any], draws: int, seeds: Sequence[int]
) -> list[dict[str, Any]]:
    """Return the spread over random rolls by the number of taps, for each mmax > 0 that there is."""
    initial = weights.state is None
    trained = SCNConfig(**weights.settings).mmax
    records = []
    for mmax in (1, 2) if initial else range(trained, trained + bool(trained)):
        for row in roll_rows({"mmax": mmax, "num_taps": 1} if initial else {}):
            runs = [measure_rolls(weights, row, structures, draws, seed) for seed in seeds]
            records.append({"kind": "rolls", **describe(weights, row), **mean_of(runs)})
    return records


def measure(
    weights: Weights, structures: Sequence[Any], args: argparse.Namespace
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return what all records have in common, and the records."""
    config = SCNConfig(**weights.settings)
    generator = torch.Generator().manual_seed(args.seed)
    rotations = random_rotations(len(structures) * args.rotations, generator)
    rotations = rotations.unflatten(0, (len(structures), args.rotations))
    structures = [with_edges(structure, config) for structure in structures]
    seeds = range(args.seed, args.seed + args.seeds) if weights.state is None else [args.seed]
    records = rotation_records(weights, planned_rows(weights), structures, rotations, seeds)
    records += roll_records(weights, structures, args.draws, seeds)
    common = {
        "kind": "run",
        "weights": weights.name,
        "settings": weights.settings,
        "scale": weights.scale,
        "seeds": len(seeds),
        "structures": len(structures),
        "atoms": [len(structure.pos) for structure in structures],
        "rotations": args.rotations,
        "draws": args.draws,
        "changed_graphs": count_changed_graphs(structures, rotations, config),
        **machine(),
    }
    return common, records


def describe(weights: Weights, row: Row) -> dict[str, Any]:
    """Return what a record says about its row."""
    config = SCNConfig(**{**weights.settings, **row.changes})
    return {
        "weights": weights.name,
        "row": row.name,
        "mmax": config.mmax,
        "taps": config.taps,
        "eval_taps": config.eval_taps,
        "bands": config.num_bands if config.use_grid else 0,
        "dtype": row.dtype,
    }


def rotation_table(records: Sequence[dict[str, Any]]) -> str:
    """Return the table of deviations under rotations."""
    columns, shown = ["orders", "taps", "aggregation", "evaluation", *FIGURES.values()], [*FIGURES]
    if "moved_energy" in records[0]:
        columns += ["energy moved", "forces moved"]
        shown += ["moved_energy_relative", "moved_forces_relative"]
    rows = [
        [
            orders(r["mmax"]),
            r["taps"],
            aggregation(r["bands"]),
            r["row"],
            *(two_digits(r[key]) for key in shown),
        ]
        for r in records
    ]
    return table(columns, rows)


def roll_table(records: Sequence[dict[str, Any]]) -> str:
    """Return the table of spreads over rolls."""
    rows = [[orders(r["mmax"]), r["eval_taps"], *(two_digits(r[key]) for key in FIGURES)] for r in records]
    return table(["orders", "taps in evaluation", *FIGURES.values()], rows)


def two_digits(value: float) -> float:
    """Return a number rounded to two digits, more than these samples support."""
    return float(f"{value:.2g}")


def orders(mmax: int) -> str:
    """Return the orders that messages keep."""
    return f"-{mmax}..{mmax}" if mmax else "0"


def aggregation(bands: int) -> str:
    """Return how messages are aggregated."""
    return {0: "sum", 1: "grid, 1 band"}.get(bands, f"grid, {bands} bands")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.equivariance",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, help=f"LMDB folder (default: {DATA}, or made slabs without it)")
    parser.add_argument("--checkpoint", type=Path, help="trained weights instead of initial ones")
    parser.add_argument("--model", nargs="+", default=[], metavar="KEY=VALUE", help="other model settings")
    parser.add_argument(
        "--scale", type=float, default=3.0, help="factor of initial weights (default: %(default)s)"
    )
    parser.add_argument("--structures", type=int, default=6, help="how many (default: %(default)s)")
    parser.add_argument("--rotations", type=int, default=2, help="of each structure (default: %(default)s)")
    parser.add_argument("--draws", type=int, default=4, help="of random rolls (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=2, help="initial weights (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of everything random (default: %(default)s)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="JSON file (default: %(default)s)")
    return parser


def read_input(args: argparse.Namespace) -> tuple[Weights, list[Any], str]:
    """Return weights, structures and the name of the data.

    Raises:
        InputError: for what the command cannot use.
    """
    for name, least in (("structures", 2), ("rotations", 1), ("draws", 2), ("seeds", 1), ("seed", 0)):
        if getattr(args, name) < least:
            raise InputError(f"--{name} {getattr(args, name)}; expected at least {least}")
    if args.checkpoint is not None and args.model:
        raise InputError("--model changes initial weights only; a checkpoint has its settings")
    if args.checkpoint is None:
        settings = SETTINGS | dict(parse_setting(text) for text in args.model)
        weights = Weights(INITIAL, settings, scale=args.scale)
    else:
        weights = read_checkpoint(args.checkpoint)
    for row in planned_rows(weights):
        SCNConfig(**{**weights.settings, **row.changes})  # all settings are possible
    folder = args.data or (DATA if DATA.is_dir() else None)
    if folder is None:
        return weights, made_structures(args.structures, args.seed), "made slabs"
    return weights, read_structures(folder, args.structures), str(folder)


def parse_setting(text: str) -> tuple[str, Any]:
    """Return the key and the value of KEY=VALUE."""
    key, sign, value = text.partition("=")
    if not sign:
        raise InputError(f"--model {text!r}; expected KEY=VALUE")
    if key in SET_BY_ROWS:
        raise InputError(f"--model {text!r}: the rows of the table set {key}")
    return key, yaml.safe_load(value)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status (2 for bad input)."""
    args = build_parser().parse_args(argv)
    start = time.perf_counter()
    try:
        weights, structures, data = read_input(args)
        common, records = measure(weights, structures, args)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    common |= {"data": data, "seconds": round(time.perf_counter() - start)}
    print(
        f"{common['structures']} structures of {data}, {common['rotations']} rotations each: "
        f"{common['changed_graphs']} of {common['structures'] * common['rotations']} have other edges "
        f"afterwards. Units: {'those of the outputs' if weights.state is None else 'eV and eV/Å'}.\n"
    )
    print(rotation_table([r for r in records if r["kind"] == "rotations"]))
    if rolls := [r for r in records if r["kind"] == "rolls"]:
        print(roll_table(rolls))
    others = [record for record in read_json(args.results) if record["weights"] != weights.name]
    write_json(args.results, [*others, common, *records])
    print(f"wrote {args.results}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
