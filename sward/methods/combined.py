"""Several methods at once, e.g. a rival with PDR, with Hinton KD, or with another level of itself."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from sward.contracts import BaseMethodConfig, Batch, Channels, Method, StudentOutput

if TYPE_CHECKING:
    from sward.methods import MethodConfig

Label = Annotated[str, Field(pattern=r"^[A-Za-z0-9-]+$")]


class CombinedConfig(BaseMethodConfig):
    """Methods by label, each with its own weights; PDR alone is ``{kind: sward, beta: 0}``."""

    kind: Literal["combined"] = Field(default="combined", description="The terms of several methods, added.")
    parts: dict[Label, "MethodConfig"] = Field(min_length=1, description="Label -> method.")

    @model_validator(mode="after")
    def _one_task(self) -> "CombinedConfig":
        if stated := [label for label, part in self.parts.items() if part.alpha != 1.0]:
            raise ValueError(f"alpha weighs the task once, on the whole; remove it from {', '.join(stated)}")
        if stated := [label for label, part in self.parts.items() if part.balance is not None]:
            raise ValueError(f"balance is set once, on the whole; remove it from {', '.join(stated)}")
        return self

    @model_validator(mode="after")
    def _labels(self) -> "CombinedConfig":
        if taken := [label for label in self.parts if hasattr(nn.ModuleDict, label)]:
            raise ValueError(f"parts: {', '.join(taken)} cannot be a label; choose another word")
        return self

    @property
    def uses_head(self) -> bool:
        return any(part.uses_head for part in self.parts.values())

    def warm_up(self, steps: int) -> tuple[int, tuple[str, ...]]:
        return max(part.warm_up(steps)[0] for part in self.parts.values()), ()  # the other parts act: nothing to share

    def for_steps(self, steps: int) -> Self:
        return self.model_copy(update={"parts": {k: part.for_steps(steps) for k, part in self.parts.items()}})

    def for_levels(self, levels: Sequence[str]) -> Self:
        return self.model_copy(update={"parts": {k: part.for_levels(levels) for k, part in self.parts.items()}})

    def build(self, teacher: Channels, student: Channels, num_classes: int, penultimate: int) -> "Combined":
        """All parts. Raises ValueError where one does not fit; names it."""
        built: dict[str, Method] = {}
        for label, part in self.parts.items():
            try:
                built[label] = part.build(teacher, student, num_classes, penultimate)
            except ValueError as error:
                raise ValueError(f"{label}: {error}") from error
        return Combined(built, self.alpha)


class Combined(Method):
    """Adds the terms of several methods, each of which works as if it were alone.

    Terms:
        ``<label>.<term>``: every term of every part, with the part's own weight.
    Reads:
        The tensors that its parts read. Each part has its own pre-stage.
    Random draws:
        Those of its parts.
    Parameters and buffers:
        Those of its parts, under ``parts.<label>.…``.
    """

    def __init__(self, parts: dict[str, Method], alpha: float) -> None:
        super().__init__()
        self.parts = nn.ModuleDict(parts)
        self.needs = tuple(dict.fromkeys(name for part in parts.values() for name in part.needs))
        self.order_invariant = all(part.order_invariant for part in parts.values())
        self.per_sample = all(part.per_sample for part in parts.values())
        self.weights = {"task": alpha}
        for label, part in parts.items():
            self.label_terms += tuple(f"{label}.{name}" for name in part.label_terms)
            self.weights |= {f"{label}.{name}": w for name, w in part.weights.items() if name != "task"}

    @property
    def groups(self) -> dict[str, tuple[str, ...]]:
        """The terms of each part, by its label."""
        found = {label: part.weights for label, part in self._methods()}
        return {label: tuple(f"{label}.{k}" for k in weights if k != "task") for label, weights in found.items()}

    def prepare(self, batch: Batch, statistics: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        for _, part in self._methods():
            part.prepare(batch, statistics)

    def forward(self, output: StudentOutput, batch: Batch, step: int) -> dict[str, Tensor]:
        return {
            f"{label}.{name}": term
            for label, part in self._methods()
            for name, term in part(output, batch, step).items()
        }

    @torch.no_grad()
    def monitors(self) -> dict[str, float]:
        """Monitors of the parts, the label before the level: ``signal/<label>.<level>/<name>``."""
        return {
            name.replace("/", f"/{label}.", 1): value
            for label, part in self._methods()
            for name, value in part.monitors().items()
        }

    def _methods(self) -> list[tuple[str, Method]]:
        return list(self.parts.items())  # type: ignore[arg-type]
