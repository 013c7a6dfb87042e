"""Draws README's picture from saved results, for light and dark pages.

python -m pipeline.maintenance.figures     # writes docs/images/methods-light.svg and -dark.svg again
"""

import io
from dataclasses import replace
from pathlib import Path

from pipeline.files import read_json, write_atomic
from pipeline.report.charts import DPI, NOTHING, drawn, style
from pipeline.report.metric_charts import difference_chart

COMPARISON, FOLDER = Path("results/methods-clinicdb-cpu/comparison.json"), Path("docs/images")
INKS = {"light": "#1f2328", "dark": "#e6edf3"}  # text colours of GitHub's two themes


def picture(comparison: Path, ink: str) -> str:
    """Differences to the plain student, with intervals, as an SVG without background whose text has the colour ``ink``.

    Raises:
        ValueError: the comparison has no differences.
    """
    chart = difference_chart(read_json(comparison))
    if chart is None:
        raise ValueError(f"{comparison} has no row to compare with a baseline; draw a comparison that has one")
    width, height = (
        6.4,
        0.7 + 0.24 * len(read_json(comparison)["rows"]),
    )  # lower than the report's: to be seen at a glance
    chart, text = replace(chart, size=(width, height)), io.StringIO()
    with style(ink, chart.name):
        drawn(chart, heading=False).savefig(text, format="svg", dpi=DPI, transparent=True, metadata=NOTHING)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n"


def main() -> None:
    """Write the picture in both colours and print the paths."""
    for theme, ink in INKS.items():
        path = FOLDER / f"methods-{theme}.svg"
        write_atomic(path, picture(COMPARISON, ink))
        print(path)


if __name__ == "__main__":
    main()
