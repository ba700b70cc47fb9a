"""Figures and tables of a run: ``python -m ocp_scn.report RUN_DIR``."""

from ocp_scn.report.command import build_parser, main, write_report

__all__ = ["build_parser", "main", "write_report"]
