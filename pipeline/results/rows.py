"""Rows of a comparison, and runs of several folds put together."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from pipeline.results.runs import SavedRun, number
from sward.metrics import PER_IMAGE


@dataclass(frozen=True)
class Row:
    """One line of the table: runs that differ by seed and fold alone; ``baseline`` is the row it is compared with."""

    label: str
    baseline: str | None
    runs: tuple[SavedRun, ...]

    @cached_property
    def by_seed(self) -> list[SavedRun]:
        """One run a seed: the runs of all folds put together, so that every image is tested once."""
        seeds = dict.fromkeys(run.config.seed for run in self.runs)
        return [over_folds([run for run in self.runs if run.config.seed == seed]) for seed in seeds]


def over_folds(runs: Sequence[SavedRun]) -> SavedRun:
    """One run out of those of every fold: their images together, metrics over all of these.

    Means over images are exact. mIoU and mAcc, which count pixels, are the folds' values weighted by their images.
    """
    if len(runs) == 1:
        return runs[0]
    per_image = [row for run in runs for row in run.evaluation["per_image"]]
    weights = [len(run.evaluation["per_image"]) for run in runs]
    metrics = {n: float(np.average([run.metrics[n] for run in runs], weights=weights)) for n in runs[0].metrics}
    for name in set(metrics) & set(PER_IMAGE):
        metrics[name] = float(np.nanmean([number(row[name]) for row in per_image]))
    if "hd95_undefined" in metrics:
        metrics["hd95_undefined"] = sum(run.metrics["hd95_undefined"] for run in runs)
    return replace(runs[0], evaluation=runs[0].evaluation | {"per_image": per_image, "metrics": metrics})


def image_means(runs: Sequence[SavedRun], metric: str) -> np.ndarray:
    """Per-image values averaged over seeds, by image id."""
    tables = [run.per_image(metric) for run in runs]
    return np.array([np.mean([table[id] for table in tables]) for id in sorted(tables[0])])
