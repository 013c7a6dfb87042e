"""`sward report`: one self-contained HTML page of a comparison or of runs. It loads nothing from anywhere."""

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pipeline.cache.inspect import describe, inspect
from pipeline.cache.store import Store
from pipeline.files import atomic, read_json
from pipeline.paths import locate
from pipeline.results import table
from pipeline.results.examples import examples
from pipeline.results.figures import learning_curves, signal_curves
from pipeline.results.runs import Run, RunError, load_run
from pipeline.results.summary import Row, summarise

TEMPLATE = "report.html"
Rows = dict[str, list[Run]]  # label -> runs by seed


def write_report(folders: Sequence[str | Path], out: str | Path) -> Path:
    """Write the page of one comparison folder, or of one or more run folders.

    Raises:
        RunError: a folder is neither, or the runs come from different stores.
    """
    paths = [Path(folder) for folder in folders]
    if len(paths) == 1 and (paths[0] / "comparison.json").is_file():
        comparison, rows = load_comparison(paths[0])
        commands = [f"sward extract {paths[0]}/cache.yaml", f"sward compare {paths[0]}/config.yaml"]
        config = (paths[0] / "config.yaml").read_text()
    else:
        comparison, rows = compare_runs(paths)
        commands = [f"sward train {path}/config.yaml" for path in paths]
        config = "\n".join(f"# {path}\n{(path / 'config.yaml').read_text()}" for path in paths)
    page = (
        environment()
        .get_template(TEMPLATE)
        .render(content(comparison, rows) | {"config": config, "commands": commands})
    )
    with atomic(Path(out)) as file:
        file.write(page.encode())
    return Path(out)


def load_comparison(folder: Path) -> tuple[dict[str, Any], Rows]:
    """comparison.json and the runs it names."""
    comparison = read_json(folder / "comparison.json")
    return comparison, {
        row["label"]: [load_run(folder / r["folder"]) for r in row["runs"]] for row in comparison["rows"]
    }


def compare_runs(paths: Sequence[Path]) -> tuple[dict[str, Any], Rows]:
    """Runs as rows of one seed each, without a baseline."""
    if mixed := [str(p) for p in paths if (p / "comparison.json").is_file()]:
        raise RunError(f"{', '.join(mixed)} is a comparison; give one comparison, or run folders only")
    names = [path.name for path in paths]
    labels = [path.name if names.count(path.name) == 1 else str(path) for path in paths]
    runs = {label: load_run(path) for label, path in zip(labels, paths, strict=True)}
    rows = [Row(label, None, (run,)) for label, run in runs.items()]
    return summarise(", ".join(run.config.name for run in runs.values()), rows), {k: [run] for k, run in runs.items()}


def environment() -> Environment:
    """Everything put into the page is escaped, except the figures."""
    loader = FileSystemLoader(Path(__file__).parent)
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)


def content(comparison: dict[str, Any], rows: Rows) -> dict[str, Any]:
    """All that the template shows, besides configuration and commands."""
    metric = comparison["headline"]
    signals = {label: signal_curves(runs) for label, runs in rows.items()}
    return {
        "comparison": comparison,
        "header": table.header(comparison),
        "cells": table.cells(comparison),
        "caption": table.caption(comparison),
        "conclusions": table.conclusions(comparison),
        "runs": run_cells(comparison),
        "curves": Markup(learning_curves(rows, metric)),
        "signals": {label: Markup(svg) for label, svg in signals.items() if svg},
        "metric": table.NAMES[metric],
        "versions": comparison["versions"] | {name: version(name) for name in ("zarr", "pillow", "matplotlib")},
    } | store_content(comparison, rows)


def run_cells(comparison: dict[str, Any]) -> list[list[str]]:
    """One line a run: label, seed, metrics in per cent, seconds, identity."""
    shown = table.shown_metrics(comparison)
    return [
        [
            row["label"],
            str(run["seed"]),
            *(table.mean_sd({"mean": run["metrics"][m], "sd": None}) for m in shown),
            f"{run['seconds']:.1f}",
            run["identity"][:10],
        ]
        for row in comparison["rows"]
        for run in row["runs"]
    ]


def store_content(comparison: dict[str, Any], rows: Rows) -> dict[str, Any]:
    """Examples and the store's card, if the runs' store is (still) where it was."""
    first = next(iter(rows.values()))[0]
    path = locate(first.config.cache.store)
    try:
        store = Store(path)
    except (FileNotFoundError, ValueError) as error:
        return {"examples": [], "store": [], "missing": f"The store could not be opened: {error}"}
    if store.content_id != comparison["content_id"]:
        note = f"{path} holds another store now (content id {store.content_id[:12]}): no examples, no card."
        return {"examples": [], "store": [], "missing": note}
    shown = examples(store, rows, comparison["headline"])
    return {"examples": shown, "store": describe(inspect(path)), "missing": ""}
