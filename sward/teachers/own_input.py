"""Settings of a teacher that sees every view at its own size, beside the student's smaller (or larger) one."""

from typing import Any, ClassVar

from pydantic import Field

from sward.base_config import NeutralConfig

Normalisation = tuple[tuple[float, float, float], tuple[float, float, float]]


class OwnInputConfig(NeutralConfig):
    """Fields that every teacher's configuration has."""

    neutral: ClassVar[dict[str, Any]] = {"size": None}

    size: tuple[int, int] | None = Field(
        None,
        description="(height, width) of training views for the teacher, in pixels, in the proportions of the store's "
        "`size`: every view is rendered a second time from the source and normalised by the teacher's own mean and "
        "std. Default: the student's pixels.",
    )

    @property
    def normalisation(self) -> Normalisation:
        """(mean, std) of RGB in [0, 1] with which the teacher was trained."""
        raise TypeError(f"{type(self).__name__} does not define normalisation")

    def own_input(self) -> dict[str, Any]:
        """Identity fields of the teacher's own input; none where it sees the student's pixels."""
        if self.size is None:
            return {}
        mean, std = self.normalisation
        return {"size": list(self.size), "mean": list(mean), "std": list(std)}
