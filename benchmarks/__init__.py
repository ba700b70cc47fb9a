"""Measurements. Each command ``python -m benchmarks.NAME`` prints a table and writes a JSON file."""
