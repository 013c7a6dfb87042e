"""Pictures for the log: the same validation images at every validation, with label and prediction beside them."""

import re
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from pipeline.cache.manifest.records import Record
from pipeline.cache.store import Store
from pipeline.drawing.masks import overlay
from pipeline.training.batch_order import Order
from pipeline.training.device.compile import uncompiled
from pipeline.training.stream import Stream
from sward.contracts import Student
from sward.pixels import at_size

GAP = 4  # white pixels between the parts


def shown_records(store: Store, count: int) -> list[Record]:
    """``count`` validation records, evenly spread over the subset: a function of the store alone."""
    records = store.records["val"]
    places = np.linspace(0, len(records) - 1, min(count, len(records))).round().astype(int)
    return [records[place] for place in places]


@torch.no_grad()
def pictures(student: Student, store: Store, device: torch.device, count: int) -> Iterator[tuple[str, np.ndarray]]:
    """Yields (name, picture) for each of ``count`` fixed validation images, at the student's input size.

    The name is the image's id with what no file system takes replaced, because loggers make files of it. A picture has
    three parts: the image, the image with its label, the image with the prediction. It is uint8 RGB,
    (H, 3 W + gaps, 3).

    Args:
        student: in evaluation mode, on ``device``.
        store: the run's store.
        device: where the student is.
        count: number of images.
    """
    levels = tuple(store.channels) if student.reads == "features" else ()
    for record in shown_records(store, count):
        stream = Stream(store, Order((record,), 1, 0), levels, device)
        with uncompiled(student):
            logits = student(stream.batch_of([record]).inputs(student)).logits.float()
        arrays = store.arrays(record, ("image", "label"))
        image, label = arrays["image"].transpose(1, 2, 0), arrays["label"]
        yield re.sub(r"[^\w.-]", "-", record.id), panel(image, label, class_map(logits, label), len(store.classes))


def class_map(logits: Tensor, label: np.ndarray) -> np.ndarray:
    """Class of every pixel (H, W) of a label, from logits (1, K, h, w)."""
    return at_size(logits, (label.shape[0], label.shape[1])).argmax(1)[0].cpu().numpy().astype(np.uint8)


def panel(image: np.ndarray, label: np.ndarray, prediction: np.ndarray, num_classes: int) -> np.ndarray:
    """Image (H, W, 3), image with label, image with prediction, side by side; label and prediction are (H, W)."""
    gap = np.full((image.shape[0], GAP, 3), 255, np.uint8)
    tinted = [overlay(image, classes, num_classes) for classes in (label, prediction)]
    return np.concatenate([image, gap, tinted[0], gap, tinted[1]], axis=1)
