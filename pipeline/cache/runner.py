"""Where an extraction runs: in this process, or on the workers of a Dask cluster. Never a part of the store."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from sward.contracts import Config


class LocalRunner(Config):
    """This process does everything."""

    kind: Literal["local"] = "local"


class DaskRunner(Config):
    """This process plans and keeps the books; workers of a Dask cluster compute the shards."""

    kind: Literal["dask"] = "dask"
    address: str | None = Field(
        None, description="tcp://host:8786 of a running scheduler; default: a cluster on this machine, for this call"
    )
    workers: int | None = Field(None, ge=1, description="own workers; default: one a GPU, else one a CPU core")
    threads: int = Field(1, ge=1, description="CPU threads of the teacher in a worker (on a CPU sums round by them)")
    patience: float = Field(60, ge=1, description="seconds to wait for a scheduler, or without any worker")

    @model_validator(mode="after")
    def _whose_workers(self) -> "DaskRunner":
        if self.address and self.workers:
            raise ValueError("workers is of a cluster made here, those at address are started there; remove either")
        return self


RunnerConfig = Annotated[LocalRunner | DaskRunner, Field(discriminator="kind")]
