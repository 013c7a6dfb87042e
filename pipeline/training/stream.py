"""Reads training batches from the store to the training device, in an order that is a function of (seed, epoch).

Threads read whole records straight into batch buffers (pinned for a GPU) while the previous step computes. There are
no worker processes: copying through shared memory costs 4-5 times as much. Features are copied in stored precision and
decoded on the device. The step number alone determines the position, so resuming within an epoch is arithmetic.
"""

from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from pipeline.augmented_views import ViewsConfig, adjust_colours, photometric_factors
from pipeline.cache.manifest.records import Record
from pipeline.cache.store import Store
from pipeline.training.batch_order import Order
from pipeline.training.device.copies import Copies, Sent
from pipeline.training.profiling.parts import part
from pipeline.types import Arrays
from sward.contracts import HEAD_TENSORS, IGNORE, Batch, Student
from sward.pixels import normaliser

AHEAD = 2  # prefetch distance in records, at least: how early the disk is asked for a record
Loaded = tuple[list[Record], dict[str, Tensor]]  # the records of a batch, and their arrays in host memory
Load = Callable[[Any, ThreadPoolExecutor | None], Loaded]  # reads one batch


class Stream:
    """Iterates over batches of a store's training records, from any step on.

    Args:
        store: an open store.
        order: order of the records and their division into batches.
        tensors: names of the teacher tensors in a batch (levels, head tensors); empty: images and labels only.
        device: device that decodes and receives the batches.
        workers: reading threads; 0 reads in the calling thread. The result is the same.
        prefetch: batches read ahead. They take (prefetch + 2) × batch of host memory, and of GPU memory too, because
            they are also copied ahead.
        head: frozen teacher head that computes the head tensors from the levels; None reads them from the store.
        teacher: computes the levels from the stored views, before stage-2 colours; None reads them from the store.
        unlabelled: order of further records, of which every step gets a batch too; None: there are none.
        hidden: digests of the samples whose labels are not shown; in a batch they come last.

    Attributes:
        ahead: prefetch distance in records.
        made: names of the tensors that ``head`` computes.
        levels: names of the tensors that are read from the store.
        subset: subset of the records.
        specs: array name -> (shape, dtype) of one record, of the arrays that are read.
        views: the store's view settings.
        normalise: maps images uint8 (B, 3, H, W) to normalised float32.
    """

    def __init__(
        self,
        store: Store,
        order: Order,
        tensors: tuple[str, ...],
        device: torch.device,
        workers: int = 2,
        prefetch: int = 2,
        head: Student | None = None,
        teacher: Callable[[Tensor], dict[str, Tensor]] | None = None,
        unlabelled: Order | None = None,
        hidden: Collection[str] = (),
    ) -> None:
        self.store, self.order, self.tensors, self.device = store, order, tensors, device
        self.workers, self.prefetch, self.head, self.teacher = workers, prefetch, head, teacher
        self.ahead = max(AHEAD, workers)  # records in a reading thread are past prefetching
        self.made = tuple(name for name in tensors if head is not None and name in HEAD_TENSORS)
        needed = tuple(store.channels) if self.made else tensors
        self.levels = tuple(name for name in needed if teacher is None or name not in store.channels)
        self.subset = order.records[0].subset
        specs = store.specs(self.subset)
        names = ["image", "label", *(n for level in self.levels for n in store.level_arrays(level))]
        self.specs = {name: specs[name] for name in names}
        self.views = ViewsConfig.model_validate(
            {
                k.removeprefix("views."): v
                for k, v in store.identity.items()
                if k.startswith("views.") and k != "views.generator"
            }
        )
        self.normalise = normaliser(*store.normalisation, device)
        self._copies = Copies(device)
        self.unlabelled, self.hidden = unlabelled, frozenset(hidden)
        self._epochs: dict[bool, tuple[int, list[list[Record]]]] = {}  # of the unlabelled records or not

    def batches(self, first: int, last: int) -> Iterator[Batch]:
        """Yields the batches of steps ``first`` to ``last`` - 1; shard files stay open meanwhile."""
        with self.store.kept_open():
            yield from self._loaded(range(first, last), self.load)

    def stored_batches(self, batches: Sequence[list[Record]]) -> Iterator[Batch]:
        """Yields a batch for each list of records, as stored, read ahead like the batches of training."""
        with self.store.kept_open():
            yield from self._loaded(batches, self._as_stored)

    def _loaded(self, steps: Sequence[Any], load: Load) -> Iterator[Batch]:
        return self._here(steps, load) if self.workers == 0 else self._threaded(steps, load)

    def _here(self, steps: Sequence[Any], load: Load) -> Iterator[Batch]:
        for step in steps:
            with part("data wait"):
                loaded = load(step, None)
            yield self.to_device(loaded)

    def _threaded(self, steps: Sequence[Any], load: Load) -> Iterator[Batch]:
        with ThreadPoolExecutor(self.workers) as readers, ThreadPoolExecutor(1) as batcher:
            ahead: deque[Future] = deque()
            try:
                for step in steps:
                    ahead.append(batcher.submit(self._ahead, step, load, readers))
                    if len(ahead) > self.prefetch:
                        yield self._next(ahead)
                while ahead:
                    yield self._next(ahead)
            finally:
                for future in ahead:
                    future.cancel()

    def _ahead(self, step: Any, load: Load, readers: ThreadPoolExecutor) -> tuple[list[Record], Sent]:
        records, host = load(step, readers)
        return records, self._copies.send(host)

    def _next(self, ahead: deque[Future]) -> Batch:
        with part("data wait"):
            records, sent = ahead.popleft().result()
        return self.to_device((records, self._copies.receive(sent)))

    def calibration_batch(self, count: int) -> Batch:
        """Returns the first ``count`` records in store order, for calibration: no shuffling, no stage-2 colours."""
        return self.batch_of(list(self.order.records[:count]))

    def batch_of(self, records: list[Record]) -> Batch:
        """Returns a batch of the given records, as stored (no stage-2 colours)."""
        return self.to_device(self._as_stored(records, None))

    def _as_stored(self, records: list[Record], readers: ThreadPoolExecutor | None) -> Loaded:
        return records, self._read(records, readers, records[self.ahead :])

    def load(self, step: int, readers: ThreadPoolExecutor | None) -> Loaded:
        """Reads the records of a step into host memory: arrays as stored, images with stage-2 colours if configured."""
        records: list[Record] = []
        known: list[Record] = []
        epochs: list[int] = []
        for order in (self.order, self.unlabelled) if self.unlabelled else (self.order,):
            epoch, batches = self._coming(order, step)
            records += batches[0]
            known += chain(*batches[1:])
            epochs += [epoch] * len(batches[0])
        tensors = self._read(records, readers, [*records, *known][self.ahead :])
        if self.views.photometric == "student":
            if self.teacher:
                tensors["seen by the teacher"] = tensors["image"].clone()
            self._recolour(records, tensors["image"], epochs)
        return records, tensors

    def _coming(self, order: Order, step: int) -> tuple[int, list[list[Record]]]:
        """Epoch of a step in ``order``, and the batches of that step and of those that are prefetched with it."""
        epoch, position = divmod(step, order.steps_per_epoch)
        which = order is self.unlabelled
        if self._epochs.get(which, (-1,))[0] != epoch:
            self._epochs[which] = epoch, order.epoch(epoch)
        return epoch, self._epochs[which][1][position : position + 1 + self.ahead]

    def _read(self, records: list[Record], readers: ThreadPoolExecutor | None, soon: list[Record]) -> dict[str, Tensor]:
        """Reads the records' arrays; with record i it prefetches ``soon[i]``, which will be read later."""
        pin = self.device.type == "cuda"
        tensors = {
            name: torch.empty((len(records), *shape), dtype=getattr(torch, dtype), pin_memory=pin)
            for name, (shape, dtype) in self.specs.items()
        }
        arrays = {name: t.numpy() for name, t in tensors.items()}
        rows = [{name: a[i] for name, a in arrays.items()} for i in range(len(records))]

        def read(record: Record, row: Arrays, later: Record | None) -> None:
            if later:
                self.store.prefetch(later, row)
            self.store.read(record, row)
            self.store.first_reads.check(record, row)

        list((readers.map if readers else map)(read, records, rows, [*soon, *[None] * len(records)]))
        return tensors

    def _recolour(self, records: list[Record], images: Tensor, epochs: list[int]) -> None:
        for record, image, epoch in zip(records, images.numpy(), epochs, strict=True):
            factors = photometric_factors(self.views, record.digest, record.view.number, self.order.seed, epoch)
            image[:] = adjust_colours(image.transpose(1, 2, 0), *factors).transpose(2, 0, 1)

    @part("to device, decoding")
    def to_device(self, loaded: Loaded) -> Batch:
        """Makes a batch of the result of ``load``: copies it to the device and decodes it.

        Levels and head tensors are computed instead of decoded if ``teacher`` or ``head`` was given.
        """
        records, host = loaded
        parts = {name: t.to(self.device, non_blocking=True) for name, t in host.items()}
        read = {name: self.store.decode(name, parts, self.subset) for name in self.levels}
        if self.teacher:
            read |= self.teacher(self.normalise(parts.get("seen by the teacher", parts["image"])))
        if self.made:
            read |= self._head_tensors(read)
        features = {name: read[name] for name in self.tensors}
        images = self.normalise(parts["image"])
        labels, shown = parts["label"].long(), sum(r.digest not in self.hidden for r in records)
        if shown == len(records):
            return Batch(images, labels, features, [r.name for r in records], self.order.seed)
        labels[shown:] = IGNORE
        return Batch(images, labels, features, [r.name for r in records], self.order.seed, shown)

    @torch.no_grad()
    def _head_tensors(self, levels: dict[str, Tensor]) -> dict[str, Tensor]:
        output = self.head(levels)  # type: ignore[misc]  # without a head, made is empty
        return {name: output.tensor(name).float() for name in self.made}
