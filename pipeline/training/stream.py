"""Features from the store to the training device, in an order that is a function of (seed, epoch).

Threads read whole records straight into (pinned) batch buffers while the previous step computes; no worker
processes (copying through shared memory costs 4-5×). Features travel in stored precision and are decoded on
the device. The position is the step number alone, so resuming mid-epoch is arithmetic.
"""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from pipeline.cache.records import Record
from pipeline.cache.store import Store
from pipeline.views import ViewsConfig, adjust_colours, normaliser, photometric_factors
from sward import seeds
from sward.contracts import Batch


@dataclass(frozen=True)
class Order:
    """Which records make up which batch: pure arithmetic on (seed, epoch)."""

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
        count = -(-self._epoch_size // self.batch_size)
        alone = self.batch_size > 1 and count > 1 and self._epoch_size // count == 1
        return count - 1 if alone else count

    @property
    def _epoch_size(self) -> int:
        return len(self.records) if self.per_epoch == "all" else len({r.digest for r in self.records})

    def epoch(self, epoch: int) -> list[list[Record]]:
        """This rank's batches of an epoch; over all ranks every chosen record comes once."""
        chosen = list(self.records) if self.per_epoch == "all" else self._one_view_each(epoch)
        shuffled = [chosen[i] for i in seeds.permutation(len(chosen), "order", self.seed, epoch)]
        batches = np.array_split(np.arange(len(shuffled)), self.steps_per_epoch)
        return [[shuffled[i] for i in batch[self.rank :: self.world]] for batch in batches]

    def _one_view_each(self, epoch: int) -> list[Record]:
        """One view per image; every image goes round its views from a start of its own."""
        views: dict[str, list[Record]] = {}
        for record in self.records:
            views.setdefault(record.digest, []).append(record)
        return [v[(epoch + seeds.key("start", self.seed, digest)) % len(v)] for digest, v in views.items()]


class Stream:
    """Batches of a store's training records, from any step on.

    Args:
        store: an open store.
        order: which records, in which batches.
        levels: teacher levels to read; empty reads images and labels only.
        device: where batches are decoded.
        workers: reading threads; 0 reads in the calling thread. The result is the same.
        prefetch: batches read ahead; memory is (prefetch + 2) × batch.
    """

    def __init__(
        self,
        store: Store,
        order: Order,
        levels: tuple[str, ...],
        device: torch.device,
        workers: int = 2,
        prefetch: int = 2,
    ) -> None:
        self.store, self.order, self.levels, self.device = store, order, levels, device
        self.workers, self.prefetch = workers, prefetch
        self.subset = order.records[0].subset
        specs = store.specs(self.subset)
        names = ["image", "label", *(n for level in levels for n in store.level_arrays(level))]
        self.specs = {name: specs[name] for name in names}
        self.views = ViewsConfig.model_validate(
            {
                k.removeprefix("views."): v
                for k, v in store.identity.items()
                if k.startswith("views.") and k != "views.generator"
            }
        )
        self.normalise = normaliser(*store.normalisation, device)
        self._epoch: tuple[int, list[list[Record]]] = (-1, [])

    def batches(self, first: int, last: int) -> Iterator[Batch]:
        """The batches of steps first … last - 1."""
        steps = iter(range(first, last))
        if self.workers == 0:
            for step in steps:
                yield self._to_device(self._load(step, None))
            return
        with ThreadPoolExecutor(self.workers) as readers, ThreadPoolExecutor(1) as batcher:
            ahead: deque[Future] = deque()
            try:
                for step in steps:
                    ahead.append(batcher.submit(self._load, step, readers))
                    if len(ahead) > self.prefetch:
                        yield self._to_device(ahead.popleft().result())
                while ahead:
                    yield self._to_device(ahead.popleft().result())
            finally:
                for future in ahead:
                    future.cancel()

    def fixed(self, count: int) -> Batch:
        """The first ``count`` records in store order, for calibration: no shuffling, no stage-2 colours."""
        return self.of(list(self.order.records[:count]))

    def of(self, records: list[Record]) -> Batch:
        """A batch of just these records, as stored."""
        return self._to_device(self._read(records, None))

    def _load(self, step: int, readers: ThreadPoolExecutor | None) -> tuple[list[Record], dict[str, Tensor]]:
        epoch, position = divmod(step, self.order.steps_per_epoch)
        if self._epoch[0] != epoch:
            self._epoch = epoch, self.order.epoch(epoch)
        records, tensors = self._read(self._epoch[1][position], readers)
        if self.views.photometric == "student":
            self._recolour(records, tensors["image"], epoch)
        return records, tensors

    def _read(
        self, records: list[Record], readers: ThreadPoolExecutor | None
    ) -> tuple[list[Record], dict[str, Tensor]]:
        pin = self.device.type == "cuda"
        tensors = {
            name: torch.empty((len(records), *shape), dtype=getattr(torch, dtype), pin_memory=pin)
            for name, (shape, dtype) in self.specs.items()
        }
        arrays = {name: t.numpy() for name, t in tensors.items()}
        rows = [{name: a[i] for name, a in arrays.items()} for i in range(len(records))]
        list((readers.map if readers else map)(self.store.read, records, rows))
        return records, tensors

    def _recolour(self, records: list[Record], images: Tensor, epoch: int) -> None:
        for record, image in zip(records, images.numpy(), strict=True):
            factors = photometric_factors(self.views, record.digest, record.view.number, self.order.seed, epoch)
            image[:] = adjust_colours(image.transpose(1, 2, 0), *factors).transpose(2, 0, 1)

    def _to_device(self, loaded: tuple[list[Record], dict[str, Tensor]]) -> Batch:
        records, host = loaded
        parts = {name: t.to(self.device, non_blocking=True) for name, t in host.items()}
        features = {level: self.store.codec.decode(level, parts) for level in self.levels}
        images = self.normalise(parts["image"])
        return Batch(images, parts["label"].long(), features, [r.name for r in records], self.order.seed)
