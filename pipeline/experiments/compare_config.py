"""Configuration of a comparison: its rows, seeds and what they share."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from pipeline.experiments.tune import TuneConfig
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

    Where ``train.head`` says how the head is fitted, only ``seeds`` is stated here, and the head of ``train.head.seed``
    is the one that methods read.
    """

    steps: int | None = Field(None, ge=1, description="optimiser steps of the head; null: as train.head")
    seeds: list[Seed] = Field([0], min_length=1, description="seeds of the head")
    head: HeadConfig | None = Field(None, description="the head's network; null: as train.head, else the default one")


class CompareConfig(Config):
    """Rows of one table: the teacher, the baseline, the other methods."""

    name: str = Field(pattern=r"^[A-Za-z0-9._-]+$", description="name of the comparison; its folder is <out>/<name>")
    out: str = Field("runs/comparisons", description="folder of comparisons")
    train: TrainConfig = Field(
        description="what all rows share: path of a train config; its method, seed, name are unused"
    )
    methods: dict[Label, MethodConfig] = Field(min_length=1, description="label -> method")
    baseline: Label = Field("student alone", description="label of the method that the others are compared with")
    optimizers: dict[Label, OptimizerConfig] = Field(
        {}, description="label -> that method's own optimiser, if not train's"
    )
    students: dict[Label, StudentConfig] = Field(
        {}, description="label -> student, each with all methods; empty: train's"
    )
    seeds: list[Seed] = Field(min_length=2, description="every method runs once with each")
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
    teacher: TeacherRow | None = Field(None, description="the teacher's own row; null: none")
    paper: dict[str, dict[Literal["dice", "iou", "miou", "macc"], Percent]] = Field(
        {}, description="label of a row -> metric -> the paper's figure in per cent, printed beside ours"
    )
    deviations: list[str] = Field([], description="how the setting differs from the paper's, printed below the table")

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
            return [f"{', '.join(needing)} read the teacher's head; say how it is fitted: train.head.steps"]
        if row and fitted and (row.steps, row.head) != (None, None):
            return ["train.head says how the teacher's head is fitted; leave teacher.steps and teacher.head out"]
        if row and not fitted and row.steps is None:
            return ["the teacher's row needs teacher.steps (or train.head)"]
        return []

    @property
    def folder(self) -> Path:
        return Path(self.out) / self.name


def row_labels(student: str, methods: list[str]) -> dict[str, str]:
    """Method -> label of its row; with several students their names stand before it."""
    return {method: f"{student}: {method}" if student else method for method in methods}
