"""How a flow run ends in Prefect: a failure with its cause as the message, a cancelled run with a line saying so."""

import logging
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from prefect.client.schemas import FlowRun
from prefect.exceptions import FailedRun
from prefect.flows import Flow
from prefect.logging.loggers import flow_run_logger
from prefect.states import Failed, State

from flows.verb_process import ChildFailed

P = ParamSpec("P")
T = TypeVar("T")
EXPECTED = (ChildFailed, ValueError, OSError)  # with messages for people; all else is a defect, with its traceback


def with_cause(flow: Callable[P, T]) -> Callable[P, T | State[Any]]:
    """A flow function that returns a failed state with the message of an expected error instead of raising it."""

    @wraps(flow)
    def run(*args: P.args, **kwargs: P.kwargs) -> T | State[Any]:
        try:
            return flow(*args, **kwargs)
        except EXPECTED as error:
            return Failed(message=str(error))

    return run


def is_unexpected(record: logging.LogRecord) -> bool:
    """Filter of Prefect's logs: False for a traceback of an expected error, whose message is the run's state.

    Prefect's engine raises FailedRun for a failed state that a flow returns.
    """
    return not (record.exc_info and isinstance(record.exc_info[1], (*EXPECTED, FailedRun)))


for name in ("prefect.engine", "prefect.flow_runs", "prefect.task_runs"):
    logging.getLogger(name).addFilter(is_unexpected)


def log_cancellation(flow: Flow[Any, Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Hook of a cancelled run. Prefect passes the arguments by these names."""
    flow_run_logger(flow_run, flow).warning(
        "cancelled; what is finished is kept, and a new run with the same configuration continues from there"
    )
