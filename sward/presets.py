"""Presets of a configuration: ``preset: paper`` sets the fields that are not stated; stated fields win."""

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from sward.contracts import Config


class PresetConfig(Config):
    """Configuration with two presets: the defaults, which are recommended, and the paper's values.

    Attributes:
        paper: field -> the paper's value, for each field where it differs from the default.
    """

    paper: ClassVar[dict[str, Any]] = {}

    preset: Literal["recommended", "paper"] = Field(
        default="recommended",
        description="Source of unstated fields: 'recommended' (the defaults) or 'paper' (as printed).",
    )

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("preset") == "paper":
            return {**cls.paper, **values}
        return values
