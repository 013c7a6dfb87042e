"""Captions of a comparison's table: how to read it, what it was made from, and what speaks against it."""

from collections import Counter
from typing import Any

from pipeline.results.results_table import is_paired, shown_metrics
from sward.metrics.names import NAMES


def caption(comparison: dict[str, Any], details: bool = True) -> str:
    """Caption: how to read the table (``details``: its columns of costs too), and its data, store and commits."""
    extra = "Extra: parameters trained with the student and dropped after it. "
    costs = extra + cost_text(comparison) if details else ""
    return (
        f"{warning(comparison)}"
        f"{comparison['data']}: {comparison['images']} {comparison['subset']} images. {steps_text(comparison)}. "
        f"{metrics_text(comparison)}Mean ± standard deviation over seeds; Δ: difference to the baseline's runs of the "
        f"same seeds, in points, {interval_text(comparison)}. {costs}"
        f"Store {comparison['content_id'][:12]}, commit {commit_names(comparison['commits'])}."
        + (f" Unlike the paper: {'; '.join(d)}." if (d := comparison.get("deviations")) else "")
    )


def metrics_text(comparison: dict[str, Any]) -> str:
    """What the shown metrics are taken of."""
    shown = shown_metrics(comparison)
    taken = "of the foreground, mean over images" if "dice" in shown else "over all pixels, mean over classes"
    return f"{', '.join(NAMES[m] for m in shown)}: {taken}. "


def commit_names(commits: list[str]) -> str:
    """The commits of the code that made the runs; unknown where it was no checkout, as with an installed wheel."""
    return ", ".join("unknown" if name == "None" else name for name in commits)


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
