"""Order of the training records: shuffled in every epoch, or by shards in the first, for training beside an extraction.

`sward train --extract` trains on shards as they are written. What it does is a function of the configuration and the
store's plan alone, so it equals training after the extraction with the same `order`.
"""

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_serializer, model_validator

from pipeline.paths import is_url
from pipeline.training.inputs.stores import one_of
from sward.contracts import Config

if TYPE_CHECKING:
    from pipeline.training.config import TrainConfig

WINDOW = 64  # records: four shards of 16; a first batch of 8 then reads about two of them


class OrderConfig(Config):
    """How the records are ordered; the kind alone may be given: `order: shards`."""

    kind: Literal["shuffled", "shards"] = Field(
        "shuffled",
        description="shuffled: every epoch over all records; shards: the first epoch in the order in which the store "
        "is extracted, shuffled over `window` records.",
    )
    window: int = Field(WINDOW, ge=1, description="Records over which order shards mixes the first epoch.")
    statistics: Literal["all", "first"] = Field(
        "all",
        description="Training records whose statistics standardise the teacher with order shards: all (training waits "
        "for the last shard), or the shards of the first `window` records.",
    )

    @model_validator(mode="before")
    @classmethod
    def _of_a_kind(cls, value: Any) -> Any:
        return {"kind": value} if isinstance(value, str) else value

    @model_serializer
    def _short(self) -> dict[str, Any]:
        """Where every epoch is shuffled, the rest has no effect and is left out."""
        values = {"kind": self.kind, "window": self.window, "statistics": self.statistics}
        return {"kind": self.kind} if self.kind == "shuffled" else values

    @property
    def first_window(self) -> int:
        """Records over which the first epoch is mixed; 0: over all, as every other epoch."""
        return self.window if self.kind == "shards" else 0

    @property
    def counted(self) -> int:
        """Number of training records, in store order, that the statistics must cover; 0: all."""
        return self.window if self.kind == "shards" and self.statistics == "first" else 0


def require_beside(config: "TrainConfig") -> None:
    """Raises ValueError if a run cannot be trained beside the extraction of its store; says what to do."""
    if config.order.kind != "shards":
        raise ValueError(
            "--extract trains in the order in which shards are written, found order: shuffled, whose first batch may "
            "need the last shard; add --set order=shards (part of the run's identity: it changes the result)"
        )
    if config.processes > 1:
        raise ValueError(
            f"--extract trains in one process, found devices × nodes = {config.processes}; set devices and nodes to 1, "
            "or run `sward extract` first"
        )
    cache = one_of(config.cache, "--extract")
    if is_url(cache.store):
        raise ValueError(
            f"--extract works on local stores, found {cache.store}; set cache.store to a folder, or run "
            "`sward extract` first"
        )
    if config.method.uses_head and config.head is not None and not (config.head_run().folder / "run.json").is_file():
        raise ValueError(
            f"the method {config.method.kind} reads the teacher's head, which is fitted on the whole store: run `sward "
            "extract`, then `sward fit-head`, then `sward train` without --extract"
        )
