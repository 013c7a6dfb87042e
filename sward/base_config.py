"""Base of every configuration, and settings that many methods have."""

from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer, model_validator
from pydantic.fields import FieldInfo


class Config(BaseModel):
    """Base of every configuration: unknown keys and infinite numbers are errors; values cannot change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    def __hash__(self) -> int:
        """Hash of the values, also where a field is a dict."""
        return hash(self.model_dump_json())

    @model_validator(mode="before")
    @classmethod
    def _no_truth_value_for_a_number(cls, values: Any) -> Any:
        """Refuses true and false where a number is expected: pydantic would take them for 1 and 0."""
        for name, value in values.items() if isinstance(values, dict) else ():
            parts = value if isinstance(value, list | tuple) else [value]
            if any(isinstance(p, bool) for p in parts) and takes_numbers_only(cls.model_fields.get(name)):
                raise ValueError(f"{name}: expected a number, not true or false")
        return values


class NeutralConfig(Config):
    """Configuration that is dumped without settings that came later, where they change nothing.

    So identities of runs, and plans of stores, from before there were such settings stay as they are.

    Attributes:
        neutral: setting -> the value at which it is left out.
    """

    neutral: ClassVar[dict[str, Any]] = {}

    @model_serializer(mode="wrap")
    def _without_neutral(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = handler(self)
        return {k: v for k, v in values.items() if k not in self.neutral or v != self.neutral[k]}


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


def takes_numbers_only(field: FieldInfo | None) -> bool:
    """Whether a field's type names numbers, and neither bool nor anything."""
    named: list[Any] = [field.annotation if field else None]
    for kind in named:
        named += get_args(kind)  # grows while it is walked, until there is nothing within
    numbers = any(kind is int or kind is float for kind in named)
    return numbers and not any(kind is bool or kind is Any or kind is True or kind is False for kind in named)


class PrestageConfig(Config):
    """Settings of a pre-stage's training by SGD, as MasKD trains its tokens.

    The learning rate decays polynomially (power 0.9).
    """

    steps: int = Field(default=10_000, ge=1, description="Optimiser steps.")
    batch_size: int = Field(default=16, ge=1, description="Records per step.")
    lr: float = Field(default=0.1, gt=0, description="Initial learning rate.")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="Momentum of SGD.")
    weight_decay: float = Field(default=1e-3, ge=0, description="Weight decay.")
    seed: int = Field(
        default=0, ge=0, description="Seed of initial values and record order; runs of all seeds share the result."
    )


def canonical(value: Any) -> Any:
    """Returns the JSON-ready form of a config, from which hashes are computed."""
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else value
