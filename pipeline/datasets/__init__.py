"""Data sets: cards, splits, checks, reading."""

from pipeline.datasets.card import Card, read_card
from pipeline.datasets.loading import Dataset, check, check_all, frame_sequences, load_dataset
from pipeline.datasets.problems import DatasetError, Problem
from pipeline.datasets.samples import Sample, image_size, read_image, read_label, sample_digest
from pipeline.datasets.split_rules import Subset

__all__ = [
    "Card",
    "Dataset",
    "DatasetError",
    "Problem",
    "Sample",
    "Subset",
    "check",
    "check_all",
    "frame_sequences",
    "image_size",
    "load_dataset",
    "read_card",
    "read_image",
    "read_label",
    "sample_digest",
]
