"""Appends each unit's wall-clock time to timing.jsonl, which is not part of the store's content.

The file has one JSON line per unit. It is named in no receipt, and a store without it is complete.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.cache.manifest.records import TIMING


def note(store: Path, unit: str, records: int, seconds: float, device: str) -> None:
    """Append a unit's wall-clock seconds.

    They cover rendering, teacher, encoding and writing, which overlap with those of the units before and after it.
    """
    line = {"unit": unit, "records": records, "seconds": round(seconds, 3), "device": device}
    with (store / TIMING).open("a") as file:
        file.write("\n" + json.dumps(line) + "\n")  # the leading newline ends a line that a kill left incomplete


def extraction_cost(store: Path, receipts: Mapping[str, Any]) -> dict[str, Any] | None:
    """Total seconds, records and devices of the units with a receipt; None unless every one of them was timed.

    If a unit was computed more than once (killed before its receipt), its last time counts.
    """
    path = store / TIMING
    lines = path.read_text().splitlines() if path.is_file() else []
    units = {line["unit"]: line for line in map(whole, lines) if line}
    if not receipts or any(name not in units for name in receipts):
        return None
    made = [units[name] for name in receipts]
    return {
        "seconds": sum(line["seconds"] for line in made),
        "records": sum(line["records"] for line in made),
        "devices": sorted({line["device"] for line in made}),
    }


def whole(line: str) -> dict[str, Any] | None:
    """The line's JSON value; None if a kill left the line incomplete."""
    try:
        return json.loads(line)
    except ValueError:
        return None
