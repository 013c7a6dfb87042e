"""Second table of a comparison with two classes: what the mean Dice hides.

Missed lesions, Dice by the lesion's size, boundaries, calibration, and mean Dice on external sets, over seeds.
"""

from itertools import chain
from typing import Any

from pipeline.results.captions import caption
from pipeline.results.results_table import NONE, cells, header, markdown, mean_sd, paired_cells, points

SIZES = ("small", "medium", "large")


def external_names(comparison: dict[str, Any]) -> list[str]:
    """Names of the external test sets, in alphabetical order."""
    return sorted({name for row in comparison["rows"] for name in row.get("external", {})})


def details_header(comparison: dict[str, Any]) -> list[str]:
    sizes = [f"{size} %" for size in SIZES]
    others = [[f"{name} mDice %", *_difference_names(comparison, name)] for name in external_names(comparison)]
    return ["", "missed %", *sizes, "boundary F %", "HD95 px", "ECE %", *chain.from_iterable(others)]


def details_cells(comparison: dict[str, Any]) -> list[list[str]]:
    """One list of texts for each row that has any of the values, in the order of ``details_header``."""
    lines = [[row["label"], *_strata(row), *_metrics(row), *_external(row, comparison)] for row in comparison["rows"]]
    return [line for line in lines if any(cell != NONE for cell in line[1:])]


def details_caption(comparison: dict[str, Any]) -> str:
    """How to read the table."""
    bounds = next((row["strata"]["bounds"] for row in comparison["rows"] if row.get("strata")), None)
    thirds = f" (up to {_percent(bounds[0])}, up to {_percent(bounds[1])} and above, of the image)" if bounds else ""
    return (
        f"Missed: images with a lesion of which no pixel was found. Small, medium, large: mDice of a third of the "
        f"lesions each, by size{thirds}. HD95: a missed lesion, or one found where there is none, counts as the "
        f"image's diagonal. ECE: expected calibration error.{_external_text(comparison)}"
    )


def _external_text(comparison: dict[str, Any]) -> str:
    """What the columns of external sets are; empty where there is no such set."""
    if not external_names(comparison):
        return ""
    mean = " External sets: mean over the students of all folds"
    if not any(row.get("external_difference") for row in comparison["rows"]):
        return f"{mean}."
    return (
        f"{mean}; Δ: difference to the baseline's students in points, its 95 % interval clustered by the set's "
        "sequences and by training run, its p-value after Holm's correction over the differences of both tables."
    )


def has_details(comparison: dict[str, Any]) -> bool:
    """Whether the runs saved enough for this table; runs of earlier versions did not."""
    return any("hd95_penalised" in row["metrics"] for row in comparison["rows"])


def comparison_markdown(comparison: dict[str, Any]) -> str:
    """The tables of a comparison and their captions as Markdown."""
    main = f"{markdown(header(comparison), cells(comparison))}\n\n{caption(comparison)}\n"
    if not has_details(comparison):
        return main
    table = markdown(details_header(comparison), details_cells(comparison))
    return f"{main}\n{table}\n\n{details_caption(comparison)}\n"


def _strata(row: dict[str, Any]) -> list[str]:
    if not row.get("strata"):
        return [NONE] * (1 + len(SIZES))
    return [_percent(value) for value in (row["strata"]["missed"], *map(row["strata"]["dice"].get, SIZES))]


def _metrics(row: dict[str, Any]) -> list[str]:
    found = [row["metrics"].get(name) for name in ("boundary_f", "hd95_penalised", "ece")]
    boundary_f, hd95, ece = (value or {"mean": None, "sd": None} for value in found)
    return [mean_sd(boundary_f), NONE if hd95["mean"] is None else f"{hd95['mean']:.1f}", mean_sd(ece)]


def _external(row: dict[str, Any], comparison: dict[str, Any]) -> list[str]:
    found, texts = row.get("external", {}), []
    for name in external_names(comparison):
        texts.append(mean_sd(found[name]["dice"]) if "dice" in found.get(name, {}) else NONE)
        if _difference_names(comparison, name):
            difference = row.get("external_difference", {}).get(name)
            texts += [points(difference["mean"]) if difference else NONE, *paired_cells(difference)[:2]]
    return texts


def _difference_names(comparison: dict[str, Any], name: str) -> list[str]:
    """Columns of an external set's differences; none where no row has one."""
    if any(name in row.get("external_difference", {}) for row in comparison["rows"]):
        return [f"{name} Δ", f"{name} 95 % CI", f"{name} p (Holm)"]
    return []


def _percent(value: float | None) -> str:
    return NONE if value is None else f"{100 * value:.1f}"
