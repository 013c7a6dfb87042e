"""Named settings of a configuration: ``preset: paper`` fills what is not stated; whatever is stated wins."""

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from sward.contracts import Config


class PresetConfig(Config):
    """A configuration whose defaults are the recommended setting and which knows the paper's."""

    paper: ClassVar[dict[str, Any]] = {}

    preset: Literal["recommended", "paper"] = Field(
        default="recommended",
        description="Where unstated fields come from: 'recommended' (the defaults) or 'paper' (as printed).",
    )

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("preset") == "paper":
            return {**cls.paper, **values}
        return values
