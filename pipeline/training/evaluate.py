"""Evaluates a student at the images' original size: logits upsampled bilinearly to the full label, then argmax."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from PIL import Image
from torch import Tensor

from pipeline.cache.manifest.records import Record
from pipeline.cache.store import Store
from pipeline.files import atomic
from pipeline.prediction_files import alike, prediction_file
from pipeline.training.batch_order import Order
from pipeline.training.device.compile import uncompiled
from pipeline.training.stream import Stream
from sward.contracts import Batch, Student
from sward.metrics import SegmentationMetrics
from sward.pixels import at_size


def headline(num_classes: int) -> str:
    """Name of the metric that chooses the best student and sorts tables: Dice for two classes, else mIoU."""
    return "dice" if num_classes == 2 else "miou"


@torch.no_grad()
def evaluate(
    student: Student,
    store: Store,
    subset: str,
    device: torch.device,
    batch_size: int,
    predictions: Path | None = None,
    share: tuple[int, int] = (0, 1),
) -> dict[str, Any]:
    """Computes a student's metrics on a subset, from each image's identity view (no augmentation).

    Args:
        student: the student; left in evaluation mode.
        store: store with the subset's views and full-size labels.
        subset: name of the subset.
        device: device of the student.
        batch_size: records per batch.
        predictions: folder for the predicted masks (indexed PNG, one per image); None writes none.
        share: (rank, processes). With several processes, the process of rank r predicts batches r, r + processes, …
            of those that a single process would make, and all return the whole result.

    Returns:
        {"subset", "metrics": aggregates, "per_image": [{"id", ...}]}
    """
    metrics = SegmentationMetrics(len(store.classes))
    exact = alike(record.id for record in store.records[subset])
    student.eval()
    for records, batch in batches(student, store, subset, device, batch_size, share):
        with uncompiled(student):
            logits = student(batch.inputs(student)).logits.float()
        for record, z in zip(records, logits, strict=True):
            label = store.full_label(record)
            prediction, confidence = full_prediction(z, label.shape)
            row = metrics.update(prediction, label, record.id, confidence)
            row |= {} if record.group is None else {"group": record.group}
            if predictions:
                save_mask(prediction_file(predictions, record.id, record.id in exact), prediction)
    if share[1] > 1:
        parts: list[Any] = [None] * share[1]
        dist.all_gather_object(parts, metrics)
        metrics.merge(parts, [record.id for record in store.records[subset]])
    return {"subset": subset, "metrics": metrics.compute(), "per_image": metrics.per_image}


def batches(
    student: Student,
    store: Store,
    subset: str,
    device: torch.device,
    batch_size: int,
    share: tuple[int, int] = (0, 1),
) -> Iterator[tuple[list[Record], Batch]]:
    """Yields (records, batch) of a subset in store order; ``share`` as in ``evaluate``: the batches of this process.

    The next batches are read, and copied to a GPU, while one is evaluated.
    """
    records = store.records[subset]
    levels = tuple(store.channels) if student.reads == "features" else ()
    stream = Stream(store, Order(tuple(records), batch_size, 0), levels, device)
    rank, processes = share
    starts = range(rank * batch_size, len(records), processes * batch_size)
    chosen = [records[start : start + batch_size] for start in starts]
    yield from zip(chosen, stream.stored_batches(chosen), strict=True)


def full_prediction(logits: Tensor, size: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Predicts at a label's size from a student's logits.

    Args:
        logits: (K, h, w), any device.
        size: (H, W).

    Returns:
        (class map (H, W) int64, probability of the predicted class (H, W)), on the CPU.
    """
    full = at_size(logits[None], (size[0], size[1]))[0]
    highest, prediction = full.max(0)  # argmax over the first axis alone takes ten times as long on CPUs
    return prediction.cpu(), (highest - full.logsumexp(0)).exp().cpu()


def save_mask(path: Path, prediction: Tensor) -> None:
    """Writes a class map as lossless PNG of class indices."""
    with atomic(path) as file:
        Image.fromarray(prediction.numpy().astype(np.uint8)).save(file, format="png")
