"""Lightning's Fabric, imported without torchmetrics.

Fabric imports torchmetrics, where it is installed, to ask its version: 0.8 s, with scipy and matplotlib behind it,
for a helper that SWARD does not use.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def hidden(name: str) -> Iterator[None]:
    """Importing ``name`` fails inside, unless it was imported before."""
    loaded = name in sys.modules
    if not loaded:
        sys.modules[name] = None  # type: ignore[assignment]  # Python's own mark for "not there"
    try:
        yield
    finally:
        if not loaded:
            del sys.modules[name]


with hidden("torchmetrics"):
    from lightning_fabric import Fabric

__all__ = ["Fabric"]
