"""Compare every fused operator with its definition in torch: ``python -m benchmarks.operators``."""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.store import ROOT, machine, table, write_json
from ocp_scn import ops
from ocp_scn.ops import reference
from ocp_scn.sphere import kept_orders

RESULTS = ROOT / "docs/results/operators.json"
EPILOG = """example, on a machine with an NVIDIA GPU:
  python -m benchmarks.operators --device cuda --dtype bfloat16
The default sizes are those of the published model on 8 slabs of 66 atoms. Times are medians. "MiB" is what an
operator has to read and write. "bandwidth" is that divided by the operator's time, relative to the bandwidth
of a copy in the same run: 1 is as fast as memory allows. "difference" is the largest difference from the
definition in float64, relative to the largest number of the result."""
COLUMNS = ["operator", "edges", "ms", "ms by definition", "MiB", "bandwidth", "difference"]


class Sizes(NamedTuple):
    """Of a batch and a network: the names are those of `ocp_scn.ops.reference`."""

    atoms: int
    edges: int
    lmax: int
    mmax: int
    taps: int
    channels: int
    hidden: int


def calls(sizes: Sizes, dtype: torch.dtype, device: torch.device) -> Iterator[tuple[str, list[Any]]]:
    """Yield operators and arguments: what goes into matrix products in a dtype, the others in float32."""
    atoms, edges, lmax, mmax, taps, channels, hidden = sizes
    generator = torch.Generator(device).manual_seed(0)

    def random(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=dtype, device=device)

    orders = kept_orders(lmax, mmax)
    kept = len(orders)
    senders = torch.randint(atoms, (edges,), generator=generator, device=device)
    receivers = torch.arange(edges, device=device) * atoms // edges  # as a graph has them, atom by atom
    atom = torch.stack([senders, receivers], 1)
    x, wigner = random(atoms, (lmax + 1) ** 2, channels), random(edges, reference.packed_size(lmax, mmax))
    for ends in (atom, atom[:, 1:].contiguous()):
        n = ends.shape[1]
        which = torch.arange(n * kept, device=device).view(n, kept)
        row = torch.stack([torch.zeros_like(which), torch.full_like(which, n * kept), which], dim=-1)
        sorted_ends, order = ends.flatten().sort(stable=True)
        starts = torch.searchsorted(sorted_ends, torch.arange(atoms + 1, device=device))
        where = [ends, row, order if n == 2 else None, starts, lmax, mmax]
        v = random(edges * n * kept, channels, dtype=dtype)
        yield "node_to_edge", [x, wigner, *where, dtype]
        yield "edge_to_node", [v, wigner, *where, x.shape[1]]
        yield "wigner_gradient", [v, x, *where, torch.float32]
        del v

    angles = 2 * math.pi * torch.arange(taps, device=device) / taps
    mixing = [torch.ones_like(angles)]
    for m in range(1, mmax + 1):
        mixing += [(m * angles).sin(), (m * angles).cos()]
    first = [random(edges, 1 if k == 0 else 2, hidden, dtype=dtype) for k in range(1 + mmax)]
    gated = [
        first,
        torch.stack(mixing, 1),
        random(hidden),
        random(edges, hidden, dtype=dtype),
        random(hidden),
    ]
    yield "gate", gated
    yield "gate_backward", [random(edges, taps, hidden, dtype=dtype), *gated]
    del first, gated

    values, bias = random(edges, taps, kept * channels, dtype=dtype), random(kept * channels)
    yield "bias_silu", [values, bias]
    yield "bias_silu_backward", [random(*values.shape, dtype=dtype), values, bias]
    opposite = torch.tensor([orders.index((degree, -m)) for degree, m in orders], device=device)
    mean = [values, bias, random(taps, kept), random(taps, kept) * (opposite != opposite.sort()[0]), opposite]
    yield "tap_mean", mean
    yield "tap_mean_backward", [random(edges, kept, channels), *mean]


def seconds(device: torch.device, repeats: int, function: Callable[..., Any], *args: Any) -> float:
    """Return the median time of a call, on a GPU by its own clock; the first two do not count."""
    taken = []
    for _ in range(2):
        function(*args)
    for _ in range(repeats):
        if device.type == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda._sleep(10_000_000)  # while the host launches what follows: its time is not the GPU's
            start.record()
            function(*args)
            end.record()
            end.synchronize()
            taken.append(start.elapsed_time(end) / 1e3)
        else:
            begin = time.perf_counter()
            function(*args)
            taken.append(time.perf_counter() - begin)
    return statistics.median(taken)


def tensors(values: Any) -> Iterator[Tensor]:
    """Yield the tensors among arguments or results."""
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, (list, tuple)):
        for value in values:
            yield from tensors(value)


def in_float64(values: Any) -> Any:
    """Return arguments with all floating-point numbers, and dtypes of results, in float64."""
    if isinstance(values, list):
        return [in_float64(value) for value in values]
    if isinstance(values, torch.dtype):
        return torch.float64
    return values.double() if isinstance(values, Tensor) and values.is_floating_point() else values


def difference(name: str, values: list[Any]) -> float:
    """Return how far an operator is from its definition in float64, relative to the largest number."""
    found = tensors(getattr(ops, name)(*values))
    expected = tensors(getattr(reference, name)(*in_float64(values)))
    return max(
        float((f.double() - e).abs().max() / e.abs().max()) for f, e in zip(found, expected, strict=True)
    )


def copied_bytes_a_second(numbers: int, device: torch.device, repeats: int) -> float:
    """Return what a copy of as many numbers in float32 reads and writes."""
    source = torch.zeros(numbers, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / seconds(device, repeats, target.copy_, source)


def measure(
    sizes: Sizes, dtype: torch.dtype, device: torch.device, repeats: int, bandwidth: float
) -> Iterator[dict[str, Any]]:
    """Yield a record for each operator; ``bandwidth`` is a copy's, in bytes a second."""
    for name, values in calls(sizes, dtype, device):
        operator, definition = getattr(ops, name), getattr(reference, name)
        ends = next((t.shape[1] for t in tensors(values) if t.dtype == torch.int64 and t.dim() == 2), None)
        moved = sum(t.nbytes for t in (*tensors(values), *tensors(operator(*values))))
        taken = seconds(device, repeats, operator, *values)
        yield {
            "operator": name if ends is None else f"{name}, {ends} end{'s' * (ends > 1)}",
            "edges": sizes.edges,
            "seconds": taken,
            "seconds_by_definition": seconds(device, repeats, definition, *values),
            "bytes": moved,
            "of_bandwidth": moved / taken / bandwidth,
            "difference": difference(name, values),
        }


def results_table(records: Sequence[dict[str, Any]]) -> str:
    """Return a table of records."""
    rows = [
        [
            r["operator"],
            r["edges"],
            1e3 * r["seconds"],
            1e3 * r["seconds_by_definition"],
            r["bytes"] / 2**20,
            r["of_bandwidth"],
            r["difference"],
        ]
        for r in records
    ]
    return table(COLUMNS, rows)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.operators",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--device", choices=["cpu", "cuda"], default="cpu", help="where to compute (default: cpu)"
    )
    parser.add_argument(
        "--dtype",
        choices=["float32", "bfloat16", "float16"],
        default="float32",
        help="of what goes into matrix products (default: float32)",
    )
    parser.add_argument(
        "--edges",
        type=int,
        nargs="+",
        default=[6336, 14784],
        help="numbers of edges, each measured (default: 6336 14784)",
    )
    sizes = {"atoms": 528, "lmax": 6, "mmax": 1, "taps": 1, "channels": 128, "hidden": 1024}
    for name, default in sizes.items():
        parser.add_argument(
            f"--{name}", type=int, default=default, help="size of the batch or network (default: %(default)s)"
        )
    parser.add_argument("--repeats", type=int, default=20, help="repeats of each call (default: %(default)s)")
    parser.add_argument(
        "--results", type=Path, default=RESULTS, help="JSON file (default: docs/results/operators.json)"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    args = build_parser().parse_args(argv)
    device, dtype = torch.device(args.device), getattr(torch, args.dtype)
    values = {name: getattr(args, name) for name in Sizes._fields if name != "edges"}
    of_copy = max(args.edges) * args.hidden * args.taps  # as large as what the operators read and write
    bandwidth = copied_bytes_a_second(of_copy, device, args.repeats)
    with torch.no_grad():
        records = [
            record
            for edges in args.edges
            for record in measure(Sizes(edges=edges, **values), dtype, device, args.repeats, bandwidth)
        ]
    where = {**machine(), "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu"}
    found = {**where, "dtype": args.dtype, **values, "copied_bytes_a_second": bandwidth, "calls": records}
    write_json(args.results, found)
    print(results_table(records))
    print(f"a copy moves {bandwidth / 1e9:.0f} GB/s; wrote {args.results}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
