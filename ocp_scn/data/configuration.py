"""The configuration of a training on a data set that was just converted, for either line of fairchem."""

from __future__ import annotations

import argparse
import shlex
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from ocp_scn.config import SCNConfig
from ocp_scn.data import fairchem1, fairchem2
from ocp_scn.data.conversion import REFERENCES_FILE, Report
from ocp_scn.data.recipe import Recipe, recipe_for
from ocp_scn.data.splits import TRAIN

_WIDTH, _FEW = 108, 5  # characters of a line; keys of a section that is one line
Section = tuple[str, Mapping[str, Any]]  # a comment, and keys of a configuration


def write_configuration(args: argparse.Namespace, report: Report, folder: Path) -> list[str]:
    """Write ``train.yml`` (fairchem-core 1.10) or ``train.yaml`` (2) into a folder.

    Args:
        args: of ``convert``; ``target`` is what the folder will be called.
        report: what was converted.
        folder: of the data set.

    Returns:
        What to do next, in lines: the command that trains, or why there is none.
    """
    recipe = recipe_for(report, max_num_elements=args.max_num_elements)
    if recipe is None:
        return ["no configuration of a training: no training frame has an energy"]
    has_references = report.references is not None and not report.subtracted
    references = str(args.target / REFERENCES_FILE) if has_references else None
    cpu = not torch.cuda.is_available()
    if args.format == "lmdb":
        name, sections = "train.yml", fairchem1.sections(recipe, args.target, references)
        words = ["--run-dir", f"runs/{args.target.name}", *(["--cpu"] if cpu else [])]
    else:
        name, sections = "train.yaml", fairchem2.sections(recipe, args.target, references, cpu=cpu)
        words = []
    command = shlex.join(["ocp-scn", "train", "--config", str(args.target / name), *words, "--report"])
    text = _text([*_header(args, recipe, command), *sections])
    (folder / name).write_text(text, encoding="utf-8")
    return [*_lack_of_validation(recipe, report), f"next: {command}"]


def _lack_of_validation(recipe: Recipe, report: Report) -> list[str]:
    if recipe.val is not None or (report.split and set(report.frames) == {TRAIN}):  # which says so
        return []
    return [
        f"nothing validates the training: there is no split val, or it lacks {' or '.join(recipe.labels)}"
    ]


def _header(args: argparse.Namespace, recipe: Recipe, command: str) -> list[Section]:
    weights = SCNConfig.from_settings(recipe.model).num_weights
    return [
        (
            f"A training on {args.target}, written by ocp-scn data convert. Paths are those from "
            f"the folder in which it is started:\n  {command}\n"
            f"Sizes are chosen for {recipe.frames:,} training frames of {recipe.atoms:,} atoms: "
            f"{recipe.size.name}, as in {recipe.size.like}, {weights:,} weights. You may change every key, "
            "here or on the command line.",
            {},
        )
    ]


def _text(sections: Sequence[Section]) -> str:
    blocks = [[*_comment(comment), *_lines(values)] for comment, values in sections]
    return "\n".join("".join(f"{line}\n" for line in block) for block in blocks)


def _comment(text: str) -> list[str]:
    lines = [part for line in text.splitlines() for part in _wrapped(line)]
    return [f"# {line}" for line in lines]


def _wrapped(line: str) -> list[str]:
    return [line] if line.startswith(" ") else textwrap.wrap(line, _WIDTH - 2, break_long_words=False)


def _lines(values: Mapping[str, Any]) -> list[str]:
    """Return keys in YAML, one a line, but what has a few plain values in one."""
    lines: list[str] = []
    for name, value in values.items():
        section = isinstance(value, Mapping)
        if section and (len(value) > _FEW or any(isinstance(part, dict | list) for part in value.values())):
            lines += [f"{name}:", *(f"  {line}" for line in _lines(value))]
            continue
        style = None if section or isinstance(value, list) else False
        text = yaml.safe_dump({name: value}, sort_keys=False, default_flow_style=style, width=_WIDTH)
        lines += text.splitlines()
    return lines
