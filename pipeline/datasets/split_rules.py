"""The ways a card can divide its ids into subsets: by draw, by lists, by patterns of ids or of files, in folds."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from sward.contracts import Config

Subset = Literal["train", "val", "test"]
SUBSETS: tuple[Subset, ...] = ("train", "val", "test")


class Drawn(Config):
    """Ids ordered by a hash of (seed, id) and cut at the fractions; ``sequence`` keeps sequences whole."""

    kind: Literal["drawn"] = "drawn"
    fractions: tuple[float, float, float] = Field(
        default=(0.8, 0.1, 0.1), description="Shares of train, val and test; they sum to 1, and test may be 0."
    )
    seed: int = Field(default=0, ge=0, description="Key of the draw.")
    by: Literal["image", "sequence"] = Field(default="image", description="What is never divided between subsets.")
    limit: int | Literal["all"] = Field(default="all", description="Draw this many images only (by: image).")
    duplicates: Literal["error", "first"] = Field(
        default="error", description="Of images with the same bytes, draw only the first id (first), or stop (error)."
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if min(self.fractions) < 0 or abs(sum(self.fractions) - 1) > 1e-9:
            raise ValueError(f"fractions are {self.fractions}; expected three shares that sum to 1")
        if self.limit != "all" and (self.limit < 3 or self.by == "sequence"):
            raise ValueError(f"limit is {self.limit} with by: {self.by}; expected all, or >= 3 by image")
        return self

    @property
    def subsets(self) -> tuple[Subset, ...]:
        """The subsets that get samples: test only if its share is not 0."""
        return SUBSETS if self.fractions[2] > 0 else ("train", "val")


class Listed(Config):
    """Ids in text files ``splits/<split>.<subset>.txt``, one a line; the list of test may be left out.

    A line may also be a file name or a path, as other programs write their lists.
    """

    kind: Literal["listed"] = "listed"
    drawn: Drawn | None = Field(default=None, description="How the lists were drawn; null: they come from elsewhere.")
    files: dict[Subset, str] = Field(
        default={}, description="Subset -> its list, relative to the card; default: splits/<split>.<subset>.txt."
    )


class Matched(Config):
    """Ids by pattern, e.g. ``train: train/*`` (``*`` also matches slashes); a subset may be left out."""

    kind: Literal["matched"] = "matched"
    patterns: dict[Subset, str | tuple[str, ...]] = Field(
        min_length=1, description="Subset -> pattern of its ids, or several."
    )


class Given(Config):
    """Each subset is what its own file pattern matches: for cards whose ``images`` are given per subset."""

    kind: Literal["given"] = "given"


class Folds(Config):
    """Cross-validation: every image is tested in one fold; a run names its fold (``fold: 0``).

    A store of such a split holds each image's training views and its evaluation view. Fold k tests on part k, validates
    on part k + 1 (the first after the last) and trains on the others.
    """

    kind: Literal["folds"] = "folds"
    count: int = Field(default=5, ge=3, le=20, description="Number of parts; one tests, one validates.")
    by: Literal["image", "sequence"] = Field(default="sequence", description="What is never divided between parts.")
    seed: int = Field(default=0, ge=0, description="Key of the order in which equally large groups are dealt.")
    duplicates: Literal["error", "first"] = Field(
        default="error", description="Of images with the same bytes, take only the first id (first), or stop (error)."
    )


Split = Annotated[Drawn | Listed | Matched | Given | Folds, Field(discriminator="kind")]
