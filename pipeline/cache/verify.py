"""Is this store still what it says? Checksums, the sources' digests, and the teacher run again on random records."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.cache.identity import CacheConfig
from pipeline.cache.records import Record, receipt_path
from pipeline.cache.shards import file_crc32c
from pipeline.cache.store import Store
from pipeline.cache.unit import Samples, render_record
from pipeline.config import validate
from pipeline.datasets import DatasetError, load_dataset
from pipeline.devices import resolve_device
from pipeline.views import normaliser, pixel_digest
from pipeline.weights import WeightsError, load_teacher
from sward import seeds
from sward.teachers.hiera import TrunkMismatch

COSINE_GOOD, COSINE_WRONG = 0.9999, 0.99  # same stack; below 0.99: other preprocessing or weights (anchors: osam#87)
AUTOCAST_ERROR = 3e-2  # bfloat16 keeps 8 bits, and a CPU runs the teacher without autocast


@dataclass
class Verification:
    """Findings; ``problems`` fail, ``notes`` don't. ``levels``: level -> (worst cosine, worst relative error)."""

    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    levels: dict[str, tuple[float, float]] = field(default_factory=dict)
    records: int = 0

    @property
    def ok(self) -> bool:
        return not self.problems


def verify(
    path: Path, records: int = 8, seed: int = 0, config: CacheConfig | None = None, sources: bool = True
) -> Verification:
    """Check a store.

    Args:
        path: the store.
        records: how many random records to render and extract again.
        seed: which ones.
        config: where the sources are; default: as recorded when the store was made.
        sources: False checks the files alone (data set and teacher aren't needed).

    Raises:
        FileNotFoundError, StoreIncomplete, StoreDamaged: there is no complete store to verify.
    """
    store, result = Store(path), Verification()
    check_sums(store, result)
    if sources:
        config = config or validate(CacheConfig, store.plans[-1]["config"], f"the configuration recorded in {path}")
        samples = check_samples(store, config, result)
        teacher = check_teacher(store, config, result)
        if teacher is not None and not result.problems:
            check_records(store, config, samples, teacher, records, seed, result)
    return result


def check_sums(store: Store, result: Verification) -> None:
    """Every file against its receipt."""
    for unit, receipt in store.receipts.items():
        for file, facts in receipt["files"].items():
            found = file_crc32c(store.path / file)
            if found != facts["crc32c"]:
                remedy = f"delete {receipt_path(store.path, unit)} and extract again"
                sums = f"crc32c {found:08x}, its receipt says {facts['crc32c']:08x}"
                result.problems.append(f"damaged file: {store.path / file} ({sums}); {remedy}")


def check_samples(store: Store, config: CacheConfig, result: Verification) -> Samples:
    """The data set's bytes against the digests of the plan; returns samples by (subset, digest)."""
    try:
        dataset = load_dataset(config.dataset, config.split)
    except (DatasetError, OSError) as error:
        result.problems.append(f"data set: {error}")
        return {}
    by_name: Samples = {(s.subset, s.id): s for s in dataset.samples}
    for subset, records in store.records.items():
        for name, digest in sorted({(r.id, r.digest) for r in records}):
            sample = by_name.get((subset, name))
            if sample is None:
                result.problems.append(f"missing sample: {subset}/{name} of the store is not in split {config.split}")
            elif sample.digest != digest:
                which = f"{sample.image_path} or its mask {sample.mask_path}"
                digests = f"digest {digest[:12]} then, {sample.digest[:12]} now"
                result.problems.append(f"changed image: {which} is not what was extracted ({digests})")
    return {(s.subset, s.digest): s for s in dataset.samples}


def check_teacher(store: Store, config: CacheConfig, result: Verification) -> Any:
    """The teacher, if its tensors are those the store was made with."""
    try:
        teacher = load_teacher(config.teacher)
    except (WeightsError, TrunkMismatch) as error:
        result.problems.append(f"teacher: {error}")
        return None
    expected = store.identity["teacher.digest"]
    if teacher.digest() != expected:
        found = f"{config.teacher.weights} has digest {teacher.digest()}"
        result.problems.append(f"changed weights: {found}, the store was made with {expected}")
        return None
    return teacher


def check_records(
    store: Store,
    config: CacheConfig,
    samples: Samples,
    teacher: Any,
    count: int,
    seed: int,
    result: Verification,
) -> None:
    """Random records again from their source: same pixels, same features."""
    device = resolve_device(config.device)
    teacher = teacher.to(device)
    every = [r for subset in ("train", "val", "test") for r in store.records[subset]]
    for i in seeds.permutation(len(every), "verify", seed)[:count]:
        record, result.records = every[i], result.records + 1
        image, label = render_record(record, samples, store.size(record.subset))
        if pixel_digest(image, label) != stored_pixels(store, record):
            cause = "Pillow version, or the stored image was changed"
            result.problems.append(f"other pixels: {record.title} renders differently ({cause})")
            continue
        compare_features(store, record, teach_one(store, teacher, image, device), result)


def stored_pixels(store: Store, record: Record) -> str:
    out = {name: np.empty(*store.specs(record.subset)[name]) for name in ("image", "label")}
    store.read(record, out)
    return pixel_digest(out["image"].transpose(1, 2, 0), out["label"])


def teach_one(store: Store, teacher: Any, image: np.ndarray, device: torch.device) -> dict[str, torch.Tensor]:
    x = normaliser(*store.normalisation, device)(torch.tensor(image, device=device).permute(2, 0, 1))
    return {level: f[0].cpu() for level, f in teacher(x[None]).items()}


def compare_features(store: Store, record: Record, now: dict[str, torch.Tensor], result: Verification) -> None:
    """Gate on the relative error, and on the cosine of channel-centred features, per level."""
    limit = max(store.codec.tolerance, AUTOCAST_ERROR if store.identity["teacher.autocast"] else 0.0)
    for level, stored in store.features(record).items():
        a, b = (f.flatten(1).double() for f in (stored, now[level]))
        error = float((a - b).norm() / b.norm())
        a, b = (f - b.mean(1, keepdim=True) for f in (a, b))
        cosine = float((a * b).sum() / (a.norm() * b.norm()))
        worst = result.levels.get(level, (1.0, 0.0))
        result.levels[level] = min(worst[0], cosine), max(worst[1], error)
        line = f"{level} of {record.title}: cosine {cosine:.6f}, relative error {error:.2e}"
        if cosine < COSINE_WRONG or error > limit:
            result.problems.append(f"other features: {line} (limit {limit:.1e})")
        elif cosine < COSINE_GOOD and error > limit / 2:  # nearly constant maps have a low cosine of nothing
            result.notes.append(f"suspicious: {line}")
