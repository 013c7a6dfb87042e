"""What making a store cost: one line a unit in timing.jsonl, beside what is compared.

Seconds are no property of a store's content: the file is in no receipt, and a store without it is as good.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.cache.manifest.records import TIMING


def note(store: Path, unit: str, records: int, seconds: float, device: str) -> None:
    """Add a unit's wall-clock seconds: rendering, teacher, encoding and writing, which overlap with its neighbours'."""
    line = {"unit": unit, "records": records, "seconds": round(seconds, 3), "device": device}
    with (store / TIMING).open("a") as file:
        file.write("\n" + json.dumps(line) + "\n")  # a torn line before it stays alone


def extraction_cost(store: Path, receipts: Mapping[str, Any]) -> dict[str, Any] | None:
    """Seconds, records and devices of the units with a receipt; None unless every one of them was timed.

    Where a unit was made more than once (a kill before its receipt), the last time counts.
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
    """The line's facts; None where a kill tore it."""
    try:
        return json.loads(line)
    except ValueError:
        return None
