"""Flow of stage 1: extracts the teacher's features into a store.

Start it with `prefect deployment run extract-teacher-features/local -p config=configs/cache/….yaml`.
"""

import re
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.artifacts import create_table_artifact

from flows.server_outage import publish_artifact
from flows.task import log_config, sward
from pipeline.cache.config import CacheConfig
from pipeline.cache.tools.inspect import inspect
from pipeline.config import as_overrides, load_config
from pipeline.paths import read_path

COMPUTED = re.compile(r"(\d+) computed now")


@flow(name="extract-teacher-features")
def extract_teacher_features(config: Path, overrides: dict[str, Any] | None = None) -> dict[str, Any]:
    """Creates, continues or extends a feature store; only units without a receipt are computed.

    Args:
        config: YAML file of the cache, relative to the checkout.
        overrides: single settings, e.g. {"views.count": 2, "device": "cuda:0"}. For all GPUs of the machine:
            {"runner.kind": "dask"}. For a Dask cluster: {"runner.kind": "dask", "runner.address": "tcp://…",
            "device": "cuda"}.

    Returns:
        Path, content id and records of the store, and the number of records computed in this run.
    """
    settings = as_overrides(overrides or {})
    checked = load_config(CacheConfig, config, settings)
    log_config(checked)
    lines = sward("extract", config, settings)
    facts = inspect(read_path(checked.store))
    about = f"The store {facts['path']}"
    publish_artifact(
        "the store's table", lambda: create_table_artifact(table(facts), key="feature-store", description=about)
    )
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
