"""Which files a card's patterns match, by id; and which sequence a frame belongs to."""

import csv
import os
import re
from collections import defaultdict
from pathlib import Path

from pipeline import paths
from pipeline.datasets.problems import Problem

Found = dict[str, list[Path]]  # id -> files; more than one where a pattern has a wildcard


def list_files(folder: Path, pattern: str) -> Found:
    """Id -> files matching ``pattern``, e.g. ``images/{id}.png``, below a card's folder.

    ``{id}`` matches any text, slashes included; ``*`` matches within one name. Hidden files are passed over.
    """
    start = paths.read_path(folder / prefix(pattern))
    matcher = re.compile(_expression(pattern.removeprefix(prefix(pattern)).lstrip("/")))
    found = defaultdict(list)
    for place, _, names in os.walk(start):
        for name in sorted(names):
            path = Path(place, name)
            match = matcher.fullmatch(path.relative_to(start).as_posix())
            if match and not name.startswith("."):
                found[match["id"]].append(path)
    return dict(found)


def prefix(pattern: str) -> str:
    """The folders of a pattern before its first placeholder: ``images`` of ``images/{id}.png``."""
    fixed = re.split(r"[{*]", pattern)[0]
    return fixed.rpartition("/")[0]


def _expression(pattern: str) -> str:
    parts = re.split(r"(\{id\}|\*)", pattern)
    return "".join({"{id}": "(?P<id>.+)", "*": "[^/]*"}.get(part, re.escape(part)) for part in parts)


def read_sequences(path: Path) -> tuple[dict[str, str], list[Problem]]:
    """Frame -> sequence of a CSV with columns ``frame,sequence``, and what is wrong with it."""
    if not path.is_file():
        return {}, [Problem("sequences", str(path), "does not exist")]
    with path.open(newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file)
        if not {"frame", "sequence"} <= set(rows.fieldnames or ()):
            return {}, [Problem("sequences", str(path), f"has columns {rows.fieldnames}")]
        table: dict[str, str] = {}
        problems = []
        for row in rows:
            if table.setdefault(row["frame"], row["sequence"]) != row["sequence"]:
                problems.append(Problem("sequences", str(path), f"frame {row['frame']} is in two sequences"))
    return table, problems
