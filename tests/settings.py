"""Settings of a small network."""

from typing import Any

SETTINGS: dict[str, Any] = {
    "lmax": 3,
    "num_interactions": 2,
    "sphere_channels": 8,
    "sphere_channels_reduce": 8,
    "hidden_channels": 12,
    "num_basis_functions": 8,
    "num_sphere_samples": 18,
    "cutoff": 5.0,
    "max_num_neighbors": 20,
    "distance_resolution": 0.2,
}
