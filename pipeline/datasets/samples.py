"""Samples: one image with its mask, their identity, and reading them."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pipeline.datasets.image_files import PLAIN, Reading, decode_image, explain, picture_size
from pipeline.datasets.masks.files import Mask
from pipeline.datasets.masks.none import NoMask
from pipeline.datasets.problems import DatasetError
from pipeline.datasets.split_rules import Subset


@dataclass(frozen=True)
class Sample:
    """One image with its mask, or without one.

    Attributes:
        id: name within the set, for people.
        subset: train, val or test.
        image_path: the image's file.
        mask: where the label comes from: a file, several files, annotations, or nothing.
        sequence: the video that the image comes from.
        digest: identity of the sample, made of its files' bytes (``sample_digest``).
        reading: how the card wants the image read.
        fold: part of a cross-validation that it belongs to; None in other splits.
        group: sequence (or image) that the cross-validation keeps whole; None in other splits.
    """

    id: str
    subset: Subset
    image_path: Path
    mask: Mask
    sequence: str
    digest: str = ""
    reading: Reading = PLAIN
    fold: int | None = None
    group: str | None = None

    @property
    def labelled(self) -> bool:
        """Whether there is a mask; else the label is ``IGNORE`` throughout."""
        return not isinstance(self.mask, NoMask)

    @property
    def mask_path(self) -> Path:
        """The mask's file, the first of several, or the image's where there is none."""
        return self.mask.path

    def absolute(self) -> "Sample":
        """The sample by paths that do not depend on the current folder."""
        return replace(self, image_path=self.image_path.absolute(), mask=self.mask.absolute())

    def digest_now(self) -> str:
        """The identity of the files as they are now.

        Raises:
            OSError: a file cannot be read.
            MaskError: annotations that cannot be converted.
        """
        return sample_digest(self.image_path.read_bytes(), *self.mask.contents())


def sample_digest(image: bytes, *mask: bytes) -> str:
    """sha256 of the image's bytes and of the mask's, each preceded by its length.

    Of several mask files all bytes count; of annotations the label that was made of them.
    """
    whole = hashlib.sha256()
    for content in (image, *mask):
        whole.update(len(content).to_bytes(8, "little") + content)
    return whole.hexdigest()


def read_image(sample: Sample) -> np.ndarray:
    """The image as RGB, (H, W, 3) uint8.

    Raises:
        DatasetError: the file is unreadable or of a form that is not supported.
    """
    try:
        return decode_image(sample.image_path.read_bytes(), sample.reading)
    except Exception as error:
        raise DatasetError(sample.id, [explain(sample.image_path, error)]) from error


def read_label(sample: Sample) -> np.ndarray:
    """The mask as train ids, (H, W) uint8, 255 where nothing is counted.

    Raises:
        DatasetError: the file is unreadable, or holds values that the card's encoding does not name.
    """
    try:
        return sample.mask.label(sample.mask.contents())
    except Exception as error:
        raise DatasetError(sample.id, [explain(sample.mask_path, error)]) from error


def image_size(sample: Sample) -> tuple[int, int]:
    """(height, width) of the image as ``read_image`` gives it, without decoding where the header says it.

    Raises:
        DatasetError: the file is unreadable.
    """
    try:
        return picture_size(sample.image_path.read_bytes(), sample.reading)
    except Exception as error:
        raise DatasetError(sample.id, [explain(sample.image_path, error)]) from error
