"""A store on disk: plans, receipts, Zarr metadata; and the reader that trusts nothing else.

    store.zarr/
      plan/0000.json              what will be written: identity, units, records with their views; immutable
      receipts/train-00000.json   written last: this unit is complete (sizes, checksums, statistics)
      train/s4/c/0/0/0/0 …        one shard file per (unit, array); arrays s4 s8 s16 s32 image label
      full_labels/<digest>.png    label at the source's resolution, for evaluation
      timing.jsonl                what each unit took; no part of the content
      appended/plan.json          optional: tensors of a teacher head added to every record (`appended.py`)
      zarr.json …                 metadata: any Zarr v3 reader opens the named arrays

A unit is one shard of every array of a subset; it becomes visible to readers in `unit.py`, `UnitWriter.commit`.
Rows that no plan names (the rest of a generation's last shard) hold nothing. An extension is a new plan; plans
and receipts are never changed.
"""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from copy import copy
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pipeline.cache.errors import StoreDamaged, StoreIncomplete
from pipeline.cache.format.arrays import array_specs
from pipeline.cache.format.codecs import CODECS, ArraySpecs, Codec
from pipeline.cache.format.shards import crc32c_of, pieces
from pipeline.cache.manifest.appended import APPENDED, appended_specs, read_appended
from pipeline.cache.manifest.folds import count_folds, role
from pipeline.cache.manifest.records import WITHDRAW, Record, compression_of, plan_units, read_plans, receipt_path
from pipeline.cache.storage.mirror import mirror_of
from pipeline.cache.storage.range_reader import RangeReader
from pipeline.cache.storage.shard_reader import ShardReader
from pipeline.paths import with_urls
from pipeline.types import Arrays


class Store:
    """A complete store, opened for reading; safe to share between threads.

    Args:
        path: its folder, or the folder that stands for a URL (`paths.read_path` gives it).
        partial: leave out what has no receipt.
        cache_bytes: of a store at a URL, how much of what was read is kept on this disk; None: what others leave.

    Raises on opening:
        FileNotFoundError: no store there.
        StoreIncomplete: planned shards are missing (``partial=True`` leaves their records out instead).
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
        found = {unit.name: unit.receipt(self.path) for unit in self.units}
        self.receipts: dict[str, dict[str, Any]] = {name: r for name, r in found.items() if r is not None}
        self.missing = [name for name, r in found.items() if r is None]
        if self.missing and not partial:
            raise StoreIncomplete(
                f"the store {self.location} is incomplete: {len(self.missing)} of {len(self.units)} shards have no "
                f"receipt (first: {self.missing[0]}); continue it with the command that made it. {WITHDRAW}"
            )
        self.appended = read_appended(self.path, self.content_id, self.units)
        self._check_sizes()
        self._specs: dict[str, ArraySpecs] = {}
        self.reader = (
            RangeReader(self.mirror.remote, self.shard_records, self.objects, self.content_id, cache_bytes)
            if self.mirror
            else ShardReader(self.path, self.shard_records)
        )

    @property
    def location(self) -> str:
        """Where it is, for people: its URL or its folder."""
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
        return self.identity["data.classes"]

    @property
    def evaluation_subset(self) -> str:
        """Where results are reported: test, or val where test has no labels (Cityscapes)."""
        return "test" if self.records["test"] else "val"

    @property
    def normalisation(self) -> tuple[list[float], list[float]]:
        """(mean, std) of RGB in [0, 1]."""
        return self.identity["input.mean"], self.identity["input.std"]

    def size(self, subset: str) -> tuple[int, int]:
        height, width = self.identity["input.size" if subset == "train" else "input.eval_size"]
        return height, width

    def specs(self, subset: str) -> ArraySpecs:
        """Array name -> (shape of one record, dtype)."""
        if subset not in self._specs:
            appended = appended_specs(self.appended, subset) if self.appended else {}
            self._specs[subset] = array_specs(self.codec, self.channels, self.size(subset)) | appended
        return self._specs[subset]

    def level_arrays(self, level: str) -> list[str]:
        """Names of the arrays that hold a level, or an appended tensor.

        Raises:
            KeyError: the store has no such level; lists the ones it has.
        """
        if self.appended and level in self.appended["channels"]:
            return [level]
        if level not in self.channels:
            raise KeyError(f"the store {self.location} has no level {level}; it has {', '.join(self.channels)}")
        return list(self.codec.arrays(level, (1, 8, 8)))

    def decode(self, name: str, parts: dict[str, Tensor], subset: str) -> Tensor:
        """(B, C, h, w) float32 of a level, or an appended tensor, on the device where the parts are."""
        if self.appended and name in self.appended["channels"]:
            return APPENDED.decode(name, parts, (0, 0))
        height, width = self.size(subset)
        return self.codec.decode(name, parts, (height // int(name[1:]), width // int(name[1:])))

    def read(self, record: Record, out: Arrays) -> None:
        """Read the arrays named in ``out`` of one record straight into its (C-contiguous) buffers.

        Raises:
            StoreDamaged: bytes are missing.
        """
        self.reader.read(record, out, self.is_compressed)

    def prefetch(self, record: Record, like: Arrays) -> None:
        """Have the disk begin with what reading the record into such buffers will need; returns at once."""
        self.reader.prefetch(record, like)

    def kept_open(self) -> AbstractContextManager[None]:
        """For many reads: meanwhile the files read last stay open."""
        return self.reader.kept_open()

    def arrays(self, record: Record, names: Iterable[str] | None = None) -> Arrays:
        """Arrays of one record as they are stored, by name; None: all of them. Raises as ``read``."""
        specs = self.specs(record.subset)
        out = {name: np.empty(*specs[name]) for name in (specs if names is None else names)}
        self.read(record, out)
        return out

    def is_compressed(self, array: str) -> bool:
        """Whether an array's chunks are compressed; appended tensors never are."""
        return self.compression != "none" and not (self.appended and array in self.appended["channels"])

    def features(self, record: Record, levels: list[str] | None = None) -> dict[str, Tensor]:
        """Decoded features of one record, level -> (C, h, w) float32: for tools; training uses the stream."""
        decoded = {}
        for level in levels or self.channels:
            parts = self.arrays(record, self.level_arrays(level))
            batch = {n: torch.from_numpy(a)[None] for n, a in parts.items()}
            decoded[level] = self.decode(level, batch, record.subset)[0]
        return decoded

    def full_label(self, record: Record) -> np.ndarray:
        """(H, W) uint8 label at the source's own resolution (validation and test records)."""
        with Image.open(full_label_path(self.path, record.digest)) as image:
            return np.array(image)

    def statistics(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Level -> per-channel (mean, std) of the teacher over all training records, each (C,) float32."""
        training = [unit for unit in self.units if role(unit, self.fold, self.folds) == "train"]
        receipts = [self.receipts[unit.name] for unit in training if unit.name in self.receipts]
        found = {}
        for level in self.channels:
            count = sum(r["levels"][level]["count"] for r in receipts)
            first, second = (
                np.sum([r["levels"][level][k] for r in receipts], axis=0) / count for k in ("sum", "sum_squares")
            )
            std = np.sqrt(np.maximum(second - first**2, 0))
            found[level] = torch.tensor(first, dtype=torch.float32), torch.tensor(std, dtype=torch.float32)
        return found

    def size_of(self, file: str) -> int | None:
        """Bytes of a file of the store; None where it is missing."""
        if self.mirror:
            return self.objects[file].bytes if file in self.objects else None
        path = self.path / file
        return path.stat().st_size if path.is_file() else None

    def pieces(self, file: str) -> Iterator[bytes]:
        """The bytes of a file of the store."""
        return self.mirror.remote.pieces(file, self.objects[file].bytes) if self.mirror else pieces(self.path / file)

    def checksum(self, file: str) -> int | None:
        """crc32c of a file of the store, read whole; None where it is missing."""
        return None if self.size_of(file) is None else crc32c_of(self.pieces(file))

    def _check_sizes(self) -> None:
        for name, receipt in self.receipts.items():
            for file, facts in receipt["files"].items():
                size = self.size_of(file)
                if size != facts["bytes"]:
                    own = with_urls(receipt_path(self.path, name))
                    there = "missing" if size is None else f"{size} bytes"
                    found = f"{self.location}/{file}: {there}, its receipt says {facts['bytes']}"
                    raise StoreDamaged(f"{found}; delete {own}, and the command that made the store makes it again")


def full_label_path(path: Path, digest: str) -> Path:
    return path / "full_labels" / f"{digest}.png"
