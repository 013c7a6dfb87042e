"""Flow of both stages at once: trains one student on the shards of its store as they are extracted.

Start it with `prefect deployment run extract-and-train/local -p config=configs/train/….yaml`.
"""

from typing import Any

from prefect import flow

from flows.endings import log_cancellation, with_cause
from flows.form import Count, Device, Rate, Seed, TrainFile, TrainOverrides, run_name, with_empty_fields
from flows.task import log_config, sward
from flows.train import publish_results, student_settings
from pipeline.config import load_config
from pipeline.training.config import TrainConfig


@flow(name="extract-and-train", flow_run_name=run_name, on_cancellation=[log_cancellation])
@with_cause
@with_empty_fields
def extract_and_train(
    config: TrainFile,
    steps: Count = None,
    seed: Seed = None,
    batch_size: Count = None,
    learning_rate: Rate = None,
    device: Device = None,
    overrides: TrainOverrides = None,
) -> dict[str, Any]:
    """Extracts the store of a run and trains its student meanwhile, or continues both.

    The run has `order: shards`, unless the file or the overrides say how: the first epoch in the order of the store.

    Args:
        config: YAML file of the run: one of this checkout, or another by its absolute path.
        steps: optimiser steps; empty: as in the file.
        seed: seed of weights, order and draws; empty: as in the file, else 0.
        batch_size: records per step; empty: as in the file.
        learning_rate: highest learning rate of the optimiser (optimizer.lr in the file); empty: as there.
        device: of the student: cpu, cuda or cuda:N; empty: as in the file. The teacher's is {"cache.device": "cuda"}.
        overrides: other settings by their names in the file, e.g. {"order.window": 128}; they win.
    """
    changes = student_settings(steps, seed, batch_size, learning_rate, device, overrides)
    if load_config(TrainConfig, config, changes).order.kind != "shards":
        changes = ["order.kind=shards", *changes]
    checked = load_config(TrainConfig, config, changes)
    log_config(checked)
    sward("train", config, changes, ("--extract",))
    return publish_results(checked.folder)
