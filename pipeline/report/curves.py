"""Charts of the values that runs logged over steps: losses, validation, learning rate, signal monitors."""

import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from pipeline.report.charts import Chart, look, plain, slug, tag
from pipeline.results.runs import SavedRun
from sward.levels import PATTERN, place, teacher_of
from sward.metrics.names import NAMES

Line = tuple[list[int], list[float]]  # steps, values
Series = dict[str, list[Line]]  # label -> one line per seed


def learning_curves(rows: Mapping[str, Sequence[SavedRun]], metric: str) -> list[Chart]:
    """Charts of losses, validation metric and learning rate, if logged; one colour per row, one line per seed."""
    wanted = {
        "loss": "total loss",
        "term/task": "task loss (cross-entropy)",
        f"val/{metric}": f"validation {NAMES[metric]} %",
        "lr": "learning rate",
    }
    legend = tuple((label, i) for i, label in enumerate(rows))
    return [
        line_chart(f"curve-{slug(key)}", title, {k: series(runs, key, unit(key)) for k, runs in rows.items()}, legend)
        for key, title in wanted.items()
        if any(line.get(key) is not None for runs in rows.values() for run in runs for line in run.log)
    ]


def term_curves(label: str, row: int, runs: Sequence[SavedRun]) -> list[Chart]:
    """Charts of one row: unweighted loss terms, each term's share of the gradient, and signal monitors by level."""
    keys = {key for run in runs for line in run.log for key in line}
    if not any(key.startswith("term/") and key != "term/task" for key in keys):
        return []
    panels: dict[str, Series] = {}
    for key in sorted((k for k in keys if k.startswith(("term/", "share/", "signal/"))), key=by_stride):
        group, *level, leaf = key.split("/")
        titles = {"term": "unweighted terms", "share": "share of the gradient"}
        title = titles.get(group, f"{leaf} of the teacher's relations")
        panels.setdefault(title, {})["/".join(level) or leaf] = series(runs, key)
    return [line_chart(f"signal-{slug(label)}-{slug(title)}", title, lines, row=row) for title, lines in panels.items()]


def by_stride(key: str) -> list[tuple[str, int, int, str]]:
    """Sort key that puts s4 before s16, and s16@3 before s16@12; the levels of several teachers one after the other."""
    found = [(part, re.fullmatch(rf"({PATTERN})(>.*)?", part)) for part in key.split("/")]
    return [(teacher_of(m[1]), *place(m[1]), part) if m else ("", 0, 0, part) for part, m in found]


def unit(key: str) -> float:
    """Factor from a logged value to the charted one: validation metrics are shown in per cent, as in the tables."""
    return 100 if key.startswith("val/") else 1


def series(runs: Sequence[SavedRun], key: str, factor: float = 1) -> list[Line]:
    """(steps, values) of ``key`` in each run's log, times a factor, at the steps where it is defined."""
    lines = [[(x["step"], x[key]) for x in run.log if x.get(key) is not None] for run in runs]
    return [([s for s, _ in line], [factor * v for _, v in line]) for line in lines]


def line_chart(
    name: str, title: str, lines: Series, legend: tuple[tuple[str, int], ...] = (), row: int | None = None
) -> Chart:
    """Chart of lines over steps; a chart of one row has its own legend, a chart of all rows uses the page's."""
    return Chart(name, title, partial(paint_lines, lines=lines, own=row is not None), row=row, legend=legend)


def paint_lines(axes: Any, lines: Series, own: bool) -> None:
    for i, (label, seeds) in enumerate(lines.items()):
        for seed, (steps, values) in enumerate(seeds):
            if steps:
                marker = "o" if len(steps) < 3 else ""
                (line,) = axes.plot(steps, values, linewidth=1.3, marker=marker, markersize=3, **look(i))
                line.set_label(plain(label) if own and seed == 0 else None)
                if not own:
                    tag(line, i, seed)
    axes.set_xlabel("step")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.25)
