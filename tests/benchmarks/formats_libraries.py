"""The libraries that `formats.py` compares: how each writes records and reads one of them into buffers.

A record is its arrays by name. Every library gets what its own documentation would have a user do; none copies more
often than its interface makes it. A reader belongs to one thread: each thread opens its own.
"""

import io
import json
import tarfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from sward.compat import import_torchvision_safely

Row = dict[str, np.ndarray]  # array name -> (C, h, w)
Read = Callable[[int, Row], None]  # copies the record of that number into the row
CHUNK_BYTES = 1 << 26  # LitData's and MosaicML's default
RECORDS_A_TAR = 8


def fill(row: Row, found: Any) -> None:
    for name, buffer in row.items():
        np.copyto(buffer, found[name])


class Library:
    """Base. ``note``: what a reader of the table has to know."""

    name: str
    note: ClassVar[str] = ""

    def place(self, folder: Path) -> Path:
        """Its folder below the benchmark's."""
        return folder / self.name

    def write(self, folder: Path, records: list[Row]) -> None:
        raise NotImplementedError

    def open(self, folder: Path, stack: ExitStack, threads: int) -> list[Read]:
        """A reader for each thread; what they hold open is closed with the stack."""
        raise NotImplementedError


class ZarrDefault(Library):
    """zarr-python writing and reading with its default compressor, a chunk a record."""

    name = "zarr-python, zstd"
    note = "arrays made by zarr-python with its default compressor"

    def write(self, folder: Path, records: list[Row]) -> None:
        import zarr

        group = zarr.open_group(folder, mode="w")
        for name, a in records[0].items():
            array = group.create_array(name, shape=(len(records), *a.shape), chunks=(1, *a.shape), dtype=a.dtype)
            for i, record in enumerate(records):
                array[i] = record[name]

    def open(self, folder: Path, stack: ExitStack, threads: int) -> list[Read]:
        import zarr

        arrays = dict(zarr.open_group(folder, mode="r").arrays())
        return [lambda i, row: fill(row, {name: arrays[name][i] for name in row})] * threads


class LitData(Library):
    name = "LitData"

    def write(self, folder: Path, records: list[Row]) -> None:
        from litdata.streaming import Cache

        cache = Cache(str(folder), chunk_bytes=CHUNK_BYTES)
        for i, record in enumerate(records):
            cache[i] = record
        cache.done()
        cache.merge()

    def open(self, folder: Path, stack: ExitStack, threads: int) -> list[Read]:
        from litdata import StreamingDataset

        datasets = [StreamingDataset(str(folder)) for _ in range(threads)]
        return [lambda i, row, dataset=dataset: fill(row, dataset[i]) for dataset in datasets]


class Mosaic(Library):
    name = "MosaicML Streaming"
    note = "LocalDataset: StreamingDataset without its downloads and shared memory"

    def write(self, folder: Path, records: list[Row]) -> None:
        import_torchvision_safely()  # streaming imports it
        from streaming import MDSWriter

        columns = {name: f"ndarray:{a.dtype.name}:{','.join(map(str, a.shape))}" for name, a in records[0].items()}
        with MDSWriter(out=str(folder), columns=columns, size_limit=CHUNK_BYTES) as writer:
            for record in records:
                writer.write(record)

    def open(self, folder: Path, stack: ExitStack, threads: int) -> list[Read]:
        from streaming import LocalDataset

        dataset = LocalDataset(str(folder))
        return [lambda i, row: fill(row, dataset[i])] * threads


class WebDataset(Library):
    name = "WebDataset"
    note = "sequential: tar files have no random access"

    def write(self, folder: Path, records: list[Row]) -> None:
        shapes = {name: (a.shape, a.dtype.name) for name, a in records[0].items()}
        (folder / "shapes.json").write_text(json.dumps(shapes))
        each = max(1, min(RECORDS_A_TAR, len(records) // 4))  # every thread needs a tar
        for i, record in enumerate(records):
            with tarfile.open(folder / f"{i // each:05d}.tar", "a") as tar:
                for name, a in record.items():
                    member = tarfile.TarInfo(f"{i:08d}.{name}")
                    member.size = a.nbytes
                    tar.addfile(member, io.BytesIO(a.tobytes()))

    def open(self, folder: Path, stack: ExitStack, threads: int) -> list[Read]:
        from webdataset import WebDataset as Tars

        shapes = json.loads((folder / "shapes.json").read_text())
        urls = [str(p) for p in sorted(folder.glob("*.tar"))]
        parts = [iter(Tars(urls[t::threads], shardshuffle=False).repeat()) for t in range(threads)]

        def read(samples: Iterator[dict[str, bytes]], _: int, row: Row) -> None:
            sample = next(samples)
            fill(row, {name: np.frombuffer(sample[name], shapes[name][1]).reshape(shapes[name][0]) for name in row})

        return [partial(read, samples) for samples in parts]


class HDF5(Library):
    name = "HDF5"

    def write(self, folder: Path, records: list[Row]) -> None:
        import h5py

        with h5py.File(folder / "records.h5", "w") as file:
            for name, a in records[0].items():
                dataset = file.create_dataset(name, (len(records), *a.shape), a.dtype)  # contiguous
                for i, record in enumerate(records):
                    dataset[i] = record[name]

    def open(self, folder: Path, stack: ExitStack, threads: int) -> list[Read]:
        import h5py

        file = stack.enter_context(h5py.File(folder / "records.h5", "r"))

        def read(i: int, row: Row) -> None:
            for name, buffer in row.items():
                file[name].read_direct(buffer, np.s_[i])

        return [read] * threads


class LMDB(Library):
    name = "LMDB"

    def write(self, folder: Path, records: list[Row]) -> None:
        import lmdb

        with lmdb.open(str(folder), map_size=1 << 36) as environment:
            for i, record in enumerate(records):
                with environment.begin(write=True) as transaction:
                    transaction.put(f"{i:08d}".encode(), b"".join(a.tobytes() for a in record.values()))

    def open(self, folder: Path, stack: ExitStack, threads: int) -> list[Read]:
        import lmdb

        environment = stack.enter_context(lmdb.open(str(folder), readonly=True, lock=False))

        def read(i: int, row: Row) -> None:
            with environment.begin(buffers=True) as transaction:
                value, done = transaction.get(f"{i:08d}".encode()), 0
                for buffer in row.values():
                    np.copyto(buffer, np.frombuffer(value, buffer.dtype, buffer.size, done).reshape(buffer.shape))
                    done += buffer.nbytes

        return [read] * threads


class SafetensorsFiles(Library):
    name = "safetensors a sample"

    def write(self, folder: Path, records: list[Row]) -> None:
        from safetensors.numpy import save_file

        for i, record in enumerate(records):
            save_file(record, folder / f"{i:08d}.safetensors")

    def open(self, folder: Path, stack: ExitStack, threads: int) -> list[Read]:
        from safetensors import safe_open

        def read(i: int, row: Row) -> None:
            with safe_open(folder / f"{i:08d}.safetensors", "np") as file:
                fill(row, {name: file.get_tensor(name) for name in row})

        return [read] * threads


class TorchFiles(Library):
    name = ".pt a sample"

    def write(self, folder: Path, records: list[Row]) -> None:
        for i, record in enumerate(records):
            torch.save({name: torch.from_numpy(a) for name, a in record.items()}, folder / f"{i:08d}.pt")

    def open(self, folder: Path, stack: ExitStack, threads: int) -> list[Read]:
        def read(i: int, row: Row) -> None:
            found = torch.load(folder / f"{i:08d}.pt", weights_only=True)
            fill(row, {name: found[name].numpy() for name in row})

        return [read] * threads


class NumpyFiles(Library):
    name = "npy a sample"
    note = "one file a level"

    def write(self, folder: Path, records: list[Row]) -> None:
        for i, record in enumerate(records):
            for name, a in record.items():
                np.save(folder / f"{i:08d}-{name}.npy", a)

    def open(self, folder: Path, stack: ExitStack, threads: int) -> list[Read]:
        return [lambda i, row: fill(row, {name: np.load(folder / f"{i:08d}-{name}.npy") for name in row})] * threads


LIBRARIES: list[Library] = [
    kind() for kind in (ZarrDefault, LitData, Mosaic, WebDataset, HDF5, LMDB, SafetensorsFiles, TorchFiles, NumpyFiles)
]
