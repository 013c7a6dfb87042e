"""What loggers are told of a run when they open."""

from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any


class Status(Enum):
    """How a session of a run ended."""

    FINISHED = "finished"
    STOPPED = "stopped"
    FAILED = "failed"


@dataclass(frozen=True)
class LoggedRun:
    """A run as loggers know it.

    Attributes:
        folder: the run's folder; its name is unique among the runs beside it.
        settings: the whole configuration, nested.
        first: first step of this session, counted from 0; later steps of an earlier session are done again.
    """

    folder: Path
    settings: dict[str, Any]
    first: int

    @property
    def name(self) -> str:
        """The run's name, without its hash."""
        return str(self.settings["name"])
