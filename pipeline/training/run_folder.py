"""Paths and writers of a run's folder: configuration, logs, checkpoints, best student, results.

config.yaml       the resolved configuration          run.json          identity, store, versions, status, result
metrics.jsonl     one line per logged step             tensorboard/      the same, live, and pictures
last.ckpt         everything to resume                student.safetensors + student.json   best student and its card
evaluation.json   test metrics, per image too         predictions/      predicted test masks
"""

import json
import math
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pipeline.cache.storage.disk_errors import OF_A_RUN, explain_disk_errors
from pipeline.cache.store import Store
from pipeline.devices import device_name
from pipeline.documents import RUN, Facts, RunState, read_document, read_log
from pipeline.files import locked, remove_partials, write_atomic, write_json
from pipeline.training.checkpoint import CheckpointMismatch
from pipeline.training.config import TrainConfig
from pipeline.training.logs.logged_run import LoggedRun
from pipeline.training.logs.loggers import Loggers, open_loggers
from pipeline.yaml_files import dump_yaml
from sward.contracts import Channels
from sward.students.saved import dump_weights, read_weights


class RunFolder:
    """Paths and writers of one run's folder.

    Attributes:
        path: the folder.
        last: last checkpoint.
        student: weights of the best student.
        card: description of the best student: network, normalisation, classes, validation metrics.
        log_file: metrics.jsonl.
        facts: run.json.
        loggers: where curves and pictures go, inside ``logging``.
    """

    loggers: Loggers

    def __init__(self, path: Path) -> None:
        self.path = path
        self.last, self.student, self.card = path / "last.ckpt", path / "student.safetensors", path / "student.json"
        self.log_file, self.facts = path / "metrics.jsonl", path / "run.json"
        self._counted = time.monotonic()
        self._counting = threading.Lock()  # the checkpoint thread adds time too

    @property
    def finished(self) -> bool:
        """Whether the run is finished, with any content of its store."""
        return self.facts.is_file() and self.read_facts()["status"] == "finished"

    def read_facts(self, shape: type[RunState] = Facts) -> dict[str, Any]:
        """Reads run.json."""
        return read_document(self.facts, shape, RUN)

    def finished_from(self, store: Store) -> bool:
        """Whether the run is finished with the present content of ``store``.

        Raises:
            CheckpointMismatch: the store has grown since the run was finished.
        """
        if self.finished and (before := self.read_facts()["content_id"]) != store.content_id:
            ids = f"content id {before[:12]}, but {store.location} now has {store.content_id[:12]} (it was extended)"
            raise CheckpointMismatch(
                f"{self.path} was finished with {ids}; rename the new run or remove the old folder"
            )
        return self.finished

    @contextmanager
    def owned(self) -> Iterator[None]:
        """Holds the folder's lock, removes what a kill left half written, and explains a full or read-only disk.

        Raises:
            Busy: another process trains this run.
            NotWritable: the folder cannot be written.
        """
        with explain_disk_errors(self.path, OF_A_RUN), locked(self.path):
            remove_partials(self.path)
            yield

    def create(
        self, config: TrainConfig, store: Store, sources: dict[str, str], device: torch.device, spent: float = 0.0
    ) -> None:
        """Writes config.yaml and run.json; the seconds counted by an earlier session of the run are kept.

        Args:
            config: the run's configuration.
            store: its store.
            sources: name -> digest of other trained inputs: the teacher's head, pre-stages.
            device: device that trains; its kind and name are recorded.
            spent: seconds of the warm-up that a new run continues from.
        """
        write_atomic(self.path / "config.yaml", dump_yaml(config.resolved.model_dump(mode="json")))
        seconds = self.read_facts()["seconds"] if self.facts.is_file() else spent
        write_json(
            self.facts,
            {
                "status": "running",
                "identity": config.identity(),
                "store": store.location,
                "content_id": store.content_id,
                "sources": sources,
                "seed": config.seed,
                "seconds": seconds,
                "commit": commit(),
                "versions": versions(),
                "device": f"{device.type} ({device_name(device)})",
                "threads": torch.get_num_threads(),
                "channels_last": config.puts_channels_last,
                "processes": config.processes,
            },
        )

    def mark_finished(self, results: dict[str, Any]) -> None:
        """Writes results and the status into run.json, as the last act of a run."""
        self.add_time()
        write_json(self.facts, self.read_facts() | {"status": "finished"} | results)

    def mark_stopped(self) -> None:
        """Sets the status of a run that was asked to stop. A run that died keeps `running`; both can be continued."""
        write_json(self.facts, self.read_facts() | {"status": "stopped"})

    def count_from_now(self) -> None:
        """Restarts the clock: earlier time (pre-stages, which other runs share) is not this run's."""
        self._counted = time.monotonic()

    def seconds(self) -> float:
        """Seconds spent on this run so far, by all its sessions."""
        with self._counting:
            return self.read_facts(RunState)["seconds"] + time.monotonic() - self._counted

    def add_time(self, now: float | None = None) -> None:
        """Adds the time since the last call (or the start) to run.json; called at every checkpoint and at the end.

        Args:
            now: time of the checkpoint (`time.monotonic`), if it was taken before this call; None: now.
        """
        now = time.monotonic() if now is None else now
        with self._counting:
            facts = self.read_facts(RunState)
            write_json(self.facts, facts | {"seconds": round(facts["seconds"] + now - self._counted, 2)})
            self._counted = now

    @contextmanager
    def logging(self, config: TrainConfig, first: int) -> Iterator[None]:
        """Keeps the run's loggers open, from step ``first`` on; later steps of an earlier session are done again."""
        settings = config.model_dump(mode="json")
        try:
            with open_loggers(config.loggers, LoggedRun(self.path, settings, first)) as self.loggers:
                yield
        finally:
            self.add_time()

    def log(self, step: int, values: dict[str, float]) -> None:
        """Writes scalars as one JSON line (NaN and infinity as null) and to the loggers."""
        clean = {k: v if math.isfinite(v) else None for k, v in values.items()}
        with self.log_file.open("a") as file:
            file.write(json.dumps({"step": step} | clean) + "\n")
        self.loggers.scalars(step, values)

    def drop_log_after(self, step: int, validated: bool = True) -> None:
        """Forget lines of steps that will be done again, and a torn last line.

        Args:
            validated: whether the validation of ``step`` itself is done; else its line goes too.
        """
        if not self.log_file.is_file():
            return
        kept = [line for line in read_log(self.log_file) if line["step"] <= step]
        if not validated:
            kept = [line for line in kept if line["step"] < step or not any(key.startswith("val/") for key in line)]
        write_atomic(self.log_file, "".join(json.dumps(line) + "\n" for line in kept))

    def save_student(
        self,
        student: nn.Module,
        config: TrainConfig,
        store: Store,
        teacher_channels: Channels,
        step: int,
        metrics: dict[str, Any],
    ) -> None:
        """Writes the student's weights (no method, no optimiser) and a card with all that is needed to use them."""
        tensors = {k: v.detach().cpu().contiguous() for k, v in student.state_dict().items()}
        mean, std = store.normalisation
        card = {
            "student": config.student.model_dump(mode="json"),
            "method": config.method.kind,
            "classes": store.classes,
            "size": list(store.size("val")),
            "mean": mean,
            "std": std,
            "step": step,
            "validation": metrics,
            "run": config.identity(),
            "content_id": store.content_id,
            "teacher_channels": teacher_channels,
        }
        write_atomic(self.student, dump_weights(tensors))
        write_json(self.card, card)

    def save_evaluation(self, result: dict[str, Any]) -> None:
        write_json(self.path / "evaluation.json", result)

    def load_student(self, student: nn.Module) -> None:
        """Loads the best student's weights; SavedStudentError if the file is damaged."""
        student.load_state_dict(read_weights(self.student))


def versions() -> dict[str, str]:
    """Versions of the packages that decide how a run rounds."""
    return {name: version(name) for name in ("sward", "torch", "numpy")}


def commit() -> str | None:
    """Git commit of this code, with `-dirty` if there are uncommitted changes; None outside a checkout."""
    try:
        command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
