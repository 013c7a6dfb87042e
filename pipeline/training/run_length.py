"""Length of a run whose configuration gives epochs, and what is known of a run without its store."""

import logging
from pathlib import Path

from pipeline.cache.store import Store
from pipeline.paths import read_path, with_urls
from pipeline.training.config import TrainConfig
from pipeline.training.inputs.orders import training_orders
from pipeline.training.run_folder import RunFolder
from pipeline.training.trainable import is_head

SHORT_HEAD = 5  # epochs
log = logging.getLogger(__name__)


def with_length(config: TrainConfig, store: Store) -> TrainConfig:
    """Returns the run with its number of steps; warns if a teacher's head would hardly be trained."""
    records = training_orders(config, store).main.epoch_size
    config = config.with_steps(records)
    if is_head(config.student) and (epochs := config.steps * config.batch_size / records) < SHORT_HEAD:
        log.warning(
            "%s: the teacher's head sees each record %.1f times only, and methods that read its logits would distil a "
            "teacher that was hardly trained; 20 epochs or more are usual (head.epochs)",
            config.name,
            epochs,
        )
    return config


def finished_without_store(config: TrainConfig) -> bool:
    """Whether nothing is left to do for the run, though its store is gone or cannot be reached: told as a warning."""
    try:
        places = [cache.store for cache in config.caches]
        if not RunFolder(config.folder).finished or all((Path(place) / "plan").is_dir() for place in places):
            return False
        for place in places:
            Store(read_path(place), partial=True)
    except OSError as error:
        log.warning("%s is finished; its store cannot be opened: %s", config.folder, with_urls(error))
        return True
    return False
