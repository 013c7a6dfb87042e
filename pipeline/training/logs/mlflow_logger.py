"""MLflow: in a database beside the run folders unless MLFLOW_TRACKING_URI says otherwise.

`mlflow ui --backend-store-uri sqlite:///runs/mlflow.db` shows it. The experiment comes from MLFLOW_EXPERIMENT_NAME. A
run that is continued is found by its folder's name, so that its sessions are one run; MLflow keeps both values of a
step that was done again.
"""

import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.training.logs.logged_run import LoggedRun, Status

EXPERIMENT = "sward"
FOLDER = "sward.folder"  # tag of a run: name of its folder
ENDS = {Status.FINISHED: "FINISHED", Status.STOPPED: "KILLED", Status.FAILED: "FAILED"}
LONGEST, BATCH = 500, 100  # characters of a parameter, parameters of a request: what every server takes


class MlflowLogger:
    """Writes through MLflow's client, which has no state of the process: several runs may log at once."""

    def __init__(self, run: LoggedRun) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read when mlflow is imported
        from mlflow import MlflowClient

        runs = run.folder.parent.absolute()
        self.client = MlflowClient(os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{runs / 'mlflow.db'}")
        self.id = self._continued(run) or self._new(run)
        self.client.update_run(self.id, status="RUNNING")

    def _experiment(self, runs: Path) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
        if found := self.client.get_experiment_by_name(name):
            return str(found.experiment_id)
        remote = "MLFLOW_TRACKING_URI" in os.environ
        return self.client.create_experiment(name, None if remote else (runs / "mlflow-files").as_uri())

    def _continued(self, run: LoggedRun) -> str | None:
        """Id of the run that an earlier session began."""
        experiment = self._experiment(run.folder.parent.absolute())
        found = self.client.search_runs([experiment], f"tags.`{FOLDER}` = '{run.folder.name}'", max_results=1)
        return found[0].info.run_id if found else None

    def _new(self, run: LoggedRun) -> str:
        from mlflow.entities import Param

        tags, experiment = {FOLDER: run.folder.name}, self._experiment(run.folder.parent.absolute())
        created = self.client.create_run(experiment, tags=tags, run_name=run.name)
        params = [Param(key, str(value)[:LONGEST]) for key, value in flat(run.settings).items()]
        for start in range(0, len(params), BATCH):
            self.client.log_batch(created.info.run_id, params=params[start : start + BATCH])
        return str(created.info.run_id)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        self.client.log_batch(self.id, metrics=[Metric(name, value, now, step) for name, value in values.items()])

    def picture(self, step: int, name: str, image_HWC: np.ndarray) -> None:
        self.client.log_image(self.id, image_HWC, key=name, step=step)

    def result(self, step: int, values: dict[str, float]) -> None:
        self.scalars(step, values)

    def close(self, status: Status) -> None:
        self.client.set_terminated(self.id, ENDS[status])


def flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings with dotted keys, as `--set` takes them."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
    return found
