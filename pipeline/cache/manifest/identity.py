"""What a store is: its configuration and its content identity, and how two identities are compared.

Whatever changes the bytes is in the identity; layout (shards, place) and provenance (versions, device) are
not. `identity_from_config` is what a configuration alone can say, so stage 2 can check it without teacher or images.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.cache.config import CacheConfig
from pipeline.cache.errors import CacheMismatch
from pipeline.views import GENERATOR, RESIZE
from sward.contracts import TEACHER_LEVELS

SCHEMA = 1
REPACKED = "repacked.from"  # content id and precisions of the store that a repacked one was encoded from
MAY_GROW = ("views.count", "data.split_digest", "records")  # what an extension may change


def identity_from_config(config: CacheConfig) -> dict[str, Any]:
    """The identity fields a configuration determines without opening weights or images."""
    views = {f"views.{k}": v for k, v in config.views.model_dump(mode="json").items()}
    return views | {
        "schema": SCHEMA,
        "data.name": dataset_name(config.dataset),
        "data.split": config.split,
        "teacher.kind": config.teacher.kind,
        "teacher.architecture": config.teacher.architecture,
        "teacher.digest": config.teacher.digest,
        "teacher.levels": list(TEACHER_LEVELS),
        "teacher.autocast": config.teacher.autocast,
        "input.size": list(config.size),
        "input.eval_size": list(config.evaluation_size),
        "input.mean": list(config.mean),
        "input.std": list(config.std),
        "input.resize": RESIZE,
        "views.generator": GENERATOR,
        "precision": config.codec.kind,
    }


def precisions(found: Mapping[str, Any]) -> list[str]:
    """What the values of a store were rounded to, one after the other; its own precision last."""
    return [*found.get(REPACKED, {}).get("precisions", []), found["precision"]]


def dataset_name(dataset: str) -> str:
    """The set's name: itself, or the folder of its card; needs no file, so stage 2 can say it anywhere."""
    return Path(dataset).parent.name if dataset.endswith((".yaml", ".yml")) else dataset


def digest(value: Any) -> str:
    """sha256 of the canonical JSON of a value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def differences(expected: Mapping[str, Any], found: Mapping[str, Any], ignore: tuple[str, ...] = ()) -> list[str]:
    """One line a differing field; an expected None means not declared, hence not compared."""
    fields = [k for k, v in expected.items() if v is not None and k not in ignore and found.get(k) != v]
    return [f"{k}: expected {expected[k]}, found {found.get(k)}" for k in sorted(fields)]


def require_same(path: Any, lines: list[str], remedy: str) -> None:
    """Raise CacheMismatch with every differing field and what to do."""
    if lines:
        raise CacheMismatch(f"the store {path} is not the one described:\n  " + "\n  ".join(lines) + f"\n{remedy}")


def require_apart(source: Path, target: Path, remedy: str) -> None:
    """Raise CacheMismatch where one folder is or holds the other."""
    a, b = source.resolve(), target.resolve()
    if a == b or a in b.parents or b in a.parents:
        raise CacheMismatch(f"{target} is, holds or lies in the store {source}; {remedy}")
