"""The first view of a data set: rendered for student and teacher, timed, and as the teacher's input."""

from collections.abc import Callable

import torch
from torch import Tensor

from pipeline.cache.config import CacheConfig
from pipeline.cache.extraction.record_plan import wanted_records
from pipeline.cache.extraction.teacher_writer import Rendered, Samples, render_twice
from pipeline.cost_estimates.calibration import median_seconds
from pipeline.datasets import Dataset
from pipeline.devices import cores
from sward.pixels import normaliser


def measure_rendering(config: CacheConfig, dataset: Dataset) -> float:
    """Seconds per view to decode and render it on one core, measured while the other threads do the same."""
    return median_seconds(first_rendering(config, dataset), threads=max(1, min(config.threads, cores())))


def first_rendering(config: CacheConfig, dataset: Dataset) -> Callable[[], Rendered]:
    """A function that renders the first view of the data set's first sample, as ``render_twice``."""
    first = wanted_records(config, Dataset(dataset.card, dataset.split, dataset.samples[:1]))[0]
    samples: Samples = {(s.subset, s.digest): s for s in dataset.samples[:1]}
    sizes = config.size_of(first.subset), config.teachers_size_of(first.subset)
    return lambda: render_twice(first, samples, *sizes)


def first_view(config: CacheConfig, dataset: Dataset) -> Tensor:
    """The image of that view for the teacher, normalised, as a batch of one."""
    image = torch.from_numpy(first_rendering(config, dataset)()[2].copy()).permute(2, 0, 1)[None]
    return normaliser(*config.teachers_normalisation, torch.device("cpu"))(image)
