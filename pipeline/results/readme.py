"""What of a comparison belongs in the repository, and the README's tables made from it.

    python -m pipeline.results.readme [COMPARISON_FOLDER ...]   # keep these in results/, then rewrite the tables

A table stands between ``<!-- results:NAME -->`` and ``<!-- /results:NAME -->`` and comes from
``results/NAME/comparison.json``, never from a keyboard.
"""

import re
import sys
from pathlib import Path
from typing import Any

from pipeline.files import atomic, read_json, write_json
from pipeline.paths import data_root
from pipeline.results.runs import RunError
from pipeline.results.table import comparison_csv, comparison_markdown

README, RESULTS = Path("README.md"), Path("results")
BLOCK = re.compile(r"(<!-- results:(?P<name>[\w.-]+) -->\n).*?(<!-- /results:(?P=name) -->)", re.DOTALL)
MARKER = re.compile(r"<!-- results:([\w.-]+) -->")
KEPT = ("config.yaml", "run.json", "evaluation.json", "metrics.jsonl")  # of a run: no weights, no images


def main(folders: list[str]) -> None:
    """Keep the comparisons given, then bring the README's tables up to date."""
    for folder in folders:
        print(f"kept {save_results(Path(folder), RESULTS / Path(folder).name)}")
    text = regenerate(README.read_text(), RESULTS)
    with atomic(README) as file:
        file.write(text.encode())
    print(f"{README}: tables {', '.join(marked(text)) or 'none'}")


def save_results(comparison_folder: Path, target: Path) -> Path:
    """Copy tables, configurations and each run's facts and metrics; paths become those of the repository.

    Raises:
        RunError: the folder is no comparison.
    """
    if not (comparison_folder / "comparison.json").is_file():
        raise RunError(f"{comparison_folder} has no comparison.json; give a folder that `sward compare` made")
    comparison = read_json(comparison_folder / "comparison.json")
    for row in comparison["rows"]:
        for run in row["runs"]:
            source = comparison_folder / run["folder"]
            run["folder"] = f"runs/{source.name}"
            for name in KEPT:
                copy_text(source / name, target / run["folder"] / name)
    write_json(target / "comparison.json", comparison)
    copy_tables(comparison, comparison_folder, target)
    return target


def copy_tables(comparison: dict[str, Any], source: Path, target: Path) -> None:
    for name in ("config.yaml", "cache.yaml"):
        copy_text(source / name, target / name)
    for name, text in {"csv": comparison_csv(comparison), "md": comparison_markdown(comparison)}.items():
        with atomic(target / f"comparison.{name}") as file:
            file.write(text.encode())


def copy_text(source: Path, target: Path) -> None:
    """Copy a text file; this machine's places (data root, current folder) become relative ones."""
    text = source.read_text().replace(f"{data_root()}/", "data/").replace(f"{Path.cwd()}/", "")
    with atomic(target) as file:
        file.write(text.encode())


def marked(text: str) -> list[str]:
    """Names of the tables that a text has a place for."""
    return MARKER.findall(text)


def regenerate(text: str, results: Path) -> str:
    """The text with every marked table made anew.

    Raises:
        RunError: a marker is not closed, or names a comparison that isn't in ``results``.
    """
    blocks = [match["name"] for match in BLOCK.finditer(text)]
    if open_ := sorted(set(marked(text)) - set(blocks)):
        raise RunError(f"no closing <!-- /results:… --> for {', '.join(open_)}; add it below the opening marker")
    if absent := [name for name in blocks if not (results / name / "comparison.json").is_file()]:
        raise RunError(f"no {results}/<name>/comparison.json for {', '.join(absent)}; keep it with this command first")
    return BLOCK.sub(lambda m: f"{m[1]}{block(results / m['name'])}{m[3]}", text)


def block(folder: Path) -> str:
    return comparison_markdown(read_json(folder / "comparison.json"))


if __name__ == "__main__":
    main(sys.argv[1:])
