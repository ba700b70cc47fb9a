"""The sections of a report's page, with their figures."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from platform import python_version
from typing import Any

import numpy as np
import yaml

from ocp_scn.report.comparisons import Comparison, Splits
from ocp_scn.report.figures import (
    plot_groups,
    plot_histograms,
    plot_loss,
    plot_parity,
    plot_structures,
    plot_within,
    signed,
)
from ocp_scn.report.losses import read_log, step_losses
from ocp_scn.report.metrics import Group, by_adsorbate, by_element, by_tag, threshold_factors, worst
from ocp_scn.report.page import Section
from ocp_scn.report.runs import Run, Training
from ocp_scn.report.samples import read_structures
from ocp_scn.report.tables import TITLES, Rows, cells

_SHORT = {"s2ef": "S2EF", "is2re": "IS2RE direct", "relaxation": "Relaxations"}
_WORST = 10
_PREDICT = {
    1: "python main.py --mode predict --config-yml … --run-dir … --checkpoint …/best_checkpoint.pt",
    2: "ocp-scn predict --config configs/fairchem2/predict.yaml checkpoint=…/inference_ckpt.pt src=… "
    "results=…/results/ocp_predictions.npz",
}


def results_section(run: Run, tables: Mapping[str, Rows], notes: Sequence[str]) -> Section:
    """Return the tables of all metrics, and what could not be compared."""
    section = Section("Results")
    for task, rows in tables.items():
        section.heading(TITLES[task])
        section.table(*cells(task, rows), texts=2)
    if tables:
        section.text(
            "trivial predicts no force, and the mean energy of the training set (beyond the references of "
            "elements, of a model with those); for relaxations, the initial structures. EFwT: energy within "
            "0.02 eV and every force component within 0.03 eV/Å. EwT: energy within 0.02 eV."
        )
    else:
        section.note("There are no predictions to compare. This makes them:", code=_PREDICT[run.line])
    for note in notes:
        section.note(note[0].upper() + note[1:] + ".")
    return section


def comparison_section(found: Comparison, folder: Path) -> Section:
    """Draw what there is of a comparison; return its section."""
    section = Section(f"{_SHORT[found.task]}: {found.name}")
    targets, errors, stem = found.targets, found.errors, f"{found.task}_{found.name}"
    forces = found.forces is not None and errors.forces is not None
    section.text(f"{len(targets.ids):,} structures, {len(targets.numbers):,} free atoms; {found.path}")
    panels: dict[str, tuple[Any, Any]] = {"energy [eV]": (targets.energy, found.energy)}
    if forces:
        panels["force [eV/Å]"] = (targets.forces, found.forces)
    relaxed = "relaxed " if found.task != "s2ef" else ""
    images = plot_parity(folder / f"parity_{stem}.png", {f"{relaxed}{k}": v for k, v in panels.items()})
    what = "and force components of free atoms " if forces else ""
    section.heading("Parity")
    section.figure(
        images,
        f"Predicted against calculated energies {what}of {found.name}. Where there are many points, colours "
        "tell how many are in each hexagon.",
        f"parity_{stem}",
    )
    section.heading("Errors")
    off: dict[str, Any] = {f"{relaxed}energy [eV]": errors.energy}
    if forces:
        off["force components [eV/Å]"] = errors.forces
    section.figure(
        plot_histograms(folder / f"errors_{stem}.png", off),
        "Errors: predicted minus calculated.",
        f"errors_{stem}",
    )
    factors = threshold_factors(errors)
    section.figure(
        plot_within(folder / f"within_{stem}.png", factors),
        "Structures within thresholds"
        + (
            ": 0.02 eV for the energy and 0.03 eV/Å for every force component, times the number on the "
            "horizontal axis. At 1, both together are EFwT."
            if forces
            else " of 0.02 eV times the number on the horizontal axis. At 1, this is EwT."
        ),
        f"within_{stem}",
    )
    _add_groups(section, found, folder, stem)
    _add_worst(section, found, folder, stem)
    return section


def _add_groups(section: Section, found: Comparison, folder: Path, stem: str) -> None:
    kinds = {
        "element": by_element(found.errors, found.targets),
        "adsorbate": by_adsorbate(found.errors, found.targets),
        "tag": by_tag(found.errors, found.targets),
    }
    captions = {
        "element": "Errors by element: forces on its free atoms, energies of structures that contain it.",
        "adsorbate": "Errors by adsorbate: forces on all free atoms of its structures, and their energies.",
        "tag": "Errors of forces by the tag of the atom.",
    }
    for kind, groups in kinds.items():
        known = [group for group in groups if np.isfinite([group.energy_mae, group.force_mae]).any()]
        if not known:
            if kind == "adsorbate" or (kind == "tag" and found.errors.forces is not None):
                section.note(f"No errors by {kind}: the data set has no tags.")
            continue
        section.heading(f"By {kind}")
        name = f"{kind}s_{stem}"
        section.figure(
            plot_groups(folder / f"{name}.png", known),
            f"{captions[kind]} In brackets, their number"
            + ("; the 20 with the largest errors." if len(known) > 20 else "."),
            name,
        )
        section.folded_table(
            f"Table of {len(known)} {kind}s", *_group_table(kind, known, found.errors.forces is not None)
        )


def _group_table(kind: str, groups: Sequence[Group], forces: bool) -> tuple[list[str], list[list[str]]]:
    energies = kind != "tag"
    head = [kind] + ["structures", "energy MAE [eV]"] * energies + ["atoms", "force MAE [eV/Å]"] * forces
    lines = [
        [group.name]
        + [f"{group.structures:,}", f"{group.energy_mae:.4g}"] * energies
        + [f"{group.atoms:,}", f"{group.force_mae:.4g}"] * forces
        for group in groups
    ]
    return head, lines


def _add_worst(section: Section, found: Comparison, folder: Path, stem: str) -> None:
    errors, targets = found.errors, found.targets
    order = worst(errors, _WORST)
    if not order:
        return
    section.heading("Largest errors")
    structures = read_structures(targets.source, [int(targets.rows[k]) for k in order])
    lines = []
    for k in order:
        off = errors.energy[k]
        lines.append([f"ΔE {signed(off, '+.3g')} eV"] if np.isfinite(off) else [])
        if errors.force_mae is not None and errors.force_max is not None:
            lines[-1] += [
                f"ΔF mean {errors.force_mae[k]:.3g} eV/Å",
                f"ΔF max. {errors.force_max[k]:.3g} eV/Å",
            ]
    formulas = [atoms.get_chemical_formula(mode="metal", empirical=False) for atoms in structures]
    name = f"worst_{stem}"
    images = plot_structures(folder / f"{name}.png", structures, ["\n".join(line) for line in lines])
    what = "energies" if errors.force_mae is None else "forces (mean absolute error)"
    text = f"The structures with the largest errors of {what}. ΔE is predicted minus calculated"
    if errors.force_mae is not None:
        text += "; ΔF are the mean and the largest error of a force component"
    section.text(f"{text}.")
    below = [[formula, *line] for formula, line in zip(formulas, lines, strict=True)]
    section.cards(images, [targets.ids[k] for k in order], below)
    section.text("As a figure (PNG, PDF):", code=name)


def training_section(run: Run, folder: Path) -> Section:
    """Draw the losses of a run's trainings; return their section."""
    section = Section("Training")
    for task, training in run.trainings.items():
        section.heading(f"{_SHORT[task]}: {training.name}")
        _add_loss(section, run, training, folder, f"loss_{task}")
    return section


def _add_loss(section: Section, run: Run, training: Training, folder: Path, name: str) -> None:
    log = read_log(training.logs)
    if log is None or not len(log.training.steps):
        if run.line == 1:
            section.note(
                f"There is no loss in {training.logs}. A training with this setting writes it:",
                code="logger: tensorboard",
            )
        else:
            section.note(
                f"There is no loss in {training.logs}. fairchem-core 2 prints it, and keeps none unless a "
                "callback does; the experiments of configs/fairchem2 have it:",
                code="runner.callbacks: ocp_scn.fairchem.v2.LossLog",
            )
        return
    for line in log.lost:
        print(line)
        section.note(f"{line}.")
    losses = step_losses(log, training.print_every)
    running = losses is None
    drawn = log.training if losses is None else losses
    missing = len(log.training.steps) - len(drawn.steps)
    if missing:
        section.note(
            f"The loss of {missing} of {len(log.training.steps)} steps is not "
            "on record: fairchem logs means, and the one before is missing."
        )
    images = plot_loss(folder / f"{name}.png", drawn, log.validation, running=running)
    if running:
        caption = (
            "The loss as fairchem logs it: a mean that begins anew from time to time. The loss of each step "
            f"is not on record, since the log contradicts print_every={training.print_every}."
        )
    else:
        caption = f"The loss of {len(drawn.steps):,} steps, and running means of it."
        if training.print_every not in (None, 1):
            caption += " It is computed from the means that fairchem logs."
    section.figure(images, caption, name)


def settings_section(
    run: Run, splits: Mapping[str, Splits], found: Sequence[Comparison], words: Sequence[str]
) -> Section:
    """Return what data, versions and settings the run had, and ``words`` with which the report is made."""
    section = Section("Settings")
    section.heading("Data")
    files = {(one.task, one.name): str(one.path) for one in found}
    lines = [
        [
            f"{_SHORT[task]}: {name}",
            targets.source,
            files.get((task, name), ""),
            f"{len(targets.ids):,}",
            f"{int(np.isfinite(targets.energy).sum()):,}",
        ]
        for task, sets in splits.items()
        for name, targets in sets.items()
    ]
    for one in found:
        if one.task == "relaxation":
            count = f"{len(one.energy):,}"
            lines.append([f"{_SHORT[one.task]}: {one.name}", one.targets.source, str(one.path), count, count])
    section.table(["data set", "folder", "results", "structures", "with an energy"], lines, texts=3)
    section.heading("Versions")
    heads = [training.name for training in run.trainings.values()]
    section.table(["package", *heads, "this report"], _versions(run), texts=9)
    section.text("What a training does not write down is not on record here.")
    section.heading("Commands")
    section.text("This report:", code=shlex.join(["ocp-scn", "report", *words]))
    for task, training in run.trainings.items():
        if run.line == 2:
            path = training.logs.parent.parent / "canonical_config.yaml"
            section.text(
                f"The training {training.name} ({_SHORT[task]}) again:", code=f"ocp-scn train --config {path}"
            )
    if run.line == 1:
        section.text("fairchem-core 1.10 keeps the settings of a training, not its command.")
    for training in run.trainings.values():
        text = yaml.safe_dump(_plain(training.config), sort_keys=False, allow_unicode=True, width=100)
        section.folded_text(f"Settings of {training.name}", text)
    return section


def _versions(run: Run) -> list[list[str]]:
    here = {name: _version(name) for name in ("fairchem-core", "torch", "e3nn", "ase", "numpy", "matplotlib")}
    here |= {"ocp-scn": _version("ocp-scn"), "Python": python_version()}
    names = ["ocp-scn", *dict.fromkeys([*here, *(n for t in run.trainings.values() for n in t.versions)])]
    trainings = run.trainings.values()
    return [
        [name, *(training.versions.get(name, "-") for training in trainings), here.get(name, "-")]
        for name in dict.fromkeys(names)
    ]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _plain(value: Any) -> Any:
    """Return settings as YAML has them; what is none of its kinds as text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [_plain(item) for item in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)
