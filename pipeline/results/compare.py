"""`sward compare`: methods × seeds over one store, on one budget, then the table and the report.

Every row has the same student, store, steps, batches and seeds; only the method (and, where stated, its
optimiser) differs. The teacher's own row is a head fitted on the cached features. Finished runs are reused,
so a stopped comparison continues with the same command.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, model_validator

from pipeline import console
from pipeline.files import atomic, write_json
from pipeline.results.report import write_report
from pipeline.results.runs import load_run, require_store
from pipeline.results.summary import Row, summarise
from pipeline.results.table import cells, comparison_csv, comparison_markdown, conclusions, header, markdown
from pipeline.training.config import OptimizerConfig, TrainableConfig, TrainConfig
from pipeline.training.loop import open_store, train
from sward.contracts import Config
from sward.methods import MethodConfig
from sward.methods.plain import PlainConfig
from sward.students import StudentConfig
from sward.teachers.head import TeacherHeadConfig

TEACHER = "teacher"  # label of the teacher's own row
Label = Annotated[str, Field(pattern=r"^[^\s_|$][^|$\n]*$", max_length=60)]
Seed = Annotated[int, Field(ge=0)]


class TeacherRow(Config):
    """The teacher's own row: a head on its cached features, trained as the students are."""

    steps: int = Field(ge=1, description="optimiser steps of the head")
    seeds: list[Seed] = Field([0], min_length=1, description="seeds of the head")
    head: TeacherHeadConfig = TeacherHeadConfig()


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
    teacher: TeacherRow | None = Field(None, description="the teacher's own row; null: none")

    @model_validator(mode="after")
    def _distinct(self) -> "CompareConfig":
        every = [self.seeds, self.teacher.seeds if self.teacher else []]
        problems = [f"seeds {s} repeat one; state each once" for s in every if len(set(s)) < len(s)]
        if unknown := sorted(set(self.optimizers) - set(self.methods)):
            problems.append(f"optimizers names {unknown}; the methods are {list(self.methods)}")
        if self.baseline not in self.methods:
            problems.append(f"baseline is {self.baseline!r}; the methods are {list(self.methods)}")
        if TEACHER in self.methods:
            problems.append(f"a method is labelled {TEACHER!r}, the label of the teacher's own row; rename it")
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @property
    def folder(self) -> Path:
        return Path(self.out) / self.name


@dataclass(frozen=True)
class PlannedRow:
    """A row before it is run; ``configs`` differ by seed alone."""

    label: str
    baseline: str | None
    configs: tuple[TrainConfig, ...]


def compare(config: CompareConfig) -> str:
    """Run (or reuse) everything; write comparison.{json,csv,md} and report.html; return the table as text.

    Raises:
        CacheMismatch, StoreIncomplete, StoreDamaged: the store is not usable.
        RunError: a finished run that would be reused comes from another store.
    """
    rows = planned_rows(config)
    started = [c.folder for row in rows for c in row.configs if (c.folder / "run.json").is_file()]
    require_store(started, open_store(config.train).content_id)
    for run in running_order(rows):
        run_one(run)
    finished = [Row(r.label, r.baseline, tuple(load_run(c.folder) for c in r.configs)) for r in rows]
    comparison = summarise(config.name, finished)
    save(config, comparison)
    report = write_report([config.folder], config.folder / "report.html")
    lines = [markdown(header(comparison), cells(comparison)), "", f"table: {config.folder / 'comparison.md'}"]
    return "\n".join([*lines, f"report: {report}", "", *conclusions(comparison)])


def planned_rows(config: CompareConfig) -> list[PlannedRow]:
    """The teacher's row, then the methods of every student."""
    rows = [teacher_row(config.train, config.teacher)] if config.teacher else []
    students: dict[str, TrainableConfig] = {**config.students} or {"": config.train.student}
    for name, student in students.items():
        labels = {method: f"{name}: {method}" if name else method for method in [config.baseline, *config.methods]}
        baseline = labels[config.baseline]
        for method, label in labels.items():
            common = {
                "student": student,
                "method": config.methods[method],
                "optimizer": config.optimizers.get(method, config.train.optimizer),
            }
            configs = seeded(config.train, label, config.seeds, common)
            rows.append(PlannedRow(label, baseline if label != baseline else None, configs))
    return rows


def teacher_row(train_config: TrainConfig, teacher: TeacherRow) -> PlannedRow:
    changes = {"student": teacher.head, "method": PlainConfig(), "steps": teacher.steps}
    return PlannedRow(TEACHER, None, seeded(train_config, TEACHER, teacher.seeds, changes))


def seeded(config: TrainConfig, label: str, seeds: list[int], changes: dict[str, Any]) -> tuple[TrainConfig, ...]:
    """The run of each seed, named after label and seed."""
    name = re.sub(r"[^A-Za-z0-9.]+", "-", label).strip("-") or "row"
    return tuple(config.model_copy(update=changes | {"seed": s, "name": f"{name}-seed{s}"}) for s in seeds)


def running_order(rows: list[PlannedRow]) -> list[TrainConfig]:
    """All rows of the first seed, then of the next, so that a stopped comparison is even."""
    longest = max(len(row.configs) for row in rows)
    return [row.configs[i] for i in range(longest) for row in rows if i < len(row.configs)]


def run_one(config: TrainConfig) -> None:
    with console.progress(config.name, "steps") as show:
        train(config, lambda step, steps, logged: show(step, steps, logged.get("loss")))


def save(config: CompareConfig, comparison: dict[str, Any]) -> None:
    """The resolved configurations and the tables; run folders are written relative to the comparison's."""
    folder = config.folder
    for row in comparison["rows"]:
        for run in row["runs"]:
            run["folder"] = Path(os.path.relpath(run["folder"], folder)).as_posix()
    texts = {
        "config.yaml": yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False),
        "cache.yaml": yaml.safe_dump(config.train.cache.model_dump(mode="json"), sort_keys=False),
        "comparison.csv": comparison_csv(comparison),
        "comparison.md": comparison_markdown(comparison),
    }
    for name, text in texts.items():
        with atomic(folder / name) as file:
            file.write(text.encode())
    write_json(folder / "comparison.json", comparison)
