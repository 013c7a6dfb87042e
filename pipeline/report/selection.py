"""Selects what a report covers: the rows of a comparison, or single runs, finished or not."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.cache.manifest.identity import dataset_name
from pipeline.cache.store import Store
from pipeline.documents import Comparison, StudentCard, read_document
from pipeline.files import Busy, locked
from pipeline.paths import read_path, with_urls
from pipeline.results.rows import Row
from pipeline.results.runs import RunError, SavedRun, command_to_continue, load_run, read_run, require_store, run_facts
from pipeline.results.summary import summarise
from pipeline.training.evaluate import headline
from pipeline.training.inputs.opened_stores import joined
from sward.metrics.names import NAMES

COMPARE = "delete it and run `sward compare` again, which keeps the finished runs"
Rows = dict[str, list[SavedRun]]  # label -> runs by seed


@dataclass(frozen=True)
class ReportInput:
    """Runs and settings that a report covers.

    Attributes:
        comparison: contents of comparison.json, or the same made from runs; ``rows`` is empty without finished runs.
        rows: finished runs by label.
        unfinished: unfinished runs by label.
        commands: commands that reproduce the runs.
        config: resolved configuration or configurations, as YAML.
    """

    comparison: dict[str, Any]
    rows: Rows
    unfinished: Rows
    commands: list[str]
    config: str

    @property
    def every(self) -> Rows:
        """All runs by label, finished ones first."""
        return self.rows | self.unfinished

    @property
    def any_run(self) -> SavedRun:
        """One of the runs, for facts that they share."""
        return next(iter(self.every.values()))[0]

    def store(self) -> Store | str:
        """Opens the store of the runs; returns the reason as a sentence if it cannot be shown."""
        config = self.any_run.config
        paths = [read_path(cache.store) for cache in config.caches]
        try:
            store = joined(config.cache, [Store(path) for path in paths])
        except (OSError, ValueError) as error:
            return f"The store could not be opened: {with_urls(error)}"
        if store.content_id != self.comparison["content_id"]:
            return f"{store.location} holds another store now (content id {store.content_id[:12]})."
        fold = self.any_run.config.fold
        return store if fold is None else store.of_fold(fold)

    @property
    def pictured(self) -> Rows:
        """The rows' runs of one fold, the first: the store's evaluation images are theirs."""
        fold = self.any_run.config.fold
        return {label: [run for run in runs if run.config.fold == fold] for label, runs in self.rows.items()}


def read_subject(folders: Sequence[str | Path]) -> ReportInput:
    """Reads the folder of a comparison, or run folders, or folders that contain run folders.

    Raises:
        RunError: a folder is none of these, or the runs come from different stores.
    """
    paths = [path for folder in folders for path in expand(Path(folder))]
    if len(paths) == 1 and (paths[0] / "comparison.json").is_file():
        return read_comparison(paths[0])
    if mixed := [str(p) for p in paths if (p / "comparison.json").is_file()]:
        raise RunError(
            f"{', '.join(mixed)} is a comparison, given with others; give one comparison, or run folders only"
        )
    return read_runs(paths)


def expand(folder: Path) -> list[Path]:
    """Returns the runs in a folder that is neither a run nor a comparison; otherwise the folder itself."""
    inside = sorted(path.parent for path in folder.glob("*/run.json"))
    own = any((folder / name).is_file() for name in ("run.json", "comparison.json"))
    return [folder] if own or not inside else inside


def read_comparison(folder: Path) -> ReportInput:
    """Reads comparison.json and the runs listed in it."""
    comparison = read_document(folder / "comparison.json", Comparison, COMPARE)
    rows = {
        row["label"]: [load_run(folder / r["folder"]) for r in row["runs"]] for row in comparison["rows"] if row["runs"]
    }
    stores = ["cache.yaml", *sorted(path.name for path in folder.glob("cache-*.yaml"))]
    commands = [*(f"sward extract {folder}/{name}" for name in stores), f"sward compare {folder}/config.yaml"]
    return ReportInput(comparison, rows, {}, commands, (folder / "config.yaml").read_text())


def read_runs(paths: Sequence[Path]) -> ReportInput:
    """Reads runs as rows of one seed each, without a baseline."""
    names = [path.name for path in paths]
    labels = {path.name if names.count(path.name) == 1 else str(path): path for path in paths}
    done = {label: run_facts(path)["status"] == "finished" for label, path in labels.items()}
    require_store(list(labels.values()), run_facts(paths[0])["content_id"])
    rows = {label: [load_run(path)] for label, path in labels.items() if done[label]}
    unfinished = {label: [read_run(path)] for label, path in labels.items() if not done[label]}
    every = [run for runs in (rows | unfinished).values() for run in runs]
    name = ", ".join(dict.fromkeys(run.config.name for run in every))
    lines = [Row(label, None, tuple(runs)) for label, runs in rows.items()]
    comparison = summarise(name, lines) if lines else no_results(name, every)
    commands = [f"sward train {path}/config.yaml" for path in paths]
    return ReportInput(
        comparison, rows, unfinished, commands, "\n".join(f"# {p}\n{(p / 'config.yaml').read_text()}" for p in paths)
    )


def no_results(name: str, runs: Sequence[SavedRun]) -> dict[str, Any]:
    """The dictionary that ``summarise`` returns, for runs without a result."""
    first = runs[0]
    card = first.path / "student.json"
    classes = (
        read_document(card, StudentCard)["classes"] if card.is_file() else []
    )  # student.json is written at the first validation
    return {
        "name": name,
        "content_id": first.facts["content_id"],
        "data": f"{dataset_name(first.config.caches[0].dataset)}, split {first.config.caches[0].split}",
        "subset": "",
        "images": 0,
        "classes": classes,
        "headline": headline(len(classes) or 2),
        "commits": sorted({str(run.facts["commit"]) for run in runs}),
        "versions": first.facts["versions"],
        "threads": first.facts["threads"],
        "rows": [],
    }


def status(run: SavedRun, metric: str) -> str:
    """Describes the state of an unfinished run, and how to continue it."""
    step = max((line["step"] for line in run.log), default=0)
    values = [line[f"val/{metric}"] for line in run.log if line.get(f"val/{metric}") is not None]
    best = f", best validation {NAMES[metric]} {100 * max(values):.2f} %" if values else ", not validated yet"
    where = f"step {step} of {run.config.steps}{best}"
    try:
        with locked(run.path):
            return f"stopped at {where}; continue it: {command_to_continue(run.path)}"
    except Busy:
        return f"running, {where}"
    except OSError:  # the folder is read-only, so the lock says nothing
        return f"not finished, {where}"
