"""The one task of all flows: a `sward` verb as its own process, its lines logged, its progress an artifact."""

import re
import time
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import yaml
from prefect import State, get_run_logger, task
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE

from flows import verb_process
from flows.server_outage import publish_artifact
from sward.contracts import Config

COUNTS = re.compile(r"(?P<title>[^:]+): (?P<done>\d+)/(?P<total>\d+) ")  # pipeline.console's plain lines
UPDATE_SECONDS = 1.0  # an update costs 20-70 ms of the server
AWAY_SECONDS = 30.0  # until a server that did not take an update is asked again


def transient(task: Any, task_run: Any, state: State[Any]) -> bool:
    """Only file input/output that may succeed next time is tried again: every other failure would repeat."""
    return isinstance(state.result(raise_on_failure=False), verb_process.TransientError)


# NO_CACHE: what is done is known from the files alone. Retries continue from them.
@task(task_run_name="{verb}", cache_policy=NO_CACHE, retries=2, retry_delay_seconds=10, retry_condition_fn=transient)
def sward(verb: str, config: Path, overrides: list[str]) -> list[str]:
    """`sward VERB config --set …`; returns its last lines."""
    return verb_process.run(verb, config, overrides, LineReporter(f"{verb}-progress"))


class LineReporter:
    """Called with every line: logs it, and keeps one progress artifact up to date."""

    def __init__(self, key: str) -> None:
        self.log, self.key = get_run_logger(), key
        self.artifact: UUID | None = None
        self.next = 0.0

    def __call__(self, line: str) -> None:
        self.log.info("%s", line)
        if not (found := COUNTS.match(line)):
            return
        percent = 100 * int(found["done"]) / max(1, int(found["total"]))
        if percent < 100 and time.monotonic() < self.next:
            return
        taken = publish_artifact("progress", lambda: self.update(percent, line))
        self.next = time.monotonic() + (UPDATE_SECONDS if taken else AWAY_SECONDS)

    def update(self, percent: float, line: str) -> None:
        if self.artifact is None:
            made = create_progress_artifact(percent, key=self.key, description=line)
            self.artifact = cast(UUID, made)  # a coroutine only where an event loop runs
        else:
            update_progress_artifact(self.artifact, percent, description=line)


def log_config(config: Config) -> None:
    """The resolved configuration, in the run's log."""
    text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
    get_run_logger().info("%s:\n%s", type(config).__name__, text)
