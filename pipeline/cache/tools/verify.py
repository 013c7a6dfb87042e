"""`sward verify`: checks files, statistics, sources and, by running the teacher again, random records."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.augmented_views import pixel_digest
from pipeline.cache.config import CacheConfig
from pipeline.cache.errors import StoreDamaged
from pipeline.cache.extraction.teacher_writer import Samples, render_twice
from pipeline.cache.format.codecs import CODECS
from pipeline.cache.manifest.appended import APPEND_AGAIN, read_plan, read_whole, unit_receipt_path
from pipeline.cache.manifest.identity import precisions, teachers_normalisation
from pipeline.cache.manifest.records import Record, receipt_path
from pipeline.cache.manifest.sealed import read_sealed, unsealed
from pipeline.cache.manifest.zarr_metadata import differing
from pipeline.cache.storage.first_reads import pixels_of
from pipeline.cache.store import Store
from pipeline.cache.tools.verify_statistics import wrong_statistics
from pipeline.config import validate
from pipeline.datasets import DatasetError, load_dataset
from pipeline.devices import resolve_device
from pipeline.weights import WeightsError, load_teacher
from sward import seeds
from sward.pixels import normaliser
from sward.teachers.hiera import TrunkMismatch

COSINE_GOOD, COSINE_WRONG = 0.9999, 0.99  # same software stack; below 0.99: other preprocessing or weights (osam#87)
AUTOCAST_ERROR = 3e-2  # relative: bfloat16 keeps 8 bits; 2.0e-2 between float32 and autocast at most (Hiera-T, s32)


@dataclass
class Verification:
    """Findings of a verification.

    Attributes:
        problems: findings for which the verification fails.
        notes: findings for which it does not.
        levels: level -> (worst cosine, worst relative error) over the records extracted again.
        records: number of records that were rendered and extracted again.
    """

    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    levels: dict[str, tuple[float, float]] = field(default_factory=dict)
    records: int = 0

    @property
    def ok(self) -> bool:
        """Whether there are no problems; notes may be there."""
        return not self.problems


def verify(
    path: Path, records: int = 8, seed: int = 0, config: CacheConfig | None = None, sources: bool = True
) -> Verification:
    """Checks a store's files and statistics, then its data set and teacher, then random records.

    Args:
        path: folder of the store.
        records: number of random records to render and extract again.
        seed: of the choice of these records.
        config: configuration with the current paths of data set and weights; default: as recorded in the store.
        sources: False checks the store's files only, without data set and teacher.

    Returns:
        Problems and notes; records are extracted again only if there are no problems before.

    Raises:
        FileNotFoundError, StoreIncomplete, StoreDamaged: there is no complete store to verify.
    """
    store, result = Store(path), Verification()
    check_sums(store, result)
    check_documents(store, result)
    check_metadata(store, result)
    if not result.problems:
        result.problems += wrong_statistics(store)
    if sources:
        config = config or validate(CacheConfig, store.plans[-1]["config"], f"the configuration recorded in {path}")
        samples = check_samples(store, config, result)
        teacher = check_teacher(store, config, result)
        if teacher is not None and not result.problems:
            check_records(store, config, samples, teacher, records, seed, result)
    return result


def check_sums(store: Store, result: Verification) -> None:
    """Checks the checksum of every file against its receipt; opening the store has checked the sizes."""
    for unit, receipt in store.receipts.items():
        remedy = f"delete {receipt_path(store.path, unit)} and extract again"
        result.problems += wrong_sums(store, receipt, remedy)
    for unit, receipt in appended_receipts(store).items():
        remedy = f"delete {unit_receipt_path(store.path, unit)} and append again"
        result.problems += wrong_sums(store, receipt, remedy)


def appended_receipts(store: Store) -> dict[str, dict[str, Any]]:
    """Receipts of tensors appended to this content, by unit: also if others are missing, or files are too short."""
    plan = read_plan(store.path)
    if plan is None or plan["content_id"] != store.content_id:
        return {}
    receipts = {unit.name: read_whole(unit_receipt_path(store.path, unit.name)) for unit in store.units}
    return {name: receipt for name, receipt in receipts.items() if receipt and receipt.get("id") == plan["id"]}


def check_documents(store: Store, result: Verification) -> None:
    """Checks plan and receipts of appended tensors against the checksums in them, and notes documents without one.

    Opening the store has checked the other plans and receipts.
    """
    for file in sorted((store.path / "appended").rglob("*.json")):
        try:
            read_sealed(file, APPEND_AGAIN)
        except StoreDamaged as error:
            result.problems.append(str(error))
    files = [f for folder in ("plan", "receipts", "appended") for f in sorted((store.path / folder).rglob("*.json"))]
    if bare := [file for file in files if unsealed(file)]:
        whose = f"{bare[0]} and {len(bare) - 1} more" if len(bare) > 1 else f"{bare[0]}"
        result.notes.append(
            f"{whose}: no checksum (written by an earlier version, or edited), so damage there may go unnoticed; "
            "`sward repack` writes a store with checksums"
        )


def check_metadata(store: Store, result: Verification) -> None:
    """Checks every zarr.json against what the plans give."""
    remedy = "the same command that made the store (extract, append, repack or copy) writes it anew, and nothing else"
    result.problems += [
        f"damaged metadata: {file} differs from the plan (other Zarr readers open the store by it); {remedy}"
        for file in differing(store.path, store.plans, store.appended)
    ]


def wrong_sums(store: Store, receipt: dict[str, Any], remedy: str) -> list[str]:
    """One line per file whose checksum is not that of the receipt, with ``remedy`` at its end."""
    sums = {file: store.files.checksum(file) for file in receipt["files"]}
    found = {file: "of a missing file" if crc is None else f"{crc:08x}" for file, crc in sums.items()}
    return [
        f"damaged file: {store.location}/{file} (crc32c {found[file]}, its receipt says {f['crc32c']:08x}); {remedy}"
        for file, f in receipt["files"].items()
        if found[file] != f"{f['crc32c']:08x}"
    ]


def check_samples(store: Store, config: CacheConfig, result: Verification) -> Samples:
    """Checks the data set's files against the digests in the plan; returns the samples by (subset, digest)."""
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
    """Loads the teacher; None, with a problem added, if its tensors are not those the store was made with."""
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
    """Renders random records and runs the teacher on them again, and compares pixels and features with the store."""
    device = resolve_device(config.device)
    teacher = teacher.to(device)
    every = [r for subset in ("train", "val", "test") for r in store.records[subset]]
    for i in seeds.permutation(len(every), "verify", seed)[:count]:
        record, result.records = every[i], result.records + 1
        sizes = store.size(record.subset), store.teachers_size(record.subset)
        image, label, seen = render_twice(record, samples, *sizes)
        if pixel_digest(image, label) != stored_pixels(store, record):
            cause = "Pillow version, or the stored image was changed"
            result.problems.append(f"other pixels: {record.title} renders differently ({cause})")
            continue
        compare_features(store, record, teach_one(store, teacher, seen, device), result)


def stored_pixels(store: Store, record: Record) -> str:
    """Pixel digest of a record's stored image and label."""
    return pixels_of(store.arrays(record, ("image", "label")))


def teach_one(store: Store, teacher: Any, image: np.ndarray, device: torch.device) -> dict[str, torch.Tensor]:
    """The teacher's features of one rendered image, (H, W, 3) uint8: level -> (C, h, w) on the CPU."""
    x = normaliser(*teachers_normalisation(store.identity), device)(torch.tensor(image, device=device).permute(2, 0, 1))
    return {level: f[0].cpu() for level, f in teacher(x[None]).items()}


def compare_features(store: Store, record: Record, now: dict[str, torch.Tensor], result: Verification) -> None:
    """Compares stored and new features per level, by relative error (of the L2 norm) and cosine.

    The limit of the error is the sum of the tolerances of all codecs that rounded the values, with autocast at least
    0.03. The cosine is of features without their channel means. An error above the limit, or a cosine below 0.99, is a
    problem; a cosine below 0.9999 with an error above half the limit is a note.
    """
    rounded = sum(CODECS[kind].tolerance for kind in precisions(store.identity))  # of each time it was encoded
    limit = max(rounded, AUTOCAST_ERROR if store.identity["teacher.autocast"] else 0.0)
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
        elif cosine < COSINE_GOOD and error > limit / 2:  # a nearly constant map's low cosine alone means nothing
            result.notes.append(f"suspicious: {line}")
