"""Segmentation metrics of one split: overlap and boundary per image, mIoU and mAcc over all pixels.

- Two classes (class 1 is the foreground): Dice and IoU of every image and their means over images, which polyp
  papers call mDice and mIoU; boundary F (Csurka et al., BMVC 2013) and HD95 on the masks' inner boundaries.
- Any number of classes: mIoU and mAcc from one confusion matrix of the whole split, as Cityscapes does.

Pixels whose label is ``ignore`` are left out of every metric. The border between a mask and ignored pixels is not
a boundary.
"""

import math

import numpy as np
import torch
from torch import Tensor

from sward.contracts import IGNORE

TOLERANCE = 0.0075  # share of the image's diagonal; the usual tolerance of boundary measures
PER_IMAGE = ("dice", "iou", "boundary_f", "hd95")


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


def boundary(mask: np.ndarray, ignored: np.ndarray) -> np.ndarray:
    """Returns the inner boundary of a mask, (H, W) bool.

    A pixel of ``mask`` is a boundary pixel if one of its four neighbours is outside the image, or is neither in the
    mask nor ignored.
    """
    from scipy.ndimage import binary_erosion

    return mask & ~binary_erosion(mask | ignored)


def boundary_distances(prediction: np.ndarray, label: np.ndarray, ignored: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Computes the distances between two masks' boundaries, in pixels.

    Returns:
        (distance of each predicted boundary pixel to the label's boundary, distance of each label boundary pixel to
        the predicted boundary). An array is empty if its own boundary is empty, and infinite if only the other
        boundary is empty.
    """
    from scipy.ndimage import distance_transform_edt

    ours, theirs = boundary(prediction & ~ignored, ignored), boundary(label & ~ignored, ignored)
    if not (ours.any() and theirs.any()):
        return np.full(ours.sum(), math.inf), np.full(theirs.sum(), math.inf)
    return distance_transform_edt(~theirs)[ours], distance_transform_edt(~ours)[theirs]


def boundary_f(ours: np.ndarray, theirs: np.ndarray, tolerance: float) -> float:
    """Computes the boundary F-measure; a boundary pixel is correct if the other boundary is within ``tolerance``.

    Args:
        ours: distances of the predicted boundary pixels, from ``boundary_distances``.
        theirs: distances of the label's boundary pixels, from ``boundary_distances``.
        tolerance: largest accepted distance, in pixels (inclusive).

    Returns:
        Value in [0, 1]; 1 if both boundaries are empty, 0 if only one is.
    """
    if not (ours.size and theirs.size):
        return float(ours.size == theirs.size)
    precision, recall = (ours <= tolerance).mean(), (theirs <= tolerance).mean()
    return float(2 * precision * recall / (precision + recall)) if precision + recall > 0 else 0.0


def hd95(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Computes the 95 % Hausdorff distance, in pixels: the larger of the two directed 95th percentiles.

    The arguments come from ``boundary_distances``. The result is 0 if both boundaries are empty, and NaN (undefined)
    if only one is.
    """
    if not (ours.size and theirs.size):
        return 0.0 if ours.size == theirs.size else math.nan
    return float(max(np.percentile(ours, 95), np.percentile(theirs, 95)))


class SegmentationMetrics:
    """Accumulates the metrics of a split, image by image.

    Attributes:
        num_classes: number of classes, background included.
        ignore: label of pixels that are not counted.
        confusion: (K, K) int64 pixel counts of all images so far; row = label, column = prediction.
        per_image: the rows that ``update`` returned, one per image.

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
                "included) and an ignore label outside them: correct the data set's card."
            )
        self.num_classes, self.ignore = num_classes, ignore
        self.confusion = torch.zeros(num_classes, num_classes, dtype=torch.int64)
        self.per_image: list[dict[str, float | str]] = []

    def update(self, prediction: Tensor | np.ndarray, label: Tensor | np.ndarray, id: str) -> dict[str, float | str]:
        """Adds one image to the split.

        Args:
            prediction: (H, W) class indices, any integer type, at the label's resolution.
            label: (H, W) class indices or ``ignore``, any integer type.
            id: name of the image in messages and in ``per_image``.

        Returns:
            ``id``, ``miou`` and ``macc`` of this image, and for two classes ``dice``, ``iou``, ``boundary_f``
            and ``hd95`` (pixels, NaN where undefined), and ``size``, the foreground's share of the counted pixels.

        Raises:
            ValueError: the shapes differ, a class is out of range, or every pixel is ignored.
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
        """Replaces the counts by the sum of ``parts``, which counted different images.

        Args:
            parts: metrics of disjoint sets of images.
            ids: names of all images, in the order that ``per_image`` shall have.
        """
        position = {id: i for i, id in enumerate(ids)}
        self.confusion = torch.stack([part.confusion for part in parts]).sum(0)
        rows = [row for part in parts for row in part.per_image]
        self.per_image = sorted(rows, key=lambda row: position[str(row["id"])])

    def compute(self) -> dict[str, float]:
        """Computes the metrics of the split.

        Returns:
            ``miou`` and ``macc`` of the split's confusion matrix, over the classes that occur. For two classes also
            the means over images of ``dice``, ``iou``, ``boundary_f`` and ``hd95`` (pixels). The mean of ``hd95``
            leaves out images where it is undefined; ``hd95_undefined`` is their number.

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
                "expected both as (H, W) of equal size: resize the logits to the label's size before argmax."
            )
        counted = label != self.ignore
        if not counted.any():
            raise ValueError(f"{id}: every pixel is ignored ({self.ignore}): remove this image from the split.")
        for name, values in (("prediction", prediction[counted]), ("label", label[counted])):
            low, high = int(values.min()), int(values.max())
            if low < 0 or high >= self.num_classes:
                raise ValueError(
                    f"{id}: {name} has values {low}..{high}, expected 0..{self.num_classes - 1} "
                    f"or {self.ignore} (ignored): check the classes of the data set's card."
                )


def integers(values: Tensor | np.ndarray) -> Tensor:
    """Copies an integer array or tensor, on any device, into a new int64 tensor on the CPU.

    Raises:
        ValueError: the values are no integers; rounding them would count other classes.
    """
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    if array.dtype.kind not in "biu":
        raise ValueError(
            f"got values of type {array.dtype}, expected class indices of an integer type: take the argmax of logits, "
            "and convert masks with a rule of your own."
        )
    return torch.from_numpy(array.astype(np.int64))


def overall(confusion: Tensor) -> dict[str, float]:
    """Computes ``miou`` over the classes in labels or predictions, and ``macc`` over the classes in labels."""
    return {
        "miou": float(class_iou(confusion).nanmean()),
        "macc": float(class_accuracy(confusion).nanmean()),
    }
