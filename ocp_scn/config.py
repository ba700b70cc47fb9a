"""The settings of the model, under the names of fairchem's configuration files."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from ocp_scn.errors import InputError, nearest

MAX_LMAX = 10
MAX_WEIGHTS = 2_000_000_000  # ten times those of the largest published models, and 8 GB
CHOICES = {
    "distance_function": ("gaussian", "sigmoid", "linearsigmoid", "silu"),
    "sphere_quadrature": ("spiral", "gauss"),
    "training_roll": ("random", "fixed"),
    "evaluation_roll": ("random", "fixed"),
    "compute_dtype": ("float32", "tf32", "bfloat16"),
}


def setting(default: Any, meaning: str, low: float | None = None, high: float | None = None) -> Any:
    """Declare a setting with its default, what it means, and the range it may have (both ends included)."""
    return field(default=default, metadata={"meaning": meaning, "low": low, "high": high})


@dataclass(frozen=True, kw_only=True)
class SCNConfig:
    """Settings of a Spherical Channel Network; unknown keys and values out of range are errors.

    Names and defaults are those of fairchem-core 1.10, so published configurations load. The settings below
    the line are not in fairchem's model, and are off by default.
    """

    regress_forces: bool = setting(True, "predict forces too")
    direct_forces: bool = setting(True, "forces from a readout of their own; else -dE/dpos")
    lmax: int = setting(6, "L: largest degree of the spherical channels", 1, MAX_LMAX)
    mmax: int = setting(1, "M: largest |order| that messages keep; at most lmax", 0, MAX_LMAX)
    num_interactions: int = setting(8, "K: layers", 1, 1000)
    sphere_channels: int = setting(128, "C: spherical channels of an atom", 1)
    sphere_channels_reduce: int = setting(128, "C': channels inside a layer", 1)
    hidden_channels: int = setting(256, "H: width of the message network of near edges", 1)
    num_taps: int = setting(-1, "T: rolls averaged in a message; -1: 4 mmax (1 if mmax is 0)", -1, 1000)
    use_grid: bool = setting(True, "update atoms by a network on a sphere grid; else by sums alone")
    num_bands: int = setting(1, "b: truncations of the signal on the grid; at most lmax + 1", 1)
    num_sphere_samples: int = setting(128, "N: number of sphere points of the readouts", 1, 100_000)
    max_num_elements: int = setting(90, "number of element embeddings; atomic numbers are below it", 1)
    num_resolutions: int = setting(2, "2: far edges have a lower degree and width", 1, 2)
    cutoff: float = setting(8.0, "radius of the graph, Å", 1e-3)
    max_num_neighbors: int = setting(20, "nearest sources that a target keeps; -1: all", -1)
    num_basis_functions: int = setting(128, "width of the edge features", 1)
    distance_function: str = setting("gaussian", "shape of the basis functions of distances")
    basis_width_scalar: float = setting(1.0, "width of the basis functions divided by their spacing", 1e-6)
    distance_resolution: float = setting(0.02, "approximate spacing of the basis functions, Å", 1e-6)
    use_pbc: bool = setting(True, "use the data's periodic boundary conditions; else none")
    use_pbc_single: bool = setting(True, "build the graph one system at a time: less memory")
    otf_graph: bool = setting(False, "build the graph in the model; else take it from the data")
    show_timing_info: bool = setting(False, "log the time of every forward pass")
    # --- beyond fairchem's model
    training_roll: str = setting("random", "roll of the edge frames in training")
    evaluation_roll: str = setting("fixed", "roll of the edge frames in evaluation")
    eval_num_taps: int = setting(0, "taps in evaluation; 0: num_taps, -1: 4 mmax", -1, 1000)
    smooth: bool = setting(False, "messages fade out at the cutoff: a continuous energy surface")
    regress_stress: bool = setting(False, "predict stress too, by the energy's strain derivative")
    sphere_quadrature: str = setting("spiral", "kind of the readouts' sphere points")
    grid_resolution: int = setting(0, "latitudes of the grid; 0: 2 (lmax + 1)", 0, 200)
    keep_tied_neighbors: bool = setting(False, "keep all neighbours as far as the last one kept")
    compute_dtype: str = setting("float32", "precision of the layers' matrix products; tf32 is for GPUs")
    cuda_graphs: bool = setting(False, "replay evaluations of repeated sizes as CUDA graphs")
    strict_elements: bool = setting(False, "refuse elements that the training data lack; else warn")

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> SCNConfig:
        """Build the settings from a mapping.

        Raises:
            InputError: for an unknown key (naming the nearest), or a value that is not allowed.
        """
        known = [f.name for f in fields(cls)]
        for key in settings:
            if key not in known:
                raise InputError(f"unknown model setting {key!r}{nearest(key, known)}")
        return cls(**settings)

    def __post_init__(self) -> None:
        for f in fields(self):
            self._check_type_and_range(f.name, str(f.type), f.metadata["low"], f.metadata["high"])
        for name, choices in CHOICES.items():
            self._require(getattr(self, name) in choices, name, f"one of {', '.join(choices)}")
        top = self.lmax
        self._require(self.mmax <= top, "mmax", f"0..{top} (lmax)")
        self._require(self.num_taps != 0, "num_taps", "-1 (4 mmax taps) or at least 1")
        self._require(self.num_bands <= top + 1, "num_bands", f"1..{top + 1} (lmax + 1)")
        self._require(self.max_num_neighbors != 0, "max_num_neighbors", "-1 (no cap) or at least 1")
        self._require(self.num_radial >= 2, "distance_resolution", f"at most cutoff / 2 = {self.cutoff / 2}")
        self._require(
            self.num_resolutions == 1 or self.hidden_channels >= 4,
            "hidden_channels",
            "at least 4 (num_resolutions=2 gives far edges a quarter)",
        )
        self._require(
            self.grid_resolution == 0
            or (self.grid_resolution % 2 == 0 and self.grid_resolution >= 2 * (top + 1)),
            "grid_resolution",
            f"0 or an even number from {2 * (top + 1)}, 2 (lmax + 1)",
        )
        if self.sphere_quadrature == "gauss":
            sizes = [2 * n * n for n in range(1, self.num_sphere_samples + 2)]
            near = min(sizes, key=lambda size: abs(size - self.num_sphere_samples))
            self._require(
                near == self.num_sphere_samples,
                "num_sphere_samples",
                f"2 n^2 (sphere_quadrature=gauss), such as {near}",
            )
        self._check_gradients()
        if self.num_weights > MAX_WEIGHTS:
            raise InputError(
                f"the model settings give {self.num_weights:,} weights; expected at most {MAX_WEIGHTS:,}"
            )

    def _check_gradients(self) -> None:
        """Refuse settings of forces, stress and smoothness that exclude each other."""
        self._require(
            self.direct_forces or self.regress_forces,
            "direct_forces",
            "True (regress_forces=False predicts no forces)",
        )
        self._require(
            not self.regress_stress or not self.direct_forces,
            "regress_stress",
            "False (direct_forces=True; stress is a derivative of the energy, as gradient forces are)",
        )
        if self.smooth:
            for name, value, reason in (
                ("max_num_neighbors", -1, "neighbours beyond a cap come and go"),
                ("num_resolutions", 1, "edges change the resolution with their rank"),
                ("mmax", 0, "frames jump somewhere, and orders above 0 see it"),
            ):
                self._require(getattr(self, name) == value, name, f"{value} (smooth=True: {reason})")

    @property
    def taps(self) -> int:
        """T, the number of rolls a message is averaged over."""
        return self._count_taps(self.num_taps)

    @property
    def eval_taps(self) -> int:
        """The number of rolls in evaluation."""
        return self._count_taps(self.eval_num_taps or self.num_taps)

    def _count_taps(self, number: int) -> int:
        return max(1, 4 * self.mmax) if number == -1 else number

    @property
    def num_radial(self) -> int:
        """The number of radial basis functions."""
        return int(self.cutoff / self.distance_resolution)

    @property
    def num_weights(self) -> int:
        """The number of weights of the model, all layers' and heads'."""
        channels, reduced = self.sphere_channels, self.sphere_channels_reduce
        features = self.num_basis_functions
        layer = (self.num_radial + 2 * self.max_num_elements + features + 2) * features
        for degree, hidden in self.resolutions:
            size = reduced * sum(2 * min(order, self.mmax) + 1 for order in range(degree + 1))
            layer += (features + 2 * size + hidden + 3) * hidden + (hidden + 1) * size
        if channels != reduced:
            layer += 2 * channels * reduced
        if self.use_grid:
            wide = 2 * self.num_bands * reduced
            layer += (wide + 1) * (wide + 2 * reduced) + (2 * reduced + 1) * reduced
        head = (channels + 1) * (channels + reduced) + reduced + 1
        heads = 2 if self.regress_forces and self.direct_forces else 1
        basis = 3 * self.num_radial if self.distance_function == "silu" else 0
        return self.max_num_elements * channels + basis + self.num_interactions * layer + heads * head

    def untrained(self, trained: Collection[str]) -> str | None:
        """Return the first output with a readout that no loss of the ``trained`` outputs reaches.

        Derivatives have no readout of their own: their losses reach the energy's.
        """
        if self.regress_forces and not self.direct_forces:
            return None
        outputs = ("energy", "forces") if self.regress_forces else ("energy",)
        return next((name for name in outputs if name not in trained), None)

    @property
    def resolutions(self) -> list[tuple[int, int]]:
        """(degree, hidden width) of each resolution, near first."""
        near = (self.lmax, self.hidden_channels)
        if self.num_resolutions == 1:
            return [near]
        return [near, (min(self.lmax, max(4, self.lmax - 2)), self.hidden_channels // 4)]

    def _check_type_and_range(self, name: str, kind: str, low: float | None, high: float | None) -> None:
        value = getattr(self, name)
        number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        if kind == "float":
            self._require(number, name, "a finite number")
        else:
            self._require(
                type(value).__name__ == kind,
                name,
                {"int": "an integer", "bool": "True or False", "str": "a string"}[kind],
            )
        if low is not None and high is not None:
            self._require(low <= value <= high, name, f"{low}..{high}")
        elif low is not None:
            self._require(value >= low, name, f"at least {low}")

    def _require(self, condition: bool, name: str, expected: str) -> None:
        if not condition:
            raise InputError(f"model setting {name}={getattr(self, name)!r}; expected {expected}")
