"""Table of a comparison: the same cells as Markdown (terminal, README), HTML (report) and CSV."""

import csv
import io
from collections import Counter
from typing import Any

from pipeline.plain_text import no_formula, one_line
from sward.metrics.names import NAMES

NONE = "–"
# Columns that a narrow terminal does not show, the first first; row, Δ, an interval and the verdict always stay.
SPARED = (
    *("reads", "peak MB", "extra", "parameters", "step", "seeds", "p (Holm)"),
    *("paper", "paper", "mIoU", "mAcc", "95 % CI, images", "mDice", "class mIoU"),
)
DETAILS = ("seeds", "p (Holm)", "parameters", "extra", "peak MB", "reads")  # columns that few readers need


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
    """The table as Markdown with the columns that fit a terminal's width, and a line that names those left out.

    Args:
        comparison: contents of comparison.json.
        width: characters; None: all columns.
    """
    lines, left_out = [header(comparison), *cells(comparison)], []
    for name in SPARED:
        if width is None or len(markdown(lines[0], lines[1:]).partition("\n")[0]) <= width:
            break
        if place := next((i for i, column in enumerate(lines[0]) if column.startswith(name)), 0):
            left_out.append(lines[0][place])
            lines = [[*line[:place], *line[place + 1 :]] for line in lines]
    table = markdown(lines[0], lines[1:])
    return f"{table}\n\nnot shown at {width} columns: {', '.join(left_out)}" if left_out else table


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


def caption(comparison: dict[str, Any]) -> str:
    """Caption of the table: how to read it, and its data, store and commits."""
    return (
        f"{warning(comparison)}"
        f"{comparison['data']}: {comparison['images']} {comparison['subset']} images. {steps_text(comparison)}. "
        "Mean ± standard deviation over seeds; Δ: difference to the baseline's runs of the same seeds, in points, "
        f"{interval_text(comparison)}. Extra: parameters "
        f"trained with the student and dropped after it. {cost_text(comparison)}"
        f"Store {comparison['content_id'][:12]}, commit {', '.join(comparison['commits'])}."
        + (f" Unlike the paper: {'; '.join(d)}." if (d := comparison.get("deviations")) else "")
    )


def warning(comparison: dict[str, Any]) -> str:
    """First of all: what the runs of the table should have in common and do not."""
    found = comparison.get("mixed")
    return f"Not one experiment: the runs come from {'; '.join(found)}; run `sward compare --fresh`. " if found else ""


def interval_text(comparison: dict[str, Any]) -> str:
    """How the intervals were made."""
    if not is_paired(comparison):
        return "with 95 % intervals over seeds (Student's t) and over images (bootstrap, seeds averaged)"
    return (
        "with one 95 % interval over seeds and images, clustered by sequence and by training run, and its p-value "
        f"after Holm's correction over rows; equivalent: within ±{100 * comparison['margin']:.1f} points (two "
        f"one-sided tests at 5 %). Every image is tested once a seed, in one of {len(comparison['folds'])} folds"
    )


def cost_text(comparison: dict[str, Any]) -> str:
    """Explains the cost columns; empty for a comparison without costs."""
    if "cost" not in comparison:
        return ""
    c = comparison["cost"]
    return (
        f"Step: median of {c['rounds']} training steps, the rows taking turns in one process, batch read beforehand "
        f"({c['device']}, threads: {c['threads']}); ×: times the baseline's. Peak: weights, optimiser state, batch and "
        "all tensors alive at once in a step. Reads: teacher tensors taken from the store (→ what the teacher's head "
        "makes of them at every step). "
    )


def steps_text(comparison: dict[str, Any]) -> str:
    """Training length, e.g. `300 steps of 8 records`, then the rows that differ from it (the teacher's head)."""
    texts = {row["label"]: f"{row['steps']} steps of {row['batch_size']} records" for row in comparison["rows"]}
    usual = Counter(texts.values()).most_common(1)[0][0]
    return "; ".join([usual, *(f"{label}: {text}" for label, text in texts.items() if text != usual)])


def conclusions(comparison: dict[str, Any]) -> list[str]:
    """One sentence for each row that has a baseline."""
    return [conclusion(row) for row in comparison["rows"] if row["difference"]]


def conclusion(row: dict[str, Any]) -> str:
    d = row["difference"]
    if "paired" in d:
        found = f"{points(d['mean'])} points of {NAMES[d['metric']]} (95 % CI {interval(d['paired']['interval'])}"
        words = {"better": "better than", "worse": "worse than", "equivalent": "equivalent to"}
        said = words.get(d["verdict"], "not distinguishable from")
        return f"{row['label']} is {said} {row['baseline']}: {found}, p {d['holm']:.3f} after Holm's correction)"
    return (
        f"{row['label']} − {row['baseline']}: {points(d['mean'])} points of {NAMES[d['metric']]} "
        f"over {len(row['seeds'])} seeds "
        f"(95 % CI over seeds {interval(d['seeds'])}, over images {interval(d['images'])})"
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
