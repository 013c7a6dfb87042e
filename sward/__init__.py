"""SWARD's losses for anybody's training loop: ``from sward import MWAD, PDR``; and trained students:
``sward.students.load("runs/my-run")``. Imported on first use."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sward.mwad.config import MWADConfig
    from sward.mwad.mwad import MWAD
    from sward.pdr import PDR, PDRConfig

__all__ = ["MWAD", "PDR", "MWADConfig", "PDRConfig"]

_HOME = {"MWAD": "mwad.mwad", "MWADConfig": "mwad.config", "PDR": "pdr", "PDRConfig": "pdr"}


def __getattr__(name: str) -> Any:
    if name == "students":
        return import_module("sward.students")
    if name not in _HOME:
        raise AttributeError(f"module 'sward' has no attribute {name!r}; it exports {__all__}")
    return getattr(import_module(f"sward.{_HOME[name]}"), name)
