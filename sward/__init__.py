"""Losses for your own training loop (MWAD, PDR), and loading of trained students.

    import sward
    from sward import MWAD, PDR
    student = sward.students.load("runs/my-run")

Submodules are imported when a name is first used, so ``import sward`` stays cheap.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sward.mwad.config import MWADConfig
    from sward.mwad.mwad import MWAD
    from sward.pdr.pdr import PDR, PDRConfig

__all__ = ["MWAD", "PDR", "MWADConfig", "PDRConfig"]

_HOME = {"MWAD": "mwad.mwad", "MWADConfig": "mwad.config", "PDR": "pdr.pdr", "PDRConfig": "pdr.pdr"}


def __getattr__(name: str) -> Any:
    if name == "students":
        return import_module("sward.students")
    if name not in _HOME:
        raise AttributeError(f"module 'sward' has no attribute {name!r}; it exports {__all__}")
    return getattr(import_module(f"sward.{_HOME[name]}"), name)
