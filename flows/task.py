"""The only Prefect task: runs a `sward` verb as a process, logs its output, shows its progress."""

import re
import time
from pathlib import Path
from typing import Any, cast
from uuid import UUID

from prefect import State, get_run_logger, task
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run

from flows import verb_process
from flows.server_outage import publish_artifact
from pipeline.yaml_files import dump_yaml
from sward.contracts import Config

COUNTS = re.compile(r"(?P<title>[^:]+): (?P<done>\d+)/(?P<total>\d+) ")  # progress lines of pipeline.console
UPDATE_SECONDS = 1.0  # between two updates of progress; one takes the server 20-70 ms
AWAY_SECONDS = 30.0  # pause after an update that the server did not accept


def transient(task: Any, task_run: Any, state: State[Any]) -> bool:
    """Retry condition: True for file errors that may not happen again; every other failure would repeat."""
    return isinstance(state.result(raise_on_failure=False), verb_process.TransientError)


# NO_CACHE: only the files tell which work is done. Retries continue from them.
@task(task_run_name="{verb}", cache_policy=NO_CACHE, retries=2, retry_delay_seconds=10, retry_condition_fn=transient)
def sward(verb: str, config: Path, overrides: list[str], options: tuple[str, ...] = ()) -> list[str]:
    """Runs `sward VERB config --set …` with further ``options``; returns its last lines of output."""
    report = LineReporter(f"{verb}-progress-{artifact_key(str(flow_run.id))}")
    return verb_process.run(verb, config, overrides, report, options=options)


class LineReporter:
    """Logs each line that it is called with, and updates one progress artifact.

    Args:
        key: key of the artifact in Prefect.
    """

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
        """Creates the artifact, or updates it; ``line`` is its description."""
        if self.artifact is None:
            made = create_progress_artifact(percent, key=self.key, description=line)
            self.artifact = cast(UUID, made)  # a coroutine only inside an event loop
        else:
            update_progress_artifact(self.artifact, percent, description=line)


def artifact_key(name: str) -> str:
    """A name as Prefect allows it for an artifact's key: lower-case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def log_config(config: Config) -> None:
    """Writes the resolved configuration to the run's log."""
    text = dump_yaml(config.model_dump(mode="json"))
    get_run_logger().info("%s:\n%s", type(config).__name__, text)
