"""`sward repack`: makes a store with another codec, shard size or compression from a store alone.

It needs no teacher and no data set. If only the layout changes, arrays are copied as they are and the content id stays.
For another codec, values are decoded and encoded again: the new identity names the store they come from, so its content
id is never that of an extraction. Shards are written, committed and continued as in an extraction
(`extraction/unit_writer.py`).
"""

from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pipeline.cache.config import CacheConfig
from pipeline.cache.errors import StoreDamaged
from pipeline.cache.extraction.extract import require_own_folder, write_missing_units
from pipeline.cache.extraction.record_plan import make_plan
from pipeline.cache.extraction.statistics import statistics
from pipeline.cache.extraction.timing import extraction_cost, note
from pipeline.cache.extraction.unit_writer import Batch, Encoded, UnitWriter
from pipeline.cache.format.codecs import CODECS
from pipeline.cache.manifest.identity import REPACKED, differences, precisions, require_apart, require_same
from pipeline.cache.manifest.records import Record, Unit, full_label_path, read_plans, receipt_path
from pipeline.cache.manifest.sealed import write_sealed
from pipeline.cache.storage.disk_errors import clear_tmp_on_disk_error, explain_disk_errors
from pipeline.cache.storage.mirror import require_local
from pipeline.cache.store import Store
from pipeline.cache.tools.verify import wrong_sums
from pipeline.config import validate
from pipeline.files import locked
from pipeline.types import Arrays, Progress


@dataclass(frozen=True)
class Repacked:
    """Result of one call.

    Attributes:
        path: of the new store.
        content_id: of the new store.
        records: in the new store.
        written: records that this call wrote.
        left_out: appended head tensors of the source, which are not copied.
    """

    path: Path
    content_id: str
    records: int
    written: int
    left_out: tuple[str, ...]


def repack(
    source: Path,
    out: Path,
    codec: str | None = None,
    shard_records: int | None = None,
    compression: str | None = None,
    progress: Progress = lambda done, total: None,
) -> Repacked:
    """Makes the store ``out`` from the complete store ``source``, or continues it.

    Args:
        source: folder of the store to read.
        out: folder of the new store.
        codec: kind of the new codec, which must not be more precise than the source's; None keeps the source's.
        shard_records: records per shard; None keeps the source's.
        compression: none, zstd or archive; None keeps the source's.
        progress: called with records done and records in total.

    Raises:
        FileNotFoundError, StoreIncomplete, StoreDamaged: there is no complete, undamaged source.
        CacheMismatch: ``out`` overlaps with the source, or holds something else.
        ValueError: see ``new_config``; or ``out`` is a URL.
        NotWritable: the disk of ``out`` is full or read-only.
    """
    require_local(out, "sward repack")
    store = Store(source)
    layout = {"shard_records": shard_records, "compression": compression}
    config = new_config(store, out, codec, layout)
    require_apart(source, out, "give the new store a folder of its own")
    require_own_folder(out)
    plan = new_plan(store, config)
    with explain_disk_errors(out), locked(out), clear_tmp_on_disk_error(out):
        write_plan(out, plan)
        plans = read_plans(out)
        written = write_missing_units(Repacker(out, config, plans, store), plans, progress)
    left_out = tuple(store.appended["channels"]) if store.appended else ()
    return Repacked(out, plan["content_id"], sum(len(u["records"]) for u in plan["units"]), written, left_out)


def new_config(store: Store, out: Path, codec: str | None, layout: dict[str, Any]) -> CacheConfig:
    """The source's configuration with the changes; None in ``codec`` or ``layout`` keeps the source's value.

    Raises:
        ValueError: an unknown codec, or one more precise than the source's; a shard size out of bounds; an unknown
            compression.
    """
    kind = codec or store.codec.kind
    if kind not in CODECS:
        raise ValueError(f"--codec {kind}: unknown codec; use one of {', '.join(CODECS)}")
    if CODECS[kind].tolerance < store.codec.tolerance:
        raise ValueError(
            f"--codec {kind}: the values of {store.path} were rounded to {store.codec.kind}, so {kind} would need "
            f"more space without more precision; extract with codec {kind} instead"
        )
    changes = {"codec": {"kind": kind}, "store": str(out)} | {k: v or getattr(store, k) for k, v in layout.items()}
    return validate(CacheConfig, store.plans[-1]["config"] | changes, f"the configuration recorded in {store.path}")


def new_plan(store: Store, config: CacheConfig) -> dict[str, Any]:
    """One plan for all records of the source, in its order, without the empty rows that extensions leave."""
    identity = store.identity
    if config.codec.kind != store.codec.kind:
        came_from = {"content_id": store.content_id, "precisions": precisions(identity)}
        identity = identity | {"precision": config.codec.kind, REPACKED: came_from}
    records = [record for records in store.records.values() for record in records]
    return make_plan(identity, config, store.channels, records, [])


def write_plan(path: Path, plan: dict[str, Any]) -> None:
    """Writes the plan, unless the store has the same one already.

    Raises:
        CacheMismatch: the store has another plan.
    """
    plans = read_plans(path)
    if not plans:
        write_sealed(path / "plan" / "0000.json", plan)
        return
    layout = ("shard_records", "compression", "units", "channels")
    lines = differences(plan["identity"], plans[-1]["identity"])
    lines += [f"{name}: not those of this repack" for name in layout if plans[0].get(name) != plan[name]]
    lines += [f"generations: expected 1, found {len(plans)}"] if len(plans) > 1 else []
    require_same(
        path,
        lines,
        "Repack into a new folder, or with the codec, shard size and compression that this one was begun with.",
    )


class Repacker(UnitWriter):
    """Unit writer that reads records from a store instead of rendering them, and copies or re-encodes their levels."""

    def __init__(self, path: Path, config: CacheConfig, plans: list[dict[str, Any]], source: Store) -> None:
        super().__init__(path, config, plans)
        self.source = source
        self.rows = {(s, r.name): r for s, records in source.records.items() for r in records}
        self.units = {(u.subset, r.name): u.name for u in source.units for r in u.records}
        self.checked: set[str] = set()
        self.cost = extraction_cost(source.path, source.receipts)

    def render(self, record: Record) -> Arrays:
        """Reads all arrays of the record as the source stores them."""
        return self.source.arrays(self.rows[record.subset, record.name], self.names)

    @cached_property
    def names(self) -> list[str]:
        """Names of the source's arrays, without appended tensors."""
        levels = [name for level in self.source.channels for name in self.source.level_arrays(level)]
        return ["image", "label", *levels]

    def process_batch(self, records: Batch, rendered: list[Any]) -> list[Arrays]:
        """Returns the records unchanged, after checking the checksums of their source files."""
        for record in records:
            self.check(record)
        return rendered

    def encode(self, record: Record, taught: Arrays) -> Encoded:
        features = self.decoded(record, taught)
        if self.config.codec.kind == self.source.codec.kind:
            return self.as_stored(taught, {level: statistics(f) for level, f in features.items()})
        return self.encode_features(record, features, {name: taught[name] for name in ("image", "label")})

    def check(self, record: Record) -> None:
        """Checks the files of the record's unit against their receipt, once per unit.

        Raises:
            StoreDamaged: bytes of the source have changed.
        """
        unit = self.units[record.subset, record.name]
        if unit not in self.checked:
            remedy = f"delete {receipt_path(self.source.path, unit)} and extract again"
            if wrong := wrong_sums(self.source, self.source.receipts[unit], remedy):
                raise StoreDamaged("\n".join(wrong))
            self.checked.add(unit)

    def decoded(self, record: Record, parts: Arrays) -> Arrays:
        """Decodes the levels of a record from its arrays: level -> (C, h, w) float32."""
        return {level: f.numpy() for level, f in self.source.decoded(record, parts, self.channels).items()}

    def full_label(self, record: Record) -> bytes:
        return full_label_path(self.source.path, record.digest).read_bytes()

    def note(self, unit: Unit, seconds: float) -> None:
        """Records the unit's share of the extraction time plus the time of repacking; no-op if the first is unknown."""
        if self.cost:
            share = self.cost["seconds"] * len(unit.records) / self.cost["records"]
            note(self.path, unit.name, len(unit.records), share + seconds, ", ".join(self.cost["devices"]))

    def provenance(self) -> dict[str, Any]:
        """Provenance of the source's first unit, and the package versions of this repacking."""
        here = {name: version(name) for name in ("sward", "torch", "numpy", "zarr")}
        return next(iter(self.source.receipts.values()))["provenance"] | {"repacked": {"versions": here}}
