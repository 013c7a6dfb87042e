"""`sward compare`: trains methods × seeds from one store on one budget, then writes the table and the report.

The rows of a student differ only in the method (and, if configured, its optimiser): store, steps, batches and seeds
are the same for all rows. The teacher's own row is a head trained on the cached features. Finished runs are reused, so
an interrupted comparison continues with the same command.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from pipeline import console
from pipeline.cache.store import Store
from pipeline.experiments.compare_config import TEACHER, CompareConfig, TeacherRow, row_labels
from pipeline.experiments.comparison_files import last_saved, relate_folders, save
from pipeline.experiments.fresh import set_aside
from pipeline.experiments.grid import equal_runs_once, reused_text
from pipeline.experiments.settings import with_settings
from pipeline.experiments.tune import Chosen, tune, tuning_folds
from pipeline.files import write_json
from pipeline.report.report import write_report
from pipeline.results.nearest_mask import copied_masks
from pipeline.results.power import power_text
from pipeline.results.results_table import conclusions, fitting
from pipeline.results.rows import Row
from pipeline.results.runs import RunError, evaluate_elsewhere, load_run, require_store
from pipeline.results.step_costs import add_costs
from pipeline.results.summary import lookup_row, summarise
from pipeline.training.config import HeadFit, TrainableConfig, TrainConfig
from pipeline.training.loop import train
from pipeline.training.run_folder import RunFolder
from pipeline.training.setup import open_store
from sward.students.saved import WEIGHTS
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


def compare(config: CompareConfig, fresh: bool = False) -> str:
    """Runs the comparison, reusing finished runs; writes comparison.{json,csv,md} and report.html.

    Args:
        config: rows, seeds, folds.
        fresh: set finished runs aside that another commit, other versions or another number of threads made.

    Returns:
        Table and conclusions as text.

    Raises:
        CacheMismatch, StoreIncomplete, StoreDamaged: the store cannot be used.
        RunError: a run that would be reused or resumed comes from another store.
    """
    run_one = partial(train_or_reuse, fresh=fresh)
    store = open_store(in_fold(config.train, config))
    rows = planned_rows(config, tuned(config, store.folds, run_one))
    started = [c.folder for row in rows for c in row.configs if (c.folder / "run.json").is_file()]
    require_store(started, store.content_id)
    before_now = {c.folder for row in rows for c in row.configs if RunFolder(c.folder).finished}
    for run in [*heads(config), *running_order(rows)]:
        run_one(run)
        test_elsewhere(config, run)
    finished = [Row(r.label, r.baseline, tuple(load_run(c.folder) for c in r.configs)) for r in rows]
    comparison = summarise(config.name, finished, config.margin / 100)
    add_paper(config, comparison)
    relate_folders(config.folder, comparison["rows"])
    before = last_saved(config)
    save(config, comparison)  # the runs took hours: their table is saved before anything else can fail
    measure_steps(before, rows, store, comparison)
    if config.nearest:
        comparison["rows"].append(nearest_row(config, comparison))
    save(config, comparison)
    lines = [fitting(comparison, console.columns()), "", f"table: {config.folder / 'comparison.md'}"]
    reused = reused_text({row.label: row.configs for row in rows}, before_now)
    return "\n".join([*lines, *reused, report(config, rows), "", *conclusions(comparison)])


def report(config: CompareConfig, rows: list[PlannedRow]) -> str:
    """Writes the report and says where; leaves it out where runs were brought here without their students."""
    folders = [run.folder for row in rows for run in row.configs]
    if bare := [folder.name for folder in folders if not (folder / WEIGHTS).is_file()]:
        return f"no report: {len(bare)} of {len(folders)} runs have results but no {WEIGHTS} ({bare[0]} …)"
    return f"report: {write_report([config.folder], config.folder / 'report.html')}"


def planned_rows(config: CompareConfig, chosen: Chosen | None = None) -> list[PlannedRow]:
    """Plans the rows of the table: the teacher's, then all methods of each student.

    Args:
        config: rows, seeds, folds.
        chosen: tuned settings of each fold's runs; None: as configured.
    """
    rows = [teacher_row(config, config.teacher)] if config.teacher else []
    known: dict[str, TrainConfig] = {}
    students: dict[str, TrainableConfig] = {**config.students} or {"": config.train.student}
    for name, student in students.items():
        labels = row_labels(name, [config.baseline, *config.methods])
        for method, label in labels.items():
            common = {"student": student, "method": config.methods[method]} | own_optimizer(config, method)
            runs = seeded(config, label, config.seeds, common)
            configs = equal_runs_once((with_row_settings(config, run, method, chosen) for run in runs), known)
            base = labels[config.baselines.get(method, config.baseline)]
            rows.append(PlannedRow(label, base if label != base else None, configs))
    return rows


def own_optimizer(config: CompareConfig, method: str) -> dict[str, Any]:
    """Config changes for a method with its own optimiser; the head keeps the optimiser that other rows use for it."""
    if method not in config.optimizers:
        return {}
    head = config.train.head
    same = {"optimizer": head.optimizer or config.train.optimizer} if head else {}
    return {"optimizer": config.optimizers[method], "head": head and head.model_copy(update=same)}


def teacher_row(config: CompareConfig, teacher: TeacherRow) -> PlannedRow:
    """Plans the teacher's own row: one fit of its head per seed and fold."""
    fit = config.train.head or HeadFit.model_validate(
        {"network": teacher.head or TeacherHeadConfig(), "steps": teacher.steps}
    )
    fitting = config.train.model_copy(update={"head": fit})
    return PlannedRow(
        TEACHER, None, tuple(r.head_run(seed) for seed in teacher.seeds for r in in_folds(fitting, config))
    )


def heads(config: CompareConfig) -> list[TrainConfig]:
    """Runs that must finish before the others: the fit of the teacher's head in every fold, if a method reads it."""
    needed = any(method.uses_head for method in config.methods.values())
    return [run.head_run() for run in in_folds(config.train, config)] if needed else []


def in_folds(run: TrainConfig, config: CompareConfig) -> list[TrainConfig]:
    """The run in every fold of the comparison; itself where it has none."""
    return [run.model_copy(update={"fold": fold, "name": f"{run.name}-fold{fold}"}) for fold in config.folds] or [run]


def in_fold(run: TrainConfig, config: CompareConfig) -> TrainConfig:
    """The run in the comparison's first fold; itself where it has none."""
    return in_folds(run, config)[0]


def with_row_settings(config: CompareConfig, run: TrainConfig, method: str, chosen: Chosen | None) -> TrainConfig:
    """The run with the settings in which its row differs from the others: configured ones, then tuned ones."""
    changes = config.changes.get(method, {}) | ((chosen or {}).get(run.fold, {}).get(method, {}))
    return with_settings(run, changes, method) if changes else run


def seeded(config: CompareConfig, label: str, seeds: list[int], common: dict[str, Any]) -> list[TrainConfig]:
    """Configurations of a row, one per seed and fold, each named after label, seed and fold."""
    name = re.sub(r"[^A-Za-z0-9.]+", "-", label).strip("-") or "row"
    base = config.train.model_copy(update=common)
    runs = [base.model_copy(update={"seed": s, "name": f"{name}-seed{s}"}) for s in seeds]
    return [planned for run in runs for planned in in_folds(run, config)]


def tuned(config: CompareConfig, parts: int, run_one: Callable[[TrainConfig], None]) -> Chosen:
    """Tunes every row, and saves trials and choices in tuning.json.

    Args:
        config: the comparison.
        parts: number of parts of its cross-validation; 0 for any other split.
        run_one: trains a configuration, or finds it finished.

    Returns:
        Fold -> label -> settings; empty without ``tune``.
    """
    if config.tune is None:
        return {}
    found, chosen = [], Chosen()
    for fold, served in tuning_folds(config.tune.fold, config.folds, parts).items():
        trying = config.model_copy(update={"folds": [] if fold is None else [fold], "seeds": [config.tune.seed]})
        for head in heads(trying):
            run_one(head)
        rows = {row.label: row.configs[0] for row in planned_rows(trying) if row.label in config.methods}
        trials = tune(config.tune, rows, run_one)
        found.append({"fold": fold, "for": served, "rows": trials})
        chosen |= {test: {label: row["chosen"] for label, row in trials.items()} for test in served}
    write_json(config.folder / "tuning.json", {"seed": config.tune.seed, "tuned": found})
    return chosen


def test_elsewhere(config: CompareConfig, run: TrainConfig) -> None:
    """Test a finished run on every external set; what is there is kept."""
    for name, place in config.external.items():
        file = run.folder / f"external-{name}.json"
        if not file.is_file():
            write_json(file, {"store": place} | evaluate_elsewhere(run.folder, place))


def nearest_row(config: CompareConfig, comparison: dict[str, Any]) -> dict[str, Any]:
    """The row of copied masks, over the same test images as the others."""
    stores = [open_store(run) for run in in_folds(config.train, config)]
    return lookup_row([copied_masks(store) for store in stores], comparison)


def running_order(rows: list[PlannedRow]) -> list[TrainConfig]:
    """Orders runs by seed, so that in an interrupted comparison all rows have about equally many seeds."""
    longest = max(len(row.configs) for row in rows)
    return [row.configs[i] for i in range(longest) for row in rows if i < len(row.configs)]


def train_or_reuse(config: TrainConfig, fresh: bool = False) -> None:
    """Trains a run, continues it, or finds it finished.

    Args:
        config: the run.
        fresh: set the run aside first if another commit, other versions or another number of threads made it.
    """
    if fresh:
        set_aside(config.folder)
    with console.progress(config.name, "steps") as show:
        train(config, lambda step, steps, logged: show(step, steps, logged.get("loss")))


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


def saved_power(config: CompareConfig, seeds: int) -> str:
    """Power of the comparison as last saved, and with ``seeds`` seeds. Raises RunError where none is saved."""
    saved = last_saved(config)
    if saved is None:
        raise RunError(f"{config.folder} has no comparison.json yet; run the comparison first, with two seeds or more")
    return power_text(saved, seeds)
