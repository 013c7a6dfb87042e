"""Checks the names in plans and receipts, so that a store from elsewhere reads and writes nothing outside its folder.

Their checksums protect against damage, not against intent: whoever makes a store can also write a valid checksum.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pipeline.cache.errors import StoreDamaged

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]*")  # of a unit, array, level, or digest: one part of a path
SUBSETS = ("train", "val", "test")


def is_inside(name: Any) -> bool:
    """Whether a file name is a relative path with ``/`` that does not leave its folder."""
    return isinstance(name, str) and bool(name) and all(NAME.fullmatch(part) for part in name.split("/"))


def require_inside(names: Iterable[Any], source: Path) -> None:
    """Checks names of files that ``source`` mentions.

    Raises:
        StoreDamaged: one leads, or may lead, out of the store.
    """
    refuse([name for name in names if not is_inside(name)], source)


def require_inside_plan(plan: dict[str, Any], source: Path) -> None:
    """Checks every name of a plan that becomes a part of a path: units, subsets, digests of records, levels.

    Raises:
        StoreDamaged: one is no plain name.
    """
    units = plan["units"]
    names = [unit["name"] for unit in units] + list(plan["channels"])
    names += [record["digest"] for unit in units for record in unit["records"]]
    refuse([name for name in names if not (isinstance(name, str) and NAME.fullmatch(name))], source)
    refuse([unit["subset"] for unit in units if unit["subset"] not in SUBSETS], source)


def refuse(outside: list[Any], source: Path) -> None:
    """Raises StoreDamaged if there are such names."""
    if outside:
        raise StoreDamaged(
            f"{source} names {outside[0]!r:.80}, which is no path within the store: the store was changed by hand, or "
            "to do harm; don't use it, and fetch it again from whoever made it"
        )
