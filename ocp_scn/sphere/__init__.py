"""Mathematics on the sphere: tensors in, tensors out, no atoms and no parameters.

Conventions (one page, ``docs/conventions.md``): real spherical harmonics in e3nn's component
order and ``integral`` normalisation, polar axis +y, degrees 0..lmax inclusive, flat index
``l*l + l + m``.
"""

from ocp_scn.sphere.grid import coefficients_to_grid, grid_points_shape, grid_to_coefficients
from ocp_scn.sphere.harmonics import (
    kept_orders,
    num_coefficients,
    spherical_harmonics,
)
from ocp_scn.sphere.quadrature import density_weights, gauss_quadrature, scale_points, spiral_points
from ocp_scn.sphere.rotation import (
    dense_rows,
    edge_frames,
    packed_wigner,
    polar_rotation,
    random_rolls,
    wigner_rows,
)
from ocp_scn.sphere.tables import TableModule, default_dtype

__all__ = [
    "TableModule",
    "coefficients_to_grid",
    "default_dtype",
    "dense_rows",
    "density_weights",
    "edge_frames",
    "gauss_quadrature",
    "grid_points_shape",
    "grid_to_coefficients",
    "kept_orders",
    "num_coefficients",
    "packed_wigner",
    "polar_rotation",
    "random_rolls",
    "scale_points",
    "spherical_harmonics",
    "spiral_points",
    "wigner_rows",
]
