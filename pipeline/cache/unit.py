"""One unit: all records of one shard rendered, encoded, written; then committed.

Rendering runs ahead of the teacher and committing (sync, rename, receipt) runs behind it, so that the disk
costs no teacher time. Where a shard becomes visible to readers: `UnitWriter.commit`. What a unit is made of:
`taught.py` (images and the teacher), `repack.py` (another store).
"""

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np

from pipeline.cache.identity import CacheConfig
from pipeline.cache.mirror import seal
from pipeline.cache.records import Record, Unit, compression_of, receipt_path
from pipeline.cache.shards import ShardWriter
from pipeline.cache.store import array_specs, full_label_path, shard_path
from pipeline.cache.tally import LevelTally
from pipeline.files import atomic, publish
from pipeline.views import pixel_digest

Progress = Callable[[int, int], None]
Arrays = dict[str, np.ndarray]  # by name
Rendered = tuple[tuple[Record, ...], list[Any]]  # records, and what `UnitWriter.render` gave of each


class ExtractionError(RuntimeError):
    """A record cannot be stored; names the sample."""


class UnitWriter:
    """Computes units and commits them; rendering runs ahead, committing runs behind. A subclass says what of."""

    def __init__(self, path: Path, config: CacheConfig, plans: list[dict[str, Any]]) -> None:
        self.path, self.config, self.scratch = path, config, path / "tmp"
        self.shard_records, self.channels = plans[0]["shard_records"], plans[0]["channels"]
        self.packed = compression_of(plans) != "none"

    def render(self, record: Record) -> Any:
        """What ``arrays`` needs of one record; called in threads, ahead."""
        raise NotImplementedError

    def arrays(self, records: tuple[Record, ...], rendered: list[Any], tally: LevelTally) -> Iterator[Arrays]:
        """What is stored of each record of a batch, by array name, from what ``render`` gave."""
        raise NotImplementedError

    def full_label(self, record: Record) -> bytes:
        """The label of a validation or test record at its own resolution, as PNG (lossless)."""
        raise NotImplementedError

    def note(self, unit: Unit, seconds: float) -> None:
        """What the unit took."""
        raise NotImplementedError

    def provenance(self) -> dict[str, Any]:
        """What made these bytes, for people; never compared."""
        raise NotImplementedError

    def published(self, unit: Unit, made: dict[str, Any]) -> bool:
        """Whether another execution has published the unit, with these bytes: only where several write one store."""
        return False

    def run(self, units: list[Unit], total: int, progress: Progress) -> None:
        done, began = total - sum(len(u.records) for u in units), time.monotonic()
        progress(done, total)
        with ThreadPoolExecutor(max(1, self.config.workers)) as renderers, ThreadPoolExecutor(1) as committer:
            pending: Future[None] | None = None
            batches = [batch for unit in units for batch in self.batches(unit)]
            rendered = render_ahead(batches, self.render, self.config.workers, renderers)
            for unit in units:
                before_it, pending = pending, committer.submit(self.compute(unit, rendered))
                if before_it:
                    before_it.result()
                done, before, began = done + len(unit.records), began, time.monotonic()
                self.note(unit, began - before)
                progress(done, total)
            if pending:
                pending.result()

    def batches(self, unit: Unit) -> list[tuple[Record, ...]]:
        """The unit's records by teacher forward; no batch spans two units, so a unit's bytes are its own."""
        size = self.config.batch_size
        return [unit.records[i : i + size] for i in range(0, len(unit.records), size)]

    def compute(self, unit: Unit, rendered: Iterator[Rendered]) -> Callable[[], None]:
        """Write all records of a unit under tmp/; returns the call that commits them."""
        specs = array_specs(self.config.codec, self.channels, self.config.size_of(unit.subset))
        files = {
            name: shard_path(self.scratch / unit.name, unit.subset, name, unit.shard, len(shape) + 1)
            for name, (shape, _) in specs.items()
        }
        writers: dict[str, ShardWriter] = {}
        tally, digests = LevelTally(), []
        try:
            writers |= {name: ShardWriter(file, self.shard_records, self.packed) for name, file in files.items()}
            for records, views in islice(rendered, len(self.batches(unit))):
                for arrays in self.arrays(records, views, tally):
                    for name, array in arrays.items():
                        writers[name].append(array)
                    digests.append(pixel_digest(arrays["image"].transpose(1, 2, 0), arrays["label"]))
        except BaseException:
            abandon(writers)
            raise
        return partial(self.commit, unit, writers, files, {"levels": tally.to_json(), "pixel_digests": digests})

    def encode(self, record: Record, features: Arrays, tally: LevelTally) -> Arrays:
        """A record's levels as the codec stores them."""
        arrays: Arrays = {}
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
        try:
            sums = {name: writer.close() for name, writer in writers.items()}
        except BaseException:
            abandon(writers)
            raise
        finals = {name: self.path / file.relative_to(self.scratch / unit.name) for name, file in files.items()}
        made = {"files": {str(final.relative_to(self.path)): sums[name] for name, final in finals.items()}} | facts
        if self.published(unit, made):
            return
        receipt: dict[str, Any] = {
            "unit": unit.name,
            "records": len(unit.records),
            "records_digest": unit.digest(),
            "provenance": self.provenance(),
        } | made
        for name, file in files.items():
            publish(file, finals[name])
        if unit.subset != "train":
            for record in unit.records:
                label, png = full_label_path(self.path, record.digest), self.full_label(record)
                with atomic(label) as out:
                    out.write(png)
                sums_of_png = {"bytes": len(png), "crc32c": google_crc32c.value(png)}
                receipt["files"][str(label.relative_to(self.path))] = sums_of_png
        seal(self.path, receipt_path(self.path, unit.name), receipt)


def abandon(writers: dict[str, ShardWriter]) -> None:
    """Close what was begun; the files stay behind in tmp/."""
    for writer in writers.values():
        writer.abandon()


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
