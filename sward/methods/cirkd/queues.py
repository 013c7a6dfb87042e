"""Memories of CIRKD: ring buffers of teacher vectors, per class (pixels, regions) and of channels.

They are module buffers, so a checkpoint contains them and a resumed run continues with them. Random numbers are
arguments.
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
from sward.sent import sent, sent_together


@dataclass
class Draws:
    """Random numbers of one step, all int64.

    Attributes:
        filing: per image, and per class present in ascending order (never ``IGNORE``), a permutation of range(n), n the
            class's positions in the image, or its first ``pixels_per_class`` numbers.
        pixel, region: (count,) positions in the queue of every class.
        channel_filing: (count,) rows of the teacher's (B C) channels.
        channel: (count,) positions in the channel queue.
    """

    filing: list[Tensor]
    pixel: Tensor
    region: Tensor
    channel_filing: Tensor
    channel: Tensor


class ClassQueues(nn.Module):
    """Pixel and region vectors of length 1 for every class; zeros until ``reset``.

    Attributes:
        pixel, region: (K, P, C) and (K, R, C).
        next: (2, K) int64, the position of the next pixel (row 0) and region (row 1) of each class; the last position
            is followed by the first.
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
        """Fill the queues with random unit vectors from the seed."""
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
        """Add the batch: per image and class the mean vector of its region and up to ``per_class`` of its pixels.

        Args:
            x_BnC: vectors of all positions of the teacher's map, row by row, of length 1.
            places: (image, class, its positions), as ``target.present`` lists them.
            filing: for every entry a permutation of range(n), or its beginning, n the entry's number of positions.
            per_class: how many numbers of the permutation are used.
            rule: 'fixed': the permutation picks among the class's positions; 'as_code': among all positions of the
                image (row by row) whatever their class, as in the authors' code.
        """
        picks = [permutation[:per_class] for permutation in filing]
        moved = sent_together([*(index for _, _, index in places), *picks], x_BnC.device)
        for (image, k, _), index, chosen in zip(places, moved[: len(places)], moved[len(places) :], strict=True):
            region = F.normalize(x_BnC[image, index].mean(0, keepdim=True), dim=1)
            write(self.region[k], self.next[1, k], region)
            write(self.pixel[k], self.next[0, k], x_BnC[image, index[chosen] if rule == "fixed" else chosen])

    def sampled(self, name: str, positions: Tensor) -> Tensor:
        """Vectors at ``positions`` (n,) of the ``pixel`` or ``region`` queue of every class, (K n, C)."""
        return getattr(self, name)[:, sent(positions, self.next.device)].flatten(0, 1)


class ChannelQueue(nn.Module):
    """Channel maps of length 1: ``ring`` (size, positions), empty (size, 0) until ``reset``; ``next``: position, ()."""

    ring: Tensor
    next: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("ring", torch.zeros(size, 0))
        self.register_buffer("next", torch.zeros((), dtype=torch.int64))

    def reset(self, seed: int, positions: int) -> None:
        """Fill the queue with random unit vectors from the seed, for maps of that many positions."""
        self.ring = unit_vectors(len(self.ring), positions, seed, "channel", 0).to(self.ring)
        self.next.zero_()

    @torch.no_grad()
    def enqueue(self, x_t_BCn: Tensor, rows: Tensor) -> None:
        """Add the channels of (B C) that ``rows`` names. Raises ValueError if the maps have another size."""
        if x_t_BCn.shape[-1] != self.ring.shape[-1]:
            raise ValueError(
                f"the channel queue holds maps of {self.ring.shape[-1]} positions (0: not prepared), the batch has "
                f"{x_t_BCn.shape[-1]}: train on records of one size, or leave it out with weights.channel_memory: 0"
            )
        write(self.ring, self.next, x_t_BCn.flatten(0, 1)[sent(rows, x_t_BCn.device)])

    def sampled(self, positions: Tensor) -> Tensor:
        """Maps at ``positions`` (m,), (m, n)."""
        return self.ring[sent(positions, self.ring.device)]

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *rest: Any) -> None:
        if (saved := state.get(prefix + "ring")) is not None:  # its width is known only from the data
            self.ring = self.ring.new_zeros(len(self.ring), saved.shape[-1])
        super()._load_from_state_dict(state, prefix, *rest)


def first_permuted(count: int, n: int, *key: int | str) -> Tensor:
    """First ``count`` numbers (all n, if fewer) of ``seeds.permutation(n, *key)``, without sorting the others."""
    words = seeds.words(n, *key)
    if count < n:
        low = np.flatnonzero(words <= np.partition(words, count)[count])  # ascending, so ties keep their order
        return torch.from_numpy(low[np.argsort(words[low], kind="stable")[:count]])
    return torch.from_numpy(np.argsort(words, kind="stable"))


def write(ring: Tensor, at: Tensor, rows: Tensor) -> None:
    """Write ``rows`` (at most as many as the ring has) from position ``at`` on, and advance ``at``; in place."""
    places = (at + torch.arange(len(rows), device=ring.device)) % len(ring)
    ring.index_copy_(0, places, rows.to(ring.dtype))
    at.add_(len(rows)).remainder_(len(ring))


def unit_vectors(count: int, length: int, seed: int, name: str, k: int) -> Tensor:
    """Random directions (count, length), float32: a function of the seed and the ring's name and class."""
    generator = torch.Generator().manual_seed(seeds.torch_seed(seed, "cirkd", name, k))
    return F.normalize(torch.randn(count, length, generator=generator), dim=1)
