"""Length of a run whose configuration gives epochs."""

import logging

from pipeline.cache.store import Store
from pipeline.training.config import TrainConfig, is_head
from pipeline.training.setup import training_order

SHORT_HEAD = 5  # epochs
log = logging.getLogger(__name__)


def with_length(config: TrainConfig, store: Store) -> TrainConfig:
    """Returns the run with its number of steps; warns if a teacher's head would hardly be trained."""
    records = training_order(config, store).epoch_size
    config = config.with_steps(records)
    if is_head(config.student) and (epochs := config.steps * config.batch_size / records) < SHORT_HEAD:
        log.warning(
            "%s: the teacher's head sees each record %.1f times only, and methods that read its logits would distil a "
            "teacher that was hardly trained; 20 epochs or more are usual (head.epochs)",
            config.name,
            epochs,
        )
    return config
