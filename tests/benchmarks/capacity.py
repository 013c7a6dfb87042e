"""Does the capacity model predict small extractions? Rates measured at one size; other sizes, K and codecs predicted.

    python tests/benchmarks/capacity.py [--quick] [--teacher pocket tiny] [--repetitions 5] [--images 24] [--json OUT]

A repetition measures this machine (the trunk's FLOP/s, seconds a decoded pixel, a rendered pixel and an encoded value,
bytes/s written) at the teacher's reference size, predicts every case with `pipeline/cost_estimates/capacity.py`, and
extracts it. Compared are the seconds that the units note in timing.jsonl (start-up, planning and the last sync are not
in them; `whole` is the call with all of it) and the bytes in the receipts. A figure is the median ratio of repetitions.
`tiny` is SAM 2's Hiera-T, from the weights named in configs/cache/clinicdb-hiera-t-256.yaml; absent, it is skipped.
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from synthetic import TEACHERS, frames_card

from pipeline.cache.config import CacheConfig
from pipeline.cache.extraction.extract import extract
from pipeline.cache.extraction.record_plan import wanted_records
from pipeline.cache.extraction.teacher_writer import render_twice
from pipeline.cache.extraction.timing import extraction_cost
from pipeline.cache.store import Store
from pipeline.config import load_config
from pipeline.cost_estimates.calibration import measure_teacher, median_seconds, write_file
from pipeline.cost_estimates.capacity import Capacity, Machine, Rates, Workload
from pipeline.cost_estimates.encoding_speed import measure_encoding
from pipeline.cost_estimates.estimate import thread_counts
from pipeline.cost_estimates.flops import view_flops
from pipeline.datasets import load_dataset, read_image, read_label
from pipeline.devices import cores
from pipeline.files import write_json
from pipeline.memory import keep_freed_memory
from pipeline.weights import WeightsError, load_teacher

REFERENCE = {"pocket": (256, 256), "tiny": (224, 224)}
CASES = {  # (size, views, codec)
    "pocket": [((256, 256), 1, "fp16"), ((320, 256), 2, "int8"), ((192, 256), 2, "fp16")],
    "tiny": [((256, 256), 1, "fp16"), ((192, 192), 2, "int8"), ((288, 256), 1, "int8")],
}
SOURCE, SHARD, WRITTEN = (288, 384), 8, 64 << 20


def cache(folder: Path, name: str, size: tuple[int, int], views: int, codec: str) -> CacheConfig:
    weights = load_config(CacheConfig, TEACHERS[name]).teacher.model_dump()
    values = {"dataset": str(folder / "card.yaml"), "teacher": weights, "size": size, "codec": {"kind": codec}}
    values |= {"views": {"count": views}, "shard_records": SHARD, "device": "cpu"}
    return CacheConfig.model_validate(values | {"store": str(folder / f"{name}.zarr")})


def measure_rates(folder: Path, name: str) -> tuple[Rates, float]:
    """(rates of a core, FLOP/s of the trunk) at the reference size."""
    size = REFERENCE[name]
    config = cache(folder, name, size, 2, "fp16")
    teacher, dataset = load_teacher(config.teacher), load_dataset(config.dataset, config.split)
    work = workload(config, name)
    samples = {(s.subset, s.digest): s for s in dataset.samples}
    records = wanted_records(config, dataset)[:8]
    busy = {"threads": cores()}  # as in an extraction
    decode = median_seconds(lambda: [(read_image(s), read_label(s)) for s in dataset.samples[:8]], **busy) / 8
    render = (
        median_seconds(lambda: [render_twice(r, samples, size, size) for r in records], **busy) / len(records) - decode
    )
    encoded = {c: measure_encoding(folder, cache(folder, name, size, 2, c), work.channels) for c in ("fp16", "int8")}
    encode = {codec: seconds / work.values(size) for codec, (seconds, _) in encoded.items()}
    append = encoded["fp16"][1] / work.view_bytes(size)
    pixels, source = size[0] * size[1], SOURCE[0] * SOURCE[1]
    seconds = measure_teacher(teacher, size, config.batch_size, "cpu")
    return Rates(decode / source, max(render, 0) / pixels, encode, append), view_flops(name, size) / seconds


def this_machine(folder: Path, name: str) -> Machine:
    rates, flops = measure_rates(folder, name)
    write = 1 / write_file(folder / "written", WRITTEN)
    here = thread_counts(cache(folder, name, REFERENCE[name], 1, "fp16"))
    return Machine("here", here.pop("num_teachers"), flops, write=write, read=write, rates=rates, **here)


def workload(config: CacheConfig, name: str, images: int = 0) -> Workload:
    size, views, codec = config.size, config.views.count, config.codec.kind
    return Workload(name, images, 4, 4, SOURCE, size, size, views, codec, name, SHARD)


def run(folder: Path, config: CacheConfig, work: Workload, machine: Machine, number: int) -> dict[str, float]:
    """Predict, extract, compare."""
    found = Capacity(work, machine)
    fresh = config.model_copy(update={"store": str(folder / f"{work.name}-{number}.zarr")})
    began = time.perf_counter()
    extract(fresh)
    whole, store = time.perf_counter() - began, Store(fresh.store)
    units = extraction_cost(store.path, store.receipts)["seconds"]
    stored = sum(file["bytes"] for receipt in store.receipts.values() for file in receipt["files"].values())
    told = {"predicted": found.extraction, "measured": units, "whole": whole, "ratio": found.extraction / units}
    return told | {"bytes_ratio": work.bytes / stored, "driver": found.driver}


def measure(args: argparse.Namespace, folder: Path, name: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """(cases, the last rates) of one teacher."""
    configs = [cache(folder, name, *case) for case in CASES[name]]
    works = [workload(config, name, args.images) for config in configs]
    extract(configs[0])  # makes the data set, warms up
    taken: list[list[dict[str, Any]]] = [[] for _ in works]
    for repetition in range(args.repetitions):
        machine = this_machine(folder, name)
        for i, (config, work) in enumerate(zip(configs, works, strict=True)):
            taken[i].append(run(folder, config, work, machine, 100 * i + repetition))
    rates = {"gflops": machine.flops / 1e9, "write_gb_per_s": machine.write / 1e9}
    rates |= {"decode_ns": 1e9 * machine.rates.decode, "render_ns": 1e9 * machine.rates.render}
    rates["append_ns"] = 1e9 * machine.rates.append
    rates |= {f"encode_{codec}_ns": 1e9 * seconds for codec, seconds in machine.rates.encode.items()}
    return [summary(work, rounds) for work, rounds in zip(works, taken, strict=True)], rates


def summary(work: Workload, rounds: list[dict[str, Any]]) -> dict[str, Any]:
    names = ("predicted", "measured", "whole", "ratio", "bytes_ratio")
    facts = {"architecture": work.architecture, "size": work.size, "views": work.views, "codec": work.codec}
    facts |= {"records": work.records, "driver": rounds[-1]["driver"], "ratios": [r["ratio"] for r in rounds]}
    facts |= {name: statistics.median(r[name] for r in rounds) for name in names}
    line = (
        "predicted {predicted:.2f} s, measured {measured:.2f}, the call {whole:.2f}; predicted / measured {ratio:.3f}, "
    )
    line += "bytes {bytes_ratio:.4f}"
    print(f"{work.name} {work.size} {work.codec}, {work.records} records: " + line.format(**facts), flush=True)
    return facts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", nargs="+", choices=TEACHERS, default=list(TEACHERS))
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--images", type=int, default=24, help="training images of a case")
    parser.add_argument("--quick", action="store_true", help="3 repetitions of 16 images")
    parser.add_argument("--json", type=Path, help="write the figures there")
    args = parser.parse_args()
    if args.quick:
        args.repetitions, args.images = 3, 16
    keep_freed_memory()
    facts: dict[str, Any] = {"cores": os.cpu_count(), "threads": torch.get_num_threads(), "torch": torch.__version__}
    facts |= {"load": round(os.getloadavg()[0], 2), "began": time.strftime("%Y-%m-%d %H:%M"), "cases": [], "rates": {}}
    facts |= {"repetitions": args.repetitions}
    with tempfile.TemporaryDirectory(prefix="sward-capacity-") as place:
        (Path(place) / "card.yaml").write_text(frames_card(args.images, 4))
        for name in args.teacher:
            try:
                cases, facts["rates"][name] = measure(args, Path(place), name)
                facts["cases"] += cases
            except WeightsError as error:
                print(f"{name} skipped: {error}")
    if args.json:
        write_json(args.json, facts)


if __name__ == "__main__":
    main()
