"""Teacher's map and labels of one CIRKD step, with the vectors derived from them, each computed once on first use."""

# B batch, C channels, H W height and width

from functools import cached_property

from torch import Tensor

from sward.contracts import IGNORE
from sward.methods.cirkd.relations import channels, pixels, pool

CHANNEL_POOL = 4  # v2's channel relations are of maps a quarter as wide and high


class Target:
    """Teacher's side of a step.

    Args:
        f: the teacher's map, (B, C, H, W), without gradient.
        y: (B, H, W) int64 labels on its grid (``sward.align.labels_on_grid``).
    """

    def __init__(self, f: Tensor, y: Tensor) -> None:
        self.f, self.y = f, y

    @cached_property
    def pixels(self) -> Tensor:
        """Vectors of all positions at length 1, (B, H W, C)."""
        return pixels(self.f)

    @cached_property
    def channels(self) -> Tensor:
        """Channels of the pooled map at length 1, (B, C, positions)."""
        return channels(pool(self.f, CHANNEL_POOL))

    @cached_property
    def places(self) -> list[tuple[int, int, Tensor]]:
        """Result of ``present(y)``; waits for the device."""
        return present(self.y)


def present(y_BHW: Tensor) -> list[tuple[int, int, Tensor]]:
    """List (image, class, positions of the class, row by row) for every class of every image; never ``IGNORE``."""
    images = enumerate(y_BHW.flatten(1).cpu())
    return [(i, k, (y == k).nonzero()[:, 0]) for i, y in images for k in y.unique().tolist() if k != IGNORE]
