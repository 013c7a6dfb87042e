"""Flow of a comparison, methods × seeds: starts one run of train-student per point, then compares all points.

This flow only waits, so it runs in the pool `control`; in `local` it would occupy the slot of the runs that it waits
for. A point counts as finished if its run folder says so, because Prefect's state of a run may be out of date. If the
server is unreachable in between, the flow waits for it.
"""

import time
from functools import partial
from pathlib import Path
from typing import Any, cast
from uuid import UUID

from prefect import flow, get_run_logger
from prefect.artifacts import create_link_artifact, create_markdown_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas import FlowRun
from prefect.deployments import run_deployment
from prefect.runtime import deployment, flow_run

from flows.server_outage import publish_artifact, retry_while_unavailable
from flows.task import log_config, sward
from pipeline.config import as_overrides, load_config
from pipeline.experiments.compare import heads, planned_rows, running_order
from pipeline.experiments.compare_config import CompareConfig
from pipeline.files import write_atomic
from pipeline.training.config import TrainConfig
from pipeline.training.run_folder import RunFolder
from pipeline.training.setup import open_store
from pipeline.yaml_files import dump_yaml

POLL_SECONDS = 5.0  # between two queries for the states of all runs


@flow(name="ablate-student")
def ablate_student(config: Path, overrides: dict[str, Any] | None = None) -> dict[str, Any]:
    """Trains the points that are not finished, waits for them, then writes table and report.

    Args:
        config: YAML file of the comparison, relative to the checkout.
        overrides: single settings, e.g. {"seeds": [0, 1, 2]}.

    Returns:
        ``comparison``: the comparison's folder. ``runs``: the folders of its runs.
    """
    settings = as_overrides(overrides or {})
    checked = load_config(CompareConfig, config, settings)
    open_store(checked.train)  # an unusable store fails here once, instead of in every point
    log_config(checked)
    # tuned rows are known only after their trials, which `sward compare` trains with them
    points = running_order(planned_rows(checked)) if checked.tune is None else []
    for first in (heads(checked), points):  # the head first, because methods read it
        wait({submit(point, checked.folder / "configs"): point for point in unfinished(first)})
    if failed := unfinished(points):
        names = ", ".join(point.name for point in failed)
        raise RuntimeError(
            f"not finished: {names}; see the runs of {trainer()} for the reasons, then start this flow again"
        )
    lines = sward("compare", config, settings)
    report = (checked.folder / "report.html").resolve().as_uri()
    publish_artifact("the table", lambda: create_markdown_artifact("\n".join(lines), key="comparison"))
    publish_artifact(
        "the link to the report", lambda: create_link_artifact(report, link_text="report.html", key="report")
    )
    return {"comparison": str(checked.folder), "runs": [str(p.folder) for p in points]}


def trainer() -> str:
    """Deployment of train-student of the same kind as this flow's deployment, local or container."""
    return f"train-student/{deployment.name or 'local'}"


def unfinished(points: list[TrainConfig]) -> list[TrainConfig]:
    """Points whose run folder does not say that the run is finished."""
    return [point for point in points if not RunFolder(point.folder).finished]


def submit(point: TrainConfig, folder: Path) -> UUID:
    """Writes the point's full configuration to ``folder`` and starts its run; returns the run's id.

    If Prefect repeats this flow run, a run that is still going is found by its idempotency key and not started again.
    """
    path = folder / f"{point.folder.name}.yaml"
    write_atomic(path, dump_yaml(point.model_dump(mode="json")))
    attempt, run = 0, start_or_find(point, path, 0)
    while run.state is not None and run.state.is_final():
        attempt += 1
        run = start_or_find(point, path, attempt)
    return run.id


def start_or_find(point: TrainConfig, path: Path, attempt: int) -> FlowRun:
    """Run for this attempt at a point, started now or found from an earlier execution of this flow run."""
    start = partial(
        run_deployment,
        trainer(),
        parameters={"config": str(path)},
        flow_run_name=point.name,
        timeout=0,
        idempotency_key=f"{flow_run.id}-{point.folder.name}-{attempt}",
    )
    return cast(FlowRun, retry_while_unavailable(start))  # a coroutine only inside an event loop


def wait(runs: dict[UUID, TrainConfig]) -> None:
    """Waits until each run has a final state in Prefect or is finished according to its folder."""
    log, going = get_run_logger(), dict(runs)
    with get_client(sync_client=True) as client:
        while going:
            time.sleep(POLL_SECONDS)
            for identity, point in list(going.items()):
                state = retry_while_unavailable(partial(client.read_flow_run, identity)).state
                if (state is not None and state.is_final()) or unfinished([point]) == []:
                    del going[identity]
                    log.info("%s: %s, %d to go", point.name, state.name if state else "finished", len(going))
