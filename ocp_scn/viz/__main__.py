"""ocp-scn viz: a picture of a network's spherical channels."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib.style

from ocp_scn.calculator import SCNCalculator
from ocp_scn.errors import InputError
from ocp_scn.fairchem.files import refused_writes
from ocp_scn.model import SCN
from ocp_scn.options import Parser, integer, status_of
from ocp_scn.unpickling import TRUST_HELP, trust
from ocp_scn.viz.evaluation import edge_of, evaluate, find_edge
from ocp_scn.viz.picture import draw
from ocp_scn.viz.signals import most_directed
from ocp_scn.viz.structures import example, random_network, read_structure

FILE = "spherical_channels.png"
EPILOG = """examples:
  ocp-scn viz -o pictures
  ocp-scn viz checkpoint.pt relaxed.traj -o pictures --channel 7 --atoms 30 31 32 --edge 31 30
Without a checkpoint, a small network of random weights is drawn; without a structure, CO on copper."""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = Parser(
        prog="ocp-scn viz",
        description="Draw a spherical channel on a structure's atoms after each layer, and an edge's taps.",
        epilog=EPILOG,
    )
    add = parser.add_argument
    add("checkpoint", type=Path, nargs="?", help="checkpoint of fairchem 1, or inference checkpoint of 2")
    add("structure", type=Path, nargs="?", help="a file that ASE reads")
    add("-o", "--output", type=Path, default=Path(), metavar="FOLDER", help=f"folder for {FILE} (default: .)")
    count = integer(0)
    add("--index", type=count, default=0, metavar="N", help="structure in the file, from 0 (default: 0)")
    add(
        "--channel",
        type=count,
        metavar="N",
        help="channel, from 0 (default: the one that depends most on the direction)",
    )
    add(
        "--layers",
        type=count,
        nargs="+",
        metavar="N",
        help="layers after which it is drawn (default: up to four)",
    )
    add("--atoms", type=count, nargs="+", metavar="N", help="atoms to draw, from 0 (default: all)")
    add(
        "--edge",
        type=count,
        nargs=2,
        metavar=("SOURCE", "TARGET"),
        help="atoms of the edge (default: a shortest edge)",
    )
    add("--trust", action="store_true", help=TRUST_HELP)
    return parser


def write(args: argparse.Namespace) -> None:
    """Draw what the command line says, and print where.

    Raises:
        InputError: for bad input.
    """
    if args.checkpoint is None:
        network: SCN = random_network()
    else:
        network = SCNCalculator(args.checkpoint, device="cpu", dtype="float64").network
    config = network.config
    shown, ends = args.atoms, args.edge
    if args.structure is None:
        if args.index:
            raise InputError(f"--index {args.index} is of a file; name the structure's")
        atoms, surface, edge_of_example = example()
        shown, ends = shown or surface, ends or edge_of_example
    else:
        atoms = read_structure(args.structure, args.index)
    drawn = sorted(set(shown or range(len(atoms))))
    last = config.num_interactions
    layers = sorted(set(args.layers or {0, 1, (last + 1) // 2, last}))
    _check("--atoms", drawn, len(atoms))
    _check("--layers", layers, last + 1)
    _check("--channel", [] if args.channel is None else [args.channel], config.sphere_channels)

    found = evaluate(network, atoms)
    channel = args.channel
    if channel is None:
        channel = most_directed([found.signals[k][drawn] for k in layers if k > 0] or [found.signals[0]])
    number = find_edge(found, ends, drawn)
    edge = None if number is None else edge_of(found, channel, number)
    with refused_writes(args.output):
        args.output.mkdir(parents=True, exist_ok=True)
    path = args.output / FILE
    with matplotlib.style.context("default"):
        draw(atoms, drawn, {k: found.signals[k][:, :, channel] for k in layers}, edge).save(path)
    print(f"wrote {path}: channel {channel} of {config.sphere_channels}")


def _check(option: str, indices: Sequence[int], number: int) -> None:
    for index in indices:
        if index >= number:
            raise InputError(f"{option} {index}; expected 0..{number - 1}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status (2 for bad input)."""
    args = build_parser().parse_args(argv)
    if args.trust:
        trust()
    return status_of(lambda: write(args))


if __name__ == "__main__":
    sys.exit(main())
