"""Does caching cost training or extraction anything? Ratios of whole steps and whole extractions.

    python tests/benchmarks/stream.py [--parts step extract online memory] [--repetitions 5] [--teacher pocket tiny]
                                      [--size 256] [--batch 8] [--steps 8] [--device cpu] [--bf16] [--json OUT]

step     a training step (student, MWAD and PDR, backward, optimiser) from a store of Hiera-T sized records, warm and
         cold (dropped from the page cache before the pass), over the same steps on batches that lie decoded in memory
memory   resident memory while the stream alone goes through 12 epochs of 512×512 records: the median peak of the last
         four, and its growth over that of the four before. By default glibc keeps blocks of up to 32 MiB for later use;
         `returned` is with blocks above 1 MiB given back at once (M_MMAP_THRESHOLD): what the stream itself holds
extract  the bare teacher forward on ready batches over `extract` of as many records (images of 288×384 to shards):
         `units` is what stage 1 takes for its units, `whole` the call with checks and planning too
online   a step with the teacher in the loop over the same step from the store of `extract`

What is compared takes turns within a repetition; a ratio is the median of the repetitions' own. `tiny` is SAM 2's
Hiera-T, from the weights named in configs/cache/clinicdb-hiera-t-256.yaml; absent, it is skipped and said so.
"""

import argparse
import ctypes
import os
import statistics
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from formats import drop_from_page_cache, ratio
from roofline import clock_of, seconds
from step import STUDENTS
from sustained import resident_mb
from synthetic import TEACHERS, frames_card, write_store

from pipeline.cache.config import CacheConfig
from pipeline.cache.extraction.extract import extract
from pipeline.cache.extraction.timing import extraction_cost
from pipeline.cache.store import Store
from pipeline.config import load_config
from pipeline.devices import resolve_device
from pipeline.files import write_json
from pipeline.training.batch_order import Order
from pipeline.training.clipping import clip
from pipeline.training.config import TrainConfig
from pipeline.training.run_folder import RunFolder
from pipeline.training.setup import TrainingRun, setup
from pipeline.training.stream import Stream
from pipeline.weights import WeightsError, load_teacher
from sward.contracts import Batch

METHOD = {"kind": "sward", "pdr": {"features": "penultimate"}}
EPOCHS = 12
M_MMAP_THRESHOLD = -3  # glibc, malloc.h


def make_run(
    args: argparse.Namespace, store: Store, folder: Path, student: str, teacher: str = "cached"
) -> TrainingRun:
    values = {"name": "benchmark", "runs": str(folder / "runs"), "cache": store.plans[-1]["config"], "steps": 10**6}
    values |= {"student": STUDENTS[student], "method": METHOD, "batch_size": args.batch, "teacher": teacher}
    values |= {"device": args.device, "precision": "bf16-mixed" if args.bf16 else "32-true"}
    config = TrainConfig.model_validate(values)
    run = setup(config, store, RunFolder(config.folder))
    run.student.train()
    return run


def one_step(run: TrainingRun, batch: Batch, number: int) -> None:
    """What the training loop does in a step."""
    output = run.student(batch.inputs(run.student))
    losses = run.objective(output, batch, number)
    run.fabric.backward(losses.total)
    clip(run, batch, number, losses, output)
    run.optimizer.step()
    run.optimizer.zero_grad()


def steps(run: TrainingRun, batches: Iterable[Batch]) -> None:
    for number, batch in enumerate(batches):
        one_step(run, batch, number)


def turns(passes: dict[str, Any], repetitions: int, clock: Any) -> dict[str, list[float]]:
    """Name -> seconds of each repetition, after a first round. A pass: (before it, untimed; what is timed)"""
    names, taken = list(passes), {name: [] for name in passes}
    for repetition in range(-1, repetitions):
        for name in names[repetition % len(names) :] + names[: repetition % len(names)]:
            before, work = passes[name]
            if before:
                before()
            spent = seconds(work, clock)
            if repetition >= 0:
                taken[name].append(spent)
    return taken


def measure_step(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Student -> ms a step and the ratios; one store serves all."""
    store = write_store(folder / "step.zarr", args.batch * args.steps, size=(args.size, args.size))
    os.sync()
    found, clock = {}, clock_of(args.device, False)
    for student in STUDENTS:
        run = make_run(args, store, folder, student)
        ready = [run.stream.to_device(run.stream.load(step, None)) for step in range(args.steps)]
        taken = turns(
            {
                "memory": (None, lambda run=run, ready=ready: steps(run, ready)),
                "warm": (None, lambda run=run: steps(run, run.stream.batches(0, args.steps))),
                "cold": (
                    lambda: drop_from_page_cache(store.path),
                    lambda run=run: steps(run, run.stream.batches(0, args.steps)),
                ),
            },
            args.repetitions,
            clock,
        )
        ms = {f"{name}_ms": 1e3 * statistics.median(t) / args.steps for name, t in taken.items()}
        found[student] = ms | {k: ratio(taken["memory"], taken[k]) for k in ("warm", "cold")}
        line = "{warm_ms:.1f} ms a step; memory / store: warm {warm}, cold {cold}".format(**found[student])
        print(f"step, {student} {args.size}², batch {args.batch}: {line}", flush=True)
    return found


def measure_memory(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    store = write_store(folder / "memory.zarr", 48)
    order = Order(tuple(store.records["train"]), 8, 0)
    stream = Stream(store, order, tuple(store.channels), resolve_device(args.device))
    stored = 8 * sum(torch.empty(s, dtype=getattr(torch, d)).nbytes for s, d in stream.specs.values()) / 2**20
    found = {"stored_batch_mb": stored, "default": peaks_by_epoch(stream)}
    ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 1 << 20)
    found["returned"] = peaks_by_epoch(stream)
    for allocator in ("default", "returned"):
        line = "median peak {median_peak_mb:.0f} MiB above the start, growth {growth:+.1%}".format(**found[allocator])
        print(f"memory, {allocator}: {line}; a stored batch is {stored:.0f} MiB", flush=True)
    return found


def peaks_by_epoch(stream: Stream) -> dict[str, Any]:
    ctypes.CDLL(None).malloc_trim(0)
    before, each, peaks = resident_mb(), stream.order.steps_per_epoch, []
    for epoch in range(EPOCHS):
        peaks.append(max(resident_mb() for _ in stream.batches(epoch * each, (epoch + 1) * each)) - before)
    middle, last = (statistics.median(peaks[EPOCHS * i // 3 : EPOCHS * (i + 1) // 3]) for i in (1, 2))
    return {"peaks_mb": peaks, "median_peak_mb": last, "growth": last / middle - 1}


def small_cache(folder: Path, teacher: str, args: argparse.Namespace) -> CacheConfig:
    """32 records: 14 frames with two views each, 4 for evaluation; the named teacher, its weights."""
    weights = load_config(CacheConfig, TEACHERS[teacher]).teacher.model_dump()
    card = folder / "frames" / "card.yaml"
    card.parent.mkdir(exist_ok=True)
    card.write_text(frames_card(14, 2))
    values = {"dataset": str(card), "teacher": weights, "size": (args.size, args.size), "views": {"count": 2}}
    values |= {"store": str(folder / f"{teacher}.zarr"), "device": args.device}
    return CacheConfig.model_validate(values)


def measure_extract(args: argparse.Namespace, folder: Path, teacher: str) -> dict[str, Any]:
    config, clock = small_cache(folder, teacher, args), clock_of(args.device, False)
    network, device = load_teacher(config.teacher), resolve_device(args.device)
    network.to(device)
    extract(config)  # makes the data set; its store serves `online`
    records = sum(len(found) for found in Store(config.store).records.values())
    batch = torch.randn(config.batch_size, 3, *config.size, device=device)
    units: list[float] = []

    def bare() -> None:
        for _ in range(-(-records // config.batch_size)):
            network(batch)

    def whole() -> None:
        fresh = config.model_copy(update={"store": str(folder / f"{teacher}-{len(units)}.zarr")})
        extract(fresh)
        store = Store(fresh.store)
        units.append(extraction_cost(store.path, store.receipts)["seconds"])

    taken = turns({"bare": (None, bare), "whole": (None, whole)}, args.repetitions, clock)
    taken["units"] = units[1:]
    ms = {f"{name}_ms": 1e3 * statistics.median(t) / records for name, t in taken.items()}
    found = ms | {k: ratio(taken["bare"], taken[k]) for k in ("units", "whole")} | {"records": records}
    line = "bare forward {bare_ms:.1f} ms a record, units {units_ms:.1f}; bare / units {units}, bare / whole {whole}"
    print(f"extract, {teacher} {args.size}²: " + line.format(**found), flush=True)
    return found


def measure_online(args: argparse.Namespace, folder: Path, teacher: str) -> dict[str, Any]:
    store, found, clock = Store(folder / f"{teacher}.zarr"), {}, clock_of(args.device, False)
    runs = {kind: make_run(args, store, folder, "unext", kind) for kind in ("cached", "online")}
    passes = {kind: (None, lambda run=run: steps(run, run.stream.batches(0, 3))) for kind, run in runs.items()}
    taken = turns(passes, args.repetitions, clock)
    found = {f"{kind}_ms": 1e3 * statistics.median(t) / 3 for kind, t in taken.items()}
    found["times"] = ratio(taken["online"], taken["cached"])
    line = "cached {cached_ms:.1f} ms, online {online_ms:.1f} ms; online / cached {times}".format(**found)
    print(f"online, unext {args.size}², batch {args.batch}, {teacher}: {line}", flush=True)
    return found


def keep(path: Path | None, facts: dict[str, Any]) -> None:
    """Write what is measured so far."""
    if path:
        write_json(path, facts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    every = ["step", "extract", "online", "memory"]
    parser.add_argument("--parts", nargs="+", choices=every, default=every)
    parser.add_argument("--teacher", nargs="+", choices=TEACHERS, default=list(TEACHERS))
    for name, default in (("repetitions", 5), ("size", 256), ("batch", 8), ("steps", 8)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bf16", action="store_true", help="autocast, as in mixed-precision training")
    parser.add_argument("--folder", type=Path, help="where stores are written (default: the temporary folder)")
    parser.add_argument("--json", type=Path, help="write the figures there")
    args = parser.parse_args()
    facts: dict[str, Any] = {"cores": os.cpu_count(), "threads": torch.get_num_threads(), "torch": torch.__version__}
    facts |= {k: getattr(args, k) for k in ("repetitions", "size", "batch", "steps", "device", "bf16")}
    facts |= {"load": round(os.getloadavg()[0], 2), "began": time.strftime("%Y-%m-%d %H:%M")}
    with tempfile.TemporaryDirectory(dir=args.folder, prefix="sward-stream-") as name:
        folder = Path(name)
        if "step" in args.parts:
            facts["step"] = measure_step(args, folder)
        for teacher in args.teacher if {"extract", "online"} & set(args.parts) else ():
            try:
                facts.setdefault("extract", {})[teacher] = measure_extract(args, folder, teacher)
            except WeightsError as error:
                print(f"extract, online: {teacher} skipped: {error}")
                continue
            if "online" in args.parts:
                facts.setdefault("online", {})[teacher] = measure_online(args, folder, teacher)
            keep(args.json, facts)
        if "memory" in args.parts:  # last: it changes the allocator
            facts["memory"] = measure_memory(args, folder)
        keep(args.json, facts)


if __name__ == "__main__":
    main()
