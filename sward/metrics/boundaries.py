"""Distances between the boundaries of two masks: boundary F (Csurka et al., BMVC 2013) and HD95, in pixels."""

import math

import numpy as np


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
