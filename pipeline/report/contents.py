"""Everything a report shows, collected once for the page and for the files: charts, pictures, tables, remarks."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline.cache.store import Store
from pipeline.cache.tools.inspect import describe, inspect
from pipeline.files import read_json
from pipeline.report.charts import Chart
from pipeline.report.curves import learning_curves, term_curves
from pipeline.report.examples import Case, examples
from pipeline.report.grad_cam import activations
from pipeline.report.metric_charts import confusion_chart, difference_chart, distribution_chart
from pipeline.report.selection import ReportInput, Rows, status
from pipeline.report.tables import Table
from pipeline.report.tsne import space_charts
from pipeline.results import cost_account, table
from pipeline.results.recount import disagreements, per_class, recount_all
from pipeline.results.table import NONE


@dataclass
class ReportContents:
    """missing: why there is nothing from the store. remarks: the state of unfinished runs, and what does not agree.
    signals: label -> charts of its terms and monitors."""

    curves: list[Chart]
    signals: dict[str, list[Chart]]
    missing: str = ""
    remarks: list[str] = field(default_factory=list)
    conclusions: list[str] = field(default_factory=list)
    images: list[Chart] = field(default_factory=list)
    confusions: list[Chart] = field(default_factory=list)
    spaces: list[Chart] = field(default_factory=list)
    cases: list[Case] = field(default_factory=list)
    activations: list[Case] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    agreement: str = ""
    card: list[str] = field(default_factory=list)

    @property
    def charts(self) -> list[Chart]:
        """All of them, for files."""
        signals = [chart for charts in self.signals.values() for chart in charts]
        return [*self.curves, *signals, *self.images, *self.confusions, *self.spaces]

    @property
    def grids(self) -> dict[str, list[Case]]:
        """All pictures, for files."""
        return {"examples": self.cases, "activation": self.activations}

    @property
    def table(self) -> dict[str, Table]:
        """By name."""
        return {t.name: t for t in self.tables}


def collect(subject: ReportInput) -> ReportContents:
    """Read, count and draw."""
    metric = subject.comparison["headline"]
    found = ReportContents(learning_curves(subject.every, metric), signal_charts(subject))
    found.remarks = [f"{k}: {status(run, metric)}" for k, runs in subject.unfinished.items() for run in runs]
    found.tables = profile_tables(subject.every)
    store = subject.store()
    if isinstance(store, Store):
        found.card = describe(inspect(store.path))
    else:
        found.missing = store
    if subject.rows:
        add_results(found, subject, store)
    if subject.rows and isinstance(store, Store):
        add_pictures(found, subject.pictured, store, metric)
        add_counts(found, subject.pictured, store)
    return found


def signal_charts(subject: ReportInput) -> dict[str, list[Chart]]:
    """Terms and monitors of every row that distils."""
    charts = {label: term_curves(label, i, runs) for i, (label, runs) in enumerate(subject.every.items())}
    return {label: found for label, found in charts.items() if found}


def add_results(found: ReportContents, subject: ReportInput, store: Store | str) -> None:
    """Headline, cost account, every run; per-image values."""
    c, rows = subject.comparison, subject.rows
    extraction = cost_account.extraction_of(store)
    about_cost = cost_account.caption(store if isinstance(store, Store) else None, rows, extraction)
    about_runs = f"Every run; seconds with {c['threads']} threads, validation and test included."
    found.conclusions = table.conclusions(c)
    found.tables += [
        Table("results", "Table of results", table.caption(c), table.header(c), table.cells(c)),
        Table("cost-account", "Cost account", about_cost, cost_account.HEADER, cost_account.account(rows, extraction)),
        Table("all-runs", "Table of runs", about_runs, run_header(c), run_cells(c)),
    ]
    difference = difference_chart(c)
    found.images = [chart for chart in (difference, distribution_chart(rows, c["headline"])) if chart]


def add_pictures(found: ReportContents, rows: Rows, store: Store, metric: str) -> None:
    """Examples, Grad-CAM, feature space: of each row's first seed."""
    first = {label: runs[0] for label, runs in rows.items()}
    found.cases = examples(store, rows, metric)
    found.activations = activations(store, rows, found.cases)
    found.spaces = space_charts(store, first, found.cases[0].record.subset)


def add_counts(found: ReportContents, rows: Rows, store: Store) -> None:
    """Confusion and per-class values, and whether the saved predictions give the saved metrics."""
    counted = recount_all(store, rows)
    wrong = disagreements(rows, counted)
    found.remarks += wrong
    if counted:
        names = ", ".join(dict.fromkeys(table.NAMES[m] for m in next(iter(counted.values()))[0].metrics))
        if not wrong:
            found.agreement = f"Counted again from the saved predictions of every run, {names} are the same."
        about = "IoU in per cent, over all pixels, mean over seeds; share: of the labelled pixels."
        lines = per_class(counted, store.classes)
        found.tables.append(Table("per-class", "IoU by class", about, ["", "share %", *counted], lines))
        found.confusions = [
            confusion_chart(label, i, np.sum([r.confusion.numpy() for r in counted[label]], axis=0), store.classes)
            for i, label in enumerate(rows)
            if label in counted
        ]


def run_header(comparison: dict[str, Any]) -> list[str]:
    return [
        "",
        "seed",
        *(f"{table.NAMES[m]} %" for m in table.shown_metrics(comparison)),
        "seconds",
        "identity",
        "folder",
    ]


def run_cells(comparison: dict[str, Any]) -> list[list[str]]:
    """One line a run: label, seed, metrics in per cent, seconds, identity, folder."""
    shown = table.shown_metrics(comparison)
    return [
        [
            row["label"],
            str(run["seed"]),
            *(table.mean_sd({"mean": run["metrics"][m], "sd": None}) for m in shown),
            f"{run['seconds']:.1f}",
            run["identity"][:10],
            run["folder"],
        ]
        for row in comparison["rows"]
        for run in row["runs"]
    ]


def profile_tables(every: Rows) -> list[Table]:
    """One table with a column a profiled run, parts in the first one's order; none where no run was profiled."""
    runs = {f"{label}, seed {run.config.seed}": run.path for label, runs in every.items() for run in runs}
    found = {name: read_json(path / "profile.json") for name, path in runs.items() if (path / "profile.json").is_file()}
    if not found:
        return []
    parts = list(dict.fromkeys(row["part"] for profile in found.values() for row in profile["parts"]))
    cells = {name: {row["part"]: share(row) for row in profile["parts"]} for name, profile in found.items()}
    undisturbed = ", ".join(f"{name} {profile['undisturbed_ms']:.0f} ms" for name, profile in found.items())
    about = f"Milliseconds a step and share of the step, part by part. Undisturbed steps: {undisturbed}."
    rows = [[part, *(cells[name].get(part, NONE) for name in found)] for part in parts]
    return [Table("profile", "Where a step's time goes", about, ["", *found], rows)]


def share(row: dict[str, Any]) -> str:
    return f"{row['ms']:.1f} ms, {100 * row['share']:.0f} %"
