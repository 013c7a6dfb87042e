"""Copies results of comparisons into results/ and writes the tables of README and documentation from them.

    python -m pipeline.maintenance.readme [FOLDER ...]   # copies these folders to results/, then rewrites the tables

FOLDER is one that `sward compare` or `sward quality` wrote. Comparisons are computed from their runs again, where these
were kept with their students' cards. A table stands between ``<!-- results:NAME -->`` and
``<!-- /results:NAME -->`` in README.md or below docs/. It is generated from the JSON in ``results/NAME`` and never
edited by hand. ``<!-- results:NAME short -->`` gives the columns that are read first, without the caption.
"""

import re
import sys
from pathlib import Path
from typing import Any

from pipeline.experiments.quality_page import quality_markdown
from pipeline.files import read_json, write_atomic, write_json
from pipeline.maintenance.saved_comparisons import has_cards, recomputed
from pipeline.paths import data_root
from pipeline.results.details_table import comparison_markdown
from pipeline.results.results_table import NONE, cells, comparison_csv, header
from pipeline.results.runs import RunError
from sward.students.saved import CARD

README, DOCS, RESULTS = Path("README.md"), Path("docs"), Path("results")
BLOCK = re.compile(
    r"(?P<open><!-- results:(?P<name>[\w.-]+)(?P<short> short)? -->\n).*?(?P<close><!-- /results:(?P=name) -->)",
    re.DOTALL,
)
MARKER = re.compile(r"<!-- results:([\w.-]+)(?: short)? -->")
READ_FIRST = re.compile(r"|m(Dice|IoU|Acc) %|seeds|Δ .*|95 % CI.*|verdict|extra|step")  # columns of a short table
KEPT = (CARD, "config.yaml", "evaluation.json", "metrics.jsonl", "run.json")  # of a run: no weights, no images


def main(folders: list[str]) -> None:
    """Copy the given folders to results/, then compute comparisons there again, and update all tables."""
    for folder in folders:
        print(f"kept {save_results(Path(folder), RESULTS / Path(folder).name)}")
    for saved in filter(has_cards, sorted(RESULTS.glob("*/comparison.json"))):
        write_tables(saved, recomputed(saved))
    for page in pages():
        text = regenerate(page.read_text(), RESULTS)
        write_atomic(page, text)
        print(f"{page}: tables {', '.join(marked(text))}")


def pages() -> list[Path]:
    """README and the pages of the documentation that have tables of results."""
    return [page for page in (README, *sorted(DOCS.rglob("*.md"))) if page.is_file() and marked(page.read_text())]


def save_results(folder: Path, target: Path) -> Path:
    """Copy tables, plots, configurations, trials of the tuning and each run's result files to ``target``; return it.

    Run folders become paths below ``target``, and the paths of this machine relative ones.

    Raises:
        RunError: the folder is neither a comparison nor a quality curve.
    """
    figures = figures_of(folder)
    if figures is None:
        raise RunError(
            f"{folder} has no comparison.json or quality.json; "
            "give a folder written by `sward compare` or `sward quality`"
        )
    found = read_json(figures)
    for row in found.get("rows") or found["points"]:
        for run in row["runs"]:
            source = folder / run["folder"]
            run["folder"] = f"runs/{source.name}"
            for name in kept_files(source):
                copy_text(source / name, target / run["folder"] / name)
    write_tables(target / figures.name, found)
    for name in ("config.yaml", "cache.yaml", "tuning.json"):
        if (folder / name).is_file():
            copy_text(folder / name, target / name)
    for plot in folder.glob("*.svg"):
        copy_text(plot, target / plot.name)
    return target


def write_tables(figures: Path, found: dict[str, Any]) -> None:
    """Writes the JSON file of a comparison or quality curve, and its tables beside it."""
    write_json(figures, found)
    for name, text in tables(found).items():
        write_atomic(figures.with_suffix(f".{name}"), text)


def kept_files(run: Path) -> list[str]:
    """Names of a run's files that its rows of tables need, run.json last."""
    return [*(file.name for file in sorted(run.glob("external-*.json"))), *KEPT]


def figures_of(folder: Path) -> Path | None:
    """The JSON file from which a folder's tables are made; None if there is none."""
    return next((p for name in ("comparison", "quality") if (p := folder / f"{name}.json").is_file()), None)


def tables(found: dict[str, Any]) -> dict[str, str]:
    """The tables of a comparison or quality curve: file suffix -> text."""
    if "points" in found:
        return {"md": quality_markdown(found)}
    return {"csv": comparison_csv(found), "md": comparison_markdown(found)}


def copy_text(source: Path, target: Path) -> None:
    """Copy a text file; absolute paths in it (data root, current folder) become relative ones."""
    text = source.read_text().replace(f"{data_root()}/", "data/").replace(f"{Path.cwd()}/", "")
    write_atomic(target, text)


def marked(text: str) -> list[str]:
    """Names of the tables for which a text has an opening marker."""
    return MARKER.findall(text)


def regenerate(text: str, results: Path) -> str:
    """The text with every marked table written again from ``results``.

    Raises:
        RunError: a marker is not closed, or names a folder that is not in ``results``.
    """
    blocks = [match["name"] for match in BLOCK.finditer(text)]
    if open_ := sorted(set(marked(text)) - set(blocks)):
        raise RunError(f"no closing <!-- /results:… --> for {', '.join(open_)}; add it below the opening marker")
    if absent := [name for name in blocks if figures_of(results / name) is None]:
        raise RunError(
            f"nothing in {results}/<name> for {', '.join(absent)}; give this command the folder to copy there"
        )
    found = {name: read_json(figures) for name in blocks if (figures := figures_of(results / name))}

    def written(block: re.Match[str]) -> str:
        table = short_table(found[block["name"]]) if block["short"] else tables(found[block["name"]])["md"]
        return f"{block['open']}{table}{block['close']}"

    return BLOCK.sub(written, text)


def short_table(comparison: dict[str, Any]) -> str:
    """The columns of a comparison that are read first, as Markdown, without those that say nothing."""
    names, lines = header(comparison), cells(comparison)
    filled = [any(line[i] != NONE for line in lines) for i in range(len(names))]
    shown = [i for i, name in enumerate(names) if READ_FIRST.fullmatch(name) and filled[i]]
    rows = [[names[i] for i in shown], ["---", *["---:"] * (len(shown) - 1)]]
    rows += [[line[i] for i in shown] for line in lines]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


if __name__ == "__main__":
    main(sys.argv[1:])
