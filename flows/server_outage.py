"""A server that is away for a while (restarted, unreachable): what steers the work waits, what shows it is left out."""

import time
from collections.abc import Callable
from typing import TypeVar

import httpx
from prefect import get_run_logger
from prefect.exceptions import PrefectException

T = TypeVar("T")
PATIENCE = 900.0  # seconds; Prefect's own calls of a running flow wait 8 minutes (client.max_retries in prefect.toml)
PAUSE = 5.0


def is_unavailable(error: Exception) -> bool:
    """Whether the server can't be reached or can't answer now, as opposed to: it answered that the call is wrong."""
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code >= 500
    return isinstance(error, httpx.TransportError)


def retry_while_unavailable(call: Callable[[], T], patience: float = PATIENCE, pause: float = PAUSE) -> T:
    """The call's result; while the server is away it is tried again every ``pause`` seconds.

    Raises:
        httpx.HTTPError: the server is still away after ``patience`` seconds, or refused the call.
    """
    deadline, warned = time.monotonic() + patience, False
    while True:
        try:
            return call()
        except httpx.HTTPError as error:
            if not is_unavailable(error) or time.monotonic() > deadline:
                raise
            if not warned:
                get_run_logger().warning("the Prefect server is away (%s); waiting for it", error)
            warned = True
            time.sleep(pause)


def publish_artifact(what: str, call: Callable[[], object]) -> bool:
    """An artifact, where the server takes it: hours of work don't fail because their table could not be shown."""
    try:
        call()
    except (httpx.HTTPError, PrefectException) as error:
        get_run_logger().warning("%s is not shown in Prefect: %s", what, error)
        return False
    return True
