"""Pictures of spherical channels: on the atoms, layer by layer, and in an edge's frame with its taps."""
