"""Data sets for fairchem's trainers: a sample that needs no download, and converters of DFT data."""
