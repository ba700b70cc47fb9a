"""The network again and again for inputs of nearly one size, which a GPU replays without the host."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from ocp_scn.graph import Graph
from ocp_scn.ops.chunks import as_if, chunk_sizes

# Sizes whose recordings are kept; each holds the memory of one call.
_MOST = 4

Predictions = dict[str, Tensor]
Function = Callable[[Sequence[Tensor]], Predictions]


class NetworkInput(NamedTuple):
    """What the network computes the predictions for A atoms in B systems from.

    Attributes:
        elements: (A,) atomic numbers.
        system: (A,) index of each atom's system.
        cell: (B, 3, 3) cell vectors in rows, Å.
        graph: the edges.
        roll: (E,) angles of the edges' frames, radians.
    """

    elements: Tensor
    system: Tensor
    cell: Tensor
    graph: Graph
    roll: Tensor

    def tensors(self) -> list[Tensor]:
        """Return all that differs between inputs of the same sizes."""
        return [*self[:3], self.graph.source, self.graph.target, self.graph.vec, self.roll]

    @classmethod
    def of(cls, tensors: Sequence[Tensor], sizes: tuple[int, ...]) -> NetworkInput:
        """Return the input from `tensors` and the number of edges of each resolution."""
        elements, system, cell, source, target, vec, roll = tensors
        return cls(elements, system, cell, Graph(source, target, vec, sizes), roll)

    def padded(self) -> NetworkInput:
        """Return the input with edges added, so that inputs of nearly one size have the same one.

        There is one atom more, in a system of its own, from which to itself the added edges go: the last one,
        because a resolution's edges are sorted by target. What is predicted of the others stays.
        """
        sizes = self.graph.sizes
        added = [padded_size(size) - size for size in sizes]

        def longer(x: Tensor, value: float) -> Tensor:
            parts = zip(x.split(sizes), added, strict=True)
            return torch.cat([pad(part, (0, 0) * (x.dim() - 1) + (0, n), value=value) for part, n in parts])

        atom, edges = len(self.elements), self.graph
        graph = Graph(
            longer(edges.source, atom),
            longer(edges.target, atom),
            longer(edges.vec, 1.0),
            tuple(size + n for size, n in zip(sizes, added, strict=True)),
        )
        elements, system = pad(self.elements, (0, 1)), pad(self.system, (0, 1), value=len(self.cell))
        return NetworkInput(elements, system, pad(self.cell, (0, 0, 0, 0, 0, 1)), graph, longer(self.roll, 0))


def padded_size(size: int) -> int:
    """Return the next of few numbers, at most 15 or a sixteenth more than the size."""
    step = max(16, 2 ** (size.bit_length() - 5))
    return -(-size // step) * step


class Recording:
    """A function as a CUDA graph: all its kernels, launched by one call for other values in its inputs.

    Args:
        function: of tensors, without data-dependent sizes; nothing waits for the GPU in it.
        tensors: of the sizes that it will be called with.

    Raises:
        RuntimeError: if the function cannot be recorded.
    """

    def __init__(self, function: Function, tensors: Sequence[Tensor]) -> None:
        device = tensors[0].device
        self.inputs = [x.clone() for x in tensors]
        self.graph = torch.cuda.CUDAGraph()
        # How much memory is free is not to be asked while kernels are recorded.
        with torch.cuda.device(device), as_if(chunk_sizes(device)):
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):  # compiles kernels, and makes constants
                function(self.inputs)
            torch.cuda.current_stream().wait_stream(stream)
            try:
                # Other threads, which load the next batch say, may use the GPU meanwhile.
                with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
                    self.results = function(self.inputs)
            except RuntimeError as error:
                reason = "the network cannot be recorded as a CUDA graph; set cuda_graphs: False"
                raise RuntimeError(reason) from error

    def __call__(self, tensors: Sequence[Tensor]) -> Predictions:
        for own, x in zip(self.inputs, tensors, strict=True):
            own.copy_(x)
        self.graph.replay()
        return {name: result.clone() for name, result in self.results.items()}


# What records a function, by the type of device.
RECORDERS: dict[str, Callable[[Function, Sequence[Tensor]], Function]] = {"cuda": Recording}


class Replays:
    """Recordings of functions for the sizes of their last inputs, from the second time on that a size occurs.

    A recording reads weights where they lie in memory: they may change in place, and call `clear`
    otherwise. A copy of it, with a copy of the model, begins without any.
    """

    def __init__(self) -> None:
        self._found: dict[Hashable, Function | None] = {}

    def clear(self) -> None:
        """Forget all recordings."""
        self._found.clear()

    def __call__(self, function: Function, tensors: Sequence[Tensor], setting: Hashable) -> Predictions:
        """Return function(tensors).

        Args:
            function: see `Recording`.
            tensors: its inputs.
            setting: what the function depends on beside the tensors.
        """
        device = tensors[0].device
        sizes = tuple((x.shape, x.dtype) for x in tensors)
        precision = torch.get_float32_matmul_precision(), torch.is_autocast_enabled()
        key = setting, device, sizes, precision
        with torch.inference_mode(False), torch.no_grad():
            if key not in self._found:
                self._found[key] = None
                if len(self._found) > _MOST:
                    del self._found[next(iter(self._found))]
                return function(tensors)
            recording = self._found.pop(key) or RECORDERS[device.type](function, tensors)
            self._found[key] = recording  # the last one to go
            return recording(tensors)

    def __deepcopy__(self, memo: Any) -> Replays:
        return Replays()

    def __reduce__(self) -> tuple[type[Replays], tuple[()]]:
        return Replays, ()
