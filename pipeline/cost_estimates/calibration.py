"""Measures teacher, disk (cold and warm) and decoding speed of this machine in a few seconds."""

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.cache.extraction.device_encoding import DeviceEncoder
from pipeline.cache.format.codecs import CODECS, ArraySpecs, Codec, array_bytes
from pipeline.cache.storage.disk_ranges import File, Span, read_spans
from pipeline.cost_estimates.scratch import scratch_folder
from pipeline.devices import resolve_device, wait_for
from sward import seeds

MOST_BYTES, LEAST_BYTES = 256 << 20, 8 << 20  # limits of the size of the file that is written and read
RECORDS = 24  # records read per pass
ROUNDS = 3  # timed passes, each once cold and once warm
Pieces = list[int]  # bytes of each array of a record


@dataclass(frozen=True)
class Reading:
    """Seconds per record to read and decode it.

    Attributes:
        cold: read from the disk, by all reading threads together.
        warm: read from the page cache, by all reading threads together.
        decode: decoded on the training device.
    """

    cold: float
    warm: float
    decode: float

    @property
    def total(self) -> float:
        """Seconds per record, read warm and decoded."""
        return self.warm + self.decode


@dataclass(frozen=True)
class Disk:
    """Measured speed of the store's disk.

    Attributes:
        reads: codec -> (cold, warm) seconds per record.
        write: seconds per byte written and synced.
    """

    reads: dict[str, tuple[float, float]]
    write: float


def measure_disk(folder: Path, records: dict[str, Pieces], workers: int) -> Disk:
    """Write one file of pseudo-random bytes under ``folder``, read records of every codec from it, remove it.

    Args:
        folder: a folder on the store's disk.
        records: codec -> bytes of each array of a record, each of which is one read.
        workers: number of reading threads.

    Raises:
        NotWritable: ``folder`` cannot be written, or its disk is full.
    """
    largest = max(sum(pieces) for pieces in records.values())
    part = -(-largest // MOST_BYTES)  # of a record larger than the file, one part in so many is read
    parts = {codec: [-(-n // part) for n in pieces] for codec, pieces in records.items()}
    size = max(min(RECORDS * largest, MOST_BYTES), LEAST_BYTES, *map(sum, parts.values()))
    with scratch_folder(folder, size) as place:
        file = place / "calibration"
        write = write_file(file, size)
        with ThreadPoolExecutor(max(1, workers)) as pool:
            timed = {codec: time_reads(file, size, pieces, pool) for codec, pieces in parts.items()}
    return Disk({codec: (cold * part, warm * part) for codec, (cold, warm) in timed.items()}, write)


def write_file(path: Path, size: int) -> float:
    """Write and sync a file of ``size`` bytes; return the seconds per byte."""
    block = seeds.words(1 << 17, "calibration").tobytes()
    began = time.perf_counter()
    with path.open("wb") as file:
        for start in range(0, size, len(block)):
            file.write(block[: size - start])
        file.flush()
        os.fsync(file.fileno())
    return (time.perf_counter() - began) / size


def time_reads(file: Path, size: int, pieces: Pieces, pool: ThreadPoolExecutor) -> tuple[float, float]:
    """Median seconds per record, read as a store reads it: (cold, warm).

    Cold: after the file was dropped from the page cache. Warm: read again directly after that.
    """
    length = sum(pieces)
    count = max(1, min(RECORDS, size // length))
    starts = [int(i) * length for i in seeds.permutation(size // length, "calibration", length)[:count]]
    buffers, opened = [np.ones(length, np.uint8) for _ in starts], File(file)

    def read(start: int, buffer: np.ndarray) -> None:
        offsets = accumulate(pieces[:-1], initial=0)
        read_spans([Span(opened, start + at, buffer.data[at : at + n]) for at, n in zip(offsets, pieces, strict=True)])

    def whole_pass() -> float:
        began = time.perf_counter()
        list(pool.map(read, starts, buffers))
        return (time.perf_counter() - began) / count

    whole_pass()
    cold, warm = [], []
    for _ in range(ROUNDS):
        forget(file)
        cold.append(whole_pass())
        warm.append(whole_pass())
    return float(np.median(cold)), float(np.median(warm))


def forget(file: Path) -> None:
    """Drop the file from the page cache; on a system that cannot, cold reads are measured warm."""
    with suppress(OSError, AttributeError), file.open("rb") as handle:
        os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measure_decoding(codec: str, shapes: dict[str, tuple[int, int, int]], device: str) -> float:
    """Seconds to decode one record's levels on the training device; ``shapes``: level -> (C, H, W)."""
    where = resolve_device(device)
    coded = [(level, shape, random_parts(CODECS[codec].arrays(level, shape), where)) for level, shape in shapes.items()]

    def decode() -> None:
        for level, (_, height, width), parts in coded:
            CODECS[codec].decode(level, parts, (height, width))
        wait_for(where)

    return median_seconds(decode) if coded else 0.0


def random_parts(arrays: ArraySpecs, device: torch.device) -> dict[str, torch.Tensor]:
    """Stored arrays of one record, as a batch of one, filled with random bits.

    Decoding time does not depend on the values; NaN and infinities of floating-point arrays are replaced.
    """
    made = {}
    for name, (shape, dtype) in arrays.items():
        size = array_bytes(shape, dtype)
        words = seeds.words(-(-size // 8), "decode", name)
        whole = words.view(np.uint8)[:size].view(dtype).reshape(shape)
        finite = np.nan_to_num(whole) if np.dtype(dtype).kind == "f" else whole
        made[name] = torch.from_numpy(finite.copy())[None].to(device)
    return made


def measure_teacher(
    teacher: Any, size: tuple[int, int], batch_size: int, device: str, codec: Codec | None = None
) -> float:
    """Seconds per view in the teacher, in batches as in an extraction.

    With ``codec``, on a GPU, until the encoded features are in host memory, as an extraction encodes them there.
    """
    where = resolve_device(device)
    images, teacher = torch.zeros(batch_size, 3, *size, device=where), teacher.to(where)
    encode = encoder_on(where, codec) if codec else None

    def batch() -> None:
        features = teacher(images)
        if encode:
            encode(features).wait()
        wait_for(where)

    return median_seconds(batch) / batch_size


def encoder_on(device: torch.device, codec: Codec) -> DeviceEncoder | None:
    """What encodes an extraction's features on their device; None on a CPU, where threads do."""
    return DeviceEncoder(codec, device) if device.type == "cuda" else None


def median_seconds(call: Callable[[], Any], repeats: int = 5, budget: float = 2.0, threads: int = 1) -> float:
    """Median wall-clock seconds of a call.

    Args:
        call: the function to time; one more call before the timed ones warms up.
        repeats: timed calls at most.
        budget: seconds of timed calls after which no further one is made.
        threads: threads that make each call at the same time; a core among busy ones is slower than one alone.
    """
    times: list[float] = []
    with ThreadPoolExecutor(max(1, threads - 1)) as pool:
        while len(times) <= repeats and sum(times[1:]) < budget:
            began = time.perf_counter()
            others = [pool.submit(call) for _ in range(threads - 1)]
            call()
            for other in others:
                other.result()
            times.append(time.perf_counter() - began)
    return float(np.median(times[1:]))
