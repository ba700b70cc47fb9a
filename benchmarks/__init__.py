"""Measurements: each module is a command, ``python -m benchmarks.NAME``, with a table and a JSON file."""
