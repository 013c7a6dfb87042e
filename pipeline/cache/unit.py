"""One unit: all records of one shard rendered, taught, encoded, written; then committed.

Rendering runs ahead of the teacher and committing (sync, rename, receipt) runs behind it, so that the disk
costs no teacher time. Where a shard becomes visible to readers: `UnitWriter.commit`.
"""

import io
import platform
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from functools import partial
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import torch
from PIL import Image

from pipeline.cache.identity import CacheConfig
from pipeline.cache.records import Record, Unit, receipt_path
from pipeline.cache.shards import ShardWriter
from pipeline.cache.store import array_specs, full_label_path, shard_path
from pipeline.datasets import Dataset, Sample, read_image, read_label
from pipeline.files import atomic, publish, write_json
from pipeline.views import normaliser, pixel_digest, render

Progress = Callable[[int, int], None]
Rendered = tuple[tuple[Record, ...], list[tuple[np.ndarray, np.ndarray]]]
Samples = dict[tuple[str, str], Sample]  # by (subset, digest)


class ExtractionError(RuntimeError):
    """A record cannot be stored; names the sample."""


class UnitWriter:
    """Computes units and commits them; rendering runs ahead, committing runs behind the teacher."""

    def __init__(
        self,
        path: Path,
        config: CacheConfig,
        plans: list[dict[str, Any]],
        dataset: Dataset,
        teacher: Any,
        device: torch.device,
    ) -> None:
        self.path, self.config, self.teacher, self.device = path, config, teacher, device
        self.shard_records, self.channels = plans[0]["shard_records"], plans[0]["channels"]
        self.samples: Samples = {(s.subset, s.digest): s for s in dataset.samples}
        self.normalise = normaliser(config.mean, config.std, device)

    def run(self, units: list[Unit], total: int, progress: Progress) -> None:
        done = total - sum(len(u.records) for u in units)
        progress(done, total)
        with ThreadPoolExecutor(max(1, self.config.workers)) as renderers, ThreadPoolExecutor(1) as committer:
            pending: Future[None] | None = None
            batches = [batch for unit in units for batch in self.batches(unit)]
            rendered = render_ahead(batches, self.render, self.config.workers, renderers)
            for unit in units:
                finish = self.compute(unit, rendered)
                if pending:
                    pending.result()
                pending = committer.submit(finish)
                done += len(unit.records)
                progress(done, total)
            if pending:
                pending.result()

    def batches(self, unit: Unit) -> list[tuple[Record, ...]]:
        """The unit's records by teacher forward; no batch spans two units, so a unit's bytes are its own."""
        size = self.config.batch_size
        return [unit.records[i : i + size] for i in range(0, len(unit.records), size)]

    def render(self, record: Record) -> tuple[np.ndarray, np.ndarray]:
        return render_record(record, self.samples, self.config.size_of(record.subset))

    def compute(self, unit: Unit, rendered: Iterator[Rendered]) -> Callable[[], None]:
        """Write all records of a unit under tmp/; returns the call that commits them."""
        specs = array_specs(self.config.codec, self.channels, self.config.size_of(unit.subset))
        files = {
            name: shard_path(self.path / "tmp" / unit.name, unit.subset, name, unit.shard, len(shape) + 1)
            for name, (shape, _) in specs.items()
        }
        writers = {name: ShardWriter(file, self.shard_records) for name, file in files.items()}
        tally, digests = LevelTally(), []
        try:
            for records, views in islice(rendered, len(self.batches(unit))):
                features = self.teach(np.stack([image for image, _ in views]))
                for i, (record, (image, label)) in enumerate(zip(records, views, strict=True)):
                    arrays = {"image": image.transpose(2, 0, 1), "label": label}
                    arrays |= self.encode(record, {level: f[i] for level, f in features.items()}, tally)
                    for name, array in arrays.items():
                        writers[name].append(array)
                    digests.append(pixel_digest(image, label))
        except BaseException:
            for writer in writers.values():
                writer.abandon()
            raise
        return partial(self.commit, unit, writers, files, {"levels": tally.to_json(), "pixel_digests": digests})

    def teach(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Features of rendered views (B, H, W, 3) uint8."""
        x = self.normalise(torch.from_numpy(images).to(self.device).permute(0, 3, 1, 2))
        return {level: f.cpu().numpy() for level, f in self.teacher(x).items()}

    def encode(self, record: Record, features: dict[str, np.ndarray], tally: "LevelTally") -> dict[str, np.ndarray]:
        arrays: dict[str, np.ndarray] = {}
        for level, f in features.items():
            if not np.isfinite(f).all():
                found = f"{level} of {record.title} has NaN or infinite values"
                raise ExtractionError(f"{found}; nothing of its shard was stored")
            try:
                arrays |= self.config.codec.encode(level, f)
            except ValueError as error:
                raise ExtractionError(f"{record.title}: {error}") from error
            tally.add(level, f)
        return arrays

    def commit(
        self, unit: Unit, writers: dict[str, ShardWriter], files: dict[str, Path], facts: dict[str, Any]
    ) -> None:
        """Sync, rename, receipt: in this order, so that a receipt means the shard is on the disk."""
        sums = {name: writer.close() for name, writer in writers.items()}
        receipt: dict[str, Any] = {
            "unit": unit.name,
            "records": len(unit.records),
            "records_digest": unit.digest(),
            "files": {},
            "provenance": provenance(self.config, self.device),
        } | facts
        for name, file in files.items():
            final = self.path / file.relative_to(self.path / "tmp" / unit.name)
            publish(file, final)
            receipt["files"][str(final.relative_to(self.path))] = sums[name]
        if unit.subset != "train":
            for record in unit.records:
                label, sizes = store_full_label(self.path, record, self.samples[record.subset, record.digest])
                receipt["files"][str(label.relative_to(self.path))] = sizes
        write_json(receipt_path(self.path, unit.name), receipt)


def render_record(record: Record, samples: Samples, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The record's view, from the source: image (H, W, 3) and label (H, W), uint8."""
    sample = samples[record.subset, record.digest]
    return render(read_image(sample), read_label(sample), record.view, size)


def render_ahead(
    batches: list[tuple[Record, ...]], render_one: Callable[[Record], Any], workers: int, pool: Executor
) -> Iterator[Rendered]:
    """(records, their views) in order; with workers, two further batches are being rendered meanwhile."""
    if workers == 0:
        yield from ((batch, [render_one(r) for r in batch]) for batch in batches)
        return
    ahead: deque[list[Future]] = deque()
    for i, batch in enumerate(batches):
        while len(ahead) < min(3, len(batches) - i):
            ahead.append([pool.submit(render_one, r) for r in batches[i + len(ahead)]])
        yield batch, [f.result() for f in ahead.popleft()]


def store_full_label(path: Path, record: Record, sample: Sample) -> tuple[Path, dict[str, int]]:
    """The label at its own resolution as PNG (lossless); its path, size and crc32c."""
    buffer = io.BytesIO()
    Image.fromarray(read_label(sample)).save(buffer, format="png", optimize=False)
    with atomic(full_label_path(path, record.digest)) as file:
        file.write(buffer.getvalue())
    return full_label_path(path, record.digest), {
        "bytes": buffer.tell(),
        "crc32c": google_crc32c.value(buffer.getvalue()),
    }


class LevelTally:
    """Per level: count, minimum, maximum, and per-channel sums, in float64, over the records of one unit."""

    def __init__(self) -> None:
        self.levels: dict[str, dict[str, Any]] = {}

    def add(self, level: str, f: np.ndarray) -> None:
        flat = f.reshape(len(f), -1).astype(np.float64)
        new = {
            "count": flat.shape[1],
            "min": float(f.min()),
            "max": float(f.max()),
            "sum": flat.sum(1),
            "sum_squares": (flat**2).sum(1),
        }
        old = self.levels.get(level)
        merge = {"min": min, "max": max}
        self.levels[level] = new if old is None else {k: merge.get(k, lambda a, b: a + b)(old[k], new[k]) for k in new}

    def to_json(self) -> dict[str, Any]:
        return {
            level: {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in facts.items()}
            for level, facts in self.levels.items()
        }


def provenance(config: CacheConfig, device: torch.device) -> dict[str, Any]:
    """What made these bytes, for people; never compared."""
    names = ("sward", "torch", "sam2", "numpy", "pillow", "zarr")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "versions": {n: version(n) for n in names},
        "device": name,
        "batch_size": config.batch_size,
        "threads": torch.get_num_threads(),
    }
