"""Charts: drawn once, shown twice. In the page as SVG text that takes the page's colour (both themes are readable)
and whose rows can be switched off; as PNG and SVG files with a legend, on white, for papers.
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

# Okabe & Ito's order, the two palest replaced: each stands out 3:1 or more from white and from the dark page.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#B07D00", "#8E63CE", "#7F7F7F")
DASHES = {"-": "none", "--": "6 3", "-.": "7 3 2 3", ":": "2 3"}  # matplotlib's name: SVG's pattern
INK = "#010203"  # stands for the page's text colour, replaced by currentColor
DPI = 300
INKED = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")


@dataclass(frozen=True)
class Chart:
    """One pair of axes.

    name: file name. title: what it shows. paint: fills the axes. size: inches. row: the row that it belongs to,
    None for one that shows several. legend: (label, row) of what is drawn, empty for none.
    """

    name: str
    title: str
    paint: Callable[[Any], None]
    size: tuple[float, float] = (4.5, 2.7)
    row: int | None = None
    legend: tuple[tuple[str, int], ...] = ()

    @property
    def svg(self) -> Markup:
        """The chart as an <svg> element for the page: no legend (the page has one), no heading."""
        with style(INK, self.name):
            figure = drawn(replace(self, legend=()), heading=False)
            text = io.StringIO()
            figure.savefig(text, format="svg", transparent=True, metadata=NOTHING)
        return inline(text.getvalue(), self.title)

    def save(self, folder: Path) -> list[Path]:
        """Write <name>.svg and <name>.png, with legend and heading."""
        files = [folder / f"{self.name}.{kind}" for kind in ("svg", "png")]
        with style("black", self.name):
            figure = drawn(self, heading=True)
            for path in files:
                nothing = NOTHING if path.suffix == ".svg" else {"Software": None}
                with atomic(path) as file:
                    figure.savefig(file, format=path.suffix[1:], dpi=DPI, metadata=nothing)
        return files


NOTHING = dict.fromkeys(("Creator", "Date", "Format", "Type"))  # metadata of an SVG that is the same every time


@contextmanager
def style(ink: str, salt: str) -> Iterator[None]:
    """Matplotlib's settings while a figure is drawn and written; the same chart is the same bytes."""
    import matplotlib as mpl

    settings: Any = {"svg.fonttype": "none", "svg.hashsalt": salt, "font.size": 9, "figure.dpi": 100}
    with mpl.rc_context(settings | dict.fromkeys(INKED, ink)), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # the page's font draws it, not matplotlib's
        yield


def drawn(chart: Chart, heading: bool) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=chart.size, layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    chart.paint(axes)
    if heading:
        axes.set_title(plain(chart.title), fontsize=10)
    handles, labels = axes.get_legend_handles_labels()  # of a single row's chart; the page can't switch these
    handles += [axes.plot([], [], **look(row))[0] for _, row in chart.legend]
    labels += [plain(label) for label, _ in chart.legend]
    if labels:
        columns = 4 if max(map(len, labels)) < 12 else 3
        figure.legend(
            handles, labels, loc="outside lower center", ncols=columns, fontsize=8, frameon=False, markerscale=1.6
        )
    return figure


def look(row: int) -> dict[str, Any]:
    """Colour and dashes of a row: 28 of them differ."""
    return {"color": COLOURS[row % len(COLOURS)], "linestyle": list(DASHES)[row % len(DASHES)]}


def swatch(row: int) -> Markup:
    """A piece of the row's line for the page's legend."""
    line = look(row)
    drawn = f'stroke="{line["color"]}" stroke-width="3" stroke-dasharray="{DASHES[line["linestyle"]]}"'
    return Markup(f'<svg aria-hidden="true" class="swatch" viewBox="0 0 30 6"><path d="M0 3H30" {drawn}/></svg>')


def plain(label: str) -> str:
    """A label of at most 40 letters in which matplotlib sees no formula and no hidden name."""
    return label[:40].replace("$", r"\$").lstrip("_")


def tag(artist: Any, row: int, *parts: object) -> None:
    """Mark what belongs to a row, so that the page can switch it off."""
    artist.set_gid("-".join(["row", str(row), *map(str, parts)]))


def inline(svg: str, title: str) -> Markup:
    """The <svg> element alone, in the page's text colour, as wide as its place, named for screen readers."""
    element = svg[svg.index("<svg") :].replace(INK, "currentColor")
    element = re.sub(r' (?:width|height)="[\d.]+pt"', "", element, count=2)
    element = re.sub(r'<g id="row-(\d+)[^"]*"', r'<g class="row\1"', element)
    element = re.sub(r' id="[\w.]+_\d+"', "", element)  # nothing refers to these, and each figure counts from 1
    return Markup(element.replace("<svg", f'<svg role="img" aria-label="{escape(title)}"', 1))


def slug(text: str) -> str:
    """A file name of a label."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-").lower() or "row"
