"""Presents a quality curve: one table, two charts, one HTML page."""

from functools import partial
from pathlib import Path
from typing import Any

from markupsafe import Markup

from pipeline.files import read_json, write_atomic
from pipeline.report.charts import Chart, look, swatch, tag
from pipeline.report.report import PAGE, environment
from pipeline.report.table_formats import Table
from pipeline.results.captions import commit_names
from pipeline.results.results_table import fitting_table, mean_sd, shown_metrics
from sward.metrics.names import NAMES

SPARED = ("seeds", "mIoU", "mAcc", "features")  # columns that a narrow terminal does not show, the first first
MARK = 4.0  # size of a marker, in typographic points


def quality_table(found: dict[str, Any]) -> Table:
    """Table of the curve, one line per point."""
    shown = shown_metrics(found)
    header = ["codec", "views", "features, MB", *(f"{NAMES[m]} %" for m in shown), "seeds"]
    rows = [
        [
            p["codec"],
            str(p["views"]),
            f"{p['bytes'] / 1e6:,.0f}",
            *(mean_sd(p["metrics"][m]) for m in shown),
            str(len(p["seeds"])),
        ]
        for p in found["points"]
    ]
    caption = (
        f"{found['data']}: {found['images']} {found['subset']} images. {found['student']} with {found['method']}, "
        f"{found['steps']} steps of {found['batch_size']} records whatever the number of views. Mean ± standard "
        f"deviation over seeds. Features: what training reads of the teacher. Commit {commit_names(found['commits'])}."
    )
    return Table("quality", "Metric by codec and views", caption, header, rows)


def quality_markdown(found: dict[str, Any], width: int | None = None) -> str:
    """The table with its caption, as Markdown; with the columns that fit ``width`` characters (None: all)."""
    table = quality_table(found)
    return f"{fitting_table(table.header, table.rows, SPARED, width)}\n\n{table.caption}\n"


def quality_charts(found: dict[str, Any]) -> list[Chart]:
    """Charts of the metric against views and against bytes: one line per codec, one dot per seed."""
    codecs = tuple(dict.fromkeys(p["codec"] for p in found["points"]))
    legend = tuple((codec, i) for i, codec in enumerate(codecs))
    name = NAMES[found["headline"]]
    views = partial(paint, found=found, key="views", unit=1, label="views of every image, K")
    size = partial(paint, found=found, key="bytes", unit=1e6, label="teacher features, MB")
    return [
        Chart("quality-views", f"{name} % by views: mean, a dot a seed", views, legend=legend),
        Chart("quality-bytes", f"{name} % by bytes: mean, a dot a seed", size, legend=legend),
    ]


def paint(axes: Any, found: dict[str, Any], key: str, unit: float, label: str) -> None:
    metric = found["headline"]
    for i, codec in enumerate(dict.fromkeys(p["codec"] for p in found["points"])):
        points = sorted((p for p in found["points"] if p["codec"] == codec), key=lambda p: p["views"])
        x = [p[key] / unit for p in points]
        mean = [100 * p["metrics"][metric]["mean"] for p in points]
        (line,) = axes.plot(x, mean, linewidth=1.4, **look(i))
        tag(line, i, "mean")
        for place, point in zip(x, points, strict=True):
            values = [100 * run["metrics"][metric] for run in point["runs"]]
            (dots,) = axes.plot([place] * len(values), values, "o", color=look(i)["color"], markersize=MARK)
            tag(dots, i, "seeds", point["views"])
    axes.set_xscale("log", base=2)
    ticks = sorted({p[key] / unit for p in found["points"]}) if key == "views" else axes.get_xticks()
    axes.set_xticks(ticks, [f"{t:,.0f}" for t in ticks])
    if key == "views":
        axes.minorticks_off()
    axes.set_xlabel(label)
    axes.grid(alpha=0.25)


def write_page(folder: Path) -> Path:
    """Writes report.html into a curve's folder, from quality.json and config.yaml; charts also as files, for papers."""
    found, out = read_json(folder / "quality.json"), folder / "report.html"
    charts = quality_charts(found)
    page = (
        environment()
        .get_template("quality.html")
        .render(
            found=found,
            charts=charts,
            swatch=swatch,
            table=quality_table(found),
            command=f"sward quality {folder}/config.yaml",
            config=(folder / "config.yaml").read_text(),
            style=Markup((PAGE / "style.css").read_text()),
        )
    )
    write_atomic(out, page)
    for chart in charts:
        chart.save(folder)
    return out
