"""Weights & Biases: offline in the run's folder unless WANDB_MODE says otherwise; `wandb sync` sends it later.

Project, entity and group come from wandb's own environment variables (WANDB_PROJECT, WANDB_ENTITY, WANDB_RUN_GROUP).
A run that is continued keeps its id, so that wandb joins its sessions; steps that are done again are shown once.
"""

import os
from typing import Any

import numpy as np

from pipeline.training.logs.logged_run import LoggedRun, Status

PROJECT = "sward"


class WandbLogger:
    """Writes to RUN/wandb. It sends nothing of the machine but what wandb's own statistics are, and no code."""

    def __init__(self, run: LoggedRun) -> None:
        import wandb

        mode: Any = os.environ.get("WANDB_MODE", "offline")
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            mode=mode,
            dir=str(run.folder.absolute()),
            id=run.folder.name,
            name=run.name,
            config=run.settings,
            resume="allow",
            settings=wandb.Settings(console="off", silent=True, disable_git=True, save_code=False),
        )
        self.image = wandb.Image

    def scalars(self, step: int, values: dict[str, float]) -> None:
        self.run.log(values, step=step)

    def picture(self, step: int, name: str, image_HWC: np.ndarray) -> None:
        self.run.log({name: self.image(image_HWC)}, step=step)

    def result(self, step: int, values: dict[str, float]) -> None:
        self.run.summary.update(values)

    def close(self, status: Status) -> None:
        self.run.finish(exit_code=int(status is not Status.FINISHED))
