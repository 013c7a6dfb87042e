"""Expected calibration error: how far a network's confidences are from the share of its pixels that are right.

Pixels fall into 15 bins of equal width by the probability of their predicted class (Naeini et al., AAAI 2015; Guo et
al., ICML 2017, Eq. 3); the error is the mean over pixels of |accuracy of the bin - mean confidence of the bin|.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

BINS = 15


class CalibrationBins:
    """Counts of pixels by the confidence of their prediction.

    Attributes:
        sums: (3, 15) float64: pixels of each bin, right ones among them, and the sum of their confidences.
    """

    def __init__(self) -> None:
        self.sums = torch.zeros(3, BINS, dtype=torch.float64)

    @classmethod
    def merged(cls, parts: "Sequence[CalibrationBins]") -> "CalibrationBins":
        """The counts of all parts together."""
        whole = cls()
        whole.sums = torch.stack([part.sums for part in parts]).sum(0)
        return whole

    @property
    def pixels(self) -> int:
        """Number of pixels counted so far."""
        return int(self.sums[0].sum())

    def add(self, confidence: Tensor, right: Tensor) -> None:
        """Counts pixels.

        Args:
            confidence: (N,) probability of the predicted class, in [0, 1].
            right: (N,) bool, whether the prediction is the label.
        """
        confidence = confidence.double()
        bins = (confidence * BINS).ceil().long().sub_(1).clamp_(0, BINS - 1)  # (0, 1/15], (1/15, 2/15] …
        for row, weights in zip(self.sums, (None, right.double(), confidence), strict=True):
            row += torch.bincount(bins, weights, minlength=BINS)

    def error(self) -> float:
        """The expected calibration error, in [0, 1]; NaN before any pixel."""
        pixels, right, confidence = self.sums
        return float((right - confidence).abs().sum() / pixels.sum())
