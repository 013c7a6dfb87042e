"""Summary of a comparison: everything that its table and report say, ready for JSON."""

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from pipeline.cache.manifest.identity import dataset_name
from pipeline.results.differences import correct, difference, ranks
from pipeline.results.external_sets import correct_external, external_differences, metrics_of_seeds, set_names
from pipeline.results.rows import Row
from pipeline.results.runs import RunError, SavedRun, describe_student, number, require_store
from pipeline.training.evaluate import headline
from sward.levels import TeacherChannels
from sward.metrics import PER_IMAGE

COPIED = "nearest mask, copied"  # label of the row without training


def summarise(name: str, rows: Sequence[Row], margin: float = 0.02) -> dict[str, Any]:
    """Everything a table or a report says, ready for JSON (undefined numbers are null).

    Raises:
        RunError: runs come from different stores, read different heads or were evaluated on different subsets, or
            compared rows have different seeds.
    """
    first, every = rows[0].runs[0], [run for row in rows for run in row.runs]
    require_store([run.path for row in rows for run in row.runs], first.facts["content_id"])
    require_one_head(every)
    if len({run.evaluation["subset"] for row in rows for run in row.runs}) > 1:
        raise RunError("some runs were evaluated on val, others on test; train them again from one store")
    card = describe_student(first.path)[1]
    metric = headline(len(card["classes"]))
    lines = [summarise_row(row, rows, metric) for row in rows]
    correct(lines, margin)
    correct_external(lines, margin)
    return {
        "name": name,
        "content_id": first.facts["content_id"],
        "data": f"{dataset_name(first.config.caches[0].dataset)}, split {first.config.caches[0].split}",
        "subset": first.evaluation["subset"],
        "images": len(rows[0].by_seed[0].evaluation["per_image"]),
        "classes": card["classes"],
        "headline": metric,
        "folds": sorted({run.config.fold for run in every if run.config.fold is not None}),
        "margin": margin,
        "mixed": mixed(every),
        "commits": sorted({str(run.facts["commit"]) for run in every}),
        "versions": first.facts["versions"],
        "threads": first.facts["threads"],
        "ranking": ranks(rows, metric),
        "rows": lines,
    }


def require_one_head(runs: Sequence[SavedRun]) -> None:
    """Refuse runs of one fold that read different teacher heads. Raises RunError."""
    for fold in {run.config.fold for run in runs}:
        read = {head for run in runs if run.config.fold == fold and (head := run.facts.get("sources", {}).get("head"))}
        if len(read) > 1:
            raise RunError(
                f"the runs read {len(read)} different teacher heads ({', '.join(sorted(h[:12] for h in read))}): see "
                "`sources` in their run.json; remove those of the wrong head and train them again"
            )


def mixed(runs: Sequence[SavedRun]) -> list[str]:
    """What a table's runs do not have in common though they should: commits, uncommitted changes, versions, threads."""
    commits = sorted({str(run.facts["commit"]) for run in runs})
    found = [f"{len(commits)} commits ({', '.join(commits)})"] if len(commits) > 1 else []
    found += [f"uncommitted changes ({c})" for c in commits if c.endswith("-dirty")]
    for name, key in (("versions", "versions"), ("numbers of threads", "threads")):
        values = {json.dumps(run.facts[key], sort_keys=True) for run in runs}
        found += [f"{len(values)} {name} ({'; '.join(sorted(values))})"] if len(values) > 1 else []
    return found


def summarise_row(row: Row, rows: Sequence[Row], metric: str) -> dict[str, Any]:
    """Numbers of one row: metrics over seeds, difference to the baseline, parameters, training seconds, its runs."""
    base = next((other for other in rows if other.label == row.baseline and other is not row), None)
    parameters, adapters = count_parameters(row.runs[0])
    config = row.runs[0].config
    return {
        "label": row.label,
        "baseline": base.label if base else None,
        "student": config.student.kind,
        "method": config.method.kind,
        "steps": config.steps,
        "batch_size": config.batch_size,
        "seeds": [run.config.seed for run in row.by_seed],
        "metrics": {n: over_seeds([run.metrics[n] for run in row.by_seed]) for n in row.runs[0].metrics},
        "strata": strata(row.by_seed) if metric == "dice" else {},
        "external": external(row),
        "external_difference": external_differences(row, base, metric) if base else {},
        "difference": difference(row, base, metric) if base else None,
        "parameters": parameters,
        "adapter_parameters": adapters,
        "seconds": sum(run.facts["seconds"] for run in row.runs),
        "runs": [run_line(run) for run in row.runs],
    }


def run_line(run: SavedRun) -> dict[str, Any]:
    """Identity, training seconds and metrics of one run."""
    return {
        "folder": str(run.path),
        "seed": run.config.seed,
        "fold": run.config.fold,
        "identity": run.facts["identity"],
        "commit": run.facts["commit"],
        "content_id": run.facts["content_id"],
        "seconds": run.facts["seconds"],
        "best_val": defined(run.facts["best_val"]),
        "metrics": {name: defined(value) for name, value in run.metrics.items()},
    }


def external(row: Row) -> dict[str, Any]:
    """Metrics on external test sets by the sets' names: over seeds, of each seed the mean over its folds' students."""
    seeds = {name: metrics_of_seeds(row, name) for name in set_names(row)}
    return {name: {m: over_seeds([one[m] for one in found]) for m in found[0]} for name, found in seeds.items()}


def defined(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def over_seeds(values: Sequence[float]) -> dict[str, Any]:
    """Mean and sample standard deviation; None if a value is undefined, the deviation also for a single value."""
    mean, n = defined(float(np.mean(values))), len(values)
    sd = float(np.std(values, ddof=1)) if n > 1 and mean is not None else None
    return {"mean": mean, "sd": sd, "n": n}


def strata(runs: Sequence[SavedRun]) -> dict[str, Any]:
    """What a mean hides: missed lesions, and Dice by size of the lesion; where the runs have saved it."""
    lines = [line for run in runs for line in run.evaluation["per_image"]]
    if not lines or "size" not in lines[0]:
        return {}
    sized = [(line["size"], line) for line in lines if line["size"] > 0]
    small, large = np.quantile([size for size, _ in sized], [1 / 3, 2 / 3]) if sized else (0.0, 0.0)
    parts = {
        "small": [line for size, line in sized if size <= small],
        "medium": [line for size, line in sized if small < size <= large],
        "large": [line for size, line in sized if size > large],
    }
    missed = [line["dice"] == 0 for _, line in sized]
    dice = {name: float(np.mean([line["dice"] for line in part])) if part else None for name, part in parts.items()}
    return {"missed": float(np.mean(missed)) if missed else None, "dice": dice, "bounds": [float(small), float(large)]}


def lookup_row(evaluations: Sequence[dict[str, Any]], comparison: dict[str, Any]) -> dict[str, Any]:
    """The row of a method without training: its metrics over all its images, no difference tested."""
    lines = [line for found in evaluations for line in found["per_image"]]
    names = [name for name in PER_IMAGE if name in lines[0]] or ["miou", "macc"]
    means = {name: float(np.nanmean([number(line[name]) for line in lines])) for name in names}
    blank: dict[str, Any] = {"mean": None, "sd": None, "n": 0}
    metrics = dict.fromkeys(comparison["rows"][0]["metrics"], blank)
    metrics |= {name: {"mean": defined(value), "sd": None, "n": 1} for name, value in means.items()}
    facts = {"student": "", "method": "", "steps": 0, "batch_size": 0, "seeds": [], "strata": {}, "runs": []}
    numbers = {"parameters": 0, "adapter_parameters": 0, "seconds": 0.0}
    return {"label": COPIED, "baseline": None, "difference": None, "metrics": metrics} | facts | numbers


def count_parameters(run: SavedRun) -> tuple[int, int]:
    """Counts trainable parameters of the student, and of the method's adapters (discarded after training)."""
    student, card = describe_student(run.path)
    with torch.random.fork_rng(devices=[]):
        method = run.config.method.build(
            TeacherChannels(card["teacher_channels"], run.config.cache.zoom),
            student.channels,
            len(card["classes"]),
            student.classifier.in_channels,
        )
    student_count, method_count = (
        sum(p.numel() for p in module.parameters() if p.requires_grad) for module in (student, method)
    )
    return student_count, method_count
