"""CIRKD's memories: rings of teacher vectors, per class (pixels, regions) and of channels.

They are buffers, so a checkpoint holds them and a resumed run continues with them. Every draw is an argument.
"""

# B batch, K classes, C channels, H W height and width of the teacher's map, n positions of one class

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sward import seeds
from sward.methods.cirkd.config import CIRKDQueues


@dataclass
class Draws:
    """All that is random in one step.

    filing: per image, per class present in ascending order (never ``IGNORE``), a permutation of range(n), n the
    class's positions in the image, or its first ``pixels_per_class`` numbers. pixel, region: (count,) positions in
    every class's queue. channel_filing: (count,) rows of the teacher's (B C). channel: (count,) positions in the
    channel queue. All int64.
    """

    filing: list[Tensor]
    pixel: Tensor
    region: Tensor
    channel_filing: Tensor
    channel: Tensor


class ClassQueues(nn.Module):
    """Pixel and region vectors of length 1, class by class: ``pixel`` (K, P, C), ``region`` (K, R, C).

    ``next`` (2, K): where the next pixel (row 0) and region (row 1) of each class goes; after the last place comes
    the first. Zeros until ``reset``.
    """

    pixel: Tensor
    region: Tensor
    next: Tensor

    def __init__(self, num_classes: int, channels: int, sizes: CIRKDQueues) -> None:
        super().__init__()
        self.register_buffer("pixel", torch.zeros(num_classes, sizes.pixel, channels))
        self.register_buffer("region", torch.zeros(num_classes, sizes.region, channels))
        self.register_buffer("next", torch.zeros(2, num_classes, dtype=torch.int64))

    def reset(self, seed: int) -> None:
        """Random unit vectors from the seed."""
        for name, queue in (("pixel", self.pixel), ("region", self.region)):
            for k, ring in enumerate(queue):
                ring.copy_(unit_vectors(len(ring), ring.shape[1], seed, name, k))
        self.next.zero_()

    @torch.no_grad()
    def enqueue(
        self,
        x_BnC: Tensor,
        places: list[tuple[int, int, Tensor]],
        filing: list[Tensor],
        per_class: int,
        rule: Literal["fixed", "as_code"],
    ) -> None:
        """File the batch: per image and class its region's mean vector and up to ``per_class`` of its pixels.

        Args:
            x_BnC: every position's vector of the teacher's map, row by row, at length 1.
            places: (image, class, its positions), as ``cirkd_target.present`` lists them.
            filing: one permutation of range(n), or its beginning, for every entry, n its number of positions.
            per_class: the first that many of the permutation enter.
            rule: 'fixed', the permutation picks among the class's positions; 'as_code', as the authors' code does,
                among all of the image's (row by row), whatever their class.
        """
        for (image, k, index), permutation in zip(places, filing, strict=True):
            index, chosen = index.to(x_BnC.device), permutation[:per_class].to(x_BnC.device)
            region = F.normalize(x_BnC[image, index].mean(0, keepdim=True), dim=1)
            write(self.region[k], self.next[1, k], region)
            write(self.pixel[k], self.next[0, k], x_BnC[image, index[chosen] if rule == "fixed" else chosen])

    def sampled(self, name: str, positions: Tensor) -> Tensor:
        """The vectors at ``positions`` (n,) of every class's ``pixel`` or ``region`` ring, (K n, C)."""
        return getattr(self, name)[:, positions.to(self.next.device)].flatten(0, 1)


class ChannelQueue(nn.Module):
    """Channel maps of length 1: ``ring`` (size, positions), empty (size, 0) until ``reset``; ``next``: a number."""

    ring: Tensor
    next: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("ring", torch.zeros(size, 0))
        self.register_buffer("next", torch.zeros((), dtype=torch.int64))

    def reset(self, seed: int, positions: int) -> None:
        """Random unit vectors from the seed, for maps of that many positions."""
        self.ring = unit_vectors(len(self.ring), positions, seed, "channel", 0).to(self.ring)
        self.next.zero_()

    @torch.no_grad()
    def enqueue(self, x_t_BCn: Tensor, rows: Tensor) -> None:
        """Take in the rows of (B C) that ``rows`` names. Raises ValueError where the maps' size is another."""
        if x_t_BCn.shape[-1] != self.ring.shape[-1]:
            raise ValueError(
                f"the channel queue holds maps of {self.ring.shape[-1]} positions (0: not prepared), the batch has "
                f"{x_t_BCn.shape[-1]}: train on records of one size, or leave it out with weights.channel_memory: 0"
            )
        write(self.ring, self.next, x_t_BCn.flatten(0, 1)[rows.to(x_t_BCn.device)])

    def sampled(self, positions: Tensor) -> Tensor:
        """The maps at ``positions`` (m,), (m, n)."""
        return self.ring[positions.to(self.ring.device)]

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *rest: Any) -> None:
        if (saved := state.get(prefix + "ring")) is not None:  # its width is known only from the data
            self.ring = self.ring.new_zeros(len(self.ring), saved.shape[-1])
        super()._load_from_state_dict(state, prefix, *rest)


def first_permuted(count: int, n: int, *key: int | str) -> Tensor:
    """The first ``count`` numbers (all n, if fewer) of ``seeds.permutation(n, *key)``, without sorting the others."""
    words = seeds.words(n, *key)
    if count < n:
        low = np.flatnonzero(words <= np.partition(words, count)[count])  # ascending, so ties keep their order
        return torch.from_numpy(low[np.argsort(words[low], kind="stable")[:count]])
    return torch.from_numpy(np.argsort(words, kind="stable"))


def write(ring: Tensor, at: Tensor, rows: Tensor) -> None:
    """Put ``rows`` (at most as many as the ring has) at position ``at`` and on, and move ``at``; in place."""
    places = (at + torch.arange(len(rows), device=ring.device)) % len(ring)
    ring.index_copy_(0, places, rows.to(ring.dtype))
    at.add_(len(rows)).remainder_(len(ring))


def unit_vectors(count: int, length: int, seed: int, name: str, k: int) -> Tensor:
    """(count, length) float32 random directions, a function of the seed and the ring's name and class."""
    generator = torch.Generator().manual_seed(seeds.torch_seed(seed, "cirkd", name, k))
    return F.normalize(torch.randn(count, length, generator=generator), dim=1)
