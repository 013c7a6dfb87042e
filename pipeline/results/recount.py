"""Metrics counted again from what a run saved: its predicted masks against the store's full labels.

The report shows confusion and per-class values from here, and says whether they are those of evaluation.json.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from pipeline.cache.store import Store
from pipeline.results.runs import SavedRun, prediction
from sward.metrics import class_accuracy, class_iou, confusion_matrix, dice_iou

TOLERANCE = 1e-9  # both are exact counts; only the order of a mean's sum may differ


@dataclass(frozen=True)
class Recount:
    """confusion: (K, K) pixels of the whole subset, row = label. metrics: those that overlap alone gives."""

    confusion: torch.Tensor
    metrics: dict[str, float]


def recount(store: Store, run: SavedRun) -> Recount:
    """Count one run's saved predictions.

    Raises:
        OSError: a prediction is not there.
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
    """Every run of the rows whose runs have all kept their predictions."""
    kept = {k: runs for k, runs in rows.items() if all((run.path / "predictions").is_dir() for run in runs)}
    return {label: [recount(store, run) for run in runs] for label, runs in kept.items()}


def disagreements(rows: Mapping[str, Sequence[SavedRun]], counted: Mapping[str, Sequence[Recount]]) -> list[str]:
    """One line for every metric that is not the one in the run's evaluation.json."""
    return [
        f"{run.path}: {name} is {run.metrics[name]:.6f} in evaluation.json, {value:.6f} by its predictions"
        for label, recounts in counted.items()
        for run, found in zip(rows[label], recounts, strict=True)
        for name, value in found.metrics.items()
        if not abs(run.metrics[name] - value) <= TOLERANCE and not (np.isnan(value) and np.isnan(run.metrics[name]))
    ]


def per_class(counted: Mapping[str, Sequence[Recount]], classes: Sequence[str]) -> list[list[str]]:
    """One line a class: its share of the pixels, then every row's IoU in per cent, mean over seeds."""
    ious = [torch.stack([class_iou(c.confusion) for c in recounts]).mean(0) for recounts in counted.values()]
    total = next(iter(counted.values()))[0].confusion.sum(1).double()
    share = 100 * total / total.sum()
    return [
        [name, f"{share[k]:.2f}", *("–" if iou[k].isnan() else f"{100 * iou[k]:.2f}" for iou in ious)]
        for k, name in enumerate(classes)
    ]
