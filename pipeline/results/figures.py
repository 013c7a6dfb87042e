"""Curves of runs as SVG text to put into a page: text takes the page's colour, so both themes are readable."""

import io
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.results.runs import Run

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe & Ito
DASHES = ("-", "--", "-.", ":")
INK = "#010203"  # stands for the page's text colour, replaced by currentColor
Series = dict[str, list[tuple[list[int], list[float]]]]  # label -> one (steps, values) a seed


def learning_curves(rows: Mapping[str, Sequence[Run]], metric: str) -> str:
    """Losses, validation metric and learning rate; a colour a row, a line a seed."""
    wanted = {
        "loss": "total loss",
        "term/task": "task loss (cross-entropy)",
        f"val/{metric}": f"validation {metric}",
        "lr": "learning rate",
    }
    return draw({title: {label: series(runs, key) for label, runs in rows.items()} for key, title in wanted.items()})


def signal_curves(runs: Sequence[Run]) -> str | None:
    """Monitors of the relational signal by level and each term's share of the gradient; None without such a signal."""
    keys = {key for run in runs for line in run.log for key in line}
    if not any(key.startswith("signal/") for key in keys):
        return None
    names = sorted((k for k in keys if k.startswith(("signal/", "share/"))), key=by_stride)
    panels: dict[str, Series] = {}
    for name in names:
        group, *level, leaf = name.split("/")
        title = f"{leaf} of the teacher's relations" if group == "signal" else "share of the gradient"
        panels.setdefault(title, {})["/".join(level) or leaf] = series(runs, name)
    return draw(panels)


def by_stride(key: str) -> list[tuple[int, str]]:
    """Sorts s4 before s16."""
    return [(len(part), part) if re.fullmatch(r"s\d+", part) else (0, part) for part in key.split("/")]


def series(runs: Sequence[Run], key: str) -> list[tuple[list[int], list[float]]]:
    """(steps, values) of ``key`` in each run's log, where it is defined."""
    lines = [[(x["step"], x[key]) for x in run.log if x.get(key) is not None] for run in runs]
    return [([s for s, _ in line], [v for _, v in line]) for line in lines]


def draw(panels: Mapping[str, Series]) -> str:
    """Panels of lines, two a row, as SVG text."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    settings: Any = {"svg.fonttype": "none", "svg.hashsalt": "|".join(panels), "font.size": 9}
    settings |= dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK)
    with mpl.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # the page's font draws it, not matplotlib's
        figure = Figure(figsize=(9, 2.6 * -(-len(panels) // 2)), layout="constrained")
        for i, (title, lines) in enumerate(panels.items()):
            panel(figure.add_subplot(-(-len(panels) // 2), 2, i + 1), title, lines)
        text = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(text, format="svg", transparent=True, metadata=nothing)
    return inline(text.getvalue(), ", ".join(panels))


def panel(axes: Any, title: str, lines: Series) -> None:
    """One panel; its legend names a label once."""
    handles = {}
    for i, (label, seeds) in enumerate(lines.items()):
        style: dict[str, Any] = {"color": COLOURS[i % len(COLOURS)], "linestyle": DASHES[i % len(DASHES)]}
        for steps, values in seeds:
            if steps:
                marker = "o" if len(steps) < 3 else ""
                (handles[label],) = axes.plot(steps, values, linewidth=1.2, marker=marker, markersize=3, **style)
    axes.set_title(title, parse_math=False, fontsize=10)
    axes.set_xlabel("step")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if handles:
        names = [label[:40].replace("$", r"\$").lstrip("_") for label in handles]
        legend = axes.legend(handles.values(), names, fontsize=8, framealpha=0)
        legend.set_in_layout(False)  # a long name overlaps, instead of leaving no room for the curves


def inline(svg: str, label: str) -> str:
    """The <svg> element alone, in the page's text colour, as wide as the page, with a name for screen readers."""
    element = svg[svg.index("<svg") :].replace(INK, "currentColor")
    element = re.sub(r'width="[\d.]+pt" height="[\d.]+pt"|height="[\d.]+pt" |width="[\d.]+pt" ', "", element, count=2)
    return element.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)
