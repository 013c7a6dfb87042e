"""Files of a comparison's folder: resolved configurations and tables, written anew whenever more is known."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipeline.documents import Comparison, DocumentError, read_document
from pipeline.experiments.compare_config import CompareConfig
from pipeline.files import write_atomic, write_json
from pipeline.results.details_table import comparison_markdown
from pipeline.results.results_table import comparison_csv
from pipeline.yaml_files import dump_yaml


def save(config: CompareConfig, comparison: dict[str, Any]) -> None:
    """Writes the resolved configurations and the tables."""
    folder = config.folder
    texts = {
        "config.yaml": dump_yaml(config.model_dump(mode="json")),
        "comparison.csv": comparison_csv(comparison),
        "comparison.md": comparison_markdown(comparison),
    }
    for number, cache in enumerate(config.train.caches, 1):
        texts[f"cache{'' if number == 1 else f'-{number}'}.yaml"] = dump_yaml(cache.model_dump(mode="json"))
    for name, text in texts.items():
        write_atomic(folder / name, text)
    write_json(folder / "comparison.json", comparison)


def last_saved(config: CompareConfig) -> dict[str, Any] | None:
    """The last comparison; None if there is none, or its file is damaged: it is about to be written again."""
    with suppress(FileNotFoundError, DocumentError):
        return read_document(config.folder / "comparison.json", Comparison)
    return None


def relate_folders(folder: Path, rows: list[dict[str, Any]]) -> None:
    """Makes the paths of run folders relative to the folder of the results, in place."""
    for row in rows:
        for run in row["runs"]:
            run["folder"] = Path(os.path.relpath(run["folder"], folder)).as_posix()
