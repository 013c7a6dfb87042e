"""Flow of stage 1: extracts the teacher's features into a store.

Start it with `prefect deployment run extract-teacher-features/local -p config=configs/cache/….yaml`.
"""

import re
from typing import Any

from prefect import flow
from prefect.artifacts import create_table_artifact

from flows.endings import log_cancellation, with_cause
from flows.form import CacheFile, CacheOverrides, Count, Device, run_name, settings, with_empty_fields
from flows.server_outage import publish_artifact
from flows.task import artifact_key, log_config, sward
from pipeline.cache.config import CacheConfig
from pipeline.cache.tools.inspect import inspect
from pipeline.config import load_config
from pipeline.paths import read_path

COMPUTED = re.compile(r"(\d+) computed now")


@flow(name="extract-teacher-features", flow_run_name=run_name, on_cancellation=[log_cancellation])
@with_cause
@with_empty_fields
def extract_teacher_features(
    config: CacheFile,
    views: Count = None,
    batch_size: Count = None,
    device: Device = None,
    overrides: CacheOverrides = None,
) -> dict[str, Any]:
    """Creates, continues or extends a feature store; only units without a receipt are computed.

    Args:
        config: YAML file of the cache: one of this checkout, or another by its absolute path.
        views: views per training image; empty: as in the file.
        batch_size: images that the teacher sees at once; empty: as in the file.
        device: cpu, cuda or cuda:N; empty: as in the file, else the first GPU if there is one.
        overrides: any other settings; they win over the fields above. For all GPUs of the machine:
            {"runner.kind": "dask"}. For a Dask cluster: {"runner.kind": "dask", "runner.address": "tcp://…",
            "device": "cuda"}.

    Returns:
        Path, content id and records of the store, and the number of records computed in this run.
    """
    changes = settings({"views.count": views, "batch_size": batch_size, "device": device}, overrides)
    checked = load_config(CacheConfig, config, changes)
    log_config(checked)
    lines = sward("extract", config, changes)
    facts = inspect(read_path(checked.store))
    about, key = f"The store {facts['path']}", artifact_key(f"store-{facts['content_id'][:12]}")
    publish_artifact("the store's table", lambda: create_table_artifact(table(facts), key=key, description=about))
    return receipt(facts, lines)


def table(facts: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of the store's table in Prefect, one fact each."""
    rows = {
        "store": facts["path"],
        "complete": facts["complete"],
        "content id": facts["content_id"],
        "bytes": facts["bytes"],
        "shards": f"{facts['shards']['done']} of {facts['shards']['planned']}",
    }
    rows |= {f"{subset} records": counts["readable"] for subset, counts in facts["records"].items()}
    rows |= {f"{level} channels": channels for level, channels in facts["channels"].items()}
    return [{"fact": name, "value": str(value)} for name, value in rows.items()]


def receipt(facts: dict[str, Any], lines: list[str]) -> dict[str, Any]:
    """Result of the flow: path, content id and records of the store, and how many records this run computed."""
    computed = next(int(found[1]) for line in reversed(lines) if (found := COMPUTED.search(line)))
    records = sum(counts["readable"] for counts in facts["records"].values())
    return {"store": facts["path"], "content_id": facts["content_id"], "records": records, "computed": computed}
