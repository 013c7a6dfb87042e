"""Unit writer that renders views of a data set and runs the teacher on them."""

import io
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pipeline.augmented_views import render
from pipeline.cache.config import CacheConfig
from pipeline.cache.extraction.device_encoding import DeviceEncoder
from pipeline.cache.extraction.timing import note
from pipeline.cache.extraction.unit_writer import Batch, Encoded, UnitWriter
from pipeline.cache.manifest.records import Record, Unit
from pipeline.datasets import Sample, read_image, read_label
from pipeline.devices import device_name
from sward.pixels import normaliser
from sward.sent import sent

Rendered = tuple[np.ndarray, np.ndarray, np.ndarray]  # student's image, label, image for the teacher
Samples = dict[tuple[str, str], Sample]  # by (subset, digest)


class TeacherWriter(UnitWriter):
    """Renders views of a data set and stores them with the teacher's features.

    The array layouts are listed in `unit_writer.py`.
    """

    def __init__(
        self,
        path: Path,
        config: CacheConfig,
        plans: list[dict[str, Any]],
        samples: list[Sample],
        teacher: Any,
        device: torch.device,
    ) -> None:
        super().__init__(path, config, plans)
        self.teacher, self.device = teacher, device
        self.samples: Samples = {(s.subset, s.digest): s for s in samples}
        self.normalise = normaliser(*config.teachers_normalisation, device)
        self.on_device = DeviceEncoder(config.codec, device) if device.type == "cuda" else None

    def render(self, record: Record) -> Rendered:
        size, own = self.config.size_of(record.subset), self.config.teachers_size_of(record.subset)
        return render_twice(record, self.samples, size, own)

    def process_batch(self, records: Batch, rendered: list[Any]) -> list[Any]:
        """For every record its rendered view (image, label) and its features, level -> (C, H, W) float32.

        On a GPU the features are encoded there: in their place stand the encoded batch and the record's number in it.
        """
        features = self.features(np.stack([seen for _, _, seen in rendered]))
        if self.on_device:
            batch = self.on_device(features)
            return [(view[:2], (batch, i)) for i, view in enumerate(rendered)]
        arrays = {level: f.numpy() for level, f in features.items()}
        return [(view[:2], {level: f[i] for level, f in arrays.items()}) for i, view in enumerate(rendered)]

    def features(self, images: np.ndarray) -> dict[str, Tensor]:
        """The teacher's features of rendered views (B, H, W, 3) uint8: level -> (B, C, H/stride, W/stride) float32."""
        x = sent(torch.from_numpy(images), self.device).permute(0, 3, 1, 2)
        return self.teacher(self.normalise(x))

    def encode(self, record: Record, processed: Any) -> Encoded:
        (image, label), features = processed
        pixels = {"image": image.transpose(2, 0, 1), "label": label}
        if self.on_device:
            batch, i = features
            return self.encoded_features(record, batch.statistics(i), lambda: batch.arrays(i), pixels)
        return self.encode_features(record, features, pixels)

    def full_label(self, record: Record) -> bytes:
        buffer = io.BytesIO()
        label = read_label(self.samples[record.subset, record.digest])
        Image.fromarray(label).save(buffer, format="png", optimize=False)
        return buffer.getvalue()

    def note(self, unit: Unit, seconds: float) -> None:
        note(self.path, unit.name, len(unit.records), seconds, device_name(self.device))

    def provenance(self) -> dict[str, Any]:
        return provenance(self.config, self.device)


def render_twice(
    record: Record, samples: Samples, size: tuple[int, int], own: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Render the record's view at ``size``, image and label, and its image again from the source at ``own``."""
    sample = samples[record.subset, record.digest]
    source, mask = read_image(sample), read_label(sample)
    image, label = render(source, mask, record.view, size)
    return image, label, image if own == size else render(source, mask, record.view, own)[0]


def provenance(config: CacheConfig, device: torch.device) -> dict[str, Any]:
    """Versions, device and batch size that made the bytes: information for people, never compared."""
    names = ("sward", "torch", config.teacher.package, "numpy", "pillow", "zarr")
    return {
        "versions": {n: version(n) for n in names},
        "device": device_name(device),
        "batch_size": config.batch_size,
        "threads": torch.get_num_threads(),
    }
