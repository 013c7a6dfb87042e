"""Writes docs/capacity.md: estimated extractions of large data sets on A100 and H100 nodes, with all assumptions.

python -m pipeline.maintenance.capacity_page     # writes the page again
"""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.cache.config import CacheConfig
from pipeline.cache.manifest.identity import dataset_name
from pipeline.cost_estimates.capacity import Capacity, Machine, Rates, Workload
from pipeline.cost_estimates.estimate import CostEstimate
from pipeline.cost_estimates.estimate_text import duration
from pipeline.datasets.masks.choose import THREADS
from pipeline.files import read_json, write_atomic

PAGE, MEASURED = Path("docs/capacity.md"), Path("results/benchmarks/capacity.json")
UTILISATION = 0.25  # share of the GPU's peak that the teacher reaches; its origin is given in ASSUMPTIONS
LINK = 10e9  # bytes/s per node to and from the store
RATES = Rates(decode=40e-9, render=50e-9, encode={"fp16": 10e-9, "int8": 10e-9}, append=1e-9)
A100 = Machine("8 A100", 8, 312e12 * UTILISATION, 128, LINK, LINK, RATES)
H100 = Machine("8 H100", 8, 989e12 * UTILISATION, 112, LINK, LINK, RATES)
MANY = Machine("64 × 8 H100", 8, 989e12 * UTILISATION, 112, LINK, LINK, RATES, nodes=64)
MACHINES = (A100, H100, MANY)
SETS = (
    Workload("Cityscapes", 2975, 500, 0, (1024, 2048), (512, 1024), (1024, 2048)),
    Workload("ADE20K", 20210, 2000, 0, (512, 683), (512, 512), (512, 512)),
    Workload("SA-1B-sized", 11_185_362, 0, 0, (1500, 2250), (1024, 1024), (1024, 1024)),
)
VIEWS, KINDS = (1, 8), ("fp16", "int8")
HEAD = "# Capacity\n\n<!-- written by `python -m pipeline.maintenance.capacity_page`; a test compares -->\n"
INTRO = """
Estimated cost of stores of SAM 2.1 Hiera-L on machines that we do not have. Nothing here was run at this size: the
model in `pipeline/cost_estimates/capacity.py` counts FLOPs, pixels, values and bytes, applies the rates below, and
overlaps the parts by the same rule as `sward plan`, which measures your machine and your data set instead.
"""
EXTRACTION = """
## Extraction

`time` counts from the end of the file check. `alone` is the time that each part would take by itself. The teacher runs
on the GPUs; rendering and encoding (statistics, codec) share the cores; one thread per GPU computes checksums and
writes. These three stages overlap, so the longest one limits, and `driver` is its larger part. `GB/s` is what all nodes
together write during the extraction.
"""
TRAINING = """
## Training one student on one GPU

The student is the one that `sward plan` assumes: 80 records/s of all four levels. `pays after` is the number of epochs
(every view once) after which the store has cost less GPU time than the teacher in the loop; `never` means that reading
a record takes longer than the teacher.
"""
DECODE, RENDER = 1e9 * RATES.decode, 1e9 * RATES.render
ENCODE = " or ".join(f"{1e9 * seconds:g} ({codec})" for codec, seconds in RATES.encode.items())
ASSUMPTIONS = f"""
## Assumptions

- GPUs: dense bf16 peak of NVIDIA's data sheets (A100 SXM 312, H100 SXM 989 TFLOP/s) × {UTILISATION:.0%}, one process
  per GPU, `teacher.autocast: true`. SAM 2's own 39.5 frames/s on an A100 (its README: Hiera-L, 1024², the whole
  compiled model) are 23 % of the peak by the trunk's FLOPs alone.
- FLOPs: counted by torch's FlopCounterMode in sam2's own trunk, a multiply-add as two; 0.88 TFLOP per view of
  512×1024.
- Cores: 128 (DGX A100, two EPYC 7742), 112 (DGX H100, two Xeon 8480C); all but two per GPU render and encode.
- Nanoseconds on one core: {DECODE:g} per decoded source pixel, {RENDER:g} per rendered pixel of a view, {ENCODE}
  per encoded value, {1e9 * RATES.append:g} per stored byte (checksum and copy). They are CPU times of the same calls on
  one core of a shared two-core machine, rounded; a core of a DGX is faster. `tests/benchmarks/capacity.py` measures
  these rates on a machine.
- Storage: {LINK / 1e9:g} GB/s per node each way (100 Gbit/s at 80 %), assumed; 64 nodes need 64 times that from the
  store.
- Data sets: Cityscapes 2975 + 500 images of 1024×2048, views 512×1024, validation at full size; ADE20K 20210 + 2000
  of about 512×683, views 512²; SA-1B 11,185,362 of about 1500×2250, views 1024², no evaluation (its masks have no
  classes; it is here for its size).
- Bytes: features, image, label and shard indices, uncompressed, 16 records per shard. Full-size evaluation labels
  (PNG), plan and receipts are extra.
- Checking decodes every file once, in one process with {THREADS} threads, before the first view.
- Not included: start-up, listing, planning, the last shard's sync, failures. Encoding is counted on the cores, although
  an extraction on a GPU encodes there, so real ones need fewer cores. A plan is one JSON file; for 10⁷ records and
  more, use several stores.
"""


def capacities() -> list[Capacity]:
    """All rows of the page: every data set, number of views, codec and machine."""
    works = [replace(work, views=k, codec=codec) for work in SETS for k in VIEWS for codec in KINDS]
    return [Capacity(work, machine) for work in works for machine in MACHINES]


def page(measured: dict[str, Any] | None = None) -> str:
    """The whole page; ``measured`` is the JSON value that the benchmark wrote."""
    found = capacities()
    lines = [HEAD, INTRO, "## Stores\n", *stores([c for c in found if c.machine is H100]), EXTRACTION]
    lines += [*table(EXTRACTION_HEAD, [extraction_row(c) for c in found]), TRAINING]
    lines += table(TRAINING_HEAD, [training_row(c) for c in found if c.machine is not MANY])
    lines += [ASSUMPTIONS, "## Against measurement\n", *validation(measured)]
    return "\n".join(lines) + "\n"


EXTRACTION_HEAD = [
    "set",
    "K",
    "codec",
    "machine",
    "time",
    "driver",
    "alone: teacher",
    "encoding",
    "rendering",
    "writing",
    "GB/s",
]
TRAINING_HEAD = ["set", "K", "codec", "machine", "GB/s", "epoch", "pays after"]


def stores(found: list[Capacity]) -> list[str]:
    """The table of the stores' sizes, which do not depend on the machine."""
    head = ["set", "K", "codec", "records", "store", "MB per record", "files", "check"]
    rows = []
    for c in found:
        each = c.work.view_bytes(c.work.size) / 1e6
        sizes = [
            f"{c.work.records:,}",
            in_bytes(c.work.bytes),
            f"{each:.1f}",
            f"{c.work.files:,}",
            duration(c.checking),
        ]
        rows.append([*key(c), *sizes])
    return table(head, rows)


def elsewhere(config: CacheConfig, made: CostEstimate) -> list[str]:
    """The table of `sward plan --capacity`: the extraction estimated here, on the page's machines."""
    counts = made.records
    work = Workload(
        name=dataset_name(config.dataset),
        images=counts["train"] // made.views,
        val=counts["val"],
        test=counts["test"],
        source=made.source,
        size=config.size,
        eval_size=config.evaluation_size,
        views=made.views,
        codec=made.codec,
        architecture=config.teacher.architecture,
        shard_records=config.shard_records,
        zoom=config.zoom,
    )
    return table(EXTRACTION_HEAD, [extraction_row(Capacity(work, machine)) for machine in MACHINES])


def key(c: Capacity) -> list[str]:
    return [c.work.name, str(c.work.views), c.work.codec]


def extraction_row(c: Capacity) -> list[str]:
    alone = [duration(seconds) for seconds in c.shares.values()]
    return [*key(c), c.machine.name, duration(c.extraction), c.driver, *alone, f"{c.writes / 1e9:.3g}"]


def training_row(c: Capacity) -> list[str]:
    after = f"{c.pays_after:.3g}" if math.isfinite(c.pays_after) else "never"
    return [*key(c), c.machine.name, f"{c.student_reads / 1e9:.2f}", duration(c.epoch), after]


def in_bytes(size: int) -> str:
    return f"{size / 1e12:,.0f} TB" if size >= 1e13 else f"{size / 1e9:,.0f} GB"


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in [head, ["---"] * len(head), *rows]]


def validation(measured: dict[str, Any] | None) -> list[str]:
    """The table of predicted and measured times of small extractions, from the benchmark's JSON."""
    if measured is None:
        return [
            "No measurement yet: run `python tests/benchmarks/capacity.py --json results/benchmarks/capacity.json`, "
            "then write this page again."
        ]
    head = ["teacher", "size", "K", "records", "s predicted", "s measured", "ratio", "bytes, ratio"]
    rows = [
        [c["architecture"], "×".join(map(str, c["size"])), str(c["views"]), str(c["records"]), f"{c['predicted']:.2f}",
         f"{c['measured']:.2f}", f"{c['predicted'] / c['measured']:.2f}", f"{c['bytes_ratio']:.4f}"]
        for c in measured["cases"]
    ]  # fmt: skip
    said = (
        f"Small extractions on {measured['cores']} CPU cores (load {measured['load']}). The rates were measured at one "
        "size; other sizes, K and numbers of images were predicted. Seconds are those of the units (`timing.jsonl`), "
        "without start-up. On a CPU the model assumes that the teacher's threads wait for all other work on their "
        "cores; this rule was chosen after runs like these.\n"
    )
    return [said, *table(head, rows)]


def main() -> None:
    """Write docs/capacity.md and print its path."""
    PAGE.parent.mkdir(exist_ok=True)
    write_atomic(PAGE, page(read_json(MEASURED) if MEASURED.is_file() else None))
    print(PAGE)


if __name__ == "__main__":
    main()
