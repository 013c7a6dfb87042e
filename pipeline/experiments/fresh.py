"""Runs of an earlier state of the code are set aside, so that a comparison trains them again."""

from pathlib import Path

import torch

from pipeline.files import read_json
from pipeline.training.run_folder import commit, versions


def set_aside(folder: Path) -> Path | None:
    """Renames a run's folder that another commit, other versions or another number of threads made.

    Nothing is deleted: ``NAME`` becomes ``NAME.before-COMMIT``, with a number where that is taken.

    Returns:
        The new name; None where the folder stays.
    """
    here = {"commit": commit(), "versions": versions(), "threads": torch.get_num_threads()}
    file = folder / "run.json"
    if not file.is_file() or all((facts := read_json(file)).get(key) == value for key, value in here.items()):
        return None
    return folder.rename(_free_name(folder, str(facts.get("commit"))))


def _free_name(folder: Path, made_by: str) -> Path:
    names = [folder.with_name(f"{folder.name}.before-{made_by}{n}") for n in ("", *(f"-{i}" for i in range(2, 1000)))]
    return next(name for name in names if not name.exists())
