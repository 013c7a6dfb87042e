"""Collects charts, pictures, tables and remarks of a report, for its page and its files."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline.cache.joined import parts_of
from pipeline.cache.store import Store
from pipeline.cache.tools.inspect import describe, inspect
from pipeline.documents import Parts, read_document
from pipeline.report.answer import answer, answer_chart
from pipeline.report.charts import Chart
from pipeline.report.curves import learning_curves, term_curves
from pipeline.report.examples import Case, examples
from pipeline.report.grad_cam import activations
from pipeline.report.metric_charts import confusion_chart, distribution_chart, ranking_chart
from pipeline.report.selection import ReportInput, Rows, status
from pipeline.report.table_formats import Table
from pipeline.report.tsne import space_charts
from pipeline.results import captions, cost_account, details_table, results_table
from pipeline.results.recount import disagreements, per_class, recount_all
from pipeline.results.results_table import NONE
from sward.metrics.names import NAMES


@dataclass
class ReportContents:
    """Contents of a report.

    Attributes:
        curves: learning curves.
        signals: label -> charts of the row's loss terms and signal monitors.
        missing: why the store cannot be read; empty if it can.
        remarks: state of each unfinished run, what the runs of one table differ in, and each metric that
            its predictions do not confirm.
        answer: what the comparison found, in a sentence; empty without a baseline.
        overview: chart of the differences to the baseline; empty without one.
        conclusions: one sentence for each row that has a baseline.
        images: charts of ranks and of per-image values.
        confusions: confusion matrix of each row.
        spaces: t-SNE plot of each row.
        cases: example images with the predictions of all rows.
        activations: example images with the Grad-CAM maps of all rows.
        tables: all tables of the page.
        agreement: sentence stating that the predictions confirm the metrics; empty if they were not compared or differ.
        card: description of the store, line by line.
    """

    curves: list[Chart]
    signals: dict[str, list[Chart]]
    missing: str = ""
    remarks: list[str] = field(default_factory=list)
    answer: str = ""
    overview: list[Chart] = field(default_factory=list)
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
        """All charts, for writing them to files."""
        signals = [chart for charts in self.signals.values() for chart in charts]
        return [*self.overview, *self.curves, *signals, *self.images, *self.confusions, *self.spaces]

    @property
    def grids(self) -> dict[str, list[Case]]:
        """File name -> example images, for writing them to files."""
        return {"examples": self.cases, "activation": self.activations}

    @property
    def table(self) -> dict[str, Table]:
        """The tables of the page, by name."""
        return {t.name: t for t in self.tables}


def collect(subject: ReportInput) -> ReportContents:
    """Collects all that the report shows: reads the runs and the store, recounts predictions, prepares charts."""
    metric = subject.comparison["headline"]
    found = ReportContents(learning_curves(subject.every, metric), signal_charts(subject))
    found.remarks = [f"{k}: {status(run, metric)}" for k, runs in subject.unfinished.items() for run in runs]
    found.tables = profile_tables(subject.every)
    store = subject.store()
    if isinstance(store, Store):
        found.card = [line for part in parts_of(store) for line in describe(inspect(part.path))]
    else:
        found.missing = store
    if subject.rows:
        add_results(found, subject, store)
    if subject.rows and isinstance(store, Store):
        add_pictures(found, subject.pictured, store, metric)
        add_counts(found, subject.pictured, store)
    return found


def signal_charts(subject: ReportInput) -> dict[str, list[Chart]]:
    """Charts of loss terms and signal monitors, for each row that distils."""
    charts = {label: term_curves(label, i, runs) for i, (label, runs) in enumerate(subject.every.items())}
    return {label: found for label, found in charts.items() if found}


def add_results(found: ReportContents, subject: ReportInput, store: Store | str) -> None:
    """Adds conclusions, the tables of results, costs and runs, and the charts of per-image values."""
    c, rows = subject.comparison, subject.rows
    extraction = cost_account.extraction_of(store)
    about_cost = cost_account.caption(store if isinstance(store, Store) else None, rows, extraction)
    about_runs = f"Every run; seconds with {c['threads']} threads, validation and test included."
    if mixed := captions.warning(c):
        found.remarks.append(mixed.strip().replace("`", ""))
    found.answer, found.conclusions = answer(c), results_table.conclusions(c)
    found.overview = [chart] if (chart := answer_chart(c)) else []
    caption, head, cells = captions.caption(c), results_table.header(c), results_table.cells(c)
    found.tables.append(Table("results", "Table of results", caption, head, cells, results_table.DETAILS))
    if details_table.has_details(c):
        title, about = "Lesions, boundaries, calibration, other sets", details_table.details_caption(c)
        head, cells = details_table.details_header(c), details_table.details_cells(c)
        found.tables.append(Table("details", title, about, head, cells))
    found.tables += [
        Table("cost-account", "Cost account", about_cost, cost_account.HEADER, cost_account.account(rows, extraction)),
        Table("all-runs", "Table of runs", about_runs, run_header(c), run_cells(c)),
    ]
    charts = ranking_chart(c), distribution_chart(rows, c["headline"])
    found.images = [chart for chart in charts if chart]


def add_pictures(found: ReportContents, rows: Rows, store: Store, metric: str) -> None:
    """Adds examples, Grad-CAM maps and t-SNE plots, for the first seed of each row."""
    first = {label: runs[0] for label, runs in rows.items()}
    found.cases = examples(store, rows, metric)
    found.activations = activations(store, rows, found.cases)
    found.spaces = space_charts(store, first, found.cases[0].record.subset)


def add_counts(found: ReportContents, rows: Rows, store: Store) -> None:
    """Adds confusion matrices and per-class values, and compares saved predictions with saved metrics."""
    counted = recount_all(store, rows)
    wrong = disagreements(rows, counted)
    found.remarks += wrong
    if counted:
        names = ", ".join(dict.fromkeys(NAMES[m] for m in next(iter(counted.values()))[0].metrics))
        if not wrong:
            found.agreement = f"Recomputed from the saved predictions of every run, {names} agree."
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
        *(f"{NAMES[m]} %" for m in results_table.shown_metrics(comparison)),
        "seconds",
        "identity",
        "folder",
    ]


def run_cells(comparison: dict[str, Any]) -> list[list[str]]:
    """One line per run: label, seed, metrics in per cent, seconds, identity, folder."""
    shown = results_table.shown_metrics(comparison)
    return [
        [
            row["label"],
            str(run["seed"]),
            *(results_table.mean_sd({"mean": run["metrics"][m], "sd": None}) for m in shown),
            f"{run['seconds']:.1f}",
            run["identity"][:10],
            run["folder"],
        ]
        for row in comparison["rows"]
        for run in row["runs"]
    ]


def profile_tables(every: Rows) -> list[Table]:
    """One table with a column per profiled run, parts in the order of the first; empty if no run was profiled."""
    runs = {f"{label}, seed {run.config.seed}": run.path for label, runs in every.items() for run in runs}
    found = {
        name: read_document(path / "profile.json", Parts, "delete it and profile again")
        for name, path in runs.items()
        if (path / "profile.json").is_file()
    }
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
