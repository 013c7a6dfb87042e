"""Computes the statistics of a comparison: mean and deviation over seeds, paired differences, confidence intervals.

The two intervals answer different questions. Over seeds (Student's t on the differences of runs with the same seed):
would the difference hold if training were repeated? Over images (bootstrap on the differences of seed-averaged
per-image values): would it hold on other images? With two seeds the first interval is very wide, and is printed so.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pipeline.cache.manifest.identity import dataset_name
from pipeline.results.runs import RunError, SavedRun, load_student, require_store
from pipeline.training.evaluate import headline
from sward import seeds

RESAMPLES = 5000  # a percentile then varies by about 0.01 of the interval's width


@dataclass(frozen=True)
class Row:
    """One row of the table.

    Attributes:
        label: name of the row in the table.
        baseline: label of the row that this one is compared with; None without a comparison.
        runs: finished runs that differ only in their seed.
    """

    label: str
    baseline: str | None
    runs: tuple[SavedRun, ...]


def summarise(name: str, rows: Sequence[Row]) -> dict[str, Any]:
    """Computes all numbers of the table and the report, ready for JSON (undefined numbers are null).

    Raises:
        RunError: runs come from different stores, read different heads or were evaluated on different subsets, or
            compared rows have different seeds.
    """
    first = rows[0].runs[0]
    require_store([run.path for row in rows for run in row.runs], first.facts["content_id"])
    heads = {head for row in rows for run in row.runs if (head := run.facts.get("sources", {}).get("head"))}
    if len(heads) > 1:
        raise RunError(
            f"the runs read {len(heads)} different teacher heads ({', '.join(sorted(h[:12] for h in heads))}); see "
            "`sources` in their run.json, remove the runs with the wrong head and train them again"
        )
    if len({run.evaluation["subset"] for row in rows for run in row.runs}) > 1:
        raise RunError("some runs were evaluated on val, others on test; train them again from one store")
    card = load_student(first.path)[1]
    return {
        "name": name,
        "content_id": first.facts["content_id"],
        "data": f"{dataset_name(first.config.cache.dataset)}, split {first.config.cache.split}",
        "subset": first.evaluation["subset"],
        "images": len(first.evaluation["per_image"]),
        "classes": card["classes"],
        "headline": headline(len(card["classes"])),
        "commits": sorted({str(run.facts["commit"]) for row in rows for run in row.runs}),
        "versions": first.facts["versions"],
        "threads": first.facts["threads"],
        "rows": [summarise_row(row, rows, headline(len(card["classes"]))) for row in rows],
    }


def summarise_row(row: Row, rows: Sequence[Row], metric: str) -> dict[str, Any]:
    """Numbers of one row: metrics over seeds, difference to the baseline, parameters, training seconds, its runs."""
    base = next((other for other in rows if other.label == row.baseline and other is not row), None)
    parameters, adapters = count_parameters(row.runs[0])
    config = row.runs[0].config
    return {
        "label": row.label,
        "baseline": base.label if base else None,
        "student": config.student.kind,
        "method": config.method.kind,
        "steps": config.steps,
        "batch_size": config.batch_size,
        "seeds": [run.config.seed for run in row.runs],
        "metrics": {name: over_seeds([run.metrics[name] for run in row.runs]) for name in row.runs[0].metrics},
        "difference": difference(row, base, metric) if base else None,
        "parameters": parameters,
        "adapter_parameters": adapters,
        "seconds": sum(run.facts["seconds"] for run in row.runs),
        "runs": [run_line(run) for run in row.runs],
    }


def run_line(run: SavedRun) -> dict[str, Any]:
    """Identity, training seconds and metrics of one run."""
    return {
        "folder": str(run.path),
        "seed": run.config.seed,
        "identity": run.facts["identity"],
        "commit": run.facts["commit"],
        "content_id": run.facts["content_id"],
        "seconds": run.facts["seconds"],
        "best_val": defined(run.facts["best_val"]),
        "metrics": {name: defined(value) for name, value in run.metrics.items()},
    }


def defined(value: float) -> float | None:
    return value if math.isfinite(value) else None


def over_seeds(values: Sequence[float]) -> dict[str, Any]:
    """Mean and sample standard deviation; None if a value is undefined, the deviation also for a single value."""
    mean, n = defined(float(np.mean(values))), len(values)
    sd = float(np.std(values, ddof=1)) if n > 1 and mean is not None else None
    return {"mean": mean, "sd": sd, "n": n}


def difference(row: Row, base: Row, metric: str) -> dict[str, Any]:
    """Difference of ``metric`` to the baseline: mean, value per seed, and both 95 % intervals (low, high).

    Raises:
        RunError: the two rows have different seeds.
    """
    if [r.config.seed for r in row.runs] != [r.config.seed for r in base.runs]:
        raise RunError(f"{row.label} and {base.label} have different seeds; compare runs of the same seeds")
    paired = [a.metrics[metric] - b.metrics[metric] for a, b in zip(row.runs, base.runs, strict=True)]
    by_image = image_means(row.runs, metric) - image_means(base.runs, metric)
    return {
        "metric": metric,
        "mean": float(np.mean(paired)),
        "per_seed": paired,
        "seeds": t_interval(paired),
        "images": bootstrap_interval(by_image),
    }


def image_means(runs: Sequence[SavedRun], metric: str) -> np.ndarray:
    """Per-image values averaged over seeds, sorted by image id."""
    tables = [run.per_image(metric) for run in runs]
    return np.array([np.mean([table[id] for table in tables]) for id in sorted(tables[0])])


def t_interval(differences: Sequence[float]) -> list[float] | None:
    """95 % confidence interval of the mean by Student's t; None for fewer than two differences."""
    from scipy.stats import t

    n = len(differences)
    if n < 2:
        return None
    mean, half = np.mean(differences), t.ppf(0.975, n - 1) * np.std(differences, ddof=1) / math.sqrt(n)
    return [float(mean - half), float(mean + half)]


def bootstrap_interval(differences: np.ndarray) -> list[float] | None:
    """95 % percentile interval of the mean by resampling images, deterministic; None for fewer than 5 images."""
    n = len(differences)
    if n < 5:
        return None
    chosen = seeds.integers(RESAMPLES * n, n, "bootstrap", n).reshape(RESAMPLES, n)
    low, high = np.percentile(differences[chosen].mean(1), [2.5, 97.5])
    return [float(low), float(high)]


def count_parameters(run: SavedRun) -> tuple[int, int]:
    """Counts trainable parameters of the student, and of the method's adapters (discarded after training)."""
    student, card = load_student(run.path)
    with torch.random.fork_rng(devices=[]):
        method = run.config.method.build(
            card["teacher_channels"], student.channels, len(card["classes"]), student.classifier.in_channels
        )
    student_count, method_count = (
        sum(p.numel() for p in module.parameters() if p.requires_grad) for module in (student, method)
    )
    return student_count, method_count
