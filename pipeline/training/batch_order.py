"""Order of the training records: which of them make up which batch, as a function of (seed, epoch) alone."""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from pipeline.cache.manifest.records import Record
from sward import seeds
from sward.distributed.collectives import BatchSlice


@dataclass(frozen=True)
class Order:
    """Which records make up which batch: pure arithmetic on (seed, epoch).

    Of ``world`` processes each takes its contiguous slice of every batch; together, in order, they are the batch.
    """

    records: tuple[Record, ...]
    batch_size: int
    seed: int
    per_epoch: Literal["all", "one"] = "all"
    world: int = 1
    rank: int = 0

    @property
    def steps_per_epoch(self) -> int:
        """Batches equal to within one record, of at most ``batch_size`` (or one more, where one would be alone:
        batch normalisation of pooled features needs two)."""
        count = -(-self.epoch_size // self.batch_size)
        alone = self.batch_size > 1 and count > 1 and self.epoch_size // count == 1
        return count - 1 if alone else count

    @cached_property
    def epoch_size(self) -> int:
        """Records of one epoch, over all ranks."""
        return len(self.records) if self.per_epoch == "all" else len({r.digest for r in self.records})

    def size(self, step: int) -> int:
        """Records of a step's batch, over all ranks."""
        small, larger = divmod(self.epoch_size, self.steps_per_epoch)
        return small + (step % self.steps_per_epoch < larger)

    def epoch(self, epoch: int) -> list[list[Record]]:
        """This rank's batches of an epoch; over all ranks every chosen record comes once."""
        chosen = list(self.records) if self.per_epoch == "all" else self._one_view_each(epoch)
        shuffled = [chosen[i] for i in seeds.permutation(len(chosen), "order", self.seed, epoch)]
        batches = np.array_split(np.arange(len(shuffled)), self.steps_per_epoch)
        return [[shuffled[i] for i in batch[BatchSlice(len(batch), self.rank, self.world).rows]] for batch in batches]

    def _one_view_each(self, epoch: int) -> list[Record]:
        """One view per image; every image goes round its views from a start of its own."""
        views: dict[str, list[Record]] = {}
        for record in self.records:
            views.setdefault(record.digest, []).append(record)
        return [v[(epoch + seeds.key("start", self.seed, digest)) % len(v)] for digest, v in views.items()]
