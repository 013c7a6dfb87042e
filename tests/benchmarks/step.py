"""What a method adds to a training step: time, memory, and how far its terms are from the machine's limits.

    python tests/benchmarks/step.py [--student unext|deeplabv3] [--size 256 …] [--batch 8 …] [--window 8 …]
                                    [--teacher hiera-t …] [--one-by-one] [--rows sward …] [--repetitions 7]
                                    [--threads N] [--cpu-time] [--device cuda] [--channels-last] [--bf16] [--json OUT]

Synthetic images, labels and teacher features; no store. A step is forward, terms and backward
(no optimiser, no reading). The rows take turns within a repetition, so that what disturbs the machine disturbs all
alike; `extra` is the median over repetitions of (row - plain) / plain. Memory is the most bytes of tensors alive in a
step, less plain's; and of the terms alone, forward and backward to the student's maps, whose peak a step may hide
behind the student's. Several sizes, batches, windows or teachers give every combination of them.

`sward, plain` computes the same by the readable reference (`attention_terms.plain_terms`, `pdr.pdr.plain_geometry`).

Roofline, for SWARD's two modules run alone (forward and backward to the student's features): least bytes are the
teacher's map read once, the student's read twice and its gradient written; flops are those of the matrix products.
The floor is the larger of flops / (measured rate of a large product) and bytes / (measured rate of a copy); bare
operations are the products or passes that a module cannot do without, timed alone at its own shapes.
"""

import argparse
import contextlib
import itertools
import os
import statistics
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from pydantic import TypeAdapter
from roofline import CLASSES, bare, clock_of, floor, least, machine, seconds

from pipeline.files import write_json
from pipeline.memory import keep_freed_memory
from pipeline.results.step_costs import peak_on_cpu, peak_on_gpu
from sward.contracts import Batch, Student, StudentOutput
from sward.methods import MethodConfig
from sward.mwad.attention_terms import plain_terms
from sward.objective import Objective
from sward.pdr.pdr import plain_geometry
from sward.seeds import torch_seed
from sward.students import StudentConfig, build_student

TEACHERS = {"hiera-t": (96, 192, 384, 768), "hiera-l": (144, 288, 576, 1152)}  # channels at strides 4 to 32
PDR = {"features": "penultimate"}
ROWS: dict[str, dict[str, Any]] = {
    "plain": {"kind": "plain"},
    "mwad": {"kind": "sward", "gamma": 0},
    "pdr": {"kind": "sward", "beta": 0, "pdr": PDR},
    "sward": {"kind": "sward", "pdr": PDR},
    "sward, plain": {"kind": "sward", "pdr": PDR},
    "sward, bfloat16 products": {"kind": "sward", "pdr": PDR, "mwad": {"products": "bfloat16"}},
    "sward, half of the windows": {"kind": "sward", "pdr": PDR, "mwad": {"window_share": 0.5}},
    "sward, a quarter of them": {"kind": "sward", "pdr": PDR, "mwad": {"window_share": 0.25}},
    "fitnet": {"kind": "fitnet"},
    "cwd": {"kind": "cwd", "level": "s32"},
    "mgd": {"kind": "mgd"},
}
STUDENTS = {"unext": {"kind": "unext"}, "deeplabv3": {"kind": "deeplabv3", "encoder_weights": None}}


def channels_of(teacher: str) -> dict[str, int]:
    return dict(zip(("s4", "s8", "s16", "s32"), TEACHERS[teacher], strict=True))


def make_batch(size: int, batch: int, channels: dict[str, int], device: torch.device) -> Batch:
    generator = torch.Generator().manual_seed(torch_seed(0, "benchmark"))
    features = {k: torch.randn(batch, c, *(size // int(k[1:]),) * 2, generator=generator) for k, c in channels.items()}
    blobs = torch.rand(batch, size // 32, size // 32, generator=generator) < 0.3
    labels = blobs.long().repeat_interleave(32, 1).repeat_interleave(32, 2)
    images = torch.randn(batch, 3, size, size, generator=generator)
    features = {k: f.to(device) for k, f in features.items()}
    return Batch(images.to(device), labels.to(device), features, [""] * batch)


def make_objective(row: str, window: int, student: Student, batch: Batch) -> Objective:
    settings = dict(ROWS[row])
    if settings["kind"] == "sward":
        settings["mwad"] = settings.get("mwad", {}) | {"window": window}
    with torch.no_grad():
        penultimate = student(batch.images).penultimate.shape[1]
    config = TypeAdapter(MethodConfig).validate_python(settings)
    channels = {level: f.shape[1] for level, f in batch.features.items()}
    method = config.build(channels, student.channels, CLASSES, penultimate)
    method.to(batch.images.device)
    statistics_ = {k: (f.mean((0, 2, 3)), f.std((0, 2, 3))) for k, f in batch.features.items()}
    method.prepare(batch, statistics_)
    return Objective(method)


@contextlib.contextmanager
def form(row: str) -> Iterator[None]:
    """The plain forms in the place of the fused ones, for the row that asks for it."""
    with contextlib.ExitStack() as stack:
        if row == "sward, plain":
            stack.enter_context(patch("sward.mwad.mwad.fused_terms", plain_terms))
            stack.enter_context(patch("sward.pdr.pdr.fused_geometry", plain_geometry))
        yield


def step(student: Student, objective: Objective, batch: Batch, number: int, bf16: bool) -> None:
    with torch.autocast(batch.images.device.type, torch.bfloat16, enabled=bf16):
        losses = objective(student(batch.images), batch, number)
    losses.total.backward()
    for parameter in (*student.parameters(), *objective.parameters()):
        parameter.grad = None


def terms_alone(objective: Objective, output: StudentOutput, batch: Batch, number: int) -> None:
    """Terms and their backward to the student's maps, which are leaves."""
    sum(objective.method(output, batch, number).values()).backward()
    for f in (*output.features.values(), output.penultimate):
        f.grad = None


def measure(args: argparse.Namespace, size: int, batch_size: int, window: int, teacher: str) -> dict[str, Any]:
    device, clock, channels = torch.device(args.device), clock_of(args.device, args.cpu_time), channels_of(teacher)
    student = build_student(TypeAdapter(StudentConfig).validate_python(STUDENTS[args.student]), CLASSES, 0).to(device)
    if args.channels_last or args.bf16:
        student.to(memory_format=torch.channels_last)
    batch = make_batch(size, batch_size, channels, device)
    rows = ["plain", *(row for row in args.rows if row != "plain")]
    objectives = {row: make_objective(row, window, student, batch) for row in rows}
    with torch.no_grad():
        output = student(batch.images)
    leaves = {k: f.detach().float().requires_grad_() for k, f in output.features.items()}
    output = StudentOutput(output.logits, leaves, output.penultimate.detach().float().requires_grad_())
    taken: dict[str, list[float]] = {}
    for repetition in range(-1, args.repetitions):  # -1 warms up and isn't counted
        for row, objective in objectives.items():
            with form(row):
                spent = {row: seconds(partial(step, student, objective, batch, repetition + 1, args.bf16), clock)}
                if row in ("mwad", "pdr"):
                    alone = seconds(partial(terms_alone, objective, output, batch, repetition + 1), clock)
                    spent[f"{row} alone"] = alone
            for name, s in spent.items() if repetition >= 0 else ():
                taken.setdefault(name, []).append(s)
    peaks = {row: peak(partial(step, student, o, batch, 0, args.bf16), row, device) for row, o in objectives.items()}
    own = {row: peak(partial(terms_alone, objectives[row], output, batch, 0), row, device) for row in rows[1:]}
    floors = {name: floor(work, args.machine) for name, work in least(output, channels, window).items() if name in rows}
    own_limits = bare(output, channels, window, clock) if floors else {}
    for name, found in floors.items():
        found["bare_ms"] = own_limits[name]
        found["measured_ms"] = 1e3 * statistics.median(taken[f"{name} alone"])
    case = {"student": args.student, "size": size, "batch": batch_size, "window": window, "teacher": teacher}
    by_row = {row: figures(taken, peaks, row) | {"terms_mb": own.get(row, 0) / 1e6} for row in rows}
    return case | {"rows": by_row, "roofline": floors}


def figures(taken: dict[str, list[float]], peaks: dict[str, int], row: str) -> dict[str, Any]:
    extra = [s / p - 1 for s, p in zip(taken[row], taken["plain"], strict=True)]
    return {
        "ms": 1e3 * statistics.median(taken[row]),
        "extra": statistics.median(extra),
        "extra_range": [min(extra), max(extra)],
        "extra_mb": (peaks[row] - peaks["plain"]) / 1e6,
    }


def peak(work: Callable[[], object], row: str, device: torch.device) -> int:
    """Most bytes that ``work`` has alive at once, beyond what stood before it."""
    with form(row):
        return peak_on_gpu(work, device) if device.type == "cuda" else peak_on_cpu(work)


def show(case: dict[str, Any]) -> None:
    print("\n{student} {size}², batch {batch}, window {window}, {teacher}".format(**case))
    for row, f in case["rows"].items():
        span = "({:+.2f} to {:+.2f})".format(*f["extra_range"])
        memory = f"{f['extra_mb']:+8.1f} MB, terms alone {f['terms_mb']:.1f} MB"
        print(f"  {row:13} {f['ms']:8.1f} ms  extra {f['extra']:+.2f} × plain {span:18}  {memory}")
    for name, f in case["roofline"].items():
        floor_, own = (f"{f['measured_ms'] / f[limit]:.1f} ×" for limit in ("floor_ms", "bare_ms"))
        print(
            f"  {name} alone {f['measured_ms']:.1f} ms; least {f['bytes'] / 1e6:.0f} MB = {f['bytes_ms']:.1f} ms, "
            f"{f['flops'] / 1e9:.2f} GFLOP = {f['flops_ms']:.1f} ms: {floor_} the floor, {own} its bare operations "
            f"({f['bare_ms']:.1f} ms)"
        )


def one_by_one(*options: list[Any]) -> list[tuple[Any, ...]]:
    """The first of every list, and with each other value in its place."""
    first = tuple(values[0] for values in options)
    return [first] + [(*first[:i], v, *first[i + 1 :]) for i, values in enumerate(options) for v in values[1:]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--student", choices=STUDENTS, default="unext")
    for name, default in (("size", 256), ("batch", 8), ("window", 8)):
        parser.add_argument(f"--{name}", type=int, nargs="+", default=[default])
    parser.add_argument("--teacher", nargs="+", choices=TEACHERS, default=["hiera-t"], help="whose channels")
    parser.add_argument("--one-by-one", action="store_true", help="from the first of each, vary one at a time")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, help="default: torch's")
    parser.add_argument("--cpu-time", action="store_true", help="processor time: with --threads 1 on a busy machine")
    parser.add_argument("--channels-last", action="store_true", help="the student's maps in that order; bf16 always")
    parser.add_argument("--bf16", action="store_true", help="autocast, as in mixed-precision training")
    parser.add_argument("--json", type=Path, help="write the figures there")
    args = parser.parse_args()
    keep_freed_memory()  # as training does
    if args.threads:
        torch.set_num_threads(args.threads)
    args.machine = machine(torch.device(args.device), clock_of(args.device, args.cpu_time))
    cases = []
    options = (args.size, args.batch, args.window, args.teacher)
    for case in one_by_one(*options) if args.one_by_one else itertools.product(*options):
        cases.append(measure(args, *case))
        show(cases[-1])
    facts = {"device": args.device, "threads": torch.get_num_threads(), "cores": os.cpu_count()}
    facts |= {"torch": torch.__version__, "load": os.getloadavg()[0], "repetitions": args.repetitions}
    facts |= {"channels_last": args.channels_last or args.bf16, "bf16": args.bf16, **args.machine}
    print("\n" + ", ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in facts.items()))
    if args.json:
        write_json(args.json, facts | {"cases": cases})


if __name__ == "__main__":
    main()
