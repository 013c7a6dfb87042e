"""What an archive saves: bytes of each array and CPU seconds, beside plain storage and `compression: zstd`.

    python tests/benchmarks/archive.py [--store STORE] [--codec int8] [--records 8] [--json OUT]

Levels and images of evenly spaced training records of a store, encoded anew with the codec. Without a store: levels of
the procedural set's frames through the pocket teacher would not be representative, so pseudo-random features of Hiera-T
at 256 px stand in, correlated in space, and the output says so. Seconds are of this process alone
(`time.process_time`), so that other work on the machine counts little. What comes back is compared bit for bit.
"""

import argparse
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from synthetic import CHANNELS

from pipeline.cache.format.codecs import CODECS
from pipeline.cache.format.compression import pack, unpack
from pipeline.cache.store import Store
from pipeline.files import write_json
from sward.seeds import torch_seed

WAYS = ("zstd", "archive")


def from_store(path: Path, codec: str, count: int) -> Iterator[dict[str, np.ndarray]]:
    """Stored arrays of each record."""
    store = Store(path, partial=True)
    records = store.records["train"]
    for i in np.linspace(0, len(records) - 1, count).astype(int):
        arrays = store.arrays(records[i], ["image"])
        for level, features in store.features(records[i]).items():
            arrays |= CODECS[codec].encode(level, features.numpy())
        yield arrays


def synthetic(codec: str, count: int) -> Iterator[dict[str, np.ndarray]]:
    generator = torch.Generator().manual_seed(torch_seed("archive"))
    for _ in range(count):
        arrays: dict[str, np.ndarray] = {}
        for level, channels in CHANNELS.items():
            side = 256 // int(level[1:])
            coarse = torch.randn(1, channels, side // 4, side // 4, generator=generator)
            fine = torch.randn(channels, side, side, generator=generator)
            smooth = F.interpolate(coarse, (side, side), mode="bilinear")[0]
            arrays |= CODECS[codec].encode(level, (smooth + 0.3 * fine).numpy())
        yield arrays


def measure(chunk: np.ndarray, way: str) -> tuple[int, float, float]:
    """Bytes of a packed chunk, and seconds to pack and to unpack it."""
    began = time.process_time()
    data = pack(chunk, way)
    packed, out = time.process_time(), np.empty_like(chunk)
    if not unpack(data, out) or not np.array_equal(out, chunk):
        raise SystemExit(f"{way} does not give back what it was given")
    return len(data), packed - began, time.process_time() - packed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path)
    parser.add_argument("--codec", default="int8", choices=list(CODECS))
    parser.add_argument("--records", type=int, default=8)
    parser.add_argument("--json", type=Path, help="write the figures there")
    args = parser.parse_args()
    found = from_store(args.store, args.codec, args.records) if args.store else synthetic(args.codec, args.records)
    plain: dict[str, int] = {}
    sums: dict[str, dict[str, np.ndarray]] = {way: {} for way in WAYS}
    for arrays in found:
        for name, array in arrays.items():
            kind = name if name == "image" else name.split("_")[0]
            plain[kind] = plain.get(kind, 0) + array.nbytes
            for way in WAYS:
                sums[way][kind] = sums[way].get(kind, np.zeros(3)) + measure(array, way)
    levels = [kind for kind in plain if kind != "image"]
    rows: dict[str, Any] = {}
    for kind, members in {**{k: [k] for k in plain}, "all levels": levels}.items():
        size = sum(plain[k] for k in members)
        rows[kind] = {"bytes_per_record": size // args.records}
        for way in WAYS:
            packed, to, back = sum(sums[way][k] for k in members)
            speed = {"pack_mb_s": size / to / 1e6, "unpack_mb_s": size / back / 1e6}
            rows[kind][way] = {"of_plain": packed / size, **speed}
    source = str(args.store.name) if args.store else "pseudo-random features"
    print(f"{args.codec}, {args.records} records of {source}; bytes over plain, MB of plain per CPU second")
    for kind, row in rows.items():
        text = "   ".join(
            "{}: {of_plain:.3f}, pack {pack_mb_s:5.0f}, unpack {unpack_mb_s:5.0f}".format(way, **row[way])
            for way in WAYS
        )
        print(f"{kind:10} {row['bytes_per_record'] / 1e6:7.3f} MB   {text}")
    if args.json:
        write_json(args.json, {"codec": args.codec, "source": source, "cores": os.cpu_count(), "rows": rows})


if __name__ == "__main__":
    main()
