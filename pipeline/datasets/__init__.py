"""Data sets: cards, splits, checks, reading."""

from pipeline.datasets.card import Card, Subset, read_card
from pipeline.datasets.image_files import Sample, read_image, read_label, sample_digest
from pipeline.datasets.loading import Dataset, check, check_all, load_dataset
from pipeline.datasets.problems import DatasetError, Problem

__all__ = [
    "Card",
    "Dataset",
    "DatasetError",
    "Problem",
    "Sample",
    "Subset",
    "check",
    "check_all",
    "load_dataset",
    "read_card",
    "read_image",
    "read_label",
    "sample_digest",
]
