"""The mask of an image that has none: nothing in it is counted."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pipeline.datasets.image_files import Reading, picture_size
from sward.contracts import IGNORE


@dataclass(frozen=True)
class NoMask:
    """Stands for the mask of an unlabelled image; ``path`` and ``reading`` are those of the image."""

    path: Path
    reading: Reading

    @property
    def paths(self) -> tuple[Path, ...]:
        """No file beside the image."""
        return ()

    def contents(self) -> tuple[bytes, ...]:
        """Nothing: the image alone makes the sample's digest."""
        return ()

    def label(self, contents: tuple[bytes, ...]) -> np.ndarray:
        """(H, W) uint8, ``IGNORE`` everywhere."""
        return np.full(picture_size(self.path.read_bytes(), self.reading), IGNORE, np.uint8)

    def absolute(self) -> "NoMask":
        return replace(self, path=self.path.absolute())
