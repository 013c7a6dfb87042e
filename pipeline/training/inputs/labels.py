"""Labelled part of the training images: `labels: 0.1` trains on the masks of a tenth of them.

The images are ordered by a hash of seed and id, and the first ones keep their labels. So a smaller part lies within
every larger one, and neither the order of the records nor the run's own seed changes it.
"""

from collections.abc import Collection, Mapping
from itertools import accumulate
from typing import Any, Literal

from pydantic import Field, model_serializer, model_validator

from sward import seeds
from sward.contracts import Config

UNLABELLED = (
    "unlabelled is {}, which adds records without labels to a student's batches of labelled ones; found labels: {}: "
    "leave `unlabelled` out if labels is 0 (every record is without labels then) or for a teacher's head"
)


class LabelsConfig(Config):
    """Part of the training images whose labels the run reads; a number alone is the fraction."""

    fraction: float = Field(1.0, ge=0, le=1, description="Share of the labelled training images; 0: none.")
    by: Literal["image", "sequence"] = Field("image", description="What is drawn: images, or whole sequences.")
    seed: int = Field(0, ge=0, description="Key of the draw; runs of all seeds share it.")

    @model_validator(mode="before")
    @classmethod
    def _of_a_number(cls, value: Any) -> Any:
        return {"fraction": value} if isinstance(value, int | float) and not isinstance(value, bool) else value

    @model_serializer
    def _short(self) -> dict[str, Any]:
        """Of a whole part nothing is drawn, so how it would be is left out."""
        values = {"fraction": self.fraction, "by": self.by, "seed": self.seed}
        return {"fraction": self.fraction} if self.fraction in (0, 1) else values


def labelled_part(config: LabelsConfig, ids: Collection[str], sequences: Mapping[str, str]) -> set[str]:
    """Ids of the images that keep their labels; at least one image or sequence unless the fraction is 0.

    Args:
        config: fraction and draw.
        ids: of the training images that have labels, in any order.
        sequences: id -> its sequence, read only where sequences are drawn; they are taken up to the count of images
            that is nearest to the fraction's.
    """
    if config.fraction in (0, 1):
        return set(ids) if config.fraction else set()
    groups: dict[str, list[str]] = {}
    for i in sorted(set(ids)):
        groups.setdefault(sequences[i] if config.by == "sequence" else i, []).append(i)
    drawn = sorted(groups, key=lambda group: seeds.key("labels", config.seed, group))
    wanted = config.fraction * len(set(ids))
    totals = list(accumulate(len(groups[group]) for group in drawn))
    taken = 1 + min(range(len(drawn)), key=lambda n: (abs(totals[n] - wanted), n)) if drawn else 0
    return {i for group in drawn[:taken] for i in groups[group]}
