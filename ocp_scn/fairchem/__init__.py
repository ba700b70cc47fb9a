"""The only place that knows fairchem: ``v1`` for fairchem-core 1.10, ``v2`` for 2, and what both share."""
