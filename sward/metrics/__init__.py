"""Segmentation metrics: overlap, boundaries, calibration."""

from sward.metrics.boundaries import boundary, boundary_distances, boundary_f, hd95
from sward.metrics.calibration import CalibrationBins
from sward.metrics.overlap import class_accuracy, class_iou, confusion_matrix, dice_iou, overall
from sward.metrics.segmentation import PER_IMAGE, TOLERANCE, SegmentationMetrics

__all__ = [
    "PER_IMAGE",
    "TOLERANCE",
    "CalibrationBins",
    "SegmentationMetrics",
    "boundary",
    "boundary_distances",
    "boundary_f",
    "class_accuracy",
    "class_iou",
    "confusion_matrix",
    "dice_iou",
    "hd95",
    "overall",
]
