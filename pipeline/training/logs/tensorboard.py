"""TensorBoard: event files in the run's folder, as `tensorboard --logdir runs` shows them."""

import numpy as np

from pipeline.training.logs.logged_run import LoggedRun, Status


class TensorBoard:
    """Writes to RUN/tensorboard; steps of an earlier session that are done again are hidden."""

    def __init__(self, run: LoggedRun) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(run.folder / "tensorboard"), purge_step=run.first + 1)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def picture(self, step: int, name: str, image_HWC: np.ndarray) -> None:
        self.writer.add_image(name, image_HWC, step, dataformats="HWC")

    def result(self, step: int, values: dict[str, float]) -> None:
        self.scalars(step, values)

    def close(self, status: Status) -> None:
        self.writer.close()
