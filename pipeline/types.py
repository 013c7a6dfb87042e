"""Types that several rooms share."""

from collections.abc import Callable

import numpy as np

Size = tuple[int, int]  # (height, width) in pixels
Arrays = dict[str, np.ndarray]  # name -> array
Progress = Callable[[int, int], None]  # (done, total)
TrainProgress = Callable[[int, int, dict[str, float]], None]  # (step, steps, what was logged)
