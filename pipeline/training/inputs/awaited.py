"""What a run needs of the whole store before its first step, waited for only by the methods that read it."""

import logging
from collections.abc import Iterator, Mapping
from functools import cached_property

import torch
from torch import Tensor

from pipeline.cache.extraction.growing_store import GrowingStore
from pipeline.cache.joined import parts_of
from pipeline.cache.manifest.folds import training_units
from pipeline.cache.manifest.identity import digest
from pipeline.cache.manifest.records import Unit
from pipeline.cache.store import Store
from pipeline.training.config import TrainConfig

log = logging.getLogger(__name__)


def await_shards(store: Store, units: list[Unit], why: str) -> None:
    """Returns when all ``units`` are written; of a store that is being extracted, logs ``why`` if some are not yet."""
    if isinstance(store, GrowingStore) and (left := [u for u in units if not store.has_come(u.name)]):
        log.warning("training waits for %d of %d shards: %s", len(left), len(units), why)
    for unit in units:
        _ = store.receipts[unit.name]


def training_shards(store: Store, first: int = 0) -> list[Unit]:
    """Units of the store's (or its fold's) training records; those of the ``first``, 0: all."""
    return training_units(store.units, store.fold, store.folds, first)


class ChannelStatistics(Mapping[str, tuple[Tensor, Tensor]]):
    """Level -> (mean, std) of the teacher's channels, each (C,): counted when a method looks at them.

    Methods that do not look wait for no shard.

    Args:
        config: the run; its ``order`` says of which training records.
        store: an open store.
        device: of the tensors.
    """

    def __init__(self, config: TrainConfig, store: Store, device: torch.device) -> None:
        self.config, self.store, self.device = config, store, device

    @cached_property
    def _counted(self) -> dict[str, tuple[Tensor, Tensor]]:
        first = self.config.order.counted
        await_shards(
            self.store,
            training_shards(self.store, first),
            f"the method {self.config.method.kind} reads the teacher's mean and standard deviation over them before "
            "its first step" + ("" if first else "; order.statistics=first takes those of the first shards"),
        )
        found = self.store.statistics(first)
        return {level: (m.to(self.device), s.to(self.device)) for level, (m, s) in found.items()}

    def __getitem__(self, level: str) -> tuple[Tensor, Tensor]:
        return self._counted[level]

    def __iter__(self) -> Iterator[str]:
        return iter(self.store.channels)

    def __len__(self) -> int:
        return len(self.store.channels)

    def source(self) -> dict[str, str]:
        """Digest of the records counted, where they are not all: of another layout of shards they are others."""
        counted = self.config.order.counted
        units = [unit.digest() for store in parts_of(self.store) for unit in training_shards(store, counted)]
        return {"statistics": digest(units)} if counted else {}
