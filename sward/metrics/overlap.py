"""Overlap of predicted and labelled pixels: confusion matrix, IoU and recall of every class, Dice of two classes."""

import torch
from torch import Tensor

from sward.contracts import IGNORE


def confusion_matrix(prediction: Tensor, label: Tensor, num_classes: int, ignore: int = IGNORE) -> Tensor:
    """Counts pixels by label (row) and prediction (column): (K, K) int64. Both inputs have the same shape."""
    counted = label != ignore
    cells = label[counted] * num_classes + prediction[counted]
    return torch.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


def class_iou(confusion: Tensor) -> Tensor:
    """Computes intersection over union per class, (K,) float64; NaN for classes in neither labels nor predictions."""
    hits = confusion.diagonal().double()
    return hits / (confusion.sum(0) + confusion.sum(1) - hits)


def class_accuracy(confusion: Tensor) -> Tensor:
    """Computes the recall per class, (K,) float64: correctly predicted share of its pixels; NaN if it has none."""
    return confusion.diagonal().double() / confusion.sum(1)


def dice_iou(confusion: Tensor) -> tuple[float, float]:
    """Computes Dice and IoU of class 1 from a (2, 2) confusion matrix; both are 1 if neither mask has a pixel."""
    false_positive, false_negative, hits = int(confusion[0, 1]), int(confusion[1, 0]), int(confusion[1, 1])
    errors = false_positive + false_negative
    if errors + hits == 0:
        return 1.0, 1.0
    return 2 * hits / (2 * hits + errors), hits / (hits + errors)


def overall(confusion: Tensor) -> dict[str, float]:
    """Computes ``miou`` over the classes in labels or predictions, and ``macc`` over the classes in labels."""
    return {
        "miou": float(class_iou(confusion).nanmean()),
        "macc": float(class_accuracy(confusion).nanmean()),
    }
