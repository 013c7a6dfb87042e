"""Opens a feature store for reading; trusts only plans and receipts.

    store.zarr/
      plan/0000.json              what will be written: identity, units, records with their views; immutable
      receipts/train-00000.json   written last: the unit is complete (sizes, checksums, statistics); immutable
      train/s4/c/0/0/0/0 …        one shard file per (unit, array); arrays s4 s8 s16 s32 image label
      full_labels/<digest>.png    label at the source's resolution, for evaluation
      timing.jsonl                seconds of each unit; not part of the content
      appended/plan.json          optional: tensors of a teacher head for every record (`manifest/appended.py`)
      zarr.json …                 metadata: any Zarr v3 reader opens the named arrays

A unit is one shard of every array of a subset. Readers see it once its receipt exists, which `commit_unit`
(`commit.py`) writes last. Rows that no plan names (the end of a generation's last shard) hold no data.
An extension of the store adds a new plan, called a generation; plans and receipts are never changed.
"""

from collections.abc import Iterable
from contextlib import AbstractContextManager
from copy import copy
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pipeline.cache.errors import StoreIncomplete
from pipeline.cache.format.arrays import array_specs
from pipeline.cache.format.codecs import CODECS, ArraySpecs, Codec
from pipeline.cache.manifest.appended import APPENDED, appended_specs, read_appended
from pipeline.cache.manifest.channel_moments import channel_moments, require_statistics
from pipeline.cache.manifest.folds import count_folds, role, training_units
from pipeline.cache.manifest.identity import teachers_size
from pipeline.cache.manifest.records import WITHDRAW, Record, compression_of, full_label_path, plan_units, read_plans
from pipeline.cache.storage.first_reads import FirstReads
from pipeline.cache.storage.mirror import mirror_of
from pipeline.cache.storage.range_reader import RangeReader
from pipeline.cache.storage.shard_reader import ShardReader
from pipeline.cache.storage.store_files import StoreFiles
from pipeline.paths import with_urls
from pipeline.types import Arrays
from sward.levels import grid_of


class Store:
    """A complete store, opened for reading; threads may share it.

    Args:
        path: folder of the store, or local folder that stands for a URL (from `paths.read_path`).
        partial: leave out records without a receipt, instead of raising StoreIncomplete.
        cache_bytes: limit in bytes of the local chunk cache for a store at a URL; the least recently read chunks are
            removed. None: add chunks while the cache holds less than 20 GB, and remove none.

    Raises on opening:
        FileNotFoundError: there is no store at ``path``.
        StoreIncomplete: planned shards have no receipt, and ``partial`` is False.
        StoreDamaged: a file's size is not what its receipt says.
    """

    def __init__(self, path: str | Path, partial: bool = False, cache_bytes: int | None = None) -> None:
        self.path = Path(path)
        self.fold: int | None = None
        self.mirror = mirror_of(self.path)
        self.objects = self.mirror.pull() if self.mirror else {}
        self.plans = read_plans(self.path)
        if not self.plans:
            raise FileNotFoundError(f"no feature store at {self.location}; make it: sward extract <cache config>")
        self.identity: dict[str, Any] = self.plans[-1]["identity"]
        self.content_id: str = self.plans[-1]["content_id"]
        self.codec: Codec = CODECS[self.identity["precision"]]
        self.channels: dict[str, int] = self.plans[0]["channels"]
        self.shard_records: int = self.plans[0]["shard_records"]
        self.compression = compression_of(self.plans)
        self.units = [unit for plan in self.plans for unit in plan_units(plan)]
        receipts = {unit.name: unit.receipt(self.path) for unit in self.units}
        self.receipts: dict[str, dict[str, Any]] = {name: r for name, r in receipts.items() if r is not None}
        self.missing = [name for name, r in receipts.items() if r is None]
        if self.missing and not partial:
            raise StoreIncomplete(
                f"the store {self.location} is incomplete: {len(self.missing)} of {len(self.units)} shards have no "
                f"receipt (first: {self.missing[0]}); run the command that made it again to continue. {WITHDRAW}"
            )
        self.appended = read_appended(self.path, self.content_id, self.units)
        self.files = StoreFiles(self.path, self.location, self.mirror, self.objects)
        self.files.require_sizes(self.receipts)
        require_statistics(self.path, self.receipts, self.channels)
        self.first_reads = FirstReads(self.location, self.units, self.receipts, self.shard_records, self.appended)
        self._specs: dict[str, ArraySpecs] = {}
        self.reader = (
            RangeReader(self.mirror.remote, self.shard_records, self.objects, self.content_id, cache_bytes)
            if self.mirror
            else ShardReader(self.path, self.shard_records)
        )

    @property
    def location(self) -> str:
        """URL or folder of the store, for messages."""
        return self.mirror.url if self.mirror else with_urls(self.path)

    @cached_property
    def records(self) -> dict[str, list[Record]]:
        """Readable records by subset, in row order; of a fold, those it trains, validates and tests on."""
        found: dict[str, list[Record]] = {"train": [], "val": [], "test": []}
        for unit in self.units:
            if unit.name in self.receipts and (subset := role(unit, self.fold, self.folds)):
                found[subset].extend(unit.records)
        return {subset: sorted(records, key=lambda r: r.row) for subset, records in found.items()}

    @cached_property
    def folds(self) -> int:
        """Number of parts of the split's cross-validation; 0: the split has none."""
        return count_folds(self.units)

    def of_fold(self, fold: int) -> "Store":
        """The same store as one fold sees it: ``records`` and ``statistics`` are the fold's (`manifest/folds.py`)."""
        same = copy(self)
        same.fold = fold
        same.__dict__.pop("records", None)
        return same

    @property
    def classes(self) -> list[str]:
        """Class names, in the order of the label values 0, 1, …"""
        return self.identity["data.classes"]

    @property
    def evaluation_subset(self) -> str:
        """Subset on which results are reported: test, or val if test has no labels and so no records (Cityscapes)."""
        return "test" if self.records["test"] else "val"

    @property
    def normalisation(self) -> tuple[list[float], list[float]]:
        """(mean, std) of RGB in [0, 1] for the student."""
        return self.identity["input.mean"], self.identity["input.std"]

    def size(self, subset: str) -> tuple[int, int]:
        """(height, width) of a subset's views, in pixels."""
        height, width = self.identity["input.size" if subset == "train" else "input.eval_size"]
        return height, width

    def teachers_size(self, subset: str) -> tuple[int, int]:
        """(height, width) at which the teacher saw a subset's views, in pixels."""
        return teachers_size(self.identity, subset)

    def specs(self, subset: str) -> ArraySpecs:
        """Array name -> (shape of one record, dtype), for a subset."""
        if subset not in self._specs:
            appended = appended_specs(self.appended, subset) if self.appended else {}
            sizes = self.size(subset), self.teachers_size(subset)
            self._specs[subset] = array_specs(self.codec, self.channels, *sizes) | appended
        return self._specs[subset]

    def level_arrays(self, level: str) -> list[str]:
        """Names of the arrays that hold a level, or an appended tensor.

        Raises:
            KeyError: the store has no such level; the message lists the levels it has.
        """
        if self.appended and level in self.appended["channels"]:
            return [level]
        if level not in self.channels:
            raise KeyError(f"the store {self.location} has no level {level}; it has {', '.join(self.channels)}")
        return list(self.codec.arrays(level, (1, 8, 8)))  # names do not depend on the shape: any (C, H, W) will do

    def decode(self, name: str, parts: dict[str, Tensor], subset: str) -> Tensor:
        """Decodes a batch of a level, or of an appended tensor, on the device of ``parts``.

        Args:
            name: of the level or the appended tensor.
            parts: the arrays of ``level_arrays(name)`` as stored, each with a leading batch axis.
            subset: whose view size determines the map's size.

        Returns:
            (B, C, h, w) float32.
        """
        if self.appended and name in self.appended["channels"]:
            return APPENDED.decode(name, parts, (0, 0))  # fp16 ignores the size: its arrays have the map's own shape
        return self.codec.decode(name, parts, grid_of(name, self.teachers_size(subset)))

    def read(self, record: Record, out: Arrays) -> None:
        """Reads the arrays named in ``out`` of one record straight into its buffers.

        Args:
            record: with a receipt.
            out: array name -> buffer: C-contiguous, of the shape and dtype in ``specs``.

        Raises:
            StoreDamaged: bytes are missing, or do not decompress.
            RemoteError: a store at a URL cannot be reached.
        """
        self.reader.read(record, out, self.is_compressed)

    def prefetch(self, record: Record, like: Arrays) -> None:
        """Asks the local disk to load what ``read(record, like)`` will need; returns at once.

        A hint: no-op for a store at a URL.
        """
        self.reader.prefetch(record, like)

    def kept_open(self) -> AbstractContextManager[None]:
        """Context for many reads: files of a local store that were read last stay open in it."""
        return self.reader.kept_open()

    def arrays(self, record: Record, names: Iterable[str] | None = None) -> Arrays:
        """Reads arrays of one record as stored, by name; ``names`` None: all of them. Raises as ``read`` does."""
        specs = self.specs(record.subset)
        out = {name: np.empty(*specs[name]) for name in (specs if names is None else names)}
        self.read(record, out)
        return out

    def is_compressed(self, array: str) -> bool:
        """Whether an array's chunks are compressed; appended tensors never are."""
        return self.compression != "none" and not (self.appended and array in self.appended["channels"])

    def features(self, record: Record, levels: list[str] | None = None) -> dict[str, Tensor]:
        """Decoded features of one record, level -> (C, h, w) float32. For tools: training reads batches (`Stream`)."""
        wanted = levels or list(self.channels)
        return self.decoded(
            record, self.arrays(record, [n for level in wanted for n in self.level_arrays(level)]), wanted
        )

    def decoded(self, record: Record, arrays: Arrays, levels: Iterable[str]) -> dict[str, Tensor]:
        """Decodes levels of one record from its arrays as stored: level -> (C, h, w) float32."""
        batch = {name: torch.from_numpy(array)[None] for name, array in arrays.items()}
        return {level: self.decode(level, batch, record.subset)[0] for level in levels}

    def full_label(self, record: Record) -> np.ndarray:
        """Label of a validation or test record at the source's own resolution: (H, W) uint8.

        Raises:
            StoreDamaged: the file is not the one that was written.
        """
        png = full_label_path(self.path, record.digest).read_bytes()
        self.first_reads.require_full_label(record, png)
        with Image.open(BytesIO(png)) as image:
            return np.array(image)

    def statistics(self, first: int = 0) -> dict[str, tuple[Tensor, Tensor]]:
        """Level -> per-channel (mean, std) of the teacher over the training records, each (C,) float32.

        ``first`` takes the shards of so many records, in store order; 0: all.
        """
        training = training_units(self.units, self.fold, self.folds, first)
        receipts = [self.receipts[unit.name] for unit in training if unit.name in self.receipts]
        return channel_moments(receipts, self.channels)
