"""What does comparing a record with its receipt cost, at its first read in a run?

    python tests/benchmarks/first_reads.py [--records N] [--repetitions R] [--folder DIR] [--json OUT]

A synthetic store of Hiera-T at 512×512 (fp16, 7.0 MB a record) is written under DIR and read, record by record in a
random order, in one thread: `read` is Store.read from the page cache, `cold` the same with the files dropped from it,
`check` FirstReads.check of the arrays that were read. Other checksums of the same bytes stand beside it. Figures are
medians of processor time (`cold`: of elapsed time) per record; a run pays `check` once per record, in its reading
threads, so `of_reads` divides it by the warm reads of 20 epochs.
"""

import hashlib
import statistics
import tempfile
import time
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from read import drop_from_page_cache
from synthetic import store_arguments, write_store

from pipeline.cache.format.codecs import array_bytes
from pipeline.cache.store import Store
from pipeline.files import write_json
from pipeline.types import Arrays
from sward import seeds

EPOCHS = 20
OTHERS: dict[str, Callable[[memoryview], object]] = {
    "zlib.crc32": zlib.crc32,
    "sha256": lambda data: hashlib.sha256(data).digest(),
    "blake2b": lambda data: hashlib.blake2b(data).digest(),
}


def measure(path: Path, repetitions: int) -> dict[str, float]:
    """Name -> milliseconds per record."""
    found: dict[str, list[float]] = {}
    for repetition in range(repetitions):
        store = Store(path)  # opened anew, so that every record is read for the first time
        records = store.records["train"]
        out: Arrays = {name: np.empty(*spec) for name, spec in store.specs("train").items()}
        for record in (records[i] for i in seeds.permutation(len(records), "benchmark", repetition)):
            store.read(record, out)
            steps: dict[str, Callable[[], object]] = {
                "read": partial(store.read, record, out),
                "check": partial(store.first_reads.check, record, out),
            }
            steps |= {name: partial(of_all, function, out) for name, function in OTHERS.items()}
            for name, step in steps.items():
                found.setdefault(name, []).append(milliseconds(step, time.thread_time))
            drop_from_page_cache(store)
            found.setdefault("cold", []).append(milliseconds(steps["read"], time.perf_counter))
    return {name: round(statistics.median(values), 3) for name, values in found.items()}


def of_all(function: Callable[[memoryview], object], arrays: Arrays) -> None:
    for array in arrays.values():
        function(array.data.cast("B"))


def milliseconds(step: Callable[[], object], clock: Callable[[], float]) -> float:
    began = clock()
    step()
    return 1e3 * (clock() - began)


def main() -> None:
    args = store_arguments(__doc__, records=16, repetitions=5).parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        store = write_store(Path(folder) / "store.zarr", args.records)
        record_bytes = sum(array_bytes(*spec) for spec in store.specs("train").values())
        figures = measure(store.path, args.repetitions)
    shares = {f"of_{name}": figures["check"] / figures[name] for name in ("read", "cold")}
    shares["of_reads"] = shares["of_read"] / EPOCHS
    print(f"{args.records} records of {record_bytes / 1e6:.2f} MB, medians in ms per record: {figures}")
    print(", ".join(f"check {name} {share:.1%}" for name, share in shares.items()))
    if args.json:
        write_json(args.json, {"record_bytes": record_bytes, "milliseconds": figures, "shares": shares})


if __name__ == "__main__":
    main()
