"""The student that a run begins with."""

import logging

from pipeline.cache.store import Store
from pipeline.training.config import TrainConfig, build_trainable
from sward.contracts import Student
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
