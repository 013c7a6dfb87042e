"""Random whole-record reads: the store beside the libraries people would use instead, and the machine's limits.

    python tests/benchmarks/formats.py [--case hiera-t-512 …] [--records N] [--repetitions R] [--threads 1 2]
                                       [--only NAME …] [--folder DIR] [--json OUT] [--plot OUT.png]

Needs the extra `benchmarks`; a library that is missing or fails is named in the table with the reason. MosaicML
Streaming asks for an older NumPy and huggingface_hub than ours, so it goes into an environment of its own, over ours:
pip install --no-deps mosaicml-streaming "transformers<5" "huggingface_hub<1" "tokenizers<0.23" "xxhash<4" Brotli zstd
zstandard python-snappy cramjam catalogue.

Every format holds the same records: the four levels of a Hiera teacher in fp16, 5.9 MB (Hiera-T 512²) or 17.7 MB
(Hiera-L 512×1024). Readers copy them into the same preallocated batch buffers of 8 records, in the same shuffled
order (WebDataset: as they lie in its tars). With two threads each has half of the order, buffers and a reader.

    raw      preadv of the same bytes at known offsets through open files: the limit
    memcpy   the same bytes from memory to memory
    SWARD    pipeline.cache.store.Store.read and .prefetch (two records ahead), which is what training calls
    … store  zarr-python and tensorstore reading the very same store

`warm`: in the page cache, readers stay open. `cold`: dropped from it (POSIX_FADV_DONTNEED) before every pass and
readers opened anew, untimed (what a library puts off to its first read counts; SWARD's shard indexes are read once a
run, so they are read at opening). Cold, a quarter of the records is read, as of a set much larger than memory: else
what the kernel reads ahead beyond a record is never in vain. Formats take turns within a repetition, in an order
drawn anew, and before each the processor's caches are filled with something else, for several read the same store; a
ratio is the median of the repetitions' own. `of raw`: speed over raw's; `SWARD ×`: how many times as fast SWARD is.
"""

import argparse
import gc
import os
import shutil
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from formats_libraries import LIBRARIES, Library, Read, Row
from formats_store import LIMITS, OURS, store_formats
from synthetic import CHANNELS, LARGE, write_store

from pipeline.files import write_json
from pipeline.training.stream import AHEAD
from sward import seeds

BATCH, ZARR = 8, "zarr-python, store"
CACHES = 1 << 29  # bytes, more than a processor's last-level cache
CASES = {"hiera-t-512": (CHANNELS, (512, 512), 96), "hiera-l-512x1024": (LARGE, (512, 1024), 48)}
Seconds = dict[str, list[float]]
PACKAGES = (
    "zarr",
    "tensorstore",
    "litdata",
    "mosaicml-streaming",
    "webdataset",
    "h5py",
    "lmdb",
    "safetensors",
    "torch",
)


def write_all(folder: Path, case: str, count: int, only: list[str]) -> tuple[dict[str, Library], dict[str, str], int]:
    """(formats written and checked, by name; why others are missing; bytes of a record)."""
    channels, size, _ = CASES[case]
    store = write_store(folder / "store", count, channels, size)
    records = [{level: np.empty(*store.specs("train")[level]) for level in channels} for _ in range(count)]
    for record, row in zip(store.records["train"], records, strict=True):
        store.read(record, row)
    formats, missing = {}, {}
    for library in [*store_formats(records), *LIBRARIES]:
        if only and library.name not in (*only, *LIMITS, OURS, ZARR):
            continue
        try:
            place = library.place(folder)
            place.mkdir(exist_ok=True)
            library.write(place, records)
            require_same(library, place, records)
            formats[library.name] = library
        except Exception as error:  # any library may fail in its own way: the table says which and how
            missing[library.name] = f"{type(error).__name__}: {str(error).splitlines()[0][:150]}"
            shutil.rmtree(folder / library.name, ignore_errors=True)
    os.sync()
    return formats, missing, sum(a.nbytes for a in records[0].values())


def require_same(library: Library, folder: Path, records: list[Row]) -> None:
    """The first records come back as they were written."""
    row = {name: np.zeros_like(a) for name, a in records[0].items()}
    with ExitStack() as stack:
        read = library.open(folder, stack, 1)[0]
        for i, record in enumerate(records[:3]):
            read(i, row)
            if any(not np.array_equal(row[name], record[name]) for name in row):
                raise ValueError(f"record {i} reads back differently")


def drop_from_page_cache(folder: Path) -> None:
    gc.collect()  # readers of the last pass hold mappings, which keep pages
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def one_thread(read: Read, order: list[int], rows: list[Row]) -> None:
    prefetch = getattr(read, "prefetch", None)
    for i, number in enumerate(order):
        if prefetch and i + AHEAD < len(order):
            prefetch(order[i + AHEAD], rows[0])
        read(number, rows[i % BATCH])


def one_pass(readers: list[Read], order: list[int], buffers: list[list[Row]], pool: ThreadPoolExecutor) -> float:
    """Seconds a record, until every thread has read its part of the order."""
    n = len(readers)
    began = time.perf_counter()
    if n == 1:
        one_thread(readers[0], order, buffers[0])
    else:
        list(pool.map(one_thread, readers, [order[t::n] for t in range(n)], buffers))
    return (time.perf_counter() - began) / len(order)


def measure(
    formats: dict[str, Library], folder: Path, count: int, repetitions: int, threads: int, cold: bool
) -> Seconds:
    """Format -> seconds a record in each pass."""
    specs = formats[OURS].specs
    buffers = [
        [{level: np.zeros(*spec) for level, spec in specs.items()} for _ in range(BATCH)] for _ in range(threads)
    ]
    evicting = np.zeros(CACHES, np.uint8)
    names, seconds = [n for n in formats if not (cold and n == "memcpy")], {}
    with ExitStack() as outer, ThreadPoolExecutor(threads) as pool:
        opened = {} if cold else {n: formats[n].open(formats[n].place(folder), outer, threads) for n in names}
        for repetition in range(0 if cold else -1, repetitions):  # -1 warms up and isn't counted
            order = [int(i) for i in seeds.permutation(count, "benchmark", repetition + 1)]
            order = order[: max(threads, count // 4)] if cold else order
            for name in (names[i] for i in seeds.permutation(len(names), "turns", repetition + 1)):
                with ExitStack() as stack:
                    place = formats[name].place(folder)
                    if cold:
                        drop_from_page_cache(place)
                    readers = opened.get(name) or formats[name].open(place, stack, threads)
                    evicting += 1
                    taken = one_pass(readers, order, buffers, pool)
                    del readers
                if repetition >= 0:
                    seconds.setdefault(name, []).append(taken)
    return seconds


def ratio(a: list[float], b: list[float]) -> list[float]:
    """Median, least and largest of the repetitions' a / b."""
    found = [x / y for x, y in zip(a, b, strict=True)]
    return [round(f, 4) for f in (statistics.median(found), min(found), max(found))]


def summary(seconds: Seconds, record_bytes: int) -> dict[str, dict[str, Any]]:
    """Per format: ms a record, GB/s, and the ratios as [median, least, largest]."""
    return {
        name: {
            "ms_per_record": round(1e3 * statistics.median(s), 4),
            "gb_per_s": round(record_bytes / statistics.median(s) / 1e9, 3),
            "of_raw": ratio(seconds["raw"], s),
            "sward_times": ratio(s, seconds[OURS]),
        }
        for name, s in seconds.items()
    }


def fastest_rival(rows: dict[str, dict[str, Any]]) -> str:
    """The other format whose median is the least."""
    return min((n for n in rows if n not in (*LIMITS, OURS)), key=lambda n: rows[n]["ms_per_record"])


def run(case: str, args: argparse.Namespace) -> dict[str, Any]:
    count = args.records or CASES[case][2]
    with tempfile.TemporaryDirectory(dir=args.folder, prefix="sward-formats-") as name:
        folder = Path(name)
        formats, missing, record_bytes = write_all(folder, case, count, args.only)
        figures = {
            f"{'cold' if cold else 'warm'}, {threads} thread{'s' * (threads > 1)}": summary(
                measure(formats, folder, count, args.repetitions, threads, cold), record_bytes
            )
            for cold in (False, True)
            for threads in args.threads
        }
    notes = {f.name: f.note for f in formats.values() if f.note}
    facts = {"records": count, "record_bytes": record_bytes, "missing": missing, "notes": notes, "figures": figures}
    show(case, facts)
    return facts


def show(case: str, facts: dict[str, Any]) -> None:
    print(f"\n{case}: {facts['records']} records of {facts['record_bytes'] / 1e6:.2f} MB")
    for kind, rows in facts["figures"].items():
        print(f"  {kind:17}       ms    GB/s   of raw (range)          SWARD × (range)")
        for name, f in sorted(rows.items(), key=lambda item: item[1]["ms_per_record"]):
            raw, times = ("{:6.2f} ({:.2f} to {:.2f})".format(*f[k]) for k in ("of_raw", "sward_times"))
            print(f"  {name:20} {f['ms_per_record']:7.2f} {f['gb_per_s']:6.2f}  {raw:22}  {times}")
        best = fastest_rival(rows)
        facts_of = (rows[OURS]["of_raw"][0], rows[best]["sward_times"][0], best, rows[ZARR]["sward_times"][0])
        print("  -> SWARD {:.2f} of raw, {:.2f} × the fastest other ({}), {:.2f} × zarr-python".format(*facts_of))
    for name, reason in (facts["notes"] | facts["missing"]).items():
        print(f"  {name}: {reason}")


def installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--records", type=int, help="default: 96 of Hiera-T, 48 of Hiera-L")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--only", nargs="+", default=[], help="these formats besides SWARD and the limits")
    parser.add_argument("--folder", type=Path, help="where the formats are written (default: the temporary folder)")
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--plot", type=Path, help="draw GB/s of every format there (PNG)")
    args = parser.parse_args()
    facts = {"cores": os.cpu_count(), "load": round(os.getloadavg()[0], 2), "repetitions": args.repetitions}
    facts |= {"versions": {name: installed(name) for name in PACKAGES}}
    facts |= {"cases": {}}
    for case in args.case:
        facts["cases"][case] = run(case, args)
        if args.json:
            write_json(args.json, facts)
    if args.plot:
        from formats_plot import plot

        plot(facts["cases"], args.plot)


if __name__ == "__main__":
    main()
