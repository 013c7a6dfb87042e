"""`sward extract --append`: adds a fitted head's tensors to a store, computed from the store's own levels.

They are written as whole shards with receipts, as levels are (`cache/extraction/unit_writer.py`): a unit without a
receipt is computed, and a killed process loses only the unit it was writing. The teacher's trunk, the source images and
the data set are not needed.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.cache.errors import CacheMismatch, ExtractionError, StorageOverflow
from pipeline.cache.format.shards import ShardWriter, shard_path
from pipeline.cache.manifest.appended import (
    APPENDED,
    appended_specs,
    plan_path,
    read_plan,
    unit_receipt,
    unit_receipt_path,
)
from pipeline.cache.manifest.identity import digest
from pipeline.cache.manifest.records import Record, Unit
from pipeline.cache.manifest.sealed import write_sealed
from pipeline.cache.manifest.zarr_metadata import ensure_metadata, remove_other
from pipeline.cache.storage.disk_errors import clear_tmp_on_disk_error, explain_disk_errors
from pipeline.cache.storage.first_reads import SUMS, array_crc32c, array_sums
from pipeline.cache.storage.mirror import require_local
from pipeline.cache.store import Store
from pipeline.config import load_config
from pipeline.devices import resolve_device
from pipeline.files import locked, publish, remove_partials
from pipeline.training.batch_order import Order
from pipeline.training.config import TrainConfig
from pipeline.training.run_folder import RunFolder
from pipeline.training.stream import Stream
from pipeline.training.teacher.heads import HeadMissing, head_channels, load_head
from pipeline.training.trainable import is_head
from pipeline.types import Progress
from sward.contracts import HEAD_TENSORS, Student
from sward.digest import state_digest


def append(
    path: Path,
    names: tuple[str, ...],
    head_folder: Path,
    batch_size: int = 8,
    device: str = "auto",
    progress: Progress = lambda done, total: None,
) -> int:
    """Adds tensors of a fitted head to a store; returns the number of records computed now.

    Args:
        path: folder of the store.
        names: head tensors to add: ``logits``, ``penultimate``.
        head_folder: run folder of the head.
        batch_size: records per forward pass of the head.
        device: device of the head: auto, cpu, cuda …
        progress: called with (records done, records to do).

    Raises:
        ValueError: ``names`` has an unknown name or is empty.
        HeadMissing: the folder is not a finished head of this store.
        ExtractionError: a tensor is not finite, or overflows half precision.
        CacheMismatch: the store holds tensors of another head, or other tensors of this one.
    """
    if unknown := sorted(set(names) - set(HEAD_TENSORS)) or not names:
        raise ValueError(f"--append takes {', '.join(HEAD_TENSORS)}; found {unknown or 'nothing'}")
    require_local(path, "sward extract --append")
    config = head_config(head_folder)
    with explain_disk_errors(path), locked(path), clear_tmp_on_disk_error(path):
        store, where = Store(path), resolve_device(device)
        if not RunFolder(head_folder).finished_from(store):
            raise HeadMissing(f"{head_folder} is not a finished head; fit it first: sward fit-head CONFIG")
        head = load_head(config, RunFolder(head_folder), store).to(where)
        plan = read_or_write_plan(store, names, config.identity(), head)
        remove_partials(path)
        remove_other(path, plan, HEAD_TENSORS)
        ensure_metadata(path, store.plans, plan)
        units = [unit for unit in store.units if unit_receipt(path, unit, plan) is None]
        total, done = sum(len(u.records) for u in units), 0
        for unit in units:
            write_unit(store, unit, plan, tensors_of(store, unit, names, head, batch_size, where))
            done += len(unit.records)
            progress(done, total)
        shutil.rmtree(path / "tmp", ignore_errors=True)
    return total


def head_config(folder: Path) -> TrainConfig:
    """Reads the configuration of a head's run.

    Raises:
        HeadMissing: the folder is not the run of a head.
    """
    if not (folder / "config.yaml").is_file():
        raise HeadMissing(f"{folder} is no run; give the folder that `sward fit-head CONFIG` made")
    config = load_config(TrainConfig, folder / "config.yaml")
    if not is_head(config.student):
        raise HeadMissing(f"{folder} holds a student ({config.student.kind}); give the folder that fit-head made")
    if len(config.caches) > 1:
        raise HeadMissing(f"the head {folder} reads several stores; it is recomputed (head.tensors), never appended")
    return config


def read_or_write_plan(store: Store, names: tuple[str, ...], run: str, head: Student) -> dict[str, Any]:
    """Returns the plan on disk; writes it first if there is none, or none of whose units has been written.

    Raises:
        CacheMismatch: units have been written by another plan.
    """
    channels = {name: c for name, c in head_channels(head).items() if name in names}
    facts: dict[str, Any] = {
        "content_id": store.content_id,
        "head": {"run": run, "digest": state_digest(head.state_dict())},
        "channels": channels,
        "shapes": {
            subset: {name: [c, *(side // 4 for side in store.teachers_size(subset))] for name, c in channels.items()}
            for subset, records in store.records.items()
            if records
        },
        "precision": APPENDED.kind,
    }
    plan, file = facts | {"id": digest(facts)}, plan_path(store.path)
    old = read_plan(store.path) or {}
    if not any(unit_receipt(store.path, unit, old) for unit in store.units if old):
        write_sealed(file, plan)
        return plan
    lines = [f"{k}: expected {plan[k]}, found {old.get(k)}" for k in facts if old.get(k) != plan[k]]
    if lines:
        raise CacheMismatch(
            f"{store.path} holds other appended tensors:\n  "
            + "\n  ".join(lines)
            + f"\nremove the folder {file.parent} to replace them (name all wanted tensors in one --append)"
        )
    return plan


def tensors_of(
    store: Store, unit: Unit, names: tuple[str, ...], head: Student, batch_size: int, device: torch.device
) -> Iterator[dict[str, Tensor]]:
    """Yields the tensors of each record of a unit: name -> (C, h, w) float32 on the CPU."""
    stream = Stream(store, Order(unit.records, batch_size, 0), names, device, head=head)
    for start in range(0, len(unit.records), batch_size):
        batch = stream.batch_of(list(unit.records[start : start + batch_size]))
        for i in range(len(batch.ids)):
            yield {name: batch.features[name][i].cpu() for name in names}


def write_unit(store: Store, unit: Unit, plan: dict[str, Any], tensors: Iterator[dict[str, Tensor]]) -> None:
    """Writes the records of a unit to temporary files, syncs and renames them, and last writes the receipt."""
    final = {
        name: shard_path(store.path, unit.subset, name, unit.shard, len(shape) + 1)
        for name, (shape, _) in appended_specs(plan, unit.subset).items()
    }
    partial = {name: store.path / "tmp" / "appended" / unit.name / name for name in final}
    writers = {name: ShardWriter(file, store.shard_records) for name, file in partial.items()}
    crcs: list[dict[str, int]] = []
    try:
        for record, named_tensors in zip(unit.records, tensors, strict=True):
            arrays = {name: encoded(record, name, tensor) for name, tensor in named_tensors.items()}
            crcs.append({name: array_crc32c(array) for name, array in arrays.items()})
            for name, array in arrays.items():
                writers[name].append(array)
        sums = {name: writer.close() for name, writer in writers.items()}
    except BaseException:
        for writer in writers.values():
            writer.abandon()
        raise
    for name, file in final.items():
        publish(partial[name], file)
    files = {str(file.relative_to(store.path)): sums[name] for name, file in final.items()}
    receipt = {"unit": unit.name, "files": files, "id": plan["id"], SUMS: array_sums(crcs)}
    write_sealed(unit_receipt_path(store.path, unit.name), receipt)


def encoded(record: Record, name: str, tensor: Tensor) -> np.ndarray:
    """Encodes a tensor as it is stored.

    Raises:
        ExtractionError: it is not finite, or overflows half precision; names the sample.
    """
    if not tensor.isfinite().all():
        raise ExtractionError(f"{name} of {record.title} has NaN or infinite values; nothing of its shard was stored")
    try:
        return APPENDED.encode(name, tensor.numpy())[name]
    except StorageOverflow as error:
        raise ExtractionError(
            f"{record.title}: {error}. Appended tensors have half precision; use head.tensors: recomputed instead"
        ) from error
