"""Writes and checks the zarr.json files by which other Zarr readers open a store.

SWARD's own reader does not use them. They follow from the plans alone, so existing files are never trusted: each is
compared with what zarr-python generates from the plans, and rewritten if it differs.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import zarr
from zarr.storage import MemoryStore

from pipeline.cache.format.arrays import array_specs
from pipeline.cache.format.codecs import CODECS
from pipeline.cache.format.compression import compressor, is_predicted
from pipeline.cache.manifest.appended import appended_specs
from pipeline.cache.manifest.identity import teachers_size
from pipeline.cache.manifest.records import compression_of, plan_units
from pipeline.files import write_atomic

SUBSETS = ("train", "val", "test")
Plan = dict[str, Any]


def ensure_metadata(path: Path, plans: list[Plan], appended: Plan | None = None) -> None:
    """Writes every zarr.json that is missing or differs, appended arrays only if in ``appended``; safe to repeat."""
    for file, right in expected(plans, appended).items():
        if read(path / file) != json.loads(right):
            write_atomic(path / file, right)


def remove_other(path: Path, appended: Plan, names: tuple[str, ...]) -> None:
    """Removes those of the arrays ``names`` that another plan appended: not in ``appended``, or of another shape."""
    for subset in SUBSETS:
        specs = appended_specs(appended, subset)
        for name in names:
            found = read(path / subset / name / "zarr.json")
            if found is not None and (name not in specs or found.get("shape", [])[1:] != list(specs[name][0])):
                shutil.rmtree(path / subset / name)


def differing(path: Path, plans: list[Plan], appended: Plan | None) -> list[Path]:
    """Metadata files that are missing, or differ from what the plans give.

    Two differences are accepted: stores made before dimensions had names lack ``dimension_names``; and the attribute
    ``sward_appended`` may be there while appended tensors are incomplete (``appended`` is then None).
    """
    wrong = []
    for file, right in expected(plans, appended).items():
        found, wanted = read(path / file), json.loads(right)
        if found and "dimension_names" not in found:
            wanted.pop("dimension_names", None)
        if found and not appended and "sward_appended" in found.get("attributes", {}):
            del found["attributes"]["sward_appended"]
        if found != wanted:
            wrong.append(path / file)
    return wrong


def read(file: Path) -> dict[str, Any] | None:
    """JSON object of a metadata file; None if the file is missing, or not an object with attributes."""
    try:
        found = json.loads(file.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return found if isinstance(found, dict) and isinstance(found.get("attributes"), dict) else None


def expected(plans: list[Plan], appended: Plan | None) -> dict[str, bytes]:
    """Content of each zarr.json by its path in the store, for every group and array of the plans."""
    files: dict[str, Any] = {}
    root = zarr.open_group(MemoryStore(files), mode="w")
    root.attrs["sward"] = {k: plans[-1][k] for k in ("identity", "content_id", "channels", "shard_records")}
    if appended:
        root.attrs["sward_appended"] = {k: v for k, v in appended.items() if k != "receipts"}
    found, codec = plans[-1]["identity"], CODECS[plans[-1]["identity"]["precision"]]
    for subset in SUBSETS:
        group, rows = root.require_group(subset), planned_rows(plans, subset)
        size = found["input.size" if subset == "train" else "input.eval_size"]
        for name, (shape, dtype) in array_specs(
            codec, plans[0]["channels"], tuple(size), teachers_size(found, subset)
        ).items():
            if is_predicted(compression_of(plans), shape, dtype):
                continue  # no Zarr codec describes residuals
            about = {} if name in ("image", "label") else codec.attributes
            make_array(group, name, (rows, *shape), dtype, plans[0]["shard_records"], about, compression_of(plans))
        for name, (shape, dtype) in (appended_specs(appended, subset) if appended else {}).items():
            make_array(group, name, (rows, *shape), dtype, plans[0]["shard_records"], {})
    return {name: content.to_bytes() for name, content in files.items()}


def planned_rows(plans: list[Plan], subset: str) -> int:
    """Length of a subset's record axis: last planned row + 1."""
    units = (unit for plan in plans for unit in plan_units(plan) if unit.subset == subset)
    return max((record.row + 1 for unit in units for record in unit.records), default=0)


def make_array(
    group: zarr.Group,
    name: str,
    shape: tuple[int, ...],
    dtype: str,
    shard_records: int,
    attributes: Any,
    compression: str = "none",
) -> None:
    """Creates an array's metadata: one shard per unit, one chunk per record; chunks of zeros are stored too."""
    group.create_array(
        name,
        shape=shape,
        dtype=dtype,
        chunks=(1, *shape[1:]),
        shards=(shard_records, *shape[1:]),
        compressors=compressor(compression, dtype),
        filters=None,
        fill_value=0,
        dimension_names=dimension_names(name, len(shape) - 1),
        attributes=dict(attributes),
    )


def dimension_names(array: str, ndim: int) -> list[str]:
    """Names of the record axis and ``ndim`` more axes, by which xarray opens a subset as one dataset.

    Arrays of a level share them: ``s8_channel``, ``s8_y``, ``s8_x`` (blocks in a blocked codec), ``s8_byte``.
    """
    axes = ["y", "x"] if array == "label" else ["channel", "y", "x", "byte"]
    level = "" if array in ("image", "label") else array.split("_")[0] + "_"
    return ["record", *(level + axis for axis in axes[:ndim])]
