"""A run's folder: what was run, its logs, its checkpoints, its student.

config.yaml       the resolved configuration          run.json          identity, store, versions, status, result
metrics.jsonl     one line a logged step              tensorboard/      the same, live
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
import yaml
from torch import nn

from pipeline.cache.store import Store
from pipeline.files import read_json, write_atomic, write_json
from pipeline.training.checkpoint import CheckpointMismatch
from pipeline.training.config import TrainConfig
from sward.contracts import Channels


class RunFolder:
    """Paths and writers of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.last, self.student, self.card = path / "last.ckpt", path / "student.safetensors", path / "student.json"
        self.log_file, self.facts = path / "metrics.jsonl", path / "run.json"
        self._board: Any = None
        self._counted = time.monotonic()
        self._counting = threading.Lock()  # checkpoints are written, and counted, by a thread

    @property
    def finished(self) -> bool:
        """Whether the run is done, with whatever store."""
        return self.facts.is_file() and read_json(self.facts)["status"] == "finished"

    def finished_from(self, store: Store) -> bool:
        """Whether the run is done with this store.

        Raises:
            CheckpointMismatch: it was done with this store, but the store has grown since.
        """
        if self.finished and (before := read_json(self.facts)["content_id"]) != store.content_id:
            found = f"{self.path} was finished with content id {before[:12]}, {store.location} now has"
            raise CheckpointMismatch(
                f"{found} {store.content_id[:12]}; give the new run another name, or remove the old"
            )
        return self.finished

    def create(self, config: TrainConfig, store: Store, sources: dict[str, str], spent: float = 0.0) -> None:
        """Write config and facts; keeps what an earlier session of the same run wrote.

        Args:
            sources: digests of what else the run was given: the teacher's head, pre-stages.
            spent: seconds of a warm-up that a new run continues from.
        """
        write_atomic(self.path / "config.yaml", yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
        seconds = read_json(self.facts)["seconds"] if self.facts.is_file() else spent
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
                "versions": {n: version(n) for n in ("sward", "torch", "numpy")},
                "threads": torch.get_num_threads(),
                "processes": config.processes,
            },
        )

    def mark_finished(self, results: dict[str, Any]) -> None:
        """Last of all: results and status into run.json."""
        self.add_time()
        write_json(self.facts, read_json(self.facts) | {"status": "finished"} | results)

    def mark_stopped(self) -> None:
        """The run was asked to stop and can be continued; `running` is left to what died."""
        write_json(self.facts, read_json(self.facts) | {"status": "stopped"})

    def count_from_now(self) -> None:
        """What went before (pre-stages, which other runs share) is not this run's time."""
        self._counted = time.monotonic()

    def seconds(self) -> float:
        """Time spent on this run so far, by all its sessions."""
        with self._counting:
            return read_json(self.facts)["seconds"] + time.monotonic() - self._counted

    def add_time(self, now: float | None = None) -> None:
        """Add the time since the last call (or since the start) to run.json: at every checkpoint and at the end.

        Args:
            now: a reading of `time.monotonic`, where the checkpoint is older than this call.
        """
        now = time.monotonic() if now is None else now
        with self._counting:
            facts = read_json(self.facts)
            write_json(self.facts, facts | {"seconds": round(facts["seconds"] + now - self._counted, 2)})
            self._counted = now

    @contextmanager
    def logging(self, first: int) -> Iterator[None]:
        """Keeps the log open from step ``first`` on; what TensorBoard has of later steps is void."""
        from torch.utils.tensorboard import SummaryWriter

        self._board = SummaryWriter(str(self.path / "tensorboard"), purge_step=first + 1)
        try:
            yield
        finally:
            self._board.close()
            self.add_time()

    def log(self, step: int, values: dict[str, float]) -> None:
        """One JSON line (NaN and infinity as null) and the same scalars for TensorBoard."""
        clean = {k: v if math.isfinite(v) else None for k, v in values.items()}
        with self.log_file.open("a") as file:
            file.write(json.dumps({"step": step} | clean) + "\n")
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def drop_log_after(self, step: int, validated: bool = True) -> None:
        """Forget lines of steps that will be done again, and a torn last line.

        Args:
            validated: whether the validation of ``step`` itself is done; else its line goes too.
        """
        if not self.log_file.is_file():
            return
        lines = [line for line in self.log_file.read_text().splitlines() if line.endswith("}")]
        kept = [line for line in lines if json.loads(line)["step"] <= step]
        if not validated:
            kept = [line for line in kept if json.loads(line)["step"] < step or "val/" not in line]
        write_atomic(self.log_file, "".join(line + "\n" for line in kept))

    def save_student(
        self,
        student: nn.Module,
        config: TrainConfig,
        store: Store,
        teacher_channels: Channels,
        step: int,
        metrics: dict[str, Any],
    ) -> None:
        """The student alone, without method or optimiser, and what one must know to use it."""
        from safetensors.torch import save

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
        write_atomic(self.student, save(tensors))
        write_json(self.card, card)

    def save_evaluation(self, result: dict[str, Any]) -> None:
        write_json(self.path / "evaluation.json", result)

    def load_student(self, student: nn.Module) -> None:
        from safetensors.torch import load_file

        student.load_state_dict(load_file(self.student))


class ReadOnlyRunFolder(RunFolder):
    """A run's folder for the other processes of the run: they read it, the first one writes."""

    def create(self, *args: Any) -> None:
        """Left to the first process, as all that follows."""

    def mark_finished(self, results: dict[str, Any]) -> None: ...

    def mark_stopped(self) -> None: ...

    def seconds(self) -> float:
        return 0.0

    def add_time(self, now: float | None = None) -> None: ...

    @contextmanager
    def logging(self, first: int) -> Iterator[None]:
        yield

    def log(self, step: int, values: dict[str, float]) -> None: ...

    def drop_log_after(self, step: int, validated: bool = True) -> None: ...

    def save_student(self, *args: Any) -> None: ...

    def save_evaluation(self, result: dict[str, Any]) -> None: ...


def prediction_file(folder: Path, id: str) -> Path:
    """Where a run's ``predictions`` folder keeps the mask of an image."""
    return folder / f"{id.replace('/', '__')}.png"


def commit() -> str | None:
    """The commit of this code's checkout, `-dirty` with uncommitted changes; None outside a checkout."""
    try:
        command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
