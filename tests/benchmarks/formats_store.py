"""What `formats.py` reads from the store itself: SWARD's reader, others on the same files, and the limits."""

import os
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from formats_libraries import Library, Read, Row, fill
from synthetic import SHARD

from pipeline.cache.format.shards import shard_path
from pipeline.cache.store import Store

LIMITS, OURS = ("raw", "memcpy"), "SWARD"


class OfStore(Library):
    """A reader of the store that is already written."""

    def __init__(self, records: list[Row]) -> None:
        self.records = records
        self.specs = {name: (a.shape, a.dtype.name) for name, a in records[0].items()}

    def place(self, folder: Path) -> Path:
        return folder / "store"

    def write(self, folder: Path, records: list[Row]) -> None:
        """There is nothing to write."""


class Sward(OfStore):
    name = OURS
    note = "shard indexes are read at opening; the disk is asked for a record two before it is read, as in training"

    def open(self, folder: Path, stack: ExitStack, threads: int) -> list[Read]:
        store = Store(folder)
        for record in store.records["train"][::SHARD]:
            for name, (shape, _) in self.specs.items():
                store.reader.shard("train", name, record.row // SHARD, len(shape))  # reads and keeps the index
        stack.enter_context(store.kept_open())
        return [Reader(store)] * threads


class Reader:
    """Reads records, and has the disk begin with later ones."""

    def __init__(self, store: Store) -> None:
        self.store, self.records = store, store.records["train"]

    def __call__(self, number: int, row: Row) -> None:
        self.store.read(self.records[number], row)

    def prefetch(self, number: int, row: Row) -> None:
        self.store.prefetch(self.records[number], row)


class Raw(OfStore):
    name = "raw"
    note = "preadv of known byte ranges through open files: the limit"

    def open(self, folder: Path, stack: ExitStack, threads: int) -> list[Read]:
        keys = [(name, shard) for name in self.specs for shard in range(-(-len(self.records) // SHARD))]
        paths = [shard_path(folder, "train", name, shard, 4) for name, shard in keys]
        handles = {k: stack.enter_context(p.open("rb")).fileno() for k, p in zip(keys, paths, strict=True)}

        def read(i: int, row: Row) -> None:
            shard, chunk = divmod(i, SHARD)
            for name, buffer in row.items():  # uncompressed chunks in row order: the offset is known without an index
                count = os.preadv(handles[name, shard], [buffer.data.cast("B")], chunk * buffer.nbytes)
                assert count == buffer.nbytes

        return [read] * threads


class Memcpy(OfStore):
    name = "memcpy"
    note = "memory to memory: no file"

    def open(self, folder: Path, stack: ExitStack, threads: int) -> list[Read]:
        return [lambda i, row: fill(row, self.records[i])] * threads


class ZarrOnStore(OfStore):
    name = "zarr-python, store"
    note = "array[row] on the store's uncompressed shards"

    def open(self, folder: Path, stack: ExitStack, threads: int) -> list[Read]:
        import zarr

        arrays = {name: zarr.open_array(folder / "train" / name, mode="r") for name in self.specs}
        return [lambda i, row: fill(row, {name: arrays[name][i] for name in row})] * threads


class TensorstoreOnStore(OfStore):
    name = "tensorstore, store"
    note = "the levels of a record read at once"

    def open(self, folder: Path, stack: ExitStack, threads: int) -> list[Read]:
        import tensorstore

        def opened(name: str) -> "tensorstore.TensorStore":
            where = {"driver": "file", "path": str(folder / "train" / name)}
            return tensorstore.open({"driver": "zarr3", "kvstore": where}, read=True).result()

        arrays = {name: opened(name) for name in self.specs}

        def read(i: int, row: Row) -> None:
            futures = {name: arrays[name][i].read() for name in row}
            for name, future in futures.items():
                np.copyto(row[name], future.result())

        return [read] * threads


def store_formats(records: list[Row]) -> list[OfStore]:
    return [kind(records) for kind in (Raw, Sward, Memcpy, ZarrOnStore, TensorstoreOnStore)]
