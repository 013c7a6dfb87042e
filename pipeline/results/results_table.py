"""Table of a comparison: the same cells as Markdown (terminal, README), HTML (report) and CSV."""

import csv
import io
import textwrap
from typing import Any

from pipeline.plain_text import no_formula, one_line
from sward.metrics.names import NAMES

NONE = "–"
# Columns that a narrow terminal does not show, the first first; row, Δ, an interval and the verdict always stay.
SPARED = (
    *("reads", "peak MB", "extra", "parameters", "step", "seeds", "p (Holm)"),
    *("paper", "paper", "mIoU", "mAcc", "95 % CI, images", "mDice", "class mIoU"),
)
DETAILS = ("p (Holm)", "parameters", "extra", "peak MB", "reads")  # columns that few readers need


def shown_metrics(comparison: dict[str, Any]) -> tuple[str, ...]:
    """Names of the metrics shown. Two classes: mean Dice and IoU over images. More: mIoU and mAcc over all pixels."""
    return ("dice", "iou") if comparison["headline"] == "dice" else ("miou", "macc")


def header(comparison: dict[str, Any]) -> list[str]:
    main = NAMES[comparison["headline"]]
    return [
        "",
        *(f"{NAMES[m]} %" for m in shown_metrics(comparison)),
        *(f"paper {NAMES[m]} %" for m in paper_metrics(comparison)),
        "seeds",
        f"Δ {main}",
        *(["95 % CI", "p (Holm)", "verdict"] if is_paired(comparison) else ["95 % CI, seeds", "95 % CI, images"]),
        "parameters",
        "extra",
        "step",
        "peak MB",
        "reads",
    ]


def fitting(comparison: dict[str, Any], width: int | None) -> str:
    """The comparison's table as Markdown, with the columns that fit a terminal's width (None: all)."""
    return fitting_table(header(comparison), cells(comparison), SPARED, width)


def fitting_table(head: list[str], rows: list[list[str]], spared: tuple[str, ...], width: int | None) -> str:
    """A table as Markdown with the columns that fit a terminal's width, and a line that names those left out.

    What is still too wide goes on below: the first column is folded between words.

    Args:
        head: names of the columns; the first one always stays.
        rows: their cells.
        spared: beginnings of the names of columns that may be left out, the first first.
        width: characters; None: all columns.
    """
    lines, left_out = [head, *rows], []
    for name in spared:
        if width is None or len(markdown(lines[0], lines[1:]).partition("\n")[0]) <= width:
            break
        if place := next((i for i, column in enumerate(lines[0]) if column.startswith(name)), 0):
            left_out.append(lines[0][place])
            lines = [[*line[:place], *line[place + 1 :]] for line in lines]
    if width is not None:
        lines = [lines[0], *_first_column_folded(lines, width)]
    table = markdown(lines[0], lines[1:])
    return f"{table}\n\nnot shown at {width} columns: {', '.join(left_out)}" if left_out else table


def _first_column_folded(lines: list[list[str]], width: int) -> list[list[str]]:
    """The rows below the head, with names that take several lines where the table is wider than ``width``."""
    too_wide = len(markdown(lines[0], lines[1:]).partition("\n")[0]) - width
    room = max(len(line[0]) for line in lines) - max(too_wide, 0)
    found = []
    for name, *others in lines[1:]:
        first, *rest = textwrap.wrap(name, max(room, 1), break_long_words=False) or [""]
        found += [[first, *others], *([part, *[""] * len(others)] for part in rest)]
    return found


def is_paired(comparison: dict[str, Any]) -> bool:
    """Whether differences have one interval over sequences and trainings; else two, over seeds and over images."""
    return any("paired" in (row["difference"] or {}) for row in comparison["rows"])


def paper_metrics(comparison: dict[str, Any]) -> tuple[str, ...]:
    """The shown metrics for which at least one row has the paper's figure."""
    return tuple(m for m in shown_metrics(comparison) if any(m in row.get("paper", {}) for row in comparison["rows"]))


def cells(comparison: dict[str, Any]) -> list[list[str]]:
    """One list of texts per row, in the order of ``header``."""
    shown, paper = shown_metrics(comparison), paper_metrics(comparison)
    return [row_cells(row, shown, paper, is_paired(comparison)) for row in comparison["rows"]]


def row_cells(row: dict[str, Any], metrics: tuple[str, ...], paper: tuple[str, ...], paired: bool) -> list[str]:
    d, published = row["difference"], row.get("paper", {})
    return [
        row["label"],
        *(mean_sd(row["metrics"][m]) for m in metrics),
        *(f"{100 * published[m]:.2f}" if m in published else NONE for m in paper),
        str(len(row["seeds"])),
        points(d["mean"]) if d else NONE,
        *(paired_cells(d) if paired else [interval(d["seeds"]), interval(d["images"])] if d else [NONE] * 2),
        f"{row['parameters']:,}",
        f"{row['adapter_parameters']:,}" if row["adapter_parameters"] else NONE,
        *cost_cells(row.get("cost")),
    ]


def paired_cells(difference: dict[str, Any] | None) -> list[str]:
    """Interval, corrected p-value and verdict."""
    if not difference or "paired" not in difference:
        return [NONE] * 3
    return [interval(difference["paired"]["interval"]), f"{difference['holm']:.3f}", difference["verdict"]]


def cost_cells(cost: dict[str, Any] | None) -> list[str]:
    """Cells for step time (as a ratio to the baseline's, if there is one), peak memory and teacher tensors read."""
    if cost is None:
        return [NONE] * 3
    time = f"{cost['ms_per_step']:.0f} ms" if cost["relative"] is None else f"{cost['relative']:.2f}×"
    return [time, f"{cost['peak_bytes'] / 1e6:,.0f}", reads_text(cost) or NONE]


def reads_text(cost: dict[str, Any]) -> str:
    """Teacher tensors that are read, and what the head makes of them: ``s4 s8 → logits``; empty if none are."""
    return " ".join([*cost["reads"], *(["→", *cost["made"]] if cost["made"] else [])])


def mean_sd(value: dict[str, Any]) -> str:
    """Formats mean ± standard deviation over seeds, in per cent."""
    if value["mean"] is None:
        return NONE
    return f"{100 * value['mean']:.2f}" + ("" if value["sd"] is None else f" ± {100 * value['sd']:.2f}")


def points(value: float) -> str:
    return f"{100 * value:+.2f}"


def interval(bounds: list[float] | None) -> str:
    return f"{points(bounds[0])} … {points(bounds[1])}" if bounds else NONE


def conclusions(comparison: dict[str, Any]) -> list[str]:
    """One sentence for each row that has a baseline."""
    return [conclusion(row) for row in comparison["rows"] if row["difference"]]


def conclusion(row: dict[str, Any]) -> str:
    d = row["difference"]
    if "paired" in d:
        found = f"{points(d['mean'])} points of {NAMES[d['metric']]} (95 % CI {interval(d['paired']['interval'])}"
        words = {"better": "better than", "worse": "worse than", "equivalent": "equivalent to"}
        said = words.get(d["verdict"], "not distinguishable from")
        own = f"{row['label']} is {said} {row['baseline']}: {found}, p {d['holm']:.3f} after Holm's correction)"
        return "; ".join([own, *(on_external_set(*found) for found in row.get("external_difference", {}).items())])
    return (
        f"{row['label']} − {row['baseline']}: {points(d['mean'])} points of {NAMES[d['metric']]} "
        f"over {len(row['seeds'])} seeds "
        f"(95 % CI over seeds {interval(d['seeds'])}, over images {interval(d['images'])})"
    )


def on_external_set(name: str, difference: dict[str, Any]) -> str:
    """Difference, interval, p-value and verdict on an external set."""
    return (
        f"on {name} {points(difference['mean'])} (95 % CI {interval(difference['paired']['interval'])}, "
        f"p {difference['holm']:.3f} after correction over all sets: {difference['verdict']})"
    )


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """Formats a padded Markdown table; the first column is aligned left, the others right."""
    lines = [[one_line(cell).replace("|", "\\|") for cell in line] for line in [head, *rows]]
    widths = [max(3, *(len(line[i]) for line in lines)) for i in range(len(head))]
    rule = ["-" * widths[0], *("-" * (w - 1) + ":" for w in widths[1:])]
    padded = [
        [c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True))]
        for line in lines
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in [padded[0], rule, *padded[1:]])


def comparison_csv(comparison: dict[str, Any]) -> str:
    """The comparison as CSV: one line per run, with every metric unrounded."""
    metrics = list(comparison["rows"][0]["metrics"])
    facts = [
        *(["fold"] if comparison.get("folds") else []),
        "seed",
        "seconds",
        "best_val",
        "identity",
        "commit",
        "content_id",
    ]
    costs = ["ms_per_step", "relative", "peak_bytes", "reads", "read_bytes"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["label", "student", "method", "steps", *facts, *metrics, "adapter_parameters", *costs])
    for row in comparison["rows"]:
        for run in row["runs"]:
            values = [no_formula(row["label"]), row["student"], row["method"], row["steps"], *(run[f] for f in facts)]
            cost = row.get("cost", {}) | {"reads": " ".join(row.get("cost", {}).get("reads", []))}
            writer.writerow(
                [*values, *(run["metrics"][m] for m in metrics), row["adapter_parameters"], *map(cost.get, costs)]
            )
    return text.getvalue()
