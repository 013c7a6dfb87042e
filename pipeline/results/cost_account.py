"""Training time with the store at hand (warm) and with its extraction (cold).

All runs that read the teacher's features share one extraction, so cold approaches warm as their number grows. A row
that reads no features (the student alone) needs no extraction.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.cache.extraction.timing import extraction_cost
from pipeline.cache.joined import parts_of
from pipeline.cache.store import Store
from pipeline.results.results_table import NONE
from pipeline.results.runs import SavedRun
from sward.methods.plain import PlainConfig

HEADER = ["", "runs", "warm: a run", "cold: first run", "cold: each, shared", "all runs"]


def reads_features(run: SavedRun) -> bool:
    """True if a run needs the teacher's features: for all methods but the plain one, and for the teacher's own head."""
    return not isinstance(run.config.method, PlainConfig) or run.config.student.kind.endswith("-head")


def account(rows: Mapping[str, Sequence[SavedRun]], extraction: dict[str, Any] | None) -> list[list[str]]:
    """One line per row of the comparison, in the order of ``HEADER``; an unknown time is a dash."""
    readers = sum(len(runs) for runs in rows.values() if reads_features(runs[0]))
    return [line(label, runs, extraction, readers) for label, runs in rows.items()]


def line(label: str, runs: Sequence[SavedRun], extraction: dict[str, Any] | None, readers: int) -> list[str]:
    """Cells of one row; ``readers`` is the number of runs that share the extraction."""
    total = sum(run.facts["seconds"] for run in runs)
    warm = total / len(runs)
    if not reads_features(runs[0]):
        cold = [duration(warm)] * 2
    elif extraction:
        cold = [duration(warm + extraction["seconds"]), duration(warm + extraction["seconds"] / readers)]
    else:
        cold = [NONE] * 2
    return [label, str(len(runs)), duration(warm), *cold, duration(total)]


def duration(seconds: float) -> str:
    """Formats a duration as `12.3 s`, `4 min 05 s` or `3 h 20 min`."""
    if seconds < 99.95:
        return f"{seconds:.1f} s"
    whole, minutes = round(seconds), round(seconds / 60)
    return f"{whole // 60} min {whole % 60:02} s" if whole < 3600 else f"{minutes // 60} h {minutes % 60:02} min"


def caption(store: Store | None, rows: Mapping[str, Sequence[SavedRun]], extraction: dict[str, Any] | None) -> str:
    """Caption of the table: definitions of warm and cold, time and size of the extraction."""
    readers = sum(len(runs) for runs in rows.values() if reads_features(runs[0]))
    receipts = [r for part in (parts_of(store) if store else ()) for r in part.receipts.values()]
    size = sum(f["bytes"] for r in receipts for f in r["files"].values())
    made = "The store is not here to ask what it took." if store is None else "The store's extraction was not timed."
    if extraction:
        made = (
            f"Extraction: {duration(extraction['seconds'])} for {extraction['records']} records "
            f"({', '.join(extraction['devices'])}), {size / 1e9:.3f} GB."
        )
    return (
        "Wall-clock time, validation and test included. Warm: from the finished store. Cold, first run: with the whole "
        "extraction on top. Cold, shared: with an equal part of it for each run here that reads the teacher's features "
        f"({readers} of them); a row that reads none pays nothing. {made}"
    )


def extraction_of(store: Store | str) -> dict[str, Any] | None:
    """Cost of the extraction of the store, or of joined ones; None if one could not be opened or was not timed."""
    parts = parts_of(store) if isinstance(store, Store) else []
    costs = [cost for part in parts if (cost := extraction_cost(part.path, part.receipts))]
    if not costs or len(costs) < len(parts):
        return None
    return {
        "seconds": sum(cost["seconds"] for cost in costs),
        "records": sum(cost["records"] for cost in costs),
        "devices": sorted({device for cost in costs for device in cost["devices"]}),
    }
