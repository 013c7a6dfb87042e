"""Flows of stage 2: train a student from a store, or fit the teacher's head.

Start training with `prefect deployment run train-student/local -p config=configs/train/….yaml`.
`fit-teacher-head/local` takes the same file and fits the head that its `head:` section describes.
"""

from pathlib import Path
from typing import Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact, create_table_artifact

from flows.endings import log_cancellation, with_cause
from flows.form import Count, Device, Rate, Seed, TrainFile, TrainOverrides, run_name, settings, with_empty_fields
from flows.server_outage import publish_artifact
from flows.task import artifact_key, log_config, sward
from pipeline.config import load_config
from pipeline.documents import RUN, Facts, read_document
from pipeline.training.config import TrainConfig
from sward.metrics.names import in_unit, named


@flow(name="train-student", flow_run_name=run_name, on_cancellation=[log_cancellation])
@with_cause
@with_empty_fields
def train_student(
    config: TrainFile,
    steps: Count = None,
    seed: Seed = None,
    batch_size: Count = None,
    learning_rate: Rate = None,
    device: Device = None,
    overrides: TrainOverrides = None,
) -> dict[str, Any]:
    """Trains one student from a store, or resumes its training; a finished run is returned unchanged.

    Args:
        config: YAML file of the run: one of this checkout, or another by its absolute path.
        steps: optimiser steps; empty: as in the file.
        seed: seed of weights, order and draws; empty: as in the file, else 0.
        batch_size: records per step; empty: as in the file.
        learning_rate: highest learning rate of the optimiser (optimizer.lr in the file); empty: as there.
        device: cpu, cuda or cuda:N; empty: as in the file, else the first GPU if there is one.
        overrides: other settings by their names in the file, e.g. {"optimizer.weight_decay": 0.01}; they win.
    """
    changes = student_settings(steps, seed, batch_size, learning_rate, device, overrides)
    checked = load_config(TrainConfig, config, changes)
    log_config(checked)
    sward("train", config, changes)
    return publish_results(checked.folder)


def student_settings(
    steps: int | None,
    seed: int | None,
    batch_size: int | None,
    learning_rate: float | None,
    device: str | None,
    overrides: dict[str, Any] | None,
) -> list[str]:
    """Settings of a student's form for `--set`, in the order of its fields."""
    fields = {"steps": steps, "seed": seed, "batch_size": batch_size, "optimizer.lr": learning_rate, "device": device}
    return settings(fields, overrides)


@flow(name="fit-teacher-head", flow_run_name=run_name, on_cancellation=[log_cancellation])
@with_cause
@with_empty_fields
def fit_teacher_head(
    config: TrainFile, steps: Count = None, device: Device = None, overrides: TrainOverrides = None
) -> dict[str, Any]:
    """Fits the teacher's head of a training configuration, or resumes it; a finished head is returned unchanged.

    Args:
        config: YAML file of a training run with a `head:`: one of this checkout, or another by its absolute path.
        steps: optimiser steps of the head; empty: as in the file.
        device: cpu, cuda or cuda:N; empty: as in the file, else the first GPU if there is one.
        overrides: other settings by their names in the file, e.g. {"head.batch_size": 8}; they win.
    """
    changes = settings({"head.steps": steps, "device": device}, overrides)
    checked = load_config(TrainConfig, config, changes).head_run()
    log_config(checked)
    sward("fit-head", config, changes)
    return publish_results(checked.folder)


def publish_results(folder: Path) -> dict[str, Any]:
    """Publishes metrics and summary of a finished run as artifacts; returns the flow's result (folder and metrics)."""
    facts = read_document(folder / "run.json", Facts, RUN)
    rows = [{"metric": named(name), "value": in_unit(name, value)} for name, value in facts["test"].items()]
    key = artifact_key(folder.name)
    about = f"{folder}, {facts['subset']} split"
    publish_artifact(
        "the table of metrics", lambda: create_table_artifact(rows, key=f"metrics-{key}", description=about)
    )
    publish_artifact("the run's card", lambda: create_markdown_artifact(card(folder, facts), key=f"run-{key}"))
    return {"run": str(folder), "metrics": facts["test"]}


def card(folder: Path, facts: dict[str, Any]) -> str:
    """Summary of a run in Markdown: folder, store, seconds, and the commands that show its report and curves."""
    return (
        f"Run `{folder.resolve()}`, from store `{facts['store']}` ({facts['content_id'][:12]}), "
        f"{facts['seconds']:.0f} s.\n\nReport: `sward report {folder}`. Curves: `tensorboard --logdir {folder}`."
    )
