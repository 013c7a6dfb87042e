"""`sward inspect`: shows teacher, data, views, size and value ranges of a store, and whether it is complete."""

import re
from collections import Counter
from pathlib import Path
from typing import Any

from pipeline.cache.manifest.identity import OWN_SIZE, REPACKED
from pipeline.cache.store import Store
from pipeline.cache.tools.class_shares import ClassShares, as_json, class_shares


def inspect(path: Path) -> dict[str, Any]:
    """Collects facts about a store, complete or not.

    Raises:
        FileNotFoundError: there is no store at ``path``.
        StoreDamaged: a plan or receipt is damaged, or a file's size is not what its receipt says.
    """
    store = Store(path, partial=True)
    planned = Counter(u.subset for u in store.units for _ in u.records)
    files = [facts for r in store.receipts.values() for facts in r["files"].values()]
    return {
        "path": store.location,
        "complete": not store.missing,
        "shards": {"done": len(store.units) - len(store.missing), "planned": len(store.units)},
        "records": {s: {"readable": len(store.records[s]), "planned": planned[s]} for s in store.records},
        "images": {s: len({r.digest for r in records}) for s, records in store.records.items()},
        "classes": as_json(class_shares(store)),
        "bytes": sum(facts["bytes"] for facts in files),
        "generations": len(store.plans),
        "content_id": store.content_id,
        "identity": store.identity,
        "channels": store.channels,
        "range": {level: value_range(store, level) for level in store.channels},
        "provenance": [r["provenance"] for r in store.receipts.values()][:1],
    }


def value_range(store: Store, level: str) -> tuple[float, float] | None:
    """(minimum, maximum) of a level over all stored records; None if there are none."""
    facts = [r["levels"][level] for r in store.receipts.values()]
    return (min(f["min"] for f in facts), max(f["max"] for f in facts)) if facts else None


# Lines of the output; {name} stands for the value of that identity field.
LINES = (
    "teacher        {teacher.kind} {teacher.architecture}, digest {teacher.digest}",
    "data           {data.name}, split {data.split}, classes {data.classes}",
    "input          {input.size} (evaluation {input.eval_size}), {input.resize}",
    "views          {views.count} per training image, seed {views.seed}, photometric {views.photometric}",
    "precision      {precision}",
)

OWN_INPUT = "teacher input  {teacher.size} (evaluation {teacher.eval_size}), mean {teacher.mean}, std {teacher.std}"


def describe(facts: dict[str, Any]) -> list[str]:
    """Formats the facts as lines of text; sizes in decimal units."""
    shards = facts["shards"]
    state = "complete" if facts["complete"] else f"INCOMPLETE: {shards['done']} of {shards['planned']} shards"
    lines = [
        f"{facts['path']}: {state}, {facts['bytes'] / 1e9:.3f} GB, {facts['generations']} generation(s)",
        f"content id     {facts['content_id']}",
        *(fill(line, facts["identity"]) for line in LINES),
        *([fill(OWN_INPUT, facts["identity"])] if OWN_SIZE in facts["identity"] else []),
    ]
    if came_from := facts["identity"].get(REPACKED):
        lines.append(f"repacked       from {' then '.join(came_from['precisions'])}, store {came_from['content_id']}")
    for subset, n in facts["records"].items():
        lines.append(f"{subset:14} {n['readable']} of {n['planned']} records, {facts['images'][subset]} images")
    lines += [ClassShares(**shares).line(subset) for subset, shares in facts["classes"].items()]
    for level, channels in facts["channels"].items():
        values = facts["range"][level]
        shown = f"values {values[0]:.4g} … {values[1]:.4g}" if values else "nothing stored yet"
        lines.append(f"{level:14} {channels} channels, {shown}")
    return lines


def fill(line: str, identity: dict[str, Any]) -> str:
    """Replaces each {field} of a line by its value in the identity."""
    return re.sub(r"{([\w.]+)}", lambda match: str(identity[match[1]]), line)
