"""Power of a comparison: which differences its runs can find, and what more seeds would add."""

from typing import Any

from pipeline.results.differences import estimate_of
from pipeline.results.results_table import markdown
from sward.metrics.names import NAMES


def power_text(comparison: dict[str, Any], seeds: int) -> str:
    """A table of detectable differences, now and with ``seeds`` seeds; and how to read it.

    Args:
        comparison: as saved in comparison.json.
        seeds: number of seeds to plan for.
    """
    lines = []
    for row in comparison["rows"]:
        estimate = estimate_of(row["difference"]) if row["difference"] else None
        if estimate is not None:
            planned = estimate.with_seeds(len(row["seeds"]), seeds)
            halves = [found.interval()[1] - found.mean for found in (estimate, planned)]
            numbers = [halves[0], estimate.detectable(), halves[1], planned.detectable()]
            lines.append([row["label"], *(f"{100 * x:.2f}" for x in numbers)])
    if not lines:
        return "no row has an interval over sequences and trainings; run the comparison in folds (`folds: [0, 1, 2]`)"
    now = len(comparison["rows"][0]["seeds"])
    columns = [f"± with {now} seeds", "found at 80 %", f"± with {seeds} seeds", "found at 80 % "]
    return (
        f"{markdown(['', *columns], lines)}\n\nPoints of {NAMES[comparison['headline']]}: half of the 95 % interval, "
        "and the smallest true difference that a two-sided 5 % test of one row finds with a probability of 80 %. More "
        "seeds lessen the noise of training alone, not that of the sequences."
    )
