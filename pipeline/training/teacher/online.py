"""`teacher: online`: the teacher in the loop, on the very views that the store holds.

For comparisons with the cache alone (what does it cost, does it change the losses): the store's features are not
read, everything else is the same. This is the one way in which stage 2 opens teacher weights.
"""

import torch
from torch import Tensor, nn

from pipeline.cache.config import CacheConfig
from pipeline.cache.manifest.identity import require_same
from pipeline.cache.store import Store
from pipeline.weights import load_teacher


class OnlineTeacher:
    """Features of views, with the teacher the store was made with, in batches as in extraction.

    With ``cache.batch_size`` 1 in both, its features are those of a store in single precision bit for bit (on a
    CPU with as many threads): a larger batch sums in another order.

    Raises:
        CacheMismatch: the weights are not those of the store.
        WeightsError, TrunkMismatch: they cannot be loaded.
    """

    def __init__(self, config: CacheConfig, store: Store, device: torch.device) -> None:
        self.batch_size = config.batch_size
        self.teacher: nn.Module = load_teacher(config.teacher)
        wanted, found = store.identity["teacher.digest"], self.teacher.digest()
        lines = [] if wanted == found else [f"teacher.digest: the store's {wanted}, of the weights {found}"]
        require_same(store.path, lines, "Set teacher.weights to the file that the store was made with.")
        self.teacher.to(device)

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """Level -> (B, C, h, w) float32 of normalised images (B, 3, H, W)."""
        parts = [self.teacher(part) for part in images.split(self.batch_size)]
        maps = {level: torch.cat([part[level] for part in parts]) for level in parts[0]}
        return {level: f.contiguous() for level, f in maps.items()}  # as read: another layout sums in another order
