"""Segmentation metrics of one split: overlap and boundary per image, mIoU and mAcc over all pixels.

- Two classes (class 1 is the foreground): Dice and IoU of every image and their means over images, which polyp
  papers call mDice and mIoU; boundary F (Csurka et al., BMVC 2013) and HD95 on the masks' inner boundaries. Where only
  one mask has a boundary HD95 is undefined; ``hd95_penalised`` takes the image's diagonal there.
- Any number of classes: mIoU and mAcc from one confusion matrix of the whole split, as Cityscapes does; the expected
  calibration error (`sward.metrics.calibration`) where the confidences are given.

Pixels whose label is ``ignore`` are left out of every metric. The border between a mask and ignored pixels is not
a boundary.
"""

import math

import numpy as np
import torch
from torch import Tensor

from sward.contracts import IGNORE
from sward.metrics.boundaries import boundary_distances, boundary_f, hd95
from sward.metrics.calibration import CalibrationBins
from sward.metrics.overlap import confusion_matrix, dice_iou, overall

TOLERANCE = 0.0075  # share of the image's diagonal; the usual tolerance of boundary measures
PER_IMAGE = ("dice", "iou", "boundary_f", "hd95", "hd95_penalised")


class SegmentationMetrics:
    """Accumulates the metrics of a split, image by image.

    Attributes:
        num_classes: number of classes, background included.
        ignore: label of pixels that are not counted.
        confusion: (K, K) int64 pixel counts of all images so far; row = label, column = prediction.
        per_image: the rows that ``update`` returned, one per image.
        calibration: pixels by the confidence of their prediction, of the images that came with confidences.

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
        self.calibration = CalibrationBins()

    def update(
        self, prediction: Tensor | np.ndarray, label: Tensor | np.ndarray, id: str, confidence: Tensor | None = None
    ) -> dict[str, float | str]:
        """Adds one image to the split.

        Args:
            prediction: (H, W) class indices, any integer type, at the label's resolution.
            label: (H, W) class indices or ``ignore``, any integer type.
            id: name of the image in messages and in ``per_image``.
            confidence: (H, W) probability of the predicted class, for the calibration error; None leaves it out.

        Returns:
            ``id``, ``miou`` and ``macc`` of this image, and for two classes ``dice``, ``iou``, ``boundary_f``,
            ``hd95`` (pixels, NaN where undefined) and ``hd95_penalised`` (the image's diagonal there), and ``size``,
            the foreground's share of the counted pixels.

        Raises:
            ValueError: the shapes differ, a class is out of range, or every pixel is ignored.
        """
        prediction, label = integers(prediction), integers(label)
        self._check(prediction, label, id)
        confusion = confusion_matrix(prediction, label, self.num_classes, self.ignore)
        self.confusion += confusion
        if confidence is not None:
            counted = label != self.ignore
            self.calibration.add(confidence.cpu()[counted], (prediction == label)[counted])
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
        self.calibration = CalibrationBins.merged([part.calibration for part in parts])
        rows = [row for part in parts for row in part.per_image]
        self.per_image = sorted(rows, key=lambda row: position[str(row["id"])])

    def compute(self) -> dict[str, float]:
        """Computes the metrics of the split.

        Returns:
            ``miou`` and ``macc`` of the split's confusion matrix, over the classes that occur. For two classes also
            the means over images of ``dice``, ``iou``, ``boundary_f``, ``hd95`` and ``hd95_penalised`` (pixels). The
            mean of ``hd95`` leaves out images where it is undefined; ``hd95_undefined`` is their number. ``ece`` where
            confidences were given.

        Raises:
            ValueError: no image was counted.
        """
        if not self.per_image:
            raise ValueError("found no image, expected an update() before compute(): check the split.")
        pixels = overall(self.confusion) | ({"ece": self.calibration.error()} if self.calibration.pixels else {})
        if self.num_classes != 2:
            return pixels
        columns = {name: np.array([row[name] for row in self.per_image], dtype=float) for name in PER_IMAGE}
        undefined = np.isnan(columns["hd95"])
        columns["hd95"] = columns["hd95"][~undefined]
        means = {name: float(column.mean()) if column.size else math.nan for name, column in columns.items()}
        return {**means, "hd95_undefined": float(undefined.sum()), **pixels}

    def _binary(self, prediction: Tensor, label: Tensor, confusion: Tensor) -> dict[str, float]:
        ignored = (label == self.ignore).numpy()
        distances = boundary_distances((prediction == 1).numpy(), (label == 1).numpy(), ignored)
        diagonal = math.hypot(*label.shape)
        hausdorff = hd95(*distances)
        penalised = diagonal if math.isnan(hausdorff) else hausdorff
        values = (*dice_iou(confusion), boundary_f(*distances, TOLERANCE * diagonal), hausdorff, penalised)
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
