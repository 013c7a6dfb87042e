"""Segmentation metrics of one split: overlap and boundary per image, mIoU and mAcc over all pixels.

Binary (class 1 is the foreground): Dice and IoU of every image, then their mean, which is what polyp papers
call mDice and mIoU; boundary F (Csurka et al., BMVC 2013) and HD95 on the masks' inner boundaries. Any number
of classes: one confusion matrix of the whole split, as Cityscapes does. A pixel whose label is ``ignore``
counts nowhere, and no boundary is seen where a mask merely meets such pixels.
"""

import math

import numpy as np
import torch
from torch import Tensor

from sward.contracts import IGNORE

TOLERANCE = 0.0075  # of the image's diagonal, the usual tolerance of boundary measures
PER_IMAGE = ("dice", "iou", "boundary_f", "hd95")


def confusion_matrix(prediction: Tensor, label: Tensor, num_classes: int, ignore: int = IGNORE) -> Tensor:
    """(K, K) int64 counts of pixels: row = label, column = prediction; both inputs of one shape."""
    counted = label != ignore
    cells = label[counted] * num_classes + prediction[counted]
    return torch.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


def class_iou(confusion: Tensor) -> Tensor:
    """(K,) float64 intersection over union; NaN for a class in neither labels nor predictions."""
    hits = confusion.diagonal().double()
    return hits / (confusion.sum(0) + confusion.sum(1) - hits)


def class_accuracy(confusion: Tensor) -> Tensor:
    """(K,) float64 share of a class's pixels that are found; NaN for a class without any."""
    return confusion.diagonal().double() / confusion.sum(1)


def dice_iou(confusion: Tensor) -> tuple[float, float]:
    """Dice and IoU of class 1 from a (2, 2) confusion matrix; both are 1 if neither mask has a pixel."""
    false_positive, false_negative, hits = int(confusion[0, 1]), int(confusion[1, 0]), int(confusion[1, 1])
    errors = false_positive + false_negative
    if errors + hits == 0:
        return 1.0, 1.0
    return 2 * hits / (2 * hits + errors), hits / (hits + errors)


def boundary(mask: np.ndarray, ignored: np.ndarray) -> np.ndarray:
    """(H, W) bool: pixels of ``mask`` with a 4-neighbour off the image, or neither in it nor ignored."""
    from scipy.ndimage import binary_erosion

    return mask & ~binary_erosion(mask | ignored)


def boundary_distances(prediction: np.ndarray, label: np.ndarray, ignored: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distances between two masks' boundaries, pixels: of each predicted pixel to the label's, and back.

    An array is empty if its own boundary is, and infinite if only the other one is.
    """
    from scipy.ndimage import distance_transform_edt

    ours, theirs = boundary(prediction & ~ignored, ignored), boundary(label & ~ignored, ignored)
    if not (ours.any() and theirs.any()):
        return np.full(ours.sum(), math.inf), np.full(theirs.sum(), math.inf)
    return distance_transform_edt(~theirs)[ours], distance_transform_edt(~ours)[theirs]


def boundary_f(ours: np.ndarray, theirs: np.ndarray, tolerance: float) -> float:
    """F-measure of the boundary pixels within ``tolerance`` pixels of the other boundary.

    Args:
        ours, theirs: what ``boundary_distances`` returns.
        tolerance: pixels, inclusive.

    Returns:
        In [0, 1]; 1 if both boundaries are empty, 0 if one is.
    """
    if not (ours.size and theirs.size):
        return float(ours.size == theirs.size)
    precision, recall = (ours <= tolerance).mean(), (theirs <= tolerance).mean()
    return float(2 * precision * recall / (precision + recall)) if precision + recall > 0 else 0.0


def hd95(ours: np.ndarray, theirs: np.ndarray) -> float:
    """95 % Hausdorff distance, pixels: the larger of the two directed 95th percentiles.

    0 if both boundaries are empty, NaN (undefined) if one is.
    """
    if not (ours.size and theirs.size):
        return 0.0 if ours.size == theirs.size else math.nan
    return float(max(np.percentile(ours, 95), np.percentile(theirs, 95)))


class SegmentationMetrics:
    """Accumulates a split, image by image.

    Example:
        >>> metrics = SegmentationMetrics(num_classes=2)
        >>> _ = metrics.update(torch.ones(4, 4).long(), torch.ones(4, 4).long(), "frame")
        >>> metrics.compute()["dice"]
        1.0
    """

    def __init__(self, num_classes: int, ignore: int = IGNORE) -> None:
        if num_classes < 2 or 0 <= ignore < num_classes:
            raise ValueError(
                f"got num_classes={num_classes} and ignore={ignore}, expected at least 2 classes (background "
                "included) and an ignore label that is none of them: correct the data set's card."
            )
        self.num_classes, self.ignore = num_classes, ignore
        self.confusion = torch.zeros(num_classes, num_classes, dtype=torch.int64)
        self.per_image: list[dict[str, float | str]] = []

    def update(self, prediction: Tensor | np.ndarray, label: Tensor | np.ndarray, id: str) -> dict[str, float | str]:
        """Count one image.

        Args:
            prediction: (H, W) classes, any integer type, at the label's resolution.
            label: (H, W) classes or ``ignore``, any integer type.
            id: name of the image in messages and in ``per_image``.

        Returns:
            ``id``, ``miou`` and ``macc`` of this image, and for two classes ``dice``, ``iou``, ``boundary_f``
            and ``hd95`` (pixels, NaN where undefined), and ``size``, the foreground's share of the counted pixels.

        Raises:
            ValueError: shapes differ, a class out of range, or no pixel that counts.
        """
        prediction, label = integers(prediction), integers(label)
        self._check(prediction, label, id)
        confusion = confusion_matrix(prediction, label, self.num_classes, self.ignore)
        self.confusion += confusion
        row: dict[str, float | str] = {"id": id, **overall(confusion)}
        if self.num_classes == 2:
            row.update(self._binary(prediction, label, confusion))
        self.per_image.append(row)
        return row

    def merge(self, parts: list["SegmentationMetrics"], ids: list[str]) -> None:
        """Become the sum of ``parts``, which counted different images; ``per_image`` in the order of ``ids``."""
        place = {id: i for i, id in enumerate(ids)}
        self.confusion = torch.stack([part.confusion for part in parts]).sum(0)
        rows = [row for part in parts for row in part.per_image]
        self.per_image = sorted(rows, key=lambda row: place[str(row["id"])])

    def compute(self) -> dict[str, float]:
        """Figures of the split: ``miou`` and ``macc`` of its confusion matrix, over the classes that occur.

        For two classes also the means over images of ``dice``, ``iou``, ``boundary_f`` and ``hd95``, the last
        over the images where it is defined, with the number of the others in ``hd95_undefined``.

        Raises:
            ValueError: no image was counted.
        """
        if not self.per_image:
            raise ValueError("found no image, expected an update() before compute(): check the split.")
        if self.num_classes != 2:
            return overall(self.confusion)
        columns = {name: np.array([row[name] for row in self.per_image], dtype=float) for name in PER_IMAGE}
        undefined = np.isnan(columns["hd95"])
        columns["hd95"] = columns["hd95"][~undefined]
        means = {name: float(column.mean()) if column.size else math.nan for name, column in columns.items()}
        return {**means, "hd95_undefined": float(undefined.sum()), **overall(self.confusion)}

    def _binary(self, prediction: Tensor, label: Tensor, confusion: Tensor) -> dict[str, float]:
        ignored = (label == self.ignore).numpy()
        distances = boundary_distances((prediction == 1).numpy(), (label == 1).numpy(), ignored)
        tolerance = TOLERANCE * math.hypot(*label.shape)
        values = (*dice_iou(confusion), boundary_f(*distances, tolerance), hd95(*distances))
        size = float((label == 1).sum() / (label != self.ignore).sum())
        return dict(zip(PER_IMAGE, values, strict=True)) | {"size": size}

    def _check(self, prediction: Tensor, label: Tensor, id: str) -> None:
        if label.ndim != 2 or prediction.shape != label.shape:
            raise ValueError(
                f"{id}: got a prediction of {tuple(prediction.shape)} and a label of {tuple(label.shape)}, "
                "expected the same (H, W): resize the logits to the label's size before argmax."
            )
        counted = label != self.ignore
        if not counted.any():
            raise ValueError(f"{id}: every pixel is ignored ({self.ignore}): drop it from the split.")
        for name, values in (("prediction", prediction[counted]), ("label", label[counted])):
            low, high = int(values.min()), int(values.max())
            if low < 0 or high >= self.num_classes:
                raise ValueError(
                    f"{id}: {name} has values {low}..{high}, expected 0..{self.num_classes - 1} "
                    f"or {self.ignore} (ignored): check the classes of the data set's card."
                )


def integers(values: Tensor | np.ndarray) -> Tensor:
    """Any array of integers, on any device, as a new int64 tensor on the CPU."""
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) else values
    return torch.from_numpy(array.astype(np.int64))


def overall(confusion: Tensor) -> dict[str, float]:
    """``miou`` over the classes in labels or predictions, ``macc`` over those in labels."""
    return {
        "miou": float(class_iou(confusion).nanmean()),
        "macc": float(class_accuracy(confusion).nanmean()),
    }
