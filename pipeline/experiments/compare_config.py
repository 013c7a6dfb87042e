"""Configuration of a comparison: its rows, their seeds, and the settings they share."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from pipeline.experiments.grid import plain_row, with_grid
from pipeline.experiments.tune import TuneConfig
from pipeline.paths import expand
from pipeline.training.config import TrainConfig
from pipeline.training.optimizer import OptimizerConfig
from sward.contracts import Config
from sward.methods import MethodConfig
from sward.students import StudentConfig
from sward.teachers import HeadConfig

TEACHER = "teacher"  # label of the teacher's own row
Label = Annotated[str, Field(pattern=r"^[^\s_|$][^|$\n]*$", max_length=60)]
Seed = Annotated[int, Field(ge=0)]
Fold = Annotated[int, Field(ge=0)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9-]+$")]
Percent = Annotated[float, Field(ge=0, le=100)]


class TeacherRow(Config):
    """The teacher's own row: a head on its cached features, trained as the students are.

    If ``train.head`` configures how the head is fitted, only ``seeds`` may be set here, and methods read the head of
    ``train.head.seed``.
    """

    steps: int | None = Field(None, ge=1, description="Optimiser steps of the head; null: as train.head.")
    seeds: list[Seed] = Field([0], min_length=1, description="Seeds of the head, one run each.")
    head: HeadConfig | None = Field(None, description="Network of the head; null: as train.head, else the default.")


class CompareConfig(Config):
    """Configuration of `sward compare`: the teacher, the baseline and the other methods are the rows of one table."""

    name: str = Field(pattern=r"^[A-Za-z0-9._-]+$", description="Name of the comparison; its folder is <out>/<name>.")
    out: str = Field("runs/comparisons", description="Folder of comparisons.")
    train: TrainConfig = Field(
        description="Settings of all rows: path of a train config; its method, seed and name are not used."
    )
    methods: dict[Label, MethodConfig] = Field(min_length=1, description="Label -> method.")
    baseline: Label = Field(
        "student alone",
        description="Label of the method that the others are compared with; if absent: the first of kind plain.",
    )
    baselines: dict[Label, Label] = Field(
        {}, description="Label -> label of the row that it is compared with; rows not listed: ``baseline``."
    )
    grid: dict[str, list[Any]] = Field(
        {},
        description="Dotted name of a train setting -> values, e.g. {optimizer.lr: [1.0e-3, 2.0e-3], method.beta: "
        "[0.1, 0.5]}: every method gets a row for each combination of the settings that it has.",
    )
    optimizers: dict[Label, OptimizerConfig] = Field(
        {}, description="Label -> optimiser of that method; methods not listed use the one in train."
    )
    students: dict[Label, StudentConfig] = Field(
        {}, description="Label -> student, each trained with all methods; empty: the one in train."
    )
    seeds: list[Seed] = Field(min_length=2, description="Seeds; every method runs once with each.")
    folds: list[Fold] = Field([], description="Folds that every row runs, each with every seed; empty: train's.")
    changes: dict[Label, dict[str, Any]] = Field(
        {}, description="Label -> settings of train that differ for this row, e.g. {optimizer.lr: 1.0e-3, steps: 4000}."
    )
    tune: TuneConfig | None = Field(None, description="Settings that are tuned for every row; null: none.")
    external: dict[Name, str] = Field(
        {}, description="Name -> store (folder or URL) of another data set, on whose test images every run is tested."
    )
    nearest: bool = Field(
        False,
        description="Whether a row shows the mask of the most alike training image, copied: what lookup alone gives.",
    )
    margin: Percent = Field(
        2.0, description="Difference of the main metric, in points, below which rows count as equivalent."
    )
    teacher: TeacherRow | None = Field(None, description="The teacher's own row; null: none.")
    paper: dict[str, dict[Literal["dice", "iou", "miou", "macc"], Percent]] = Field(
        {}, description="Label of a row -> metric -> the paper's figure in per cent, printed next to ours."
    )
    deviations: list[str] = Field([], description="Differences from the paper's setting, printed below the table.")

    @model_validator(mode="before")
    @classmethod
    def _written_out(cls, values: Any) -> Any:
        """Writes the grid out as rows, and names the baseline where it is not stated."""
        if not isinstance(values, dict) or not isinstance(values.get("methods"), dict) or not values["methods"]:
            return values
        values = with_grid(values)
        return values if "baseline" in values else values | {"baseline": plain_row(values["methods"])}

    @model_validator(mode="after")
    def _distinct(self) -> "CompareConfig":
        every = [self.seeds, self.folds, self.teacher.seeds if self.teacher else []]
        problems = [f"seeds or folds {s} repeat one; state each once" for s in every if len(set(s)) < len(s)]
        problems += self._head_problems()
        if unknown := sorted(set(self.optimizers) - set(self.methods)):
            problems.append(f"optimizers names {unknown}; the methods are {list(self.methods)}")
        if unknown := sorted(set(self.changes) - set(self.methods)):
            problems.append(f"changes names {unknown}; the methods are {list(self.methods)}")
        problems += self.tune.mistakes(list(self.methods)) if self.tune else []
        if self.baseline not in self.methods:
            problems.append(f"baseline is {self.baseline!r}; the methods are {list(self.methods)}")
        if unknown := sorted({*self.baselines, *self.baselines.values()} - set(self.methods)):
            problems.append(f"baselines names {unknown}; the methods are {list(self.methods)}")
        if TEACHER in self.methods:
            problems.append(f"a method is labelled {TEACHER!r}, the label of the teacher's own row; rename it")
        labels = [label for name in self.students or [""] for label in row_labels(name, list(self.methods)).values()]
        if unknown := sorted(set(self.paper) - {TEACHER, *labels}):
            problems.append(f"paper names {unknown}; the rows are {[TEACHER, *labels]}")
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _head_problems(self) -> list[str]:
        fitted, row = self.train.head is not None, self.teacher
        if needing := [label for label, method in self.methods.items() if method.uses_head and not fitted]:
            return [f"{', '.join(needing)} need the teacher's head: set train.head.steps"]
        if row and fitted and (row.steps, row.head) != (None, None):
            return ["train.head says how the teacher's head is fitted; leave teacher.steps and teacher.head out"]
        if row and not fitted and row.steps is None:
            return ["the teacher's row needs teacher.steps (or train.head)"]
        return []

    @property
    def folder(self) -> Path:
        return Path(expand(self.out)) / self.name


def row_labels(student: str, methods: list[str]) -> dict[str, str]:
    """Method -> label of its row, which begins with the student's name if there are several students."""
    return {method: f"{student}: {method}" if student else method for method in methods}
