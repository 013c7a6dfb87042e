"""Draws charts with matplotlib, as SVG inside the page and as PNG and SVG files for papers.

In the page, a chart takes the page's text colour (readable in both themes), and the reader can switch rows off. In
files, a chart has a legend and a white background.
"""

import io
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

from pipeline.files import atomic

# Okabe & Ito's order with the two palest replaced: contrast of 3:1 or more to white and to the dark page.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#B07D00", "#8E63CE", "#7F7F7F")
DASHES = {"-": "none", "--": "6 3", "-.": "7 3 2 3", ":": "2 3"}  # matplotlib's line style -> SVG's dash pattern
INK = "#010203"  # placeholder for the page's text colour, replaced by currentColor
DPI = 300
INKED = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")


@dataclass(frozen=True)
class Chart:
    """A figure with one pair of axes.

    Attributes:
        name: file name without suffix.
        title: what the chart shows.
        paint: function that draws into matplotlib's axes.
        size: (width, height) in inches.
        row: number of the only row shown, which hides with it; None for a chart of several rows.
        legend: (label, row) of each entry of the legend in files; empty for no legend.
        note: how to read the chart, below it; may be empty.
        told: the chart in words for screen readers; empty: the title.
    """

    name: str
    title: str
    paint: Callable[[Any], None]
    size: tuple[float, float] = (4.5, 2.7)
    row: int | None = None
    legend: tuple[tuple[str, int], ...] = ()
    note: str = ""
    told: str = ""

    @property
    def svg(self) -> Markup:
        """The chart as an <svg> element, without legend and heading, which the page has."""
        with style(INK, self.name):
            figure = drawn(replace(self, legend=()), heading=False)
            text = io.StringIO()
            figure.savefig(text, format="svg", transparent=True, metadata=NOTHING)
        return inline(text.getvalue(), self.told or self.title)

    def save(self, folder: Path) -> list[Path]:
        """Writes <name>.svg and <name>.png, with legend and heading; returns their paths."""
        files = [folder / f"{self.name}.{kind}" for kind in ("svg", "png")]
        with style("black", self.name):
            figure = drawn(self, heading=True)
            for path in files:
                nothing = NOTHING if path.suffix == ".svg" else {"Software": None}
                with atomic(path) as file:
                    figure.savefig(file, format=path.suffix[1:], dpi=DPI, metadata=nothing)
        return files


NOTHING = dict.fromkeys(("Creator", "Date", "Format", "Type"))  # omits metadata that would differ between runs


@contextmanager
def style(ink: str, salt: str) -> Iterator[None]:
    """Sets matplotlib up for drawing and writing a figure, so that the same chart gives the same bytes."""
    import matplotlib as mpl

    settings: Any = {"svg.fonttype": "none", "svg.hashsalt": salt, "font.size": 9, "figure.dpi": 100}
    with mpl.rc_context(settings | dict.fromkeys(INKED, ink)), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # the browser draws the glyph, not matplotlib
        yield


def drawn(chart: Chart, heading: bool) -> Any:
    """Draws a chart as a matplotlib figure, with its title above if ``heading``."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=chart.size, layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    chart.paint(axes)
    if heading:
        axes.set_title(plain(chart.title), fontsize=10)
    handles, labels = axes.get_legend_handles_labels()  # set by charts of a single row; the page cannot switch these
    handles += [axes.plot([], [], **look(row))[0] for _, row in chart.legend]
    labels += [plain(label) for label, _ in chart.legend]
    if labels:
        columns = 4 if max(map(len, labels)) < 12 else 3
        figure.legend(
            handles, labels, loc="outside lower center", ncols=columns, fontsize=8, frameon=False, markerscale=1.6
        )
    return figure


def look(row: int) -> dict[str, Any]:
    """Colour and line style of a row; the first 28 rows differ."""
    return {"color": COLOURS[row % len(COLOURS)], "linestyle": list(DASHES)[row % len(DASHES)]}


def swatch(row: int) -> Markup:
    """A short sample of the row's line, as <svg>, for the page's legend."""
    line = look(row)
    drawn = f'stroke="{line["color"]}" stroke-width="3" stroke-dasharray="{DASHES[line["linestyle"]]}"'
    return Markup(f'<svg aria-hidden="true" class="swatch" viewBox="0 0 30 6"><path d="M0 3H30" {drawn}/></svg>')


def plain(label: str) -> str:
    """Cuts a label to 40 letters and escapes it, so that matplotlib neither reads a formula in it nor hides it."""
    return label[:40].replace("$", r"\$").lstrip("_")


def tag(artist: Any, row: int, *parts: object) -> None:
    """Marks a drawn element as part of a row, so that the page can switch it off."""
    artist.set_gid("-".join(["row", str(row), *map(str, parts)]))


def inline(svg: str, title: str) -> Markup:
    """Returns the <svg> element in the page's text colour, as wide as its container, labelled for screen readers."""
    element = svg[svg.index("<svg") :].replace(INK, "currentColor")
    element = re.sub(r' (?:width|height)="[\d.]+pt"', "", element, count=2)
    element = re.sub(r'<g id="row-(\d+)[^"]*"', r'<g class="row\1"', element)
    element = re.sub(r' id="[\w.]+_\d+"', "", element)  # unused ids, which would repeat: each figure counts from 1
    return Markup(element.replace("<svg", f'<svg role="img" aria-label="{escape(title)}"', 1))


def slug(text: str) -> str:
    """Converts a label to a file name."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-").lower() or "row"
