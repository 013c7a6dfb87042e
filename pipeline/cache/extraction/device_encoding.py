"""Encodes the teacher's features on its device, and copies the bytes to the host while the next batch is computed.

On a GPU statistics and codec run where the features are, and the copy, from the device to pinned memory, has a CUDA
stream of its own; the teacher's thread waits for neither. On a CPU the threads encode with NumPy instead
(`unit_writer.py`); the bytes are the same, and the sums in a receipt differ in the last digits only.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from pipeline.cache.extraction.statistics import Statistics
from pipeline.cache.format.batch_codecs import encode_batch, require_in_range
from pipeline.cache.format.codecs import Codec
from pipeline.types import Arrays

Tensors = dict[str, Tensor]


class DeviceEncoder:
    """Encodes batches of features on one device.

    Attributes:
        codec: of the store.
        stream: CUDA stream of the copies to the host; None on a CPU.
    """

    def __init__(self, codec: Codec, device: torch.device) -> None:
        self.codec = codec
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __call__(self, features: Mapping[str, Tensor]) -> "EncodedBatch":
        """Starts to encode and copy level -> (B, C, h, w) float32; returns without waiting for the device."""
        arrays = {level: encode_batch(self.codec, level, f) for level, f in features.items()}
        numbers = {level: batch_statistics(f) for level, f in features.items()}
        named = {f"array {name}": t for level in arrays.values() for name, t in level.items()}
        named |= {f"{level} {name}": t for level, found in numbers.items() for name, t in found.items()}
        counts = {level: f.shape[2] * f.shape[3] for level, f in features.items()}
        return EncodedBatch(self.codec, counts, *to_host(named, self.stream))


class EncodedBatch:
    """A batch on its way to the host.

    Args:
        codec: of the store.
        counts: level -> positions of its map.
        host: tensors in host memory, complete after ``event``.
        event: of the copy; None if there was none.
    """

    def __init__(self, codec: Codec, counts: dict[str, int], host: Tensors, event: torch.cuda.Event | None) -> None:
        self.codec, self.counts, self.host, self.event = codec, counts, host, event

    def wait(self) -> None:
        """Returns once the batch has arrived."""
        if self.event is not None:
            self.event.synchronize()

    def arrays(self, i: int) -> Arrays:
        """Arrays of the batch's record ``i``, as stored.

        Raises:
            StorageOverflow: a value does not fit the storage type.
        """
        self.wait()
        found = {n.removeprefix("array "): t[i].numpy() for n, t in self.host.items() if n.startswith("array ")}
        for level in self.counts:
            low, high = (float(self.host[f"{level} {name}"][i]) for name in ("min", "max"))
            require_in_range(self.codec, level, found, max(high, -low))
        return found

    def statistics(self, i: int) -> dict[str, Statistics]:
        """Statistics of record ``i`` by level, as `statistics.statistics` gives them."""
        self.wait()
        return {level: self._level_statistics(level, i) for level in self.counts}

    def _level_statistics(self, level: str, i: int) -> Statistics:
        limits = {name: float(self.host[f"{level} {name}"][i]) for name in ("min", "max")}
        sums = {name: self.host[f"{level} {name}"][i].numpy() for name in ("sum", "sum_squares")}
        return {"count": self.counts[level]} | limits | sums


def batch_statistics(f_BCHW: Tensor) -> Tensors:
    """Per record: "min" and "max" (B,), "sum" and "sum_squares" (B, C) float64."""
    wide = f_BCHW.flatten(2).double()
    return {
        "min": f_BCHW.flatten(1).amin(1),
        "max": f_BCHW.flatten(1).amax(1),
        "sum": wide.sum(2),
        "sum_squares": wide.square_().sum(2),
    }


def to_host(tensors: Tensors, stream: torch.cuda.Stream | None) -> tuple[Tensors, torch.cuda.Event | None]:
    """Starts to copy tensors to pinned memory on ``stream``, after all work queued so far; on a CPU it does nothing."""
    if stream is None:
        return tensors, None
    host = {name: torch.empty(t.shape, dtype=t.dtype, pin_memory=True) for name, t in tensors.items()}
    stream.wait_stream(torch.cuda.current_stream(stream.device))
    with torch.cuda.stream(stream):
        for name, t in tensors.items():
            host[name].copy_(t, non_blocking=True)
            t.record_stream(stream)  # else its memory may be reused before it is copied
        return host, stream.record_event()
