"""The comparison's table: one set of cells, shown as Markdown (terminal, README), HTML (report) and CSV."""

import csv
import io
from typing import Any

NAMES = {"dice": "mDice", "iou": "mIoU", "miou": "mIoU", "macc": "mAcc"}
NONE = "–"


def shown_metrics(comparison: dict[str, Any]) -> tuple[str, ...]:
    """Two classes: means over images of Dice and IoU. More: mIoU and mAcc over all pixels."""
    return ("dice", "iou") if comparison["headline"] == "dice" else ("miou", "macc")


def header(comparison: dict[str, Any]) -> list[str]:
    main = NAMES[comparison["headline"]]
    return [
        "",
        *(f"{NAMES[m]} %" for m in shown_metrics(comparison)),
        "seeds",
        f"Δ {main}",
        "95 % CI, seeds",
        "95 % CI, images",
        "parameters",
        "adapters",
        "s/step",
    ]


def cells(comparison: dict[str, Any]) -> list[list[str]]:
    """One list of texts a row, in the header's order."""
    return [row_cells(row, shown_metrics(comparison)) for row in comparison["rows"]]


def row_cells(row: dict[str, Any], metrics: tuple[str, ...]) -> list[str]:
    d = row["difference"]
    return [
        row["label"],
        *(mean_sd(row["metrics"][m]) for m in metrics),
        str(len(row["seeds"])),
        points(d["mean"]) if d else NONE,
        interval(d["seeds"]) if d else NONE,
        interval(d["images"]) if d else NONE,
        f"{row['parameters']:,}",
        f"{row['adapter_parameters']:,}" if row["adapter_parameters"] else NONE,
        f"{row['seconds_per_step']:.3f}",
    ]


def mean_sd(value: dict[str, Any]) -> str:
    """Per cent: mean ± standard deviation over seeds."""
    if value["mean"] is None:
        return NONE
    return f"{100 * value['mean']:.2f}" + ("" if value["sd"] is None else f" ± {100 * value['sd']:.2f}")


def points(value: float) -> str:
    return f"{100 * value:+.2f}"


def interval(bounds: list[float] | None) -> str:
    return f"{points(bounds[0])} … {points(bounds[1])}" if bounds else NONE


def caption(comparison: dict[str, Any]) -> str:
    """How to read the table, and what it was made from."""
    return (
        f"{comparison['data']}: {comparison['images']} {comparison['subset']} images. {steps_text(comparison)}. "
        "Mean ± standard deviation over seeds; Δ: difference to the baseline's runs of the same seeds, in points, with "
        "95 % intervals over seeds (Student's t) and over images (bootstrap, seeds averaged). Adapters are trained "
        "with the student and dropped after it. s/step: the whole run's time over its steps, evaluations included. "
        f"Store {comparison['content_id'][:12]}, commit {', '.join(comparison['commits'])}."
    )


def steps_text(comparison: dict[str, Any]) -> str:
    """`300 steps of 8 records` for all, or by row where they differ (the teacher's head)."""
    texts = {row["label"]: f"{row['steps']} steps of {row['batch_size']} records" for row in comparison["rows"]}
    if len(set(texts.values())) == 1:
        return next(iter(texts.values()))
    return "; ".join(f"{label}: {text}" for label, text in texts.items())


def conclusions(comparison: dict[str, Any]) -> list[str]:
    """One sentence for every row that has a baseline."""
    return [conclusion(row) for row in comparison["rows"] if row["difference"]]


def conclusion(row: dict[str, Any]) -> str:
    d = row["difference"]
    return (
        f"{row['label']} − {row['baseline']}: {points(d['mean'])} points of {NAMES[d['metric']]} "
        f"over {len(row['seeds'])} seeds "
        f"(95 % CI over seeds {interval(d['seeds'])}, over images {interval(d['images'])})"
    )


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """A padded Markdown table: first column to the left, the others to the right."""
    lines = [[cell.replace("|", "\\|") for cell in line] for line in [head, *rows]]
    widths = [max(3, *(len(line[i]) for line in lines)) for i in range(len(head))]
    rule = ["-" * widths[0], *("-" * (w - 1) + ":" for w in widths[1:])]
    padded = [
        [c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True))]
        for line in lines
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in [padded[0], rule, *padded[1:]])


def comparison_markdown(comparison: dict[str, Any]) -> str:
    """Table and caption."""
    return f"{markdown(header(comparison), cells(comparison))}\n\n{caption(comparison)}\n"


def comparison_csv(comparison: dict[str, Any]) -> str:
    """One line a run, with every metric unrounded."""
    metrics = list(comparison["rows"][0]["metrics"])
    facts = ["seed", "seconds", "best_val", "identity", "commit", "content_id"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["label", "student", "method", "steps", *facts, *metrics])
    for row in comparison["rows"]:
        for run in row["runs"]:
            values = [row["label"], row["student"], row["method"], row["steps"], *(run[f] for f in facts)]
            writer.writerow([*values, *(run["metrics"][m] for m in metrics)])
    return text.getvalue()
