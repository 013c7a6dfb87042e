"""`teacher: online`: runs the teacher in the training loop, on the views that the store holds.

This measures what caching saves and whether it changes the losses: the store's features are not read, everything else
is the same. Only in this mode does stage 2 open teacher weights.
"""

import torch
from torch import Tensor, nn

from pipeline.cache.config import CacheConfig
from pipeline.cache.manifest.identity import require_same
from pipeline.cache.store import Store
from pipeline.weights import load_teacher


class OnlineTeacher:
    """Computes features of views with the teacher that made the store, in batches of ``cache.batch_size``.

    With ``cache.batch_size`` 1 here and in extraction, and the same number of CPU threads, the features equal those of
    an fp32 store bit for bit. Larger batches sum in another order.

    Raises:
        ValueError: the teacher sees views at its own size, which no store holds.
        CacheMismatch: the weights are not those of the store.
        WeightsError, TrunkMismatch: the weights cannot be loaded.
    """

    def __init__(self, config: CacheConfig, store: Store, device: torch.device) -> None:
        if config.teacher.size:
            raise ValueError(
                f"teacher: online runs on the stored views of {config.size} pixels, and this store's teacher sees "
                f"{config.teacher.size} (teacher.size); use teacher: cached"
            )
        self.batch_size = config.batch_size
        self.teacher: nn.Module = load_teacher(config.teacher)
        wanted, found = store.identity["teacher.digest"], self.teacher.digest()
        lines = [] if wanted == found else [f"teacher.digest: the store has {wanted}, the weights have {found}"]
        require_same(store.path, lines, "Set teacher.weights to the file that the store was made with.")
        self.teacher.to(device)

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """Maps normalised images (B, 3, H, W) to level -> (B, C, h, w) float32."""
        images = images.contiguous(memory_format=torch.channels_last)  # as in extraction: others sum differently
        parts = [self.teacher(part) for part in images.split(self.batch_size)]
        maps = {level: torch.cat([part[level] for part in parts]) for level in parts[0]}
        return {level: f.contiguous() for level, f in maps.items()}  # as from a store: other layouts sum differently
