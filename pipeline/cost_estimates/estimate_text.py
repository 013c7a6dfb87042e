"""Formats the result of `sward plan` as text and tables.

Units are decimal (1 GB is 10⁹ bytes). Bottleneck and verdict on caching are derived from the measured times.
"""

import math

from pipeline.cost_estimates.budget import ENOUGH, recommend
from pipeline.cost_estimates.estimate import CostEstimate
from pipeline.cost_estimates.half_precision import HalfPrecision
from pipeline.cost_estimates.teacher_facts import HEAD, aligned

# Upper bound of the saving by a cache, from published FLOPs: (teacher + 3 × student) / (3 × student), forward passes.
CEILINGS = {"Hiera-L → DeepLab MobileNetV3": 7.0, "Hiera-T → UNeXt": 5.0, "Hiera-T → ResUNet++": 1.15}


def describe(p: CostEstimate) -> list[str]:
    """The lines that `sward plan` prints."""
    counts = ", ".join(f"{subset} {n}" for subset, n in p.records.items())
    rates = ", ".join(f"{pair} {gain:g}×" for pair, gain in CEILINGS.items())
    return [
        f"records        {p.total_records} ({counts}) in {p.shards} shards, {p.files} files",
        *view_line(p),
        f"free disk      {p.free_bytes / 1e9:.1f} GB: {room(p)}",
        f"teacher        {p.teacher_seconds * 1e3:.1f} ms per view here; "
        f"extraction {duration(p.extraction_seconds)} ({p.view_seconds * 1e3:.1f} ms per view, rendered and written)",
        *precision_lines(p.half),
        "",
        *([*aligned([HEAD, p.teacher.cells()]), ""] if p.teacher else []),
        *codec_table(p),
        "",
        f"student        {p.demand.who}: {p.demand.records_per_second:.1f} records/s, "
        f"{p.read_bytes[p.codec] * p.demand.records_per_second / 1e9:.3f} GB/s",
        *joined_lines(p),
        f"bottleneck     {bottleneck(p)}",
        f"caching        {verdict(p)}",
        f"largest possible gain per training run, by published FLOPs: {rates}",
        *budget_lines(p),
    ]


def view_line(p: CostEstimate) -> list[str]:
    """One line with the sizes of a training view and the bytes that it takes; none where they are not known."""
    if p.codec not in p.view_bytes:
        return []
    own, sizes = p.teachers_size, f"{p.size[0]}×{p.size[1]} pixels"
    sizes += f", {own[0]}×{own[1]} for the teacher" if own != p.size else ""
    return [f"a view         {sizes}: {p.view_bytes[p.codec] / 1e6:.3g} MB as {p.codec}"]


def joined_lines(p: CostEstimate) -> list[str]:
    """A line for each store that the run reads beside the planned one."""
    return [
        f"joined with    {store}: {size / 1e6:.3g} MB of it are read per record too" for store, size in p.joined.items()
    ]


def precision_lines(half: HalfPrecision | None) -> list[str]:
    """A line with what bfloat16 gains and changes in the teacher."""
    if half is None:
        return []
    plain, reduced = half.seconds
    errors = ", ".join(f"{level} {error:.1e}" for level, error in half.errors.items())
    return [
        f"bfloat16       {reduced * 1e3:.1f} ms per view in the teacher instead of {plain * 1e3:.1f} "
        f"({plain / reduced:.2f}×; teacher.autocast: {str(half.autocast).lower()}); error {errors}"
    ]


def room(p: CostEstimate) -> str:
    """Whether the free disk space is enough."""
    if p.url:
        fits = "fit" if p.fits else "DO NOT FIT"
        return f"two shards at a time {fits}, the rest goes to {p.url}; reading is measured on this disk, as if cached"
    return "fits" if p.fits else "DOES NOT FIT with 10 % to spare"


def duration(seconds: float) -> str:
    """A duration as text, in s, min or h."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def codec_table(p: CostEstimate) -> list[str]:
    """Lines with the size of the whole store, and the times per record to read and decode what the student reads."""
    lines = ["codec     store GB   ms/record: cold    warm  decode"]
    for codec, size in p.bytes_by_codec.items():
        r = p.reads[codec]
        chosen = "   <- chosen" if codec == p.codec else ""
        times = f"{r.cold * 1e3:17.2f} {r.warm * 1e3:7.2f} {r.decode * 1e3:7.2f}"
        lines.append(f"{codec:8} {size / 1e9:9.3g} {times}{chosen}")
    return lines


def bottleneck(p: CostEstimate) -> str:
    """Names the slowest part of a training run: the student, the disk, or the loader."""
    read, needed = p.reads[p.codec], p.demand.records_per_second
    cold, warm = 1 / read.cold, 1 / read.warm
    gives = f"the disk gives {cold:.1f} records/s cold, {warm:.1f} from memory"
    if needed <= cold:
        return f"the student: {gives}"
    if needed > warm:
        return f"THE LOADER, even from memory, at {needed / warm:.1f} times what it gives: {gives}; {smaller(p)}"
    if p.bytes_by_codec[p.codec] < 0.7 * p.memory_bytes:
        return f"the disk in the first epoch, then the student: the store fits into memory; {gives}"
    return f"THE DISK, at {needed / cold:.1f} times what it gives: {gives}; {smaller(p)}"


def smaller(p: CostEstimate) -> str:
    """Names the codecs from which the disk delivers records as fast as the student needs them."""
    enough = [c for c, r in p.reads.items() if 1 / r.cold >= p.demand.records_per_second and c != p.codec]
    return f"{', '.join(enough)} would do" if enough else "no codec would do; fewer levels or a faster disk would"


def verdict(p: CostEstimate) -> str:
    """Says whether caching pays off, after how many runs, and when recomputing is cheaper than reading."""
    read, teacher = p.own_reading, p.teacher_seconds
    if not p.reads_teacher:
        return "no benefit: this student reads nothing of the teacher"
    runs = p.break_even_runs(p.demand.records)
    if not math.isfinite(runs):
        return (
            f"does not pay: recomputing a view takes {teacher * 1e3:.2f} ms, reading and decoding it "
            f"{read.total * 1e3:.2f} ms"
        )
    note = ""
    if read.cold + read.decode > teacher:
        note = f"; from the disk (cold) reading costs more than recomputing: {1e3 * (read.cold + read.decode):.2f} ms"
    return f"pays after {runs:.2f} runs of {p.demand.records} records each{note}"


def budget_lines(p: CostEstimate) -> list[str]:
    """Lines with the views that fit per codec, and the recommended one; none without a budget."""
    if not p.choices:
        return []
    best = recommend(p.choices, p.views)
    lines = ["", "codec     views that fit   store GB"]
    for choice in p.choices:
        chosen = "   <- recommended" if choice is best else ""
        lines.append(f"{choice.codec:8} {choice.views:15} {choice.bytes / 1e9:10.3g}{chosen}")
    if best is None:
        return [*lines, "nothing fits: raise the budget, or reduce `size` or the number of images"]
    enough = max(ENOUGH, p.views)
    rule = f"rule: views before precision down to int8; fp16 if it holds {enough}; int6 and int4 if int8 holds too few"
    return [*lines, rule, f"set: codec.kind={best.codec} views.count={min(best.views, enough)}"]
