"""A whole data set, teacher and configuration in miniature: real files, the real Hiera class, the real store."""

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import save_file

from pipeline.cache.config import CacheConfig
from pipeline.cache.extraction.extract import extract
from pipeline.datasets.procedural import render
from pipeline.training.config import TrainConfig
from sward.teachers.hiera import make_trunk

HEAD = {"steps": 3, "network": {"kind": "teacher-head", "width": 8, "rates": [1, 2]}}
COUNTS = {"train": 6, "val": 2, "test": 3}
CARD = """
name: {name}
title: a set of the tests
citation: none
licence: Apache-2.0
classes: [background, polyp]
images: images/{{id}}.png
masks: masks/{{id}}.png
encoding: {{kind: indexed, labels: {{0: 0, 1: 1}}}}
splits:
  random: {{kind: matched, patterns: {{train: train-*, val: val-*, test: test-*}}}}
  folds: {{kind: folds, count: 3, by: image}}
  other: {{kind: matched, patterns: {{train: train-*, val: test-*, test: val-*}}}}
source: {{kind: files, homepage: none}}
"""


def tiny_dataset(folder: Path, **counts: int) -> Path:
    """A card with PNG pairs of 72×80; returns the card's path."""
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    for s, (subset, count) in enumerate((COUNTS | counts).items()):
        for number in range(count):
            image, label = render(7, 1000 * s + number, (72, 80))
            Image.fromarray(image).save(folder / "images" / f"{subset}-{number}.png")
            Image.fromarray(label).save(folder / "masks" / f"{subset}-{number}.png")
    card = folder / "card.yaml"
    card.write_text(CARD.format(name=folder.name))
    return card


def tiny_weights(path: Path, seed: int = 0) -> Path:
    """Random weights of the pocket architecture."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        save_file({f"image_encoder.trunk.{k}": v for k, v in make_trunk("pocket").state_dict().items()}, path)
    return path


def tiny_cache(folder: Path, **changes: Any) -> CacheConfig:
    """The cache configuration of a tiny set under ``folder`` (made at the first call)."""
    card, weights = folder / "tiny" / "card.yaml", folder / "teacher.safetensors"
    if not card.exists():
        tiny_dataset(folder / "tiny")
        tiny_weights(weights)
    values: dict[str, Any] = {
        "dataset": str(card),
        "teacher": {"kind": "hiera", "architecture": "pocket", "weights": str(weights)},
        "size": (64, 64),
        "views": {"count": 2, "seed": 0},
        "store": str(folder / "store.zarr"),
        "shard_records": 4,
        "batch_size": 3,
        "device": "cpu",
    }
    return CacheConfig.model_validate(values | changes)


def tiny_train(folder: Path, cache: CacheConfig, **changes: Any) -> TrainConfig:
    """Six steps of UNeXt with SWARD on a tiny store."""
    values: dict[str, Any] = {
        "name": "tiny",
        "runs": str(folder / "runs"),
        "cache": cache,
        "student": {"kind": "unext"},
        "method": {"kind": "sward", "mwad": {"gain": 2.0}},
        "steps": 6,
        "batch_size": 4,
        "checkpoint_every": 2,
        "log_every": 1,
        "signal_every": 4,
        "device": "cpu",
    }
    return TrainConfig.model_validate(values | changes)


def tree(folder: Path) -> dict[str, bytes]:
    """Relative path -> content of every file below a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def extract_quietly(config: CacheConfig) -> None:
    """Body of a child process that a test kills."""
    torch.set_num_threads(1)
    extract(config)
