"""Recomputes metrics from a run's saved masks and the store's full-size labels.

The report takes confusion matrices and per-class values from here, and states whether the recomputed metrics equal
those in evaluation.json.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from pipeline.cache.store import Store
from pipeline.results.runs import SavedRun, prediction
from sward.metrics import class_accuracy, class_iou, confusion_matrix, dice_iou

TOLERANCE = 1e-9  # both count pixels exactly; only the order of summation in a mean may differ


@dataclass(frozen=True)
class Recount:
    """Confusion matrix and metrics recomputed for one run.

    Attributes:
        confusion: (K, K) number of pixels over the whole subset; row = label, column = prediction.
        metrics: ``miou`` and ``macc``, with two classes also ``dice`` and ``iou``; fractions. Boundary metrics
            are left out, because they need more than overlaps.
    """

    confusion: torch.Tensor
    metrics: dict[str, float]


def recount(store: Store, run: SavedRun) -> Recount:
    """Counts the pixels of one run's saved predictions.

    Raises:
        OSError: a prediction's file is missing.
    """
    classes = len(store.classes)
    images = [
        confusion_matrix(as_tensor(prediction(run.path, r.id)), as_tensor(store.full_label(r)), classes)
        for r in store.records[run.evaluation["subset"]]
    ]
    total = torch.stack(images).sum(0)
    metrics = {"miou": float(class_iou(total).nanmean()), "macc": float(class_accuracy(total).nanmean())}
    if classes == 2:
        dice, iou = np.mean([dice_iou(image) for image in images], 0)
        metrics |= {"dice": float(dice), "iou": float(iou)}
    return Recount(total, metrics)


def as_tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array.astype(np.int64))


def recount_all(store: Store, rows: Mapping[str, Sequence[SavedRun]]) -> dict[str, list[Recount]]:
    """Recounts the rows in which every run has kept its predictions."""
    kept = {k: runs for k, runs in rows.items() if all((run.path / "predictions").is_dir() for run in runs)}
    return {label: [recount(store, run) for run in runs] for label, runs in kept.items()}


def disagreements(rows: Mapping[str, Sequence[SavedRun]], counted: Mapping[str, Sequence[Recount]]) -> list[str]:
    """Lists every metric whose recomputed value differs from the run's evaluation.json, one line each."""
    return [
        f"{run.path}: {name} is {run.metrics[name]:.6f} in evaluation.json, {value:.6f} by its predictions"
        for label, recounts in counted.items()
        for run, found in zip(rows[label], recounts, strict=True)
        for name, value in found.metrics.items()
        if not abs(run.metrics[name] - value) <= TOLERANCE and not (np.isnan(value) and np.isnan(run.metrics[name]))
    ]


def per_class(counted: Mapping[str, Sequence[Recount]], classes: Sequence[str]) -> list[list[str]]:
    """One line per class: its share of the labelled pixels, then the IoU of each row, mean over seeds; in per cent."""
    ious = [torch.stack([class_iou(c.confusion) for c in recounts]).mean(0) for recounts in counted.values()]
    total = next(iter(counted.values()))[0].confusion.sum(1).double()
    share = 100 * total / total.sum()
    return [
        [name, f"{share[k]:.2f}", *("–" if iou[k].isnan() else f"{100 * iou[k]:.2f}" for iou in ious)]
        for k, name in enumerate(classes)
    ]
