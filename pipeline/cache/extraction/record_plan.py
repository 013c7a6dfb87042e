"""Plans the records of an extraction: those the configuration wants and the store does not plan yet."""

from collections import defaultdict
from pathlib import Path
from typing import Any

from pipeline.augmented_views import draw
from pipeline.cache.config import CacheConfig
from pipeline.cache.manifest import identity
from pipeline.cache.manifest.records import WITHDRAW, Record, compression_of, plan_units, read_plans, record_to_json
from pipeline.cache.manifest.sealed import write_sealed
from pipeline.datasets import Dataset, image_size

Plans = list[dict[str, Any]]  # a store's plans, oldest first: plan/0000.json, then one per extension

MOST_RECORDS = 2_000_000  # a plan lists every record: some 300 bytes each, and a kilobyte in memory
GROW_ONLY = f"A store can only grow. Undo the change, or set `store:` to a new folder. {WITHDRAW}"


def full_identity(config: CacheConfig, dataset: Dataset, teacher_digest: str, records: list[Record]) -> dict[str, Any]:
    """The identity fields of the configuration, and those known only from the teacher's weights and the images."""
    return identity.identity_from_config(config) | {
        "teacher.digest": teacher_digest,
        "data.split_digest": dataset.split_digest,
        "data.labels": dataset.card_digest,
        "data.classes": list(dataset.classes),
        "records": identity.digest(sorted([r.subset, r.name] for r in records)),
    }


def wanted_records(config: CacheConfig, dataset: Dataset) -> list[Record]:
    """Every (sample, view) of the configuration, in data set order; rows are -1 (`group_units` assigns them).

    A training image has ``views.count`` views, a validation or test image one.

    Raises:
        ValueError: they are more than a plan can list.
    """
    trained = sum(sample.subset == "train" for sample in dataset.samples)
    if (count := trained * config.views.count) > MOST_RECORDS:
        raise ValueError(
            f"{trained} training images with views.count {config.views.count} are {count:,} records, expected at most "
            f"{MOST_RECORDS:,}: lower views.count to {MOST_RECORDS // trained} or less"
        )
    records = []
    for sample in dataset.samples:
        size, full = config.size_of(sample.subset), image_size(sample)
        for number in range(config.views.count if sample.subset == "train" else 1):
            view = draw(config.views, size, full, sample.digest, number)
            place = (sample.fold, sample.group, sample.labelled)
            records.append(Record(sample.subset, -1, sample.id, sample.digest, full, view, *place))
    return records


def update_plan(
    path: Path, config: CacheConfig, found: dict[str, Any], wanted: list[Record], channels: dict[str, int]
) -> bool:
    """Write the first plan, or the plan of an extension; return whether one was written.

    Raises:
        CacheMismatch: the store there was made from another configuration, or holds records no longer wanted.
    """
    plans = read_plans(path)
    planned = _planned(plans)
    if plans:
        lines = identity.differences(found, plans[-1]["identity"], ignore=identity.MAY_GROW)
        identity.require_same(path, _shorten(lines + _unwanted(planned, wanted)), GROW_ONLY)
    names = {(r.subset, r.name, r.fold) for r in planned}
    missing = [r for r in wanted if (r.subset, r.name, r.fold) not in names]
    _require_extracted(path, plans, missing)
    if not missing:
        return False
    write_sealed(path / "plan" / f"{len(plans):04d}.json", make_plan(found, config, channels, missing, plans))
    return True


def make_plan(
    found: dict[str, Any], config: CacheConfig, channels: dict[str, int], records: list[Record], plans: Plans
) -> dict[str, Any]:
    """The plan of ``records``: in the layout of the earlier ``plans``, or, if it is the first, of the configuration."""
    shard_records = plans[0]["shard_records"] if plans else config.shard_records
    return {
        "identity": found,
        "content_id": identity.digest(found),
        "config": config.recorded(),
        "channels": channels,
        "shard_records": shard_records,
        "compression": compression_of(plans) if plans else config.compression,
        "generation": len(plans),
        "units": group_units(records, plans, shard_records),
    }


def _require_extracted(path: Path, plans: Plans, missing: list[Record]) -> None:
    """Refuse to complete a repacked store with the teacher: the new records would be of another kind.

    Raises:
        CacheMismatch: the store was repacked, and records are to be added or shards are missing.
    """
    if not plans or identity.REPACKED not in plans[-1]["identity"]:
        return
    lacking = [u for plan in plans for u in plan_units(plan) if u.receipt(path) is None]
    if missing or lacking:
        came_from = plans[-1]["identity"][identity.REPACKED]["content_id"]
        what = f"{len(missing)} records are to be added" if missing else f"{len(lacking)} shards are missing"
        line = f"{identity.REPACKED}: expected nothing, found store {came_from[:12]}, and {what}"
        remedy = "Complete it with `sward repack`; to add records, extend the store it was made from and repack that."
        identity.require_same(path, [line], remedy)


def _planned(plans: Plans) -> list[Record]:
    return [r for plan in plans for unit in plan_units(plan) for r in unit.records]


def _unwanted(planned: list[Record], wanted: list[Record]) -> list[str]:
    """Reasons why records of the store are not among the wanted ones, each reason once."""
    names = {(r.subset, r.name, r.fold) for r in wanted}
    by_id: dict[tuple[str, str], set[tuple[str, int | None]]] = defaultdict(set)
    for r in wanted:
        by_id[r.subset, r.id].add((r.digest, r.fold))
    lines = [_why(r, by_id.get((r.subset, r.id))) for r in planned if (r.subset, r.name, r.fold) not in names]
    return list(dict.fromkeys(lines))


def _why(record: Record, wanted: set[tuple[str, int | None]] | None) -> str:
    name = f"{record.subset}/{record.id}"
    if wanted is None:
        return f"records: {name} is in the store, but no longer in the split"
    digests, folds = ({pair[i] for pair in wanted} for i in (0, 1))
    if record.digest not in digests:
        then, now = record.digest[:12], min(map(str, digests))[:12]
        return f"records: image or mask {name} has changed since extraction (digest {then} in the store, {now} now)"
    if record.fold not in folds:
        return f"records: {name} is in another fold of the split now (folds are dealt anew when images are added)"
    remedy = "to train on fewer views set `views` in the training config"
    return f"views.count: view {record.view.number} of {name} is in the store, but not wanted ({remedy})"


def _shorten(lines: list[str], most: int = 10) -> list[str]:
    return lines if len(lines) <= most else [*lines[:most], f"… and {len(lines) - most} more"]


def group_units(records: list[Record], plans: Plans, shard_records: int) -> list[dict[str, Any]]:
    """Group records into whole shards of one fold each, numbered from the last planned shard of their subset on."""
    first: dict[str, int] = defaultdict(int)
    for unit in (u for plan in plans for u in plan_units(plan)):
        first[unit.subset] = max(first[unit.subset], unit.shard + 1)
    units = []
    for subset in ("train", "val", "test"):
        chosen = [r for r in records if r.subset == subset]
        parts = [[r for r in chosen if r.fold == fold] for fold in dict.fromkeys(r.fold for r in chosen)]
        pieces = [part[i : i + shard_records] for part in parts for i in range(0, len(part), shard_records)]
        units += [_unit(subset, shard, piece, shard_records) for shard, piece in enumerate(pieces, start=first[subset])]
    return units


def _unit(subset: str, shard: int, records: list[Record], shard_records: int) -> dict[str, Any]:
    rows = [record_to_json(r) | {"row": shard * shard_records + i} for i, r in enumerate(records)]
    return {"name": f"{subset}-{shard:05d}", "subset": subset, "shard": shard, "records": rows}
