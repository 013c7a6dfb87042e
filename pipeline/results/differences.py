"""Differences between rows: their intervals, tests and verdicts.

One interval answers whether a difference holds for other sequences and other trainings: `statistics.clustered`, where
the split says which images belong together and there are several training runs a row (folds, seeds). Beside it: over
seeds alone (Student's t) and over images alone (bootstrap of seed-averaged per-image differences).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from pipeline.results.rows import Row, image_means
from pipeline.results.runs import RunError, SavedRun, number
from pipeline.results.statistics import Estimate, clustered, holm, ranking
from sward import seeds

RESAMPLES = 5000  # moves a percentile by about 0.01 of the interval's width
Lines = list[dict[str, Any]]  # metrics of images, one entry each


def own_images(run: SavedRun) -> Lines:
    """The run's lines on the test images of its own store and fold."""
    lines: Lines = run.evaluation["per_image"]
    return lines


def difference(row: Row, base: Row, metric: str) -> dict[str, Any]:
    """Mean of ``metric`` less the baseline's, with its 95 % intervals (low, high)."""
    if [(r.config.seed, r.config.fold) for r in row.runs] != [(r.config.seed, r.config.fold) for r in base.runs]:
        raise RunError(f"{row.label} and {base.label} have different seeds; compare runs of the same seeds")
    paired = [a.metrics[metric] - b.metrics[metric] for a, b in zip(row.by_seed, base.by_seed, strict=True)]
    by_image = image_means(row.by_seed, metric) - image_means(base.by_seed, metric)
    return {
        "metric": metric,
        "mean": float(np.mean(paired)),
        "per_seed": paired,
        "seeds": t_interval(paired),
        "images": bootstrap_interval(by_image),
    } | both_ways(row, base, metric)


def both_ways(row: Row, base: Row, metric: str, lines: Callable[[SavedRun], Lines] = own_images) -> dict[str, Any]:
    """The interval over sequences and trainings; nothing where the split does not say what belongs together."""
    found = paired_estimate(row, base, metric, lines)
    if found is None:
        return {}
    return {"paired": {"interval": list(found.interval()), "p": found.p, **asdict(found)}}


def estimate_of(difference: dict[str, Any]) -> Estimate | None:
    """The estimate that a saved difference was made from; None where it has no paired interval."""
    if "paired" not in difference:
        return None
    return Estimate(*(difference["paired"][name] for name in ("mean", "se", "df", "se_runs")))


def paired_estimate(row: Row, base: Row, metric: str, lines: Callable[[SavedRun], Lines]) -> Estimate | None:
    """Mean difference over seeds and images, clustered by sequence and by training run."""
    values, sequences, runs = [], [], []
    for a, b in zip(row.runs, base.runs, strict=True):
        theirs = {line["id"]: number(line[metric]) for line in lines(b)}
        for line in lines(a):
            if "group" not in line:
                return None
            values.append(number(line[metric]) - theirs[line["id"]])
            sequences.append(line["group"])
            runs.append(f"{a.config.seed}/{a.config.fold}")
    return clustered(values, sequences, runs) if values else None


def tested(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows' differences that have a p-value."""
    return [row["difference"] for row in rows if row["difference"] and "paired" in row["difference"]]


def correct(rows: list[dict[str, Any]], margin: float) -> None:
    """Add to every tested difference its p-value after Holm's correction and what it amounts to, in place."""
    found = tested(rows)
    for one, p in zip(found, holm([one["paired"]["p"] for one in found]), strict=True):
        one |= {"holm": p, "verdict": verdict_of(one, p, margin)}


def verdict_of(difference: dict[str, Any], p: float, margin: float) -> str:
    """``verdict`` of a saved difference that has a paired interval."""
    estimate = estimate_of(difference)
    assert estimate is not None
    return verdict(estimate, p, margin)


def verdict(estimate: Estimate, p: float, margin: float) -> str:
    """``better``, ``worse``, ``equivalent`` within the margin, or ``not distinguishable``."""
    if p < 0.05:
        return "better" if estimate.mean > 0 else "worse"
    return "equivalent" if estimate.within(margin) else "not distinguishable"


def ranks(rows: Sequence[Row], metric: str) -> dict[str, Any] | None:
    """Friedman's test and Nemenyi's critical difference of the rows with a baseline and the baselines, by sequence."""
    compared = [row for row in rows if row.baseline or any(other.baseline == row.label for other in rows)]
    lines = [line for row in compared for run in row.runs for line in run.evaluation["per_image"]]
    if not compared or any("group" not in line for line in lines):
        return None
    names = sorted({line["group"] for line in lines})
    table = np.array([[group_mean(row, name, metric) for name in names] for row in compared])
    found = ranking(table)
    return {"labels": [row.label for row in compared], **asdict(found)} if found else None


def group_mean(row: Row, group: str, metric: str) -> float:
    values = [
        number(line[metric]) for run in row.runs for line in run.evaluation["per_image"] if line["group"] == group
    ]
    return float(np.mean(values))


def t_interval(differences: Sequence[float]) -> list[float] | None:
    """95 % interval of the mean by Student's t; None for a single difference."""
    from scipy.stats import t

    n = len(differences)
    if n < 2:
        return None
    mean, half = np.mean(differences), t.ppf(0.975, n - 1) * np.std(differences, ddof=1) / math.sqrt(n)
    return [float(mean - half), float(mean + half)]


def bootstrap_interval(differences: np.ndarray) -> list[float] | None:
    """95 % percentile interval of the mean, resampling images; the same for the same numbers. None below 5 images."""
    n = len(differences)
    if n < 5:
        return None
    chosen = seeds.integers(RESAMPLES * n, n, "bootstrap", n).reshape(RESAMPLES, n)
    low, high = np.percentile(differences[chosen].mean(1), [2.5, 97.5])
    return [float(low), float(high)]
