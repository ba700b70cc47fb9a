"""Tables of metrics."""

from __future__ import annotations

from collections.abc import Mapping

Predictors = Mapping[str, Mapping[str, float]]  # metrics of each predictor
Rows = dict[str, Predictors]  # of a table: by data set
# Tables, and their columns: fairchem's names of metrics, what they are called, their factor.
TITLES = {
    "s2ef": "S2EF: energies and forces of structures",
    "is2re": "IS2RE direct: relaxed energies from initial structures",
    "relaxation": "IS2RE and IS2RS by relaxation: relaxed energies and structures",
}
COLUMNS = {
    "s2ef": {
        "energy_mae": ("energy MAE [eV]", 1),
        "forces_mae": ("force MAE [eV/Å]", 1),
        "forces_cosine_similarity": ("force cosine", 1),
        "energy_forces_within_threshold": ("EFwT [%]", 100),
    },
    "is2re": {"energy_mae": ("energy MAE [eV]", 1), "energy_within_threshold": ("EwT [%]", 100)},
    "relaxation": {
        "is2re_energy_mae": ("energy MAE [eV]", 1),
        "is2re_energy_within_threshold": ("EwT [%]", 100),
        "is2rs_positions_mae": ("position MAE [Å]", 1),
        "is2rs_positions_average_distance_within_threshold": ("ADwT [%]", 100),
    },
}


def cells(task: str, rows: Rows) -> tuple[list[str], list[list[str]]]:
    """Return the head and the lines of a table; a metric that the model does not have has no column."""
    columns = {
        key: value
        for key, value in COLUMNS[task].items()
        if any(key in predictors["model"] for predictors in rows.values())
    }
    lines = [
        [
            name,
            predictor,
            *(f"{factor * values[key]:.4g}" if key in values else "" for key, (_, factor) in columns.items()),
        ]
        for name, predictors in rows.items()
        for predictor, values in predictors.items()
    ]
    return ["data", "predictor", *(label for label, _ in columns.values())], lines


def format_table(task: str, rows: Rows) -> str:
    """Return a table in Markdown."""
    head, lines = cells(task, rows)
    rule = "|---|---|" + "---:|" * (len(head) - 2)
    return "\n".join([_line(head), rule, *map(_line, lines)]) + "\n"


def _line(words: list[str]) -> str:
    return "| " + " | ".join(words) + " |"
