"""Base of every configuration, and the settings that all methods have."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Config(BaseModel):
    """Base of every configuration: unknown keys are errors, and values cannot change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class BalanceConfig(Config):
    """Gradient balancing (`sward.balance`): factors on a method's terms follow from measured gradient norms."""

    kind: Literal["gradient"] = Field(default="gradient", description="Norms at the student's parameters.")
    share: Annotated[float, Field(gt=0)] | dict[str, Annotated[float, Field(gt=0)]] = Field(
        default=0.5,
        description="Gradient norm of each part as a fraction of the task's: one number, or one for every part by its "
        "label in `combined` (of other methods the only part is `method`).",
    )
    every: int = Field(
        default=10, ge=1, description="Steps between measurements, each a backward pass per part and one."
    )
    decay: float = Field(default=0.9, ge=0, lt=1, description="Of the exponential mean of the norms; 0: no smoothing.")


def canonical(value: Any) -> Any:
    """Returns the JSON-ready form of a config, from which hashes are computed."""
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else value
