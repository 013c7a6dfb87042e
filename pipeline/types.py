"""Type aliases shared by several packages of the pipeline."""

from collections.abc import Callable

import numpy as np

Size = tuple[int, int]  # (height, width) in pixels
Arrays = dict[str, np.ndarray]  # name -> array
Progress = Callable[[int, int], None]  # called with (done, total), in the units of the caller
TrainProgress = Callable[[int, int, dict[str, float]], None]  # called with (step, steps, logged values by name)
