"""A finished run as others read it: its configuration, facts, log and metrics; and its student, ready to use.

The student is rebuilt from student.json and student.safetensors alone: no store, no teacher, no download.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pydantic import TypeAdapter

from pipeline.config import load_config
from pipeline.files import read_json
from pipeline.training.config import TrainableConfig, TrainConfig, build_trainable
from pipeline.training.run_folder import prediction_file
from sward.contracts import Student
from sward.students.saved import SavedStudentError, read_student, untrained

REQUIRED = ("config.yaml", "run.json", "metrics.jsonl", "evaluation.json")


class RunError(ValueError):
    """A folder is no finished run, or runs do not belong together."""


@dataclass(frozen=True)
class SavedRun:
    """config: what was run. facts: run.json. log: the lines of metrics.jsonl. evaluation: with per-image metrics."""

    path: Path
    config: TrainConfig
    facts: dict[str, Any]
    log: list[dict[str, Any]]
    evaluation: dict[str, Any]

    @property
    def metrics(self) -> dict[str, float]:
        """Aggregates by name; what is not defined (null in the file) is NaN."""
        return {name: number(value) for name, value in self.evaluation["metrics"].items()}

    def per_image(self, metric: str) -> dict[str, float]:
        """Image id -> value."""
        return {row["id"]: number(row[metric]) for row in self.evaluation["per_image"]}


def number(value: float | None) -> float:
    return math.nan if value is None else value


def load_run(folder: str | Path) -> SavedRun:
    """Read a finished run's folder.

    Raises:
        RunError: it is not a run's folder, or the run is not finished.
        ConfigError: its configuration is not of this version.
    """
    folder = Path(folder)
    facts = run_facts(folder)
    if facts["status"] != "finished":
        raise RunError(
            f"the run {folder} is {facts['status']}, not finished; continue it: sward train {folder}/config.yaml"
        )
    if missing := [name for name in REQUIRED if not (folder / name).is_file()]:
        raise RunError(f"the run {folder} lacks {', '.join(missing)}; remove the folder and train it again")
    return read_run(folder)


def read_run(folder: Path) -> SavedRun:
    """What there is of a run, finished or not; the evaluation of one that is not is empty."""
    log_file, evaluation = folder / "metrics.jsonl", folder / "evaluation.json"
    lines = log_file.read_text().splitlines() if log_file.is_file() else []
    log = [json.loads(line) for line in lines if line.endswith("}")]  # the last may be torn
    config = load_config(TrainConfig, folder / "config.yaml")
    return SavedRun(folder, config, run_facts(folder), log, read_json(evaluation) if evaluation.is_file() else {})


def run_facts(folder: Path) -> dict[str, Any]:
    """run.json of a run, finished or not."""
    if not (folder / "run.json").is_file():
        raise RunError(f"{folder} is not a run: it has no run.json; give a folder that `sward train` made")
    return read_json(folder / "run.json")


def load_student(folder: str | Path) -> tuple[Student, dict[str, Any]]:
    """(student in evaluation mode on the CPU, its card) of a run that has kept one.

    Raises:
        RunError: there is no student in the folder, or its weights don't fit its card.
    """
    try:
        return read_student(folder, rebuild)
    except SavedStudentError as error:
        raise RunError(str(error)) from error


def rebuild(card: dict[str, Any]) -> Student:
    """The card's student with fresh weights; pre-trained encoder weights are not fetched."""
    config: Any = TypeAdapter(TrainableConfig).validate_python(card["student"])
    return build_trainable(untrained(config), card.get("teacher_channels", {}), len(card["classes"]), 0)


def evaluate_run(folder: str | Path, subset: str = "test") -> dict[str, Any]:
    """Metrics of a run's kept student, computed anew from the run's store: what ``evaluate`` returns.

    Raises:
        RunError: the store is not the one of the run any more, or the subset is empty.
    """
    from pipeline.devices import resolve_device
    from pipeline.training.evaluate import evaluate
    from pipeline.training.setup import open_store

    run = load_run(folder)
    student, _ = load_student(folder)
    store = open_store(run.config)
    require_store([run.path], store.content_id)
    if not store.records[subset]:
        raise RunError(
            f"the store {store.path} has no {subset} images; evaluate with --subset {store.evaluation_subset}"
        )
    device = resolve_device(run.config.device)
    return evaluate(student.to(device), store, subset, device, run.config.batch_size)


def evaluate_elsewhere(folder: str | Path, place: str) -> dict[str, Any]:
    """Metrics of a run's kept student on the test images of another store (val, where it has no test labels).

    Args:
        folder: a finished run.
        place: the other store's folder or URL; its images are normalised as the student was trained.

    Raises:
        RunError: the other store has other classes.
    """
    from pipeline.cache.store import Store
    from pipeline.devices import resolve_device
    from pipeline.paths import read_path
    from pipeline.training.evaluate import evaluate

    run, store = load_run(folder), Store(read_path(place))
    student, card = load_student(folder)
    if store.classes != card["classes"]:
        raise RunError(f"{place} has the classes {store.classes}, the student of {folder} knows {card['classes']}")
    if store.normalisation != (card["mean"], card["std"]):
        raise RunError(
            f"{place} normalises images by {store.normalisation}, {folder} by {card['mean'], card['std']}; "
            "extract the other set with the mean and std of the first"
        )
    device = resolve_device(run.config.device)
    return evaluate(student.to(device), store, store.evaluation_subset, device, run.config.batch_size)


def require_store(folders: list[Path], content_id: str) -> None:
    """Refuse runs made from a store with another content id.

    Raises:
        RunError: with every such run.
    """
    found = {folder: run_facts(folder)["content_id"] for folder in folders}
    if other := [f"  {folder}: {id[:16]}" for folder, id in found.items() if id != content_id]:
        raise RunError(
            f"expected runs from the store with content id {content_id[:16]}, found others (a store that has grown "
            "is another one):\n"
            + "\n".join(other)
            + "\nremove these folders to train them again, or restore their store"
        )


def prediction(folder: Path, id: str) -> np.ndarray:
    """The class map that the run wrote for an image, (H, W) uint8."""
    with Image.open(prediction_file(folder / "predictions", id)) as picture:
        return np.array(picture)
