"""The only place that knows fairchem: one module for each of its lines."""
