"""Content identity of a store: the fields that determine its bytes, their digest, their comparison.

Whatever changes the bytes is in the identity; layout (shard size, compression, location) and provenance (versions,
device) are not. `identity_from_config` gives the fields that a configuration alone determines, so that training
(stage 2) can check a store without teacher or images.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.augmented_views import GENERATOR, RESIZE
from pipeline.cache.config import CacheConfig, enlarged
from pipeline.cache.errors import CacheMismatch

OWN_SIZE, OWN_EVAL_SIZE = "teacher.size", "teacher.eval_size"  # only where the teacher sees views at its own size
SCHEMA = 1  # version of the identity fields
REPACKED = "repacked.from"  # field with content id and precisions of the store that this one was encoded from
OF_THE_TEACHER = ("input.mean", "input.std", "precision", REPACKED)  # beside those that begin with `teacher.`
JOINING = (
    "Extract them with the same dataset, split, size, eval_size and views; teacher, codec and location may differ. The "
    "student's mean and std are the first store's."
)
MAY_GROW = ("views.count", "data.split_digest", "records")  # fields that an extension of the store may change


def identity_from_config(config: CacheConfig) -> dict[str, Any]:
    """The identity fields a configuration determines without opening weights or images."""
    own = {OWN_EVAL_SIZE: list(enlarged(config.evaluation_size, config.zoom))} if config.teacher.size else {}
    views = {f"views.{k}": v for k, v in config.views.model_dump(mode="json").items()}
    return (
        views
        | own
        | {
            "schema": SCHEMA,
            "data.name": dataset_name(config.dataset),
            "data.split": config.split,
            **{f"teacher.{field}": value for field, value in config.teacher.identity().items()},
            "input.size": list(config.size),
            "input.eval_size": list(config.evaluation_size),
            "input.mean": list(config.mean),
            "input.std": list(config.std),
            "input.resize": RESIZE,
            "views.generator": GENERATOR,
            "precision": config.codec.kind,
        }
    )


def precisions(found: Mapping[str, Any]) -> list[str]:
    """Codecs that rounded the values of a store, in order: those of the stores it was repacked from, then its own."""
    return [*found.get(REPACKED, {}).get("precisions", []), found["precision"]]


def dataset_name(dataset: str) -> str:
    """Name of a data set: ``dataset`` itself, or the folder of its card. Reads no file, so stage 2 needs none."""
    return Path(dataset).parent.name if dataset.endswith((".yaml", ".yml")) else dataset


def digest(value: Any) -> str:
    """sha256 of the canonical JSON of a value, in hex."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def differences(expected: Mapping[str, Any], found: Mapping[str, Any], ignore: tuple[str, ...] = ()) -> list[str]:
    """One line per differing field. Fields whose expected value is None are not declared, hence not compared."""
    fields = [k for k, v in expected.items() if v is not None and k not in ignore and found.get(k) != v]
    fields += [k for k in (OWN_SIZE, OWN_EVAL_SIZE) if k in found and k not in expected]
    return [f"{k}: expected {expected.get(k)}, found {found.get(k)}" for k in sorted(fields)]


def differing_views(first: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """One line for every field of two stores' identities, other than their teachers', that differs."""
    fields = {field for field in (*first, *other) if not field.startswith("teacher.") and field not in OF_THE_TEACHER}
    return [
        f"{field}: {first.get(field)} and {other.get(field)}"
        for field in sorted(fields)
        if first.get(field) != other.get(field)
    ]


def teachers_size(found: Mapping[str, Any], subset: str) -> tuple[int, int]:
    """(height, width) at which the teacher saw a subset's views, in pixels, from a store's identity."""
    own, both = (OWN_SIZE, "input.size") if subset == "train" else (OWN_EVAL_SIZE, "input.eval_size")
    height, width = found.get(own, found[both])
    return height, width


def teachers_normalisation(found: Mapping[str, Any]) -> tuple[list[float], list[float]]:
    """(mean, std) of RGB in [0, 1] for the teacher, from a store's identity."""
    return found.get("teacher.mean", found["input.mean"]), found.get("teacher.std", found["input.std"])


def require_same(path: Any, lines: list[str], remedy: str) -> None:
    """Raises CacheMismatch with every differing field and what to do, if there are any ``lines``."""
    if lines:
        raise CacheMismatch(
            f"the store {path} does not match this configuration:\n  " + "\n  ".join(lines) + f"\n{remedy}"
        )


def require_apart(source: Path, target: Path, remedy: str) -> None:
    """Raises CacheMismatch if the folders are the same, or one lies inside the other."""
    a, b = source.resolve(), target.resolve()
    if a == b or a in b.parents or b in a.parents:
        raise CacheMismatch(f"{target} and the store {source} overlap (same folder, or one inside the other); {remedy}")
