"""Order of the training records and their division into batches, as a function of (seed, epoch) alone.

With a window the first epoch follows the order of the store (its plan), so that training can begin while the store is
extracted: each record is moved back by less than a window, so a batch needs no record that lies far behind it.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from pipeline.cache.manifest.records import Record
from sward import seeds
from sward.distributed.collectives import BatchSlice


@dataclass(frozen=True)
class Order:
    """Divides shuffled records into batches, by arithmetic on (seed, epoch).

    Each of ``world`` processes takes a contiguous slice of every batch; in rank order the slices make up the batch.

    Attributes:
        records: training records in store order.
        batch_size: largest number of records per batch, over all processes.
        seed: the run's seed.
        per_epoch: all records, or one view per image.
        world: number of processes.
        rank: this process's rank.
        window: records of the store over which the first epoch is mixed; 0: over all, as every other epoch.
    """

    records: tuple[Record, ...]
    batch_size: int
    seed: int
    per_epoch: Literal["all", "one"] = "all"
    world: int = 1
    rank: int = 0
    window: int = 0

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
        """Returns this process's slices of an epoch's batches; over all processes every chosen record occurs once."""
        chosen = list(self.records) if self.per_epoch == "all" else self._one_view_each(epoch)
        shuffled = self._within_window(chosen) if self.window and epoch == 0 else self._shuffled(chosen, epoch)
        batches = np.array_split(np.arange(len(shuffled)), self.steps_per_epoch)
        return [[shuffled[i] for i in batch[BatchSlice(len(batch), self.rank, self.world).rows]] for batch in batches]

    def _shuffled(self, chosen: list[Record], epoch: int) -> list[Record]:
        return [chosen[i] for i in seeds.permutation(len(chosen), "order", self.seed, epoch)]

    def _within_window(self, chosen: list[Record]) -> list[Record]:
        """The first epoch's records by position in the store, plus a draw of up to ``window``."""
        places = {id(record): place for place, record in enumerate(self.records)}
        moved = self.window * seeds.uniforms(len(chosen), "order", self.seed, 0)
        keys = np.array([places[id(record)] for record in chosen]) + moved
        return [chosen[i] for i in np.argsort(keys, kind="stable")]

    def _one_view_each(self, epoch: int) -> list[Record]:
        """Chooses one view per image: the next one in each epoch, from a start that differs between images."""
        views: dict[str, list[Record]] = {}
        for record in self.records:
            views.setdefault(record.digest, []).append(record)
        return [v[(epoch + seeds.key("start", self.seed, digest)) % len(v)] for digest, v in views.items()]
