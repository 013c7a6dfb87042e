"""Results of a long comparison that is not finished: kept in the repository, and put back on another machine.

    python -m pipeline.maintenance.kept_runs keep RUNS FOLDER      # results of finished runs in RUNS -> FOLDER
    python -m pipeline.maintenance.kept_runs restore FOLDER RUNS   # back again, before `sward compare` goes on

A run is kept without its weights: its row of the table needs none, and `sward compare` finds the run finished. The
weights of teachers' heads are kept, because later runs read them. What is there already is left as it is.
"""

import sys
from collections.abc import Callable
from pathlib import Path

from pipeline.files import read_json, write_atomic
from pipeline.maintenance.readme import copy_text, kept_files
from sward.students.saved import CARD, WEIGHTS


def keep(runs: Path, folder: Path) -> int:
    """Copies the results of finished runs that ``folder`` does not have; returns their number."""
    finished = [file.parent for file in sorted(runs.glob("*/run.json")) if read_json(file)["status"] == "finished"]
    return sum(copy_run(run, folder / run.name, copy_text) for run in finished)


def restore(folder: Path, runs: Path) -> int:
    """Copies kept runs back to where `sward compare` looks for them; returns the number that was not there."""
    kept = [file.parent for file in sorted(folder.glob("*/run.json"))]
    return sum(copy_run(run, runs / run.name, copy_bytes) for run in kept)


def copy_run(source: Path, target: Path, copy: Callable[[Path, Path], None]) -> bool:
    """Copies what a table needs of a run, run.json last; False where the target has one."""
    if (target / "run.json").is_file():
        return False
    for name in kept_files(source):
        copy(source / name, target / name)
        if name == CARD and (source / WEIGHTS).is_file() and is_head(source):
            copy_bytes(source / WEIGHTS, target / WEIGHTS)
    return True


def is_head(run: Path) -> bool:
    """Whether the run fitted a teacher's head."""
    return str(read_json(run / CARD)["student"]["kind"]).endswith("-head")


def copy_bytes(source: Path, target: Path) -> None:
    write_atomic(target, source.read_bytes())


def main(arguments: list[str]) -> None:
    """Runs one of the two commands."""
    verbs = {"keep": keep, "restore": restore}
    if len(arguments) != 3 or arguments[0] not in verbs:
        sys.exit(__doc__)
    source, target = map(Path, arguments[1:])
    if not source.is_dir():
        sys.exit(f"there is no folder {source}")
    print(f"{arguments[0]}: {verbs[arguments[0]](source, target)} runs to {target}")


if __name__ == "__main__":
    main(sys.argv[1:])
