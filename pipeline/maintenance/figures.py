"""Draws README's picture from saved results, for light and dark pages.

python -m pipeline.maintenance.figures     # writes docs/images/sequences-light.svg and -dark.svg again
"""

import io
from collections import defaultdict
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.files import read_json, write_atomic
from pipeline.report.charts import COLOURS, DPI, NOTHING, Chart, drawn, style

SAVED, FOLDER = Path("results/clinicdb-few-labels-mobilenetv2-cpu"), Path("docs/images")
ALONE, DISTILLED = "student alone", "KD"  # rows of the comparison that the picture shows
INKS = {"light": "#1f2328", "dark": "#e6edf3"}  # text colours of GitHub's two themes


def sequence_means(saved: Path, label: str) -> dict[str, float]:
    """Mean Dice (0–1) of each test sequence over its images and a row's trainings: sequence -> mean.

    Args:
        saved: folder of a saved comparison whose images are grouped by sequence.
        label: a row of it.
    """
    row = next(row for row in read_json(saved / "comparison.json")["rows"] if row["label"] == label)
    values = defaultdict[str, list[float]](list)
    for run in row["runs"]:
        for image in read_json(saved / run["folder"] / "evaluation.json")["per_image"]:
            values[image["group"]].append(image["dice"])
    return {sequence: float(np.mean(found)) for sequence, found in values.items()}


def paint_sequences(axes: Any, alone: Mapping[str, float], distilled: Mapping[str, float]) -> None:
    """Draws a line per sequence from the student alone to the distilled one; largest loss first, largest gain last."""
    order = sorted(alone, key=lambda sequence: distilled[sequence] - alone[sequence])
    for x, sequence in enumerate(order):
        low, high = 100 * alone[sequence], 100 * distilled[sequence]
        axes.plot([x, x], [low, high], color=COLOURS[0] if high >= low else COLOURS[1], linewidth=2.5, alpha=0.6)
    places = range(len(order))
    axes.plot(places, [100 * alone[s] for s in order], "o", mfc="none", mec=COLOURS[-1], label=ALONE)
    axes.plot(places, [100 * distilled[s] for s in order], "o", color=COLOURS[0], label=f"{DISTILLED} from the teacher")
    axes.set_xticks([])
    axes.set_xlabel(f"{len(order)} unseen sequences")
    axes.set_ylabel("mDice %")
    axes.set_ylim(0, 100)


def picture(saved: Path, ink: str) -> str:
    """Both students' mDice on every unseen sequence, as an SVG without background whose text has the colour ``ink``."""
    values = [sequence_means(saved, label) for label in (ALONE, DISTILLED)]
    paint = partial(paint_sequences, alone=values[0], distilled=values[1])
    chart, text = Chart("sequences", "mDice of every sequence", paint, size=(6.4, 2.9)), io.StringIO()
    with style(ink, chart.name):
        drawn(chart, heading=False).savefig(text, format="svg", dpi=DPI, transparent=True, metadata=NOTHING)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n"


def main() -> None:
    """Write the picture in both colours and print the paths."""
    for theme, ink in INKS.items():
        path = FOLDER / f"sequences-{theme}.svg"
        write_atomic(path, picture(SAVED, ink))
        print(path)


if __name__ == "__main__":
    main()
