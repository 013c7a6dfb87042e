"""The loggers of one run: TensorBoard, and wandb and MLflow where the configuration names them.

TensorBoard's files lie in the run's folder and belong to it, so an error of writing them ends the run. Of wandb and
MLflow, which may be services elsewhere, an error while the run goes on is said once, and that logger is left out from
then on: an outage at night costs curves, never the training.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any, Protocol

import numpy as np

from pipeline.training.logs.logged_run import LoggedRun, Status
from pipeline.training.logs.tensorboard import TensorBoard

log = logging.getLogger(__name__)


class Logger(Protocol):
    """Takes what a run logs. All steps are counted from 1, and never fall within one process."""

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Takes values of a step, by name."""

    def picture(self, step: int, name: str, image_HWC: np.ndarray) -> None:
        """Takes a picture (H, W, 3) uint8 RGB."""

    def result(self, step: int, values: dict[str, float]) -> None:
        """Takes the metrics of the finished run."""

    def close(self, status: Status) -> None:
        """Writes what is left."""


OPTIONAL = {"wandb": ("wandb_logger", "WandbLogger"), "mlflow": ("mlflow_logger", "MlflowLogger")}  # module, class


def require_packages(names: Sequence[str]) -> None:
    """Imports the packages of the named loggers, so that a missing one is said before anything is trained.

    Raises:
        ModuleNotFoundError: a package is not installed.
    """
    for name in names:
        import_module(name)


class LoggerError(ValueError):
    """A logger does not start, e.g. because its service refuses the login."""


class Loggers:
    """Passes everything on to all loggers of a run.

    Raises:
        LoggerError: one of them does not start.
    """

    def __init__(self, names: Sequence[str], run: LoggedRun) -> None:
        self.own = TensorBoard(run)
        self.others: dict[str, Logger] = {}
        for name in names:
            module, kind = OPTIONAL[name]
            try:
                self.others[name] = getattr(import_module(f"pipeline.training.logs.{module}"), kind)(run)
            except Exception as error:  # of another program, which raises what it likes
                self.close(Status.FAILED)
                remedy = "see docs/how-to/loggers.md for its settings, or leave it out of `loggers`"
                raise LoggerError(f"{name} cannot log this run: {type(error).__name__}: {error}; {remedy}") from error

    def scalars(self, step: int, values: dict[str, float]) -> None:
        self._tell("scalars", step, values)

    def picture(self, step: int, name: str, image_HWC: np.ndarray) -> None:
        self._tell("picture", step, name, image_HWC)

    def result(self, step: int, values: dict[str, float]) -> None:
        self._tell("result", step, values)

    def close(self, status: Status) -> None:
        self._tell("close", status)

    def _tell(self, what: str, *values: Any) -> None:
        getattr(self.own, what)(*values)
        for name, logger in list(self.others.items()):
            try:
                getattr(logger, what)(*values)
            except Exception as error:  # of another program, which raises what it likes
                del self.others[name]
                log.warning("%s gets no more of this run: %s: %s", name, type(error).__name__, error)


@contextmanager
def open_loggers(names: Sequence[str], run: LoggedRun) -> Iterator[Loggers]:
    """Yields the loggers of a run; closes them with the status that the block's end shows."""
    loggers, status = Loggers(names, run), Status.FAILED
    try:
        yield loggers
        status = Status.FINISHED
    except KeyboardInterrupt:
        status = Status.STOPPED
        raise
    finally:
        loggers.close(status)
