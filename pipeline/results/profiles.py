"""Where a step's time went, of the runs that were profiled (`sward train --profile`), side by side for the report."""

from typing import Any

from pipeline.files import read_json
from pipeline.results.paper import Table
from pipeline.results.subject import Rows
from pipeline.results.table import NONE


def profile_tables(every: Rows) -> list[Table]:
    """One table with a column a profiled run, parts in the first one's order; none where no run was profiled."""
    runs = {f"{label}, seed {run.config.seed}": run.path for label, runs in every.items() for run in runs}
    found = {name: read_json(path / "profile.json") for name, path in runs.items() if (path / "profile.json").is_file()}
    if not found:
        return []
    parts = list(dict.fromkeys(row["part"] for profile in found.values() for row in profile["parts"]))
    cells = {name: {row["part"]: share(row) for row in profile["parts"]} for name, profile in found.items()}
    undisturbed = ", ".join(f"{name} {profile['undisturbed_ms']:.0f} ms" for name, profile in found.items())
    about = f"Milliseconds a step and share of the step, part by part. Undisturbed steps: {undisturbed}."
    rows = [[part, *(cells[name].get(part, NONE) for name in found)] for part in parts]
    return [Table("profile", "Where a step's time goes", about, ["", *found], rows)]


def share(row: dict[str, Any]) -> str:
    return f"{row['ms']:.1f} ms, {100 * row['share']:.0f} %"
