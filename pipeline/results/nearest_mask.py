"""Masks copied from the most alike training image: what lookup alone gives, as the floor of a comparison."""

from typing import Any

import numpy as np
from PIL import Image

from pipeline.cache.manifest.records import Record, full_label_path
from pipeline.cache.store import Store
from sward.metrics import SegmentationMetrics

SIZE = (32, 24)  # (width, height) at which images are compared


def copied_masks(store: Store) -> dict[str, Any]:
    """Metrics on the evaluation subset of predictions that are the labels of the nearest training images.

    Nearest is the largest correlation of the stored RGB images (first view of each training image), reduced to 32 x 24
    pixels, each less its mean and divided by its norm. Of equals, the first in row order.

    Returns:
        As ``evaluate``: {"subset", "metrics", "per_image"}.
    """
    subset, metrics = store.evaluation_subset, SegmentationMetrics(len(store.classes))
    training = [record for record in store.records["train"] if record.view.number == 0 and record.labelled]
    known = np.stack([_signature(store, record) for record in training])
    for record in store.records[subset]:
        nearest = training[int((known @ _signature(store, record)).argmax())]
        label = store.full_label(record)
        row = metrics.update(_label(store, nearest, label.shape), label, record.id)
        row |= {} if record.group is None else {"group": record.group}
    return {"subset": subset, "metrics": metrics.compute(), "per_image": metrics.per_image}


def _signature(store: Store, record: Record) -> np.ndarray:
    """(3 * 24 * 32,) float64 of unit length."""
    image = store.arrays(record, ["image"])["image"].transpose(1, 2, 0)
    small = np.asarray(Image.fromarray(image).resize(SIZE, Image.Resampling.BOX), dtype=float).ravel()
    small -= small.mean()
    return small / max(float(np.linalg.norm(small)), 1e-12)


def _label(store: Store, record: Record, size: tuple[int, ...]) -> np.ndarray:
    """(H, W) label of a training image at another image's size; background where the label is ignored."""
    file = full_label_path(store.path, record.digest)
    label = np.asarray(Image.open(file)) if file.is_file() else store.arrays(record, ["label"])["label"]
    same = np.asarray(Image.fromarray(label).resize((size[1], size[0]), Image.Resampling.NEAREST))
    return np.where(same < len(store.classes), same, 0)
