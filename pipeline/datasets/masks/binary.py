"""Binary masks: black background and one foreground class."""

from typing import Annotated, Literal, Self

import numpy as np
from PIL import Image
from pydantic import Field, model_validator

from pipeline.datasets.masks.decision import AMBIGUOUS, NEAR, STRAY, decide
from pipeline.datasets.masks.facts import GreyFacts, grey_facts
from pipeline.datasets.masks.values import MaskError, depth, grey_values, is_lossy
from sward.contracts import Config


class Binary(Config):
    """Black background, one foreground class: 0/255, 0/1, 1 or 16 bits, antialiased or saved as JPEG.

    White is decided once, from all files of the set (`masks/decision.py`), unless ``foreground`` or ``threshold``
    says it. Pixels are cut at half of white. A third value is an error.
    """

    kind: Literal["binary"] = "binary"
    foreground: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        default="auto", description="Grey value of the foreground."
    )
    threshold: int | None = Field(
        default=None, ge=1, description="Grey values from here on are foreground, whatever they are (resized masks)."
    )

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.threshold is not None and self.foreground != "auto":
            raise ValueError(f"threshold is {self.threshold} and foreground {self.foreground}; expected one of them")
        return self

    @property
    def undecided(self) -> bool:
        """Whether white is still to be decided from the files."""
        return self.foreground == "auto" and self.threshold is None

    def cut_at(self, threshold: int) -> "Binary":
        """This encoding with the decision taken."""
        return Binary(threshold=threshold)

    def decode(self, mask: Image.Image) -> np.ndarray:
        """(H, W) uint8 of 0 and 1; a file alone decides about its white where that is still to be decided.

        Raises:
            MaskError: coloured, or grey in between on too many pixels, or a third value, or too dark to be told.
        """
        grey = grey_values(mask)
        if self.threshold is not None:
            bright = grey.astype(bool) if depth(mask) == 1 else grey >= self.threshold
            return bright.astype(np.uint8)
        if self.foreground != "auto":
            return self._near_foreground(grey, self.foreground, is_lossy(mask))
        cut = decide([grey_facts("", grey, depth(mask), is_lossy(mask))])[0]
        if isinstance(cut, str):
            raise MaskError(cut)
        return (grey >= cut).astype(np.uint8)

    def _near_foreground(self, grey: np.ndarray, white: int, lossy: bool) -> np.ndarray:
        share = grey / white
        between = (share > NEAR) & (share < 1 - NEAR)
        surely = int((share >= 1 - NEAR).sum())
        if between.mean() > AMBIGUOUS or between.sum() > surely + STRAY:
            values = ", ".join(map(str, np.unique(grey[between])[:5]))
            found = f"{between.mean():.1%} of the pixels are neither 0 nor {white}, e.g. {values}"
            raise MaskError(f"{found}; expected two values: use encoding indexed or palette, or encoding.threshold")
        if not surely and grey.max() > 1 and not lossy:
            raise MaskError(f"values 0 to {grey.max()} and nothing near {white}; correct encoding.foreground")
        return (share >= 0.5).astype(np.uint8)


def facts_of(name: str, mask: Image.Image) -> GreyFacts:
    """The facts about a binary mask that the decision for its set needs.

    Raises:
        MaskError: the mask is coloured or transparent.
    """
    return grey_facts(name, grey_values(mask), depth(mask), is_lossy(mask))
