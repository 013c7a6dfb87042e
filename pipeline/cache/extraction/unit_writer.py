"""Writes one unit (one shard of every array): render, teacher, encode, append, commit.

The teacher runs in a thread of its own. A pool of threads renders ahead of it and encodes behind it, the calling thread
appends to the shard files, and one more thread commits (sync, rename, receipt); so the teacher waits neither for cores
nor for the disk. `cache/commit.py` makes a shard visible to readers. The subclasses say where the records
come from: `teacher_writer.py` (images and the teacher) and `tools/repack.py` (another store).

Layouts: a rendered view is an image (H, W, 3) and a label (H, W), both uint8; the teacher gives levels (C, h, w)
float32. The store holds the image as (3, H, W), the label as (H, W) and the levels as the codec's arrays. The pixel
digest is that of the rendered layout (H, W, 3).
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.cache.commit import commit_unit
from pipeline.cache.config import CacheConfig
from pipeline.cache.errors import ExtractionError, StorageOverflow
from pipeline.cache.extraction.prefetch import pools, start_ahead
from pipeline.cache.extraction.statistics import LevelTally, Statistics, finite, statistics
from pipeline.cache.format.arrays import array_specs
from pipeline.cache.format.compression import pack
from pipeline.cache.format.shards import ShardWriter, shard_path
from pipeline.cache.manifest.records import Record, Unit, compression_of, full_label_path
from pipeline.cache.storage.first_reads import SUMS, array_crc32c, array_sums, pixels_of
from pipeline.types import Arrays, Progress

Batch = tuple[Record, ...]


@dataclass(frozen=True)
class Encoded:
    """A record as it is stored, with its part of the unit's receipt.

    Attributes:
        arrays: array name -> the array as stored, or its compressed bytes.
        levels: level -> statistics of its features.
        pixel_digest: digest of image and label.
        sums: array name -> crc32c of the array, uncompressed.
    """

    arrays: Mapping[str, np.ndarray | bytes]
    levels: dict[str, Statistics]
    pixel_digest: str
    sums: dict[str, int]


class UnitWriter:
    """Computes units and commits them; a subclass defines what a record is made from.

    Threads: `run` calls ``render`` and ``encode`` in a pool of ``config.threads`` threads, ``process_batch`` in one
    thread, a batch at a time, and ``claim_or_confirm``, ``full_label`` and ``provenance`` in the committing thread. The
    calling thread appends to the shard files and calls ``note`` and ``progress``. With ``config.threads`` 0 the calling
    thread does everything but the commit.
    """

    def __init__(self, path: Path, config: CacheConfig, plans: list[dict[str, Any]]) -> None:
        self.path, self.config, self.scratch = path, config, path / "tmp"
        self.shard_records, self.channels = plans[0]["shard_records"], plans[0]["channels"]
        self.compression = compression_of(plans)

    def render(self, record: Record) -> Any:
        """Prepare one record for ``process_batch``; called ahead of it, in several threads."""
        raise NotImplementedError

    def process_batch(self, records: Batch, rendered: list[Any]) -> Sequence[Any]:
        """Turn the results of ``render`` into the inputs of ``encode``, one per record.

        Called for one batch after the other, in one thread.
        """
        raise NotImplementedError

    def encode(self, record: Record, processed: Any) -> Encoded:
        """Encode a record as it is stored, from its result of ``process_batch``; called in several threads."""
        raise NotImplementedError

    def full_label(self, record: Record) -> bytes:
        """The label of a validation or test record at its own resolution, as PNG (lossless)."""
        raise NotImplementedError

    def note(self, unit: Unit, seconds: float) -> None:
        """Record the wall-clock seconds that the unit took."""
        raise NotImplementedError

    def provenance(self) -> dict[str, Any]:
        """Versions and device that made the unit's bytes: information for people, never compared."""
        raise NotImplementedError

    def claim_or_confirm(self, unit: Unit, made: dict[str, Any]) -> bool:
        """Claim the unit for the bytes described by ``made``; return whether it is already published with them.

        The default is for a store with one writer: there is nothing to claim, and the unit is not published.
        """
        return False

    def run(self, units: list[Unit], total: int, progress: Progress) -> None:
        """Compute and commit ``units`` in order; report progress in records (done, ``total``).

        A unit is committed while the next one is written. If `run` raises, units with a receipt stay valid and are not
        computed again; the other units have no receipt, so files written for them are ignored and written again.
        """
        done, began = total - sum(len(u.records) for u in units), time.monotonic()
        progress(done, total)
        with pools(max(1, self.config.threads), 1, 1) as (pool, teacher, committer):
            pending: Future[None] | None = None
            records = self.encoded([batch for unit in units for batch in self.batches(unit)], pool, teacher)
            for unit in units:
                before_it, pending = pending, committer.submit(self.write_records(unit, records))
                if before_it:
                    before_it.result()
                done, before, began = done + len(unit.records), began, time.monotonic()
                self.note(unit, began - before)
                progress(done, total)
            if pending:
                pending.result()

    def batches(self, unit: Unit) -> list[Batch]:
        """The unit's records, grouped by teacher forward pass.

        No batch spans two units, so a unit's bytes do not depend on other units.
        """
        size = self.config.batch_size
        return [unit.records[i : i + size] for i in range(0, len(unit.records), size)]

    def encoded(self, batches: list[Batch], pool: ThreadPoolExecutor, teacher: ThreadPoolExecutor) -> Iterator[Encoded]:
        """Yields every record, encoded, in order.

        While a batch is written, the next batches are encoded (as many as the threads can take), one more is in the
        teacher, and two more are rendered. This bounds the memory for features.
        """
        if self.config.threads == 0:
            for batch in batches:
                yield from map(self.encode, batch, self.process_batch(batch, [self.render(record) for record in batch]))
            return

        def render(batch: Batch) -> tuple[Batch, list[Future[Any]]]:
            return batch, [pool.submit(self.render, record) for record in batch]

        def process(batch: Batch, rendered: list[Future[Any]]) -> list[Future[Encoded]]:
            processed = self.process_batch(batch, [future.result() for future in rendered])
            return [pool.submit(self.encode, *each) for each in zip(batch, processed, strict=True)]

        encoding = -(-self.config.threads // self.config.batch_size)  # batches
        for going in start_ahead(
            1 + encoding, lambda begun: teacher.submit(process, *begun), start_ahead(2, render, batches)
        ):
            yield from (future.result() for future in going.result())

    def write_records(self, unit: Unit, records: Iterator[Encoded]) -> Callable[[], None]:
        """Write a unit's records, the next ones of ``records``, under tmp/; return the function that commits them."""
        specs = array_specs(
            self.config.codec,
            self.channels,
            self.config.size_of(unit.subset),
            self.config.teachers_size_of(unit.subset),
        )
        files = {
            name: shard_path(self.scratch / unit.name, unit.subset, name, unit.shard, len(shape) + 1)
            for name, (shape, _) in specs.items()
        }
        writers: dict[str, ShardWriter] = {}
        tally, digests, sums = LevelTally(), [], []
        try:
            writers |= {name: ShardWriter(file, self.shard_records) for name, file in files.items()}
            for record in islice(records, len(unit.records)):
                for name, array in record.arrays.items():
                    writers[name].append(array)
                tally.add(record.levels)
                digests.append(record.pixel_digest)
                sums.append(record.sums)
        except BaseException:
            abandon(writers)
            raise
        facts = {"levels": tally.to_json(), "pixel_digests": digests, SUMS: array_sums(sums)}
        return partial(self.commit, unit, writers, files, facts)

    def encode_features(self, record: Record, features: Arrays, arrays: Arrays) -> Encoded:
        """Encode the record's levels, (C, h, w) float32, with the codec, and add them to ``arrays``: image and label.

        Raises:
            ExtractionError: a value is not finite, or exceeds the codec's range.
        """
        codec, found = self.config.codec, {level: statistics(f) for level, f in features.items()}
        return self.encoded_features(
            record,
            found,
            lambda: dict(chain.from_iterable(codec.encode(level, f).items() for level, f in features.items())),
            arrays,
        )

    def encoded_features(
        self, record: Record, found: dict[str, Statistics], encode: Callable[[], Arrays], arrays: Arrays
    ) -> Encoded:
        """As ``encode_features``, for features of which the statistics are known and ``encode`` gives the arrays."""
        for level in found:
            if not finite(found[level]):
                named = f"{level} of {record.title} has NaN or infinite values"
                raise ExtractionError(f"{named}; nothing of its shard was stored")
        try:
            return self.as_stored(arrays | encode(), found)
        except StorageOverflow as error:
            raise ExtractionError(f"{record.title}: {error}") from error

    def as_stored(self, arrays: Arrays, levels: dict[str, Statistics]) -> Encoded:
        """The record of ``arrays`` that are encoded already: compressed if the store is, with digest and checksums."""
        digest, sums = pixels_of(arrays), {name: array_crc32c(array) for name, array in arrays.items()}
        if self.compression == "none":
            return Encoded(arrays, levels, digest, sums)
        return Encoded({n: pack(a, self.compression) for n, a in arrays.items()}, levels, digest, sums)

    def commit(
        self, unit: Unit, writers: dict[str, ShardWriter], files: dict[str, Path], facts: dict[str, Any]
    ) -> None:
        """Syncs the shard files, then makes them visible to readers (`cache/commit.py`)."""
        try:
            sums = {name: writer.close() for name, writer in writers.items()}
        except BaseException:
            abandon(writers)
            raise
        finals = {name: self.path / file.relative_to(self.scratch / unit.name) for name, file in files.items()}
        made = {"files": {str(final.relative_to(self.path)): sums[name] for name, final in finals.items()}} | facts
        if self.claim_or_confirm(unit, made):
            return
        labels = {
            full_label_path(self.path, record.digest): self.full_label(record)
            for record in unit.records
            if unit.subset != "train"
        }
        temporary = {file: finals[name] for name, file in files.items()}
        commit_unit(self.path, unit, temporary, labels, {"provenance": self.provenance()} | made)


def abandon(writers: dict[str, ShardWriter]) -> None:
    """Close the unfinished shard files; they stay in tmp/."""
    for writer in writers.values():
        writer.abandon()
