"""Two teachers in miniature over the same views: a Hiera, and a plain transformer of timm."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tiny import tiny_cache

from pipeline.cache.config import CacheConfig
from sward.teachers.timm_models import make_backbone

MODEL = "vit_small_patch16_dinov3.lvd1689m"
OPTIONS = {"depth": 4, "embed_dim": 24, "num_heads": 2}
HIERA, VIT = "hiera_pocket", "vit_small_patch16_dinov3"  # as they stand before the levels


def two_caches(folder: Path, **changes: Any) -> tuple[CacheConfig, CacheConfig]:
    """Configurations of a store of each teacher; ``changes`` are the second one's."""
    first, weights = tiny_cache(folder), folder / "vit.safetensors"
    if not weights.exists():
        with torch.random.fork_rng():
            torch.manual_seed(1)
            save_file({k: v.clone() for k, v in make_backbone(MODEL, OPTIONS).state_dict().items()}, weights)
    teacher = {"kind": "timm", "model": MODEL, "options": OPTIONS, "weights": str(weights)}
    levels = {"levels": ["s16@1", "s16@2", "s16@3", "s16@4"]}
    return first, tiny_cache(folder, teacher=teacher | levels, store=str(folder / "vit.zarr"), **changes)
