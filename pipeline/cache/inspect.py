"""`sward inspect`: what is in a store, from which teacher and data, how large, complete or not."""

from collections import Counter
from pathlib import Path
from typing import Any

from pipeline.cache.store import Store


def inspect(path: Path) -> dict[str, Any]:
    """Facts about a store, complete or not.

    Raises:
        FileNotFoundError, StoreDamaged: there is nothing to look at, or a file has another size than its receipt.
    """
    store = Store(path, partial=True)
    planned = Counter(u.subset for u in store.units for _ in u.records)
    files = [facts for r in store.receipts.values() for facts in r["files"].values()]
    return {
        "path": str(store.path),
        "complete": not store.missing,
        "shards": {"done": len(store.units) - len(store.missing), "planned": len(store.units)},
        "records": {s: {"readable": len(store.records[s]), "planned": planned[s]} for s in store.records},
        "images": {s: len({r.digest for r in records}) for s, records in store.records.items()},
        "bytes": sum(facts["bytes"] for facts in files),
        "generations": len(store.plans),
        "content_id": store.content_id,
        "identity": store.identity,
        "channels": store.channels,
        "range": {level: value_range(store, level) for level in store.channels},
        "provenance": [r["provenance"] for r in store.receipts.values()][:1],
    }


def value_range(store: Store, level: str) -> tuple[float, float] | None:
    """(minimum, maximum) of a level over everything stored."""
    facts = [r["levels"][level] for r in store.receipts.values()]
    return (min(f["min"] for f in facts), max(f["max"] for f in facts)) if facts else None


def describe(facts: dict[str, Any]) -> list[str]:
    """The facts as lines for people; decimal units."""
    shards, identity = facts["shards"], facts["identity"]
    state = "complete" if facts["complete"] else f"INCOMPLETE: {shards['done']} of {shards['planned']} shards"
    lines = [
        f"{facts['path']}: {state}, {facts['bytes'] / 1e9:.3f} GB, {facts['generations']} generation(s)",
        f"content id     {facts['content_id']}",
        f"teacher        {identity['teacher.kind']} {identity['teacher.architecture']}, digest {identity['teacher.digest']}",
        f"data           {identity['data.name']}, split {identity['data.split']}, classes {', '.join(identity['data.classes'])}",
        f"input          {identity['input.size']} (evaluation {identity['input.eval_size']}), {identity['input.resize']}",
        f"views          {identity['views.count']} per training image, seed {identity['views.seed']}, photometric {identity['views.photometric']}",
        f"precision      {identity['precision']}",
    ]
    for subset, counts in facts["records"].items():
        lines.append(
            f"{subset:14} {counts['readable']} of {counts['planned']} records, {facts['images'][subset]} images"
        )
    for level, channels in facts["channels"].items():
        values = facts["range"][level]
        shown = f"values {values[0]:.4g} … {values[1]:.4g}" if values else "nothing stored yet"
        lines.append(f"{level:14} {channels} channels, {shown}")
    return lines
