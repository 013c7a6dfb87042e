"""A server that is away: waited for where it steers the work, done without where it only shows it."""

import logging
from typing import Any

import httpx
import pytest

from flows import server_outage

DOWN = httpx.ConnectError("All connection attempts failed")


def answered(status: int) -> httpx.HTTPStatusError:
    request = httpx.Request("GET", "http://127.0.0.1/api")
    return httpx.HTTPStatusError(f"{status}", request=request, response=httpx.Response(status, request=request))


@pytest.fixture(autouse=True)
def log(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    logger = logging.Logger("away")  # of no hierarchy: what other tests' libraries configure does not reach it
    logger.addHandler(caplog.handler)
    monkeypatch.setattr(server_outage, "get_run_logger", lambda: logger)
    return caplog


def call(*outcomes: Any) -> Any:
    """A call with these outcomes in turn; exceptions are raised."""
    left = list(outcomes)

    def next_one() -> Any:
        outcome = left.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    return next_one


def test_a_call_is_repeated_until_the_server_is_back_and_says_so_once(log: pytest.LogCaptureFixture) -> None:
    assert server_outage.retry_while_unavailable(call(DOWN, DOWN, answered(503), "there"), pause=0) == "there"
    assert [m for m in log.messages if "away" in m] == [
        "the Prefect server is away (All connection attempts failed); waiting for it"
    ]


def test_a_refusal_is_no_absence() -> None:
    with pytest.raises(httpx.HTTPStatusError, match="404"):
        server_outage.retry_while_unavailable(call(answered(404), "never asked"), pause=0)


def test_patience_ends() -> None:
    with pytest.raises(httpx.ConnectError):
        server_outage.retry_while_unavailable(call(DOWN, "never asked"), patience=-1, pause=0)


@pytest.mark.parametrize("error", [DOWN, answered(503), answered(409)])
def test_an_artifact_that_is_not_taken_ends_no_run(error: Exception, log: pytest.LogCaptureFixture) -> None:
    assert not server_outage.publish_artifact("the table", call(error))
    assert log.messages[0].startswith("the table is not shown in Prefect: ")
    assert server_outage.publish_artifact("the table", call("taken"))


def test_an_error_of_our_own_is_not_hidden() -> None:
    with pytest.raises(KeyError):
        server_outage.publish_artifact("the table", call(KeyError("metrics")))
