"""Where files lie: one rule, so that no configuration holds an absolute path.

A relative path whose first part is ``data`` lies under the data root: ``$SWARD_DATA``, or ``data`` in the
current folder. Cards and split lists are committed, so for reading, what the data root lacks is looked for in
the checkout's own ``data/``. Every other path is taken as it is, relative to the current folder.
"""

import os
from pathlib import Path

CATALOGUE = Path(__file__).resolve().parents[1] / "data"  # the checkout's committed cards and splits


def data_root() -> Path:
    """``$SWARD_DATA``, or ``data`` where it is unset, as an absolute path."""
    return Path(os.environ.get("SWARD_DATA") or "data").absolute()


def locate(path: str | Path) -> Path:
    """Where to read ``path``: the data root, else the checkout; else the root's place."""
    placed = place(path)
    if placed.exists() or not _in_data(Path(path)):
        return placed
    committed = CATALOGUE.joinpath(*Path(path).parts[1:])
    return committed if committed.exists() else placed


def place(path: str | Path) -> Path:
    """Where to write ``path``: ``data/...`` under the data root, any other path as it is."""
    path = Path(path)
    return data_root().joinpath(*path.parts[1:]) if _in_data(path) else path


def _in_data(path: Path) -> bool:
    return not path.is_absolute() and path.parts[:1] == ("data",)
