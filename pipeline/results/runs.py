"""Reads a run's folder: configuration, facts, log, metrics, and the trained student.

The student is rebuilt from student.json and student.safetensors alone: no store, no teacher, no download.
"""

import difflib
import math
import re
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np
from PIL import Image
from pydantic import TypeAdapter

from pipeline.config import load_config
from pipeline.documents import RUN, Evaluation, Facts, read_document, read_log
from pipeline.files import read_json
from pipeline.prediction_files import find_prediction
from pipeline.training.config import TrainConfig
from pipeline.training.trainable import TrainableConfig, build_trainable
from sward.contracts import Student
from sward.students.saved import CARD, WEIGHTS, SavedStudentError, read_student, untrained

EVALUATE = "restore the file from a copy, or move the folder {folder} away and train the run again"
NAME = re.compile(r"[A-Za-z0-9._-]+")  # of runs, as `TrainConfig.name` takes it
HASH = re.compile(r"-[0-9a-f]{10}")  # end of a run folder's name
REQUIRED = ("config.yaml", "run.json", "metrics.jsonl", "evaluation.json")


class RunError(ValueError):
    """A folder is not a finished run, or several runs cannot be compared."""


@dataclass(frozen=True)
class SavedRun:
    """A run as read from its folder.

    Attributes:
        path: the run's folder.
        config: configuration of the run (config.yaml).
        facts: contents of run.json.
        log: lines of metrics.jsonl, in order.
        evaluation: contents of evaluation.json (aggregated and per-image metrics); empty if the run is unfinished.
    """

    path: Path
    config: TrainConfig
    facts: dict[str, Any]
    log: list[dict[str, Any]]
    evaluation: dict[str, Any]

    @property
    def metrics(self) -> dict[str, float]:
        """Aggregated metrics by name; an undefined one (null in the file) is NaN."""
        return {name: number(value) for name, value in self.evaluation["metrics"].items()}

    def per_image(self, metric: str) -> dict[str, float]:
        """Values of a metric by image id; an undefined one is NaN."""
        return {row["id"]: number(row[metric]) for row in self.evaluation["per_image"]}


def number(value: float | None) -> float:
    return math.nan if value is None else value


def load_run(folder: str | Path) -> SavedRun:
    """Reads the folder of a finished run.

    Raises:
        RunError: the folder is not a run, or the run is not finished.
        ConfigError: the run's configuration does not fit this version of the code.
    """
    folder = Path(folder)
    facts = run_facts(folder)
    if facts["status"] != "finished":
        raise RunError(
            f"the run {folder} is {facts['status']}, not finished; continue it: {command_to_continue(folder)}"
        )
    if missing := [name for name in REQUIRED if not (folder / name).is_file()]:
        raise RunError(f"the run {folder} lacks {', '.join(missing)}; remove the folder and train it again")
    return read_run(folder)


def command_to_continue(folder: Path) -> str:
    """The command that continues a run in its folder, also if the folder was moved or renamed since."""
    file = folder / "config.yaml"
    command, config = f"sward train {quote(str(file))}", load_config(TrainConfig, file)
    if config.folder.resolve() == folder.resolve():
        return command
    place = f" --set {quote(f'runs={folder.parent}')}"
    name, _, identity = folder.resolve().name.rpartition("-")
    if NAME.fullmatch(name) and identity == config.identity()[:10]:
        return command + ("" if name == config.name else f" --set {quote(f'name={name}')}") + place
    own = folder.parent / config.folder.name
    return f"mv {quote(str(folder))} {quote(str(own))} && sward train {quote(str(own / 'config.yaml'))}{place}"


def read_run(folder: Path) -> SavedRun:
    """Reads what exists of a run, finished or not; the evaluation of an unfinished run is empty."""
    file, config = folder / "evaluation.json", load_config(TrainConfig, folder / "config.yaml")
    evaluation = read_document(file, Evaluation, EVALUATE) if file.is_file() else {}
    return SavedRun(folder, config, run_facts(folder), read_log(folder / "metrics.jsonl"), evaluation)


def run_facts(folder: Path) -> dict[str, Any]:
    """Reads run.json of a run, finished or not."""
    if not (folder / "run.json").is_file():
        raise RunError(
            f"{folder} is not a run: it has no run.json; give a folder made by `sward train`{nearest(folder)}"
        )
    return read_document(folder / "run.json", Facts, RUN)


def find_run(folder: str | Path) -> Path:
    """The folder of a run that is given without its hash: ``runs/name`` for ``runs/name-0123456789``.

    Raises:
        RunError: several runs have this name; names them.
    """
    folder = Path(folder)
    named = [p for p in folder.parent.glob("*/run.json") if p.parent.name[:-11] == folder.name]
    found = sorted(p.parent for p in named if HASH.fullmatch(p.parent.name[-11:]))
    if (folder / "run.json").is_file() or folder.is_file() or not found:
        return folder
    if len(found) > 1:
        raise RunError(f"{folder} is the name of {len(found)} runs: {', '.join(map(str, found))}; give one of them")
    return found[0]


def nearest(folder: Path) -> str:
    """Words that suggest runs whose names are near that of a folder which is none; empty without any."""
    names = [p.parent.name for p in folder.parent.glob("*/run.json")]
    close = difflib.get_close_matches(folder.name, names, n=2)
    return f"; did you mean {' or '.join(str(folder.parent / name) for name in close)}?" if close else ""


def load_student(folder: str | Path) -> tuple[Student, dict[str, Any]]:
    """Loads the student saved by a run.

    Returns:
        The student in evaluation mode on the CPU, and the contents of student.json.

    Raises:
        RunError: the folder has no student, or the weights do not fit student.json.
    """
    try:
        return read_student(folder, rebuild)
    except SavedStudentError as error:
        raise RunError(str(error)) from error


def describe_student(folder: str | Path) -> tuple[Student, dict[str, Any]]:
    """Loads the student saved by a run; where a run's results were kept without its weights, an untrained one.

    Returns:
        The student, for its shape and size, and the contents of student.json.

    Raises:
        RunError: the folder has no student.json, or what it has is damaged.
    """
    if (Path(folder) / WEIGHTS).is_file() or not (Path(folder) / CARD).is_file():
        return load_student(folder)
    card = read_json(Path(folder) / CARD)
    return rebuild(card), card


def rebuild(card: dict[str, Any]) -> Student:
    """Builds the student that student.json describes, with random weights; no encoder weights are downloaded."""
    config: Any = TypeAdapter(TrainableConfig).validate_python(card["student"])
    return build_trainable(untrained(config), card.get("teacher_channels", {}), len(card["classes"]), 0)


def evaluate_run(folder: str | Path, subset: str = "test") -> dict[str, Any]:
    """Evaluates a run's saved student again on the run's store; returns what ``evaluate`` returns.

    Raises:
        RunError: the store's content has changed since the run, or the subset is empty.
    """
    from pipeline.devices import resolve_device
    from pipeline.training.device.memory_format import set_memory_format
    from pipeline.training.evaluate import evaluate
    from pipeline.training.setup import open_store

    run = load_run(folder)
    student, _ = load_student(folder)
    set_memory_format(student, run.config.puts_channels_last)  # rounds as the run's own evaluation did
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
    """Checks that all runs were trained from the store with this content id.

    Raises:
        RunError: lists every run from another store.
    """
    found = {folder: run_facts(folder)["content_id"] for folder in folders}
    if other := [f"  {folder}: {id[:16]}" for folder, id in found.items() if id != content_id]:
        raise RunError(
            f"expected runs from the store with content id {content_id[:16]}, found others (extending a "
            "store changes its content id):\n"
            + "\n".join(other)
            + "\nremove these folders to train them again, or restore their store"
        )


def prediction(folder: Path, id: str) -> np.ndarray:
    """Reads the class map that the run predicted for an image, (H, W) uint8."""
    with Image.open(find_prediction(folder / "predictions", id)) as picture:
        return np.array(picture)
