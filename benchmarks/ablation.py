"""Train small models that differ in one setting: ``python -m benchmarks.ablation``."""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from benchmarks.ablation_figure import plot
from benchmarks.store import ROOT, read_json, write_json

RESULTS = ROOT / "docs/results/ablation.json"
FIGURE = ROOT / "docs/images/ablation.png"
PROTOCOL = ROOT / "configs/s2ef/oc20_sample/ablation.yml"
METRICS = {
    "energy_mae": "energy MAE [eV]",
    "forces_mae": "force MAE [eV/Å]",
    "forces_cosine_similarity": "force cosine",
}
EPILOG = """example:
  python -m benchmarks.ablation --data datasets/oc20_sample
Each finished run is added to the file of results. A run that is already there is not repeated, so the same
command resumes after an interruption. docs/results.md says how to make the data."""

BASE, PEERS = "base", ("eSCN", "EquiformerV2", "PaiNN", "SchNet")
PARTS = {1.0: "", 0.5: ", 1/2 of the data", 0.25: ", 1/4 of the data"}
_MODELS = "fairchem.core.models"


@dataclass(frozen=True)
class Experiment:
    """What one experiment changes in the protocol, and how often it is run."""

    settings: dict[str, Any] = field(default_factory=dict)  # of the model
    seeds: int = 2
    sample: float = 1.0  # part of the training frames
    peer: dict[str, Any] | None = None  # another model's settings instead


def peers() -> dict[str, dict[str, Any]]:
    """Return the settings of the models that fairchem 1.10 ships, of a size comparable to the base's."""
    graph = {"otf_graph": True, "use_pbc": True, "use_pbc_single": True, "regress_forces": True}
    equivariant = {"lmax_list": [4], "mmax_list": [2], "sphere_channels": 32, "edge_channels": 64}
    heads = f"{_MODELS}.equiformer_v2.heads"
    return {
        "eSCN": {
            "name": f"{_MODELS}.escn.escn.eSCN",
            **graph, **equivariant,
            "num_layers": 2, "hidden_channels": 64, "num_sphere_samples": 64,
            "cutoff": 6.0, "max_neighbors": 12, "basis_width_scalar": 2.0,
        },
        "EquiformerV2": {
            "name": "hydra",
            "backbone": {
                "model": f"{_MODELS}.equiformer_v2.equiformer_v2.EquiformerV2Backbone",
                **graph, **equivariant,
                "num_layers": 2, "sphere_channels": 16, "edge_channels": 32, "attn_hidden_channels": 16,
                "num_heads": 2, "attn_alpha_channels": 16, "attn_value_channels": 8,
                "ffn_hidden_channels": 32, "norm_type": "layer_norm_sh", "grid_resolution": 10,
                "num_distance_basis": 64, "max_radius": 6.0, "max_neighbors": 12,
                "attn_activation": "silu", "ffn_activation": "silu", "use_grid_mlp": True,
                "weight_init": "uniform", "alpha_drop": 0.0, "drop_path_rate": 0.0,
            },
            "heads": {
                "energy": {"module": f"{heads}.scalar.EqV2ScalarHead"},
                "forces": {"module": f"{heads}.vector.EqV2VectorHead"},
            },
        },
        "PaiNN": {
            "name": f"{_MODELS}.painn.painn.PaiNN",
            **graph,
            "hidden_channels": 128, "num_layers": 3, "num_rbf": 64, "cutoff": 6.0, "max_neighbors": 12,
            "direct_forces": True, "num_elements": 90,
        },
        "SchNet": {
            "name": f"{_MODELS}.schnet.SchNetWrap",
            **graph,
            "hidden_channels": 128, "num_filters": 128, "num_interactions": 4, "num_gaussians": 64,
            "cutoff": 6.0,
        },
    }  # fmt: skip


def experiments() -> dict[str, Experiment]:
    """Return all experiments; those with three seeds decide a claim."""
    three = 3
    found = {
        BASE: Experiment(seeds=three),
        "m = 0": Experiment({"mmax": 0}, three),
        "m = 2": Experiment({"mmax": 2, "num_taps": 1}),
        "4 taps": Experiment({"num_taps": 4}, three),
        "2 bands": Experiment({"num_bands": 2}, three),
        "gradient forces": Experiment({"direct_forces": False}, three),
        "L = 2": Experiment({"lmax": 2}),
        "L = 6": Experiment({"lmax": 6}),
        "1 layer": Experiment({"num_interactions": 1}),
        "3 layers": Experiment({"num_interactions": 3}),
    }
    for part in (0.5, 0.25):
        found[sample_name(BASE, part)] = Experiment(seeds=three, sample=part)
    for peer, settings in peers().items():
        for part in PARTS:
            seeds = 2 if part == 0.5 else three
            found[sample_name(peer, part)] = Experiment(seeds=seeds, sample=part, peer=settings)
    return found


def sample_name(model: str, part: float) -> str:
    """Return the name of the experiment that trains a model on a part of the data."""
    return model + PARTS[part]


def planned() -> Iterator[tuple[str, int]]:
    """Yield (experiment, seed): the first seed of every experiment, then the second, …"""
    found = experiments()
    for seed in range(max(e.seeds for e in found.values())):
        yield from ((name, seed) for name, e in found.items() if seed < e.seeds)


def configuration(experiment: Experiment, data: Path) -> dict[str, Any]:
    """Return fairchem's configuration of an experiment: the protocol with its changes, at equal steps."""
    config = yaml.safe_load(PROTOCOL.read_text())
    config["model"] = experiment.peer or {**config["model"], **experiment.settings}
    for split, source in (("train", "train"), ("val", "val_id")):
        config["dataset"][split]["src"] = str(data / source)
    train, optim = config["dataset"]["train"], config["optim"]
    train["sample_n"] = round(train["sample_n"] * experiment.sample)
    optim["max_epochs"] = round(optim["max_epochs"] / experiment.sample)
    return config


def train(name: str, seed: int, data: Path) -> dict[str, Any]:
    """Train one model in a process of its own and return its figures on the validation set."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.yml"
        path.write_text(yaml.safe_dump(configuration(experiments()[name], data)))
        command = [sys.executable, "main.py", "--mode", "train", "--config-yml", str(path), "--cpu"]
        command += ["--run-dir", folder, "--timestamp-id", "run", "--seed", str(seed)]
        start = time.time()
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        seconds = time.time() - start
        if done.returncode:
            raise RuntimeError(f"{name}, seed {seed}: {done.stderr[-3000:]}")
        events = EventAccumulator(f"{folder}/logs/tensorboard/run", size_guidance={"scalars": 0}).Reload()
    figures = {key: events.Scalars(f"val/{key}")[-1].value for key in METRICS}
    parameters = re.search(r"([\d,]+) parameters", done.stdout)
    return {
        "experiment": name,
        "seed": seed,
        "steps": events.Scalars("val/loss")[-1].step,
        **figures,
        "minutes": round(seconds / 60, 2),
        "threads": int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)),
        "parameters": int(parameters[1].replace(",", "")) if parameters else None,
    }


def summarise(records: Sequence[dict[str, Any]]) -> dict[str, dict[str, tuple[float, float, int]]]:
    """Return mean, standard deviation and number of runs of every figure, by experiment."""
    found: dict[str, dict[str, tuple[float, float, int]]] = {}
    for name in experiments():
        runs = [record for record in records if record["experiment"] == name]
        for key in [*METRICS, "minutes"] if runs else []:
            values = np.array([run[key] for run in runs])
            spread = float(values.std(ddof=1)) if len(values) > 1 else float("nan")
            found.setdefault(name, {})[key] = (float(values.mean()), spread, len(values))
    return found


def results_table(summary: dict[str, dict[str, tuple[float, float, int]]]) -> str:
    """Return the table of all experiments with the spread over seeds."""
    lines = ["| experiment | seeds | " + " | ".join([*METRICS.values(), "minutes"]) + " |"]
    lines.append("|---|---:|" + "---:|" * (len(METRICS) + 1))
    for name, figures in summary.items():
        cells = [
            f"{mean:.3g}" if np.isnan(spread) or key == "minutes" else f"{mean:.3g} ± {spread:.2g}"
            for key, (mean, spread, _) in figures.items()
        ]
        lines.append(f"| {name} | {figures['forces_mae'][2]} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.ablation",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--data",
        type=Path,
        default=Path("datasets/oc20_sample"),
        help="folder of the data set (default: %(default)s)",
    )
    parser.add_argument(
        "--results",
        type=Path,
        default=RESULTS,
        help="JSON file of all runs (default: docs/results/ablation.json)",
    )
    parser.add_argument("--only", metavar="TEXT", help="run only experiments whose name contains TEXT")
    parser.add_argument(
        "--table", action="store_true", help="train nothing; print the table and draw the figure"
    )
    parser.add_argument(
        "--figure", type=Path, default=FIGURE, help="file of the figure (default: docs/images/ablation.png)"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    args = build_parser().parse_args(argv)
    if not args.table and not (args.data / "train").is_dir():
        print(
            f"error: --data {args.data} has no folder 'train'; docs/results.md says how to make it",
            file=sys.stderr,
        )
        return 2
    for name, seed in planned() if not args.table else ():
        taken = {(record["experiment"], record["seed"]) for record in read_json(args.results)}
        if (name, seed) in taken or (args.only and args.only not in name):
            continue
        record = train(name, seed, args.data.resolve())
        write_json(args.results, [*read_json(args.results), record])
        print(json.dumps(record, ensure_ascii=False), flush=True)
    records = read_json(args.results)
    print(results_table(summarise(records)))
    changes = [
        name for name, experiment in experiments().items() if experiment.sample == 1 and not experiment.peer
    ]
    samples = {model: {part: sample_name(model, part) for part in PARTS} for model in (BASE, *PEERS)}
    plot(args.figure, records, changes, samples)
    print(f"drew {args.figure}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
