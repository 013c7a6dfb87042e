"""Flow of a comparison, methods × seeds: starts one run of train-student per point, then compares all points.

This flow only waits, so it runs in the pool `control`; in `local` it would occupy the slot of the runs that it waits
for. A point counts as finished if its run folder says so, because Prefect's state of a run may be out of date. If the
server is unreachable in between, the flow waits for it.
"""

import time
from functools import partial
from itertools import compress
from pathlib import Path
from typing import Any, cast
from uuid import UUID

from prefect import flow, get_run_logger
from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas import FlowRun
from prefect.deployments import run_deployment
from prefect.runtime import deployment, flow_run

from flows.endings import log_cancellation, with_cause
from flows.form import CompareFile, CompareOverrides, Count, Device, SeedList, run_name, settings, with_empty_fields
from flows.report_server import address
from flows.server_outage import publish_artifact, retry_while_unavailable
from flows.task import artifact_key, log_config, sward
from flows.verb_process import ChildFailed
from pipeline.config import load_config
from pipeline.documents import Comparison, read_document
from pipeline.experiments.compare import heads, planned_rows, running_order
from pipeline.experiments.compare_config import CompareConfig
from pipeline.files import write_atomic
from pipeline.report.answer import answer
from pipeline.results import captions, results_table
from pipeline.training.config import TrainConfig
from pipeline.training.run_folder import RunFolder
from pipeline.training.setup import open_store
from pipeline.yaml_files import dump_yaml

POLL_SECONDS = 5.0  # between two queries for the states of all runs


@flow(name="ablate-student", flow_run_name=run_name, on_cancellation=[log_cancellation])
@with_cause
@with_empty_fields
def ablate_student(
    config: CompareFile,
    seeds: SeedList = None,
    steps: Count = None,
    device: Device = None,
    overrides: CompareOverrides = None,
) -> dict[str, Any]:
    """Trains the points that are not finished, waits for them, then writes table and report.

    Args:
        config: YAML file of the comparison: one of this checkout, or another by its absolute path.
        seeds: seeds of every method, e.g. [0, 1, 2]; empty: as in the file.
        steps: optimiser steps of every run; empty: as in the file.
        device: cpu, cuda or cuda:N; empty: as in the file, else the first GPU if there is one.
        overrides: other settings by their names in the file, e.g. {"train.optimizer.lr": 0.001}; they win.

    Returns:
        ``comparison``: the comparison's folder. ``runs``: the folders of its runs.
    """
    changes = settings({"seeds": seeds, "train.steps": steps, "train.device": device}, overrides)
    checked = load_config(CompareConfig, config, changes)
    open_store(checked.train)  # an unusable store fails here once, instead of in every point
    log_config(checked)
    # tuned rows are known only after their trials, which `sward compare` trains with them
    points = resolved(running_order(planned_rows(checked))) if checked.tune is None else []
    for first in (resolved(heads(checked)), points):  # the head first, because methods read it
        wait({submit(point, checked.folder / "configs"): point for point in unfinished(first)})
    if failed := unfinished(points):
        names = ", ".join(point.name for point in failed)
        raise ChildFailed(
            f"not finished: {names}; see the runs of {trainer()} for the reasons, then start this flow again"
        )
    sward("compare", config, changes)
    publish_comparison(checked.folder)
    return {"comparison": str(checked.folder), "runs": [str(p.folder) for p in points]}


def publish_comparison(folder: Path) -> None:
    """Publishes the comparison as a table, and its report as a link, or as its path where no server shows it."""
    found = read_document(folder / "comparison.json", Comparison)
    head, key = ["row", *results_table.header(found)[1:]], artifact_key(folder.name)
    fits = [name not in (*results_table.DETAILS, "step") for name in head]  # the page; the others are in the report
    rows = [dict(compress(zip(head, line, strict=True), fits)) for line in results_table.cells(found)]
    said = answer(found)  # empty without a baseline
    caption = captions.caption(found, details=False)
    about = f"**{said}**\n\n{caption}" if said else caption
    publish_artifact("the table", lambda: create_table_artifact(rows, key=f"comparison-{key}", description=about))
    report = folder / "report.html"
    if link := address(report):
        publish_artifact(
            "the link", lambda: create_link_artifact(link, link_text=f"Report of {folder.name}", key=f"report-{key}")
        )
    else:
        text = f"The report is the file `{report.resolve()}` on the worker's machine."
        publish_artifact("the report's path", lambda: create_markdown_artifact(text, key=f"report-{key}"))


def trainer() -> str:
    """Deployment of train-student of the same kind as this flow's deployment, local or container."""
    return f"train-student/{deployment.name or 'local'}"


def resolved(points: list[TrainConfig]) -> list[TrainConfig]:
    """Points without settings that another machine would take for something else, so all name the same folders."""
    return [point.resolved for point in points]


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
        parameters={"config": str(path.resolve())},
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
