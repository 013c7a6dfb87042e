"""Equal tuning of every row of a comparison: the same number of trials, chosen on validation images.

One fold's validation images choose for all folds but the one that tests them, which is tuned by its own.
"""

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import Field, model_validator

from pipeline.documents import RUN, Facts, read_document
from pipeline.experiments.settings import combinations, with_settings
from pipeline.training.config import TrainConfig
from sward.contracts import Config

Grid = dict[str, list[Any]]
Chosen = dict[int | None, dict[str, dict[str, Any]]]  # fold -> label of a row -> its settings


class TuneConfig(Config):
    """Grids of settings, tried for every row on one fold and seed."""

    fold: int | None = Field(
        None,
        ge=0,
        description="Fold whose validation images choose; null: the first of the folds. The fold that tests these "
        "images is tuned by its own validation images.",
    )
    seed: int = Field(0, ge=0, description="Seed of the trials.")
    grid: Grid = Field(description="Dotted name -> values, e.g. {optimizer.lr: [1.0e-3, 2.0e-3]}; all combinations.")
    rows: dict[str, Grid] = Field({}, description="Label -> that row's own grid, in place of ``grid``.")

    @model_validator(mode="after")
    def _something_to_try(self) -> "TuneConfig":
        if empty := [name for grid in (self.grid, *self.rows.values()) for name, values in grid.items() if not values]:
            raise ValueError(f"{empty} have no values to try; give at least one each")
        return self

    def trials(self, label: str) -> list[dict[str, Any]]:
        """Settings of every trial of a row."""
        return list(combinations(self.rows.get(label, self.grid)))

    def mistakes(self, labels: list[str]) -> list[str]:
        """Rows that do not exist, and rows with another number of trials than the rest."""
        wrong = [f"tune.rows names {u}; the methods are {labels}" for u in [sorted(set(self.rows) - set(labels))] if u]
        counts = {label: len(self.trials(label)) for label in labels}
        if len(set(counts.values())) > 1:
            wrong.append(f"tune gives rows different numbers of trials: {counts}; equal tuning needs the same for all")
        return wrong


def tuning_folds(fold: int | None, folds: list[int], parts: int) -> dict[int | None, list[int | None]]:
    """Fold whose validation images choose -> folds that take its settings; none of them tests these images.

    Args:
        fold: the fold that chooses; None: the first of ``folds``.
        folds: those of the comparison; empty: one split.
        parts: of the cross-validation; fold k tests part k and validates part k + 1 (the last one part 0).
    """
    if not folds:
        return {fold: [None]}
    first = folds[0] if fold is None else fold
    testing = (first + 1) % parts
    found: dict[int | None, list[int | None]] = {first: [other for other in folds if other != testing]}
    return found | ({testing: [testing]} if testing in folds else {})


def tune(
    config: TuneConfig, rows: Mapping[str, TrainConfig], run: Callable[[TrainConfig], None]
) -> dict[str, dict[str, Any]]:
    """Try every row's grid; what each trial gave, and the settings chosen.

    Args:
        config: grids.
        rows: label -> the row's run on the tuning fold and seed.
        run: trains a configuration, or finds it finished.

    Returns:
        Label -> {"trials": [{"settings", "best_val", "folder"}], "chosen": settings of the best (the first of equals)}.
    """
    found = {}
    for label, base in rows.items():
        trials = []
        for number, settings in enumerate(config.trials(label)):
            trial = with_settings(base.model_copy(update={"name": f"{base.name}-trial{number}"}), settings, label)
            run(trial)
            best = read_document(trial.folder / "run.json", Facts, RUN)["best_val"]
            trials.append({"settings": settings, "best_val": best, "folder": trial.folder.name})
        chosen = max(trials, key=lambda trial: trial["best_val"])
        found[label] = {"trials": trials, "chosen": chosen["settings"]}
    return found
