"""Flows of stage 2: train a student from a store, or fit the teacher's head.

Start training with `prefect deployment run train-student/local -p config=configs/train/….yaml`.
`fit-teacher-head/local` takes the same file and fits the head that its `head:` section describes.
"""

from pathlib import Path
from typing import Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact, create_table_artifact

from flows.server_outage import publish_artifact
from flows.task import log_config, sward
from pipeline.config import as_overrides, load_config
from pipeline.documents import RUN, Facts, read_document
from pipeline.training.config import TrainConfig


@flow(name="train-student")
def train_student(config: Path, overrides: dict[str, Any] | None = None) -> dict[str, Any]:
    """Trains one student from a store, or resumes its training; a finished run is returned unchanged.

    Args:
        config: YAML file of the run, relative to the checkout.
        overrides: single settings, e.g. {"seed": 1, "optimizer.lr": 0.001}.
    """
    settings = as_overrides(overrides or {})
    checked = load_config(TrainConfig, config, settings)
    log_config(checked)
    sward("train", config, settings)
    return publish_results(checked.folder)


@flow(name="fit-teacher-head")
def fit_teacher_head(config: Path, overrides: dict[str, Any] | None = None) -> dict[str, Any]:
    """Fits the teacher's head of a training configuration, or resumes it; a finished head is returned unchanged.

    Args:
        config: YAML file of a training run with a `head:` section, relative to the checkout.
        overrides: single settings, e.g. {"head.steps": 500}.
    """
    settings = as_overrides(overrides or {})
    checked = load_config(TrainConfig, config, settings).head_run()
    log_config(checked)
    sward("fit-head", config, settings)
    return publish_results(checked.folder)


def publish_results(folder: Path) -> dict[str, Any]:
    """Publishes metrics and summary of a finished run as artifacts; returns the flow's result (folder and metrics)."""
    facts = read_document(folder / "run.json", Facts, RUN)
    rows = [{"metric": name, "value": value} for name, value in facts["test"].items()]
    about = f"{folder}, {facts['subset']} split"
    publish_artifact("the table of metrics", lambda: create_table_artifact(rows, key="metrics", description=about))
    publish_artifact("the run's card", lambda: create_markdown_artifact(card(folder, facts), key="run"))
    return {"run": str(folder), "metrics": facts["test"]}


def card(folder: Path, facts: dict[str, Any]) -> str:
    """Summary of a run in Markdown: folder, store, seconds, and the commands that show its report and curves."""
    return (
        f"Run `{folder.resolve()}`, from store `{facts['store']}` ({facts['content_id'][:12]}), "
        f"{facts['seconds']:.0f} s.\n\nReport: `sward report {folder}`. Curves: `tensorboard --logdir {folder}`."
    )
