"""Comparisons in results/, computed again from their runs' result files."""

from pathlib import Path
from typing import Any

from pipeline.documents import Comparison, read_document
from pipeline.experiments.comparison_files import relate_folders
from pipeline.results.rows import Row
from pipeline.results.runs import load_run
from pipeline.results.summary import summarise
from sward.students.saved import CARD

MEASURED = ("cost", "paper", "deviations")  # of a table or a row: what no run's result files say


def recomputed(file: Path) -> dict[str, Any]:
    """A saved comparison with every number of training and testing computed from its runs.

    Costs of a step, the paper's figures and the row of copied masks stay as they are.

    Args:
        file: comparison.json, with the runs' folders below it.

    Raises:
        RunError: a run is not there, or the runs are not of one comparison.
    """
    saved = read_document(file, Comparison)
    trained = [row for row in saved["rows"] if row["runs"]]
    runs = [tuple(load_run(file.parent / run["folder"]) for run in row["runs"]) for row in trained]
    rows = [Row(row["label"], row["baseline"], found) for row, found in zip(trained, runs, strict=True)]
    comparison = summarise(saved["name"], rows, saved["margin"])
    relate_folders(file.parent, comparison["rows"])
    for row, before in zip(comparison["rows"], trained, strict=True):
        row |= _measured(before)
    comparison["rows"] += [row for row in saved["rows"] if not row["runs"]]
    return comparison | _measured(saved)


def has_cards(file: Path) -> bool:
    """Whether all runs of a saved comparison have their students' cards; those of early versions have none."""
    rows = read_document(file, Comparison)["rows"]
    return all((file.parent / run["folder"] / CARD).is_file() for row in rows for run in row["runs"])


def _measured(saved: dict[str, Any]) -> dict[str, Any]:
    return {name: saved[name] for name in MEASURED if name in saved}
