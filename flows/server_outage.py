"""Retries Prefect calls while the server is unreachable; skips those that only display results."""

import time
from collections.abc import Callable
from typing import TypeVar

import httpx
from prefect import get_run_logger
from prefect.exceptions import PrefectException

T = TypeVar("T")
PATIENCE = 900.0  # seconds; Prefect's own calls of a running flow wait 8 minutes (client.max_retries in prefect.toml)
PAUSE = 5.0  # seconds between two tries


def is_unavailable(error: Exception) -> bool:
    """True if the server cannot be reached or cannot answer now; False if it answered that the call is wrong."""
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code >= 500
    return isinstance(error, httpx.TransportError)


def retry_while_unavailable(call: Callable[[], T], patience: float = PATIENCE, pause: float = PAUSE) -> T:
    """Returns the call's result; while the server is unavailable, tries again every ``pause`` seconds.

    Raises:
        httpx.HTTPError: the server is still unavailable after ``patience`` seconds, or refused the call.
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
    """Publishes an artifact; a failure is only logged, so that hours of work do not fail for lack of a display.

    Args:
        what: name of the artifact for the log.
        call: function that publishes it.

    Returns:
        True if the server accepted the artifact.
    """
    try:
        call()
    except (httpx.HTTPError, PrefectException) as error:
        get_run_logger().warning("%s is not shown in Prefect: %s", what, error)
        return False
    return True
