"""The student that a run begins with, and the file that its encoder's weights came from."""

import logging
from functools import lru_cache
from pathlib import Path

from pipeline.cache.store import Store
from pipeline.paths import read_path
from pipeline.training.checkpoint import CheckpointMismatch
from pipeline.training.config import TrainConfig
from pipeline.training.run_folder import RunFolder
from pipeline.training.trainable import build_trainable
from sward.contracts import Student
from sward.digest import state_digest
from sward.students.encoders import is_file, read_tensors
from sward.students.initial import load_initial
from sward.students.saved import untrained

log = logging.getLogger(__name__)


def initial_student(config: TrainConfig, store: Store) -> Student:
    """Builds the student (or head) with its initial weights: drawn from the run's seed, or those of ``init``.

    Raises:
        ValueError: the weights cannot be read, have changed, or are of another network.
    """
    own = untrained(config.student) if config.init else config.student  # its own would be replaced
    student = build_trainable(own, store.channels, len(store.classes), config.seed)
    if config.init:
        left = load_initial(student, config.init.weights(), config.init.path)
        for line in left:
            log.warning("%s: %s", config.name, line)
    return student


def encoder_source(config: TrainConfig) -> dict[str, str]:
    """Digest of the tensors in the file that ``student.encoder_weights`` names, as a source of the run; {} without.

    Raises:
        ValueError: the file is missing or cannot be read.
    """
    named = getattr(config.student, "encoder_weights", None)
    if config.init or not named or not is_file(named):
        return {}
    path = read_path(named)
    status = path.stat() if path.is_file() else None
    return {"encoder": _digest(path, status and (status.st_mtime_ns, status.st_size))}


@lru_cache(maxsize=8)  # a comparison asks for the same file for every run
def _digest(path: Path, state: tuple[int, int] | None) -> str:
    """Digest of a file's tensors; ``state``, of the file, tells a replaced one apart."""
    return state_digest(read_tensors(path))


def require_same_encoder(config: TrainConfig, folder: RunFolder) -> None:
    """Checks that a finished run began with the encoder weights that a new run would read.

    Raises:
        CheckpointMismatch: the file has other weights now.
    """
    try:
        now = encoder_source(config).get("encoder")
    except ValueError:
        return  # a new run could not read them either
    then = folder.read_facts().get("sources", {}).get("encoder")
    if now and now != then:
        raise CheckpointMismatch(
            f"{folder.path} began with encoder weights of digest {str(then)[:12]}, but the file that "
            f"student.encoder_weights names now has {now[:12]}; restore it, or remove {folder.path} to train again"
        )
