"""External test sets of a comparison: metrics over seeds, and differences to the baseline's students on their images.

Every run is tested on every image of such a set, so a difference is of one image and one pair of runs, and its interval
is clustered by sequence and by training run as on the comparison's own test images.
"""

from itertools import chain
from typing import Any

import numpy as np

from pipeline.documents import ExternalEvaluation, read_document
from pipeline.results.differences import Lines, both_ways, tested, verdict_of
from pipeline.results.rows import Row
from pipeline.results.runs import SavedRun, number
from pipeline.results.statistics import holm


def set_names(row: Row) -> list[str]:
    """Names of the sets that any of a row's runs was tested on, in alphabetical order."""
    files = chain.from_iterable(run.path.glob("external-*.json") for run in row.runs)
    return sorted({file.stem.removeprefix("external-") for file in files})


def found_on(run: SavedRun, name: str) -> dict[str, Any]:
    """Contents of a run's external-NAME.json."""
    return read_document(run.path / f"external-{name}.json", ExternalEvaluation)


def metrics_of_seeds(row: Row, name: str) -> list[dict[str, float]]:
    """Metrics on a set, one entry a seed: the mean over the students of its folds."""
    values: dict[int, list[dict[str, float]]] = {}
    for run in row.runs:
        values.setdefault(run.config.seed, []).append(found_on(run, name)["metrics"])
    return [{m: float(np.mean([number(x[m]) for x in runs])) for m in runs[0]} for runs in values.values()]


def external_differences(row: Row, base: Row, metric: str) -> dict[str, Any]:
    """Difference to the baseline on every set that has an interval, by the sets' names."""
    found = {}
    for name in set_names(row):

        def lines(run: SavedRun, name: str = name) -> Lines:
            return found_on(run, name).get("per_image", [])

        if estimate := both_ways(row, base, metric, lines):
            found[name] = {"metric": metric, "mean": estimate["paired"]["mean"]} | estimate
    return found


def correct_external(rows: list[dict[str, Any]], margin: float) -> None:
    """Add corrected p-values and verdicts to differences on external sets, in place.

    Holm's correction is over all differences of the comparison, those on its own test images too: a set that was looked
    at beside them gives no second chance.
    """
    own = [found["paired"]["p"] for found in tested(rows)]
    there = [found for row in rows for found in row.get("external_difference", {}).values()]
    corrected = holm([*own, *(found["paired"]["p"] for found in there)])[len(own) :]
    for found, p in zip(there, corrected, strict=True):
        found |= {"holm": p, "verdict": verdict_of(found, p, margin)}
