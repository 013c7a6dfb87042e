"""`sward compare`: trains methods × seeds from one store on one budget, then writes the table and the report.

The rows of a student differ only in the method (and, if configured, its optimiser): store, steps, batches and seeds
are the same for all rows. The teacher's own row is a head trained on the cached features. Finished runs are reused, so
an interrupted comparison continues with the same command.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pipeline import console
from pipeline.cache.store import Store
from pipeline.experiments.compare_config import TEACHER, CompareConfig, TeacherRow, row_labels
from pipeline.files import read_json, write_atomic, write_json
from pipeline.report.report import write_report
from pipeline.results.runs import load_run, require_store
from pipeline.results.step_costs import add_costs
from pipeline.results.summary import Row, summarise
from pipeline.results.table import cells, comparison_csv, comparison_markdown, conclusions, header, markdown
from pipeline.training.config import HeadFit, TrainableConfig, TrainConfig
from pipeline.training.loop import train
from pipeline.training.setup import open_store
from sward.teachers.head import TeacherHeadConfig


@dataclass(frozen=True)
class PlannedRow:
    """A row of the table before its runs are trained.

    Attributes:
        label: name of the row in the table.
        baseline: label of the row that this one is compared with; None without a comparison.
        configs: configurations of the row's runs, which differ only in the seed.
    """

    label: str
    baseline: str | None
    configs: tuple[TrainConfig, ...]


def compare(config: CompareConfig) -> str:
    """Runs the comparison, reusing finished runs; writes comparison.{json,csv,md} and report.html.

    Returns:
        Table and conclusions as text.

    Raises:
        CacheMismatch, StoreIncomplete, StoreDamaged: the store cannot be used.
        RunError: a run that would be reused or resumed comes from another store.
    """
    rows, store = planned_rows(config), open_store(config.train)
    started = [c.folder for row in rows for c in row.configs if (c.folder / "run.json").is_file()]
    require_store(started, store.content_id)
    for run in [*heads(config), *running_order(rows)]:
        run_one(run)
    finished = [Row(r.label, r.baseline, tuple(load_run(c.folder) for c in r.configs)) for r in rows]
    comparison = summarise(config.name, finished)
    add_paper(config, comparison)
    relate_folders(config.folder, comparison["rows"])
    before = last_saved(config)
    save(config, comparison)  # the runs took hours: their table is saved before anything else can fail
    measure_steps(before, rows, store, comparison)
    save(config, comparison)
    report = write_report([config.folder], config.folder / "report.html")
    lines = [markdown(header(comparison), cells(comparison)), "", f"table: {config.folder / 'comparison.md'}"]
    return "\n".join([*lines, f"report: {report}", "", *conclusions(comparison)])


def planned_rows(config: CompareConfig) -> list[PlannedRow]:
    """Plans the rows of the table: the teacher's, then all methods of each student."""
    rows = [teacher_row(config.train, config.teacher)] if config.teacher else []
    students: dict[str, TrainableConfig] = {**config.students} or {"": config.train.student}
    for name, student in students.items():
        labels = row_labels(name, [config.baseline, *config.methods])
        baseline = labels[config.baseline]
        for method, label in labels.items():
            common = {"student": student, "method": config.methods[method]} | own_optimizer(config, method)
            configs = seeded(config.train, label, config.seeds, common)
            rows.append(PlannedRow(label, baseline if label != baseline else None, configs))
    return rows


def own_optimizer(config: CompareConfig, method: str) -> dict[str, Any]:
    """Config changes for a method with its own optimiser; the head keeps the optimiser that other rows use for it."""
    if method not in config.optimizers:
        return {}
    head = config.train.head
    same = {"optimizer": head.optimizer or config.train.optimizer} if head else {}
    return {"optimizer": config.optimizers[method], "head": head and head.model_copy(update=same)}


def teacher_row(train_config: TrainConfig, teacher: TeacherRow) -> PlannedRow:
    """Plans the teacher's own row: one fit of its head per seed."""
    fit = train_config.head or HeadFit.model_validate(
        {"network": teacher.head or TeacherHeadConfig(), "steps": teacher.steps}
    )
    fitting = train_config.model_copy(update={"head": fit})
    return PlannedRow(TEACHER, None, tuple(fitting.head_run(seed) for seed in teacher.seeds))


def heads(config: CompareConfig) -> list[TrainConfig]:
    """Runs that must finish before the others: the fit of the teacher's head, if a method reads the head."""
    return [config.train.head_run()] if any(method.uses_head for method in config.methods.values()) else []


def seeded(config: TrainConfig, label: str, seeds: list[int], changes: dict[str, Any]) -> tuple[TrainConfig, ...]:
    """Configurations of a row, one per seed, each named after label and seed."""
    name = re.sub(r"[^A-Za-z0-9.]+", "-", label).strip("-") or "row"
    return tuple(config.model_copy(update=changes | {"seed": s, "name": f"{name}-seed{s}"}) for s in seeds)


def running_order(rows: list[PlannedRow]) -> list[TrainConfig]:
    """Orders runs by seed, so that in an interrupted comparison all rows have about equally many seeds."""
    longest = max(len(row.configs) for row in rows)
    return [row.configs[i] for i in range(longest) for row in rows if i < len(row.configs)]


def run_one(config: TrainConfig) -> None:
    with console.progress(config.name, "steps") as show:
        train(config, lambda step, steps, logged: show(step, steps, logged.get("loss")))


def relate_folders(folder: Path, rows: list[dict[str, Any]]) -> None:
    """Makes the paths of run folders relative to the folder of the results, in place."""
    for row in rows:
        for run in row["runs"]:
            run["folder"] = Path(os.path.relpath(run["folder"], folder)).as_posix()


def last_saved(config: CompareConfig) -> dict[str, Any] | None:
    file = config.folder / "comparison.json"
    return read_json(file) if file.is_file() else None


def measure_steps(
    before: dict[str, Any] | None, rows: list[PlannedRow], store: Store, comparison: dict[str, Any]
) -> None:
    """Adds ``cost`` to every row; costs in ``before`` are reused if the runs are the same."""
    with console.progress("cost of a step", "rows") as show:
        add_costs(comparison, before, {row.label: row.configs[0] for row in rows}, store, show)


def add_paper(config: CompareConfig, comparison: dict[str, Any]) -> None:
    """Adds the paper's figures to the rows (as fractions), and deviations from its setting to the comparison."""
    comparison["deviations"] = config.deviations
    for row in comparison["rows"]:
        row["paper"] = {metric: value / 100 for metric, value in config.paper.get(row["label"], {}).items()}


def save(config: CompareConfig, comparison: dict[str, Any]) -> None:
    """Writes the resolved configurations and the tables."""
    folder = config.folder
    texts = {
        "config.yaml": yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False),
        "cache.yaml": yaml.safe_dump(config.train.cache.model_dump(mode="json"), sort_keys=False),
        "comparison.csv": comparison_csv(comparison),
        "comparison.md": comparison_markdown(comparison),
    }
    for name, text in texts.items():
        write_atomic(folder / name, text)
    write_json(folder / "comparison.json", comparison)
