"""How fast are random whole-record reads of a store, beside what the machine allows?

    python tests/benchmarks/read.py [--records N] [--repetitions R] [--folder DIR] [--json OUT]

A synthetic store with records of Hiera-T's size at 512×512 (fp16, 7.0 MB with image and label) is written under
DIR (default: the system's temporary folder; on a RAM disk `cold` means nothing), read, and removed. Readers, all
in one thread, into the same preallocated batch buffers of 8 records:

    raw     preadv of the same bytes at known offsets through files that are already open: the physical limit
    store   pipeline.cache.store.Store.read, which is what training calls
    zarr    zarr-python's `array[row]` on the same arrays
    memcpy  the same bytes from memory to memory

`warm`: the files are in the page cache; `cold`: they are dropped from it before every pass. The readers take
turns, in rotating order, and read the same random order of records within a repetition. A figure is the median
over repetitions; `of raw` is the median of each repetition's own ratio, so a busy machine weighs on both alike.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from synthetic import SHARD, store_arguments, write_store

from pipeline.cache.format.codecs import array_bytes
from pipeline.cache.format.shards import shard_path
from pipeline.cache.manifest.records import Record
from pipeline.cache.store import Store
from pipeline.files import write_json
from sward import seeds

BATCH = 8
Buffers = dict[str, np.ndarray]  # array name -> (BATCH, *shape)
Reader = Callable[[Record, Buffers], None]  # reads one record into the buffers of one row


def make_readers(store: Store, records: list[Record], stack: ExitStack) -> dict[str, Reader]:
    """The four readers by name; files of `raw` stay open as long as the stack."""
    specs = store.specs("train")
    keys = [(name, shard) for name in specs for shard in range(-(-len(records) // SHARD))]
    paths = [shard_path(store.path, "train", name, shard, len(specs[name][0]) + 1) for name, shard in keys]
    handles = {k: stack.enter_context(p.open("rb")).fileno() for k, p in zip(keys, paths, strict=True)}
    arrays = {name: zarr.open_array(store.path / "train" / name, mode="r") for name in specs}
    memory = {record.row: {name: np.empty(*specs[name]) for name in specs} for record in records}
    for record in records:
        store.read(record, memory[record.row])

    def raw(record: Record, out: Buffers) -> None:
        shard, chunk = divmod(record.row, SHARD)
        for name, buffer in out.items():  # uncompressed chunks in row order: the offset is known without an index
            assert os.preadv(handles[name, shard], [buffer.data.cast("B")], chunk * buffer.nbytes) == buffer.nbytes

    def by_zarr(record: Record, out: Buffers) -> None:
        for name, buffer in out.items():
            buffer[...] = arrays[name][record.row]

    def memcpy(record: Record, out: Buffers) -> None:
        for name, buffer in out.items():
            np.copyto(buffer, memory[record.row][name])

    return {"raw": raw, "store": store.read, "zarr": by_zarr, "memcpy": memcpy}


def require_same_bytes(readers: dict[str, Reader], record: Record, row: Buffers) -> None:
    found = []
    for read in readers.values():
        read(record, row)
        found.append({name: buffer.tobytes() for name, buffer in row.items()})
    assert all(other == found[0] for other in found)


def drop_from_page_cache(store: Store) -> None:
    for file in (store.path / receipt for facts in store.receipts.values() for receipt in facts["files"]):
        with file.open("rb") as handle:
            os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def timed(read: Reader, records: list[Record], rows: list[Buffers]) -> float:
    began = time.perf_counter()
    for i, record in enumerate(records):
        read(record, rows[i % BATCH])
    return time.perf_counter() - began


def measure(store: Store, readers: dict[str, Reader], repetitions: int, cold: bool) -> dict[str, list[float]]:
    """Reader name -> seconds of each pass over all records."""
    records, specs = store.records["train"], store.specs("train")
    buffers = {name: np.zeros((BATCH, *shape), dtype) for name, (shape, dtype) in specs.items()}
    rows = [{name: b[i] for name, b in buffers.items()} for i in range(BATCH)]
    require_same_bytes(readers, records[-1], rows[0])
    names, seconds = [n for n in readers if not (cold and n == "memcpy")], {}
    for repetition in range(-1, repetitions):  # -1 warms up and isn't counted
        order = [records[i] for i in seeds.permutation(len(records), "benchmark", repetition + 1)]
        for name in names[repetition % len(names) :] + names[: repetition % len(names)]:
            if cold:
                drop_from_page_cache(store)
            taken = timed(readers[name], order, rows)
            if repetition >= 0:
                seconds.setdefault(name, []).append(taken)
    return seconds


def summary(seconds: dict[str, list[float]], records: int, record_bytes: int) -> dict[str, dict[str, Any]]:
    """Per reader: milliseconds a record, GB/s, and speed relative to raw with its range over repetitions."""
    ratios = {name: [r / t for r, t in zip(seconds["raw"], s, strict=True)] for name, s in seconds.items()}
    return {
        name: {
            "ms_per_record": round(1e3 * statistics.median(s) / records, 4),
            "gb_per_s": round(records * record_bytes / statistics.median(s) / 1e9, 3),
            "of_raw": round(statistics.median(ratios[name]), 4),
            "of_raw_range": [round(min(ratios[name]), 4), round(max(ratios[name]), 4)],
        }
        for name, s in seconds.items()
    }


def main() -> None:
    args = store_arguments(__doc__, records=64, repetitions=7).parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder, ExitStack() as stack:
        store = write_store(Path(folder) / "store.zarr", args.records)
        readers = make_readers(store, store.records["train"], stack)
        record_bytes = sum(array_bytes(*spec) for spec in store.specs("train").values())
        figures = {
            kind: summary(measure(store, readers, args.repetitions, kind == "cold"), args.records, record_bytes)
            for kind in ("warm", "cold")
        }
    facts = {"records": args.records, "record_bytes": record_bytes, "repetitions": args.repetitions, "threads": 1}
    facts |= {"cores": os.cpu_count(), "load": round(os.getloadavg()[0], 2), "zarr": zarr.__version__}
    print(f"{args.records} records of {record_bytes / 1e6:.2f} MB, {args.repetitions} repetitions, medians")
    for kind, name, f in ((kind, name, f) for kind, found in figures.items() for name, f in found.items()):
        ratio = "{:6.1%} of raw ({:.0%} to {:.0%})".format(f["of_raw"], *f["of_raw_range"])
        print(f"{kind} {name:7} {f['ms_per_record']:8.2f} ms  {f['gb_per_s']:6.2f} GB/s  {ratio}")
    if args.json:
        write_json(args.json, facts | figures)


if __name__ == "__main__":
    main()
