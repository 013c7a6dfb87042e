"""Each codec's card: what it costs in bytes, error and time.

    python tests/benchmarks/codecs.py [--store STORE] [--records 8] [--repetitions 7] [--device cpu] [--json OUT]

Features are those of evenly spaced training records of a store (default: CVC-ClinicDB's, of SAM 2 Hiera-T at 256 px).
Where the store's teacher weights are at hand, it makes them anew from the stored images, in single precision, so that
the store's own codec can be judged too; else the stored values count as exact, and the table says so. Without a
store: pseudo-random normal features of Hiera-T at 256 px, correlated in space.

    bytes     a value, over all levels, scales and offsets among them; and over fp16's
    error     |decoded - exact| / |exact - mean of its channel|, root mean square, by level
    KL        from the attention of the exact features to that of the decoded ones, in nats, mean over queries, worst
              level: 8×8 windows, features standardised by channel, random orthogonal Q and K with gain 1 (and 2.5)
    ms        to encode one record and to decode it (a batch of one), all levels
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from synthetic import CHANNELS
from torch import Tensor

from pipeline.cache.config import CacheConfig
from pipeline.cache.errors import CacheMismatch
from pipeline.cache.format.codecs import CODECS, Codec
from pipeline.cache.manifest.records import Record
from pipeline.cache.store import Store
from pipeline.devices import wait_for
from pipeline.files import write_json
from pipeline.training.teacher.online import OnlineTeacher
from pipeline.weights import WeightsError
from sward.mwad.windows import Windows
from sward.pixels import normaliser
from sward.seeds import torch_seed

SIDE, GAINS = 8, (1.0, 2.5)
Features = dict[str, Tensor]  # level -> (B, C, h, w) float32
GOAL = {"bytes": 0.52, "kl": 2e-4}  # of int8: bytes over fp16's, added KL


def read_features(path: Path, count: int) -> tuple[Features, str]:
    """Features of ``count`` records, and where they are from."""
    if not path.is_dir():
        return synthetic(count), f"pseudo-random features ({path} is absent)"
    store = Store(path)
    records = store.records["train"]
    chosen = [records[i] for i in np.linspace(0, len(records) - 1, count).astype(int)]
    try:
        config = CacheConfig.model_validate(store.plans[-1]["config"])
        teacher = OnlineTeacher(config, store, torch.device("cpu"))
    except (WeightsError, CacheMismatch) as error:
        found = [store.features(record) for record in chosen]
        levels = {level: torch.stack([f[level] for f in found]) for level in store.channels}
        return levels, f"{path}, its {store.codec.kind} values taken as exact ({error})"
    with torch.no_grad():
        return teacher(images(store, chosen)), f"the teacher of {path} on its images, in single precision"


def images(store: Store, records: list[Record]) -> Tensor:
    """(B, 3, H, W), normalised as the teacher saw them."""
    shape, dtype = store.specs("train")["image"]
    found = np.empty((len(records), *shape), dtype)
    for record, image in zip(records, found, strict=True):
        store.read(record, {"image": image})
    return normaliser(*store.normalisation, torch.device("cpu"))(torch.from_numpy(found))


def synthetic(count: int) -> Features:
    generator = torch.Generator().manual_seed(torch_seed("codecs"))
    made = {}
    for level, channels in CHANNELS.items():
        side = 256 // int(level[1:])
        coarse = torch.randn(count, channels, side // 4, side // 4, generator=generator)
        fine = torch.randn(count, channels, side, side, generator=generator)
        made[level] = F.interpolate(coarse, (side, side), mode="bilinear") + 0.3 * fine
    return made


def attention(z_BCHW: Tensor, gain: float) -> Tensor:
    """(B, N, T, T) log-attention of 8×8 windows, of standardised features through random rotations Q and K."""
    _, C, H, W = z_BCHW.shape
    tokens = Windows(H, W, SIDE).split(z_BCHW)
    generator = torch.Generator().manual_seed(torch_seed("codecs", "rotations", C))
    Q, K = (gain * torch.linalg.qr(torch.randn(C, C, generator=generator))[0] for _ in range(2))
    return ((tokens @ Q) @ (tokens @ K).mT / C**0.5).log_softmax(-1)


def divergence(log_p: Tensor, log_q: Tensor) -> float:
    """KL(p, q) in nats, mean over queries, in double precision: it is small beside the terms of its sum."""
    p, q = log_p.double(), log_q.double()
    return float((p.exp() * (p - q)).sum(-1).mean())


def standardise(f_BCHW: Tensor, like_BCHW: Tensor) -> Tensor:
    """With the mean and deviation of each channel of ``like``."""
    mean, std = like_BCHW.mean((0, 2, 3), keepdim=True), like_BCHW.std((0, 2, 3), keepdim=True)
    return (f_BCHW - mean) / std.clamp_min(1e-6)


def coded(codec: Codec, features: Features, device: torch.device) -> list[dict[str, dict[str, Tensor]]]:
    """Of every record: level -> its stored arrays, as a batch of one."""
    return [
        {
            level: {name: torch.from_numpy(a)[None].to(device) for name, a in codec.encode(level, f[i].numpy()).items()}
            for level, f in features.items()
        }
        for i in range(len(features["s4"]))
    ]


def card(codec: Codec, features: Features, exact: dict[tuple[str, float], Tensor], args: argparse.Namespace) -> dict:
    """The codec's figures."""
    stored = coded(codec, features, args.device)
    decoded: Features = {}
    for level, f in features.items():
        decoded[level] = torch.cat([codec.decode(level, parts[level], f.shape[2:]) for parts in stored]).cpu()
    values = sum(f[0].numel() for f in features.values())
    size = sum(t.nbytes for arrays in stored[0].values() for t in arrays.values())
    error = {k: relative_error(decoded[k], f) for k, f in features.items()}
    kl = {
        level: [divergence(exact[level, g], attention(standardise(decoded[level], f), g)) for g in GAINS]
        for level, f in features.items()
    }
    worst, sharp = (max(found[i] for found in kl.values()) for i in range(2))
    times = {"bytes_per_value": size / values, "of_fp16": size / (2 * values), "error": error, "kl_by_level": kl}
    return times | {"kl": worst, "kl_gain_2.5": sharp} | timing(codec, features, stored, args)


def relative_error(decoded: Tensor, exact: Tensor) -> float:
    centred = exact - exact.mean((2, 3), keepdim=True)
    return float((decoded - exact).norm() / centred.norm())


def timing(codec: Codec, features: Features, stored: list[Any], args: argparse.Namespace) -> dict[str, float]:
    def encode() -> None:
        for level, f in features.items():
            codec.encode(level, f[0].numpy())

    def decode() -> None:
        for level, f in features.items():
            codec.decode(level, stored[0][level], f.shape[2:])
        wait_for(args.device)

    return {"encode_ms": median_ms(encode, args.repetitions), "decode_ms": median_ms(decode, args.repetitions)}


def median_ms(work: Callable[[], None], repetitions: int) -> float:
    taken = []
    for _ in range(repetitions + 1):
        began = time.perf_counter()
        work()
        taken.append(1e3 * (time.perf_counter() - began))
    return statistics.median(taken[1:])


def show(cards: dict[str, dict[str, Any]], own: dict[str, list[float]]) -> None:
    span = [(min(kl), max(kl)) for kl in zip(*own.values(), strict=True)]
    print("attention's own KL to uniform: {:.2f} to {:.2f} (gain 2.5: {:.2f} to {:.2f})".format(*span[0], *span[1]))
    print(f"codec  bytes/value  of fp16  error {'/'.join(own):34}  KL (gain 2.5)        encode ms  decode ms")
    for kind, f in cards.items():
        errors = " / ".join(f"{e:.1e}" for e in f["error"].values())
        line = "{bytes_per_value:11.3f}  {of_fp16:7.3f}".format(**f)
        kl = "{:.1e} ({:.1e})".format(f["kl"], f["kl_gain_2.5"])
        print(f"{kind:5}  {line}  {errors:40}  {kl:20} {f['encode_ms']:9.2f}  {f['decode_ms']:9.2f}")
    found = cards["int8"]
    holds = found["of_fp16"] <= GOAL["bytes"] and found["kl"] <= GOAL["kl"]
    print(f"int8: at most {GOAL['bytes']} of fp16's bytes and {GOAL['kl']} added KL: {'holds' if holds else 'FAILS'}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, default=Path("data/cvc-clinicdb/caches/hiera-t-256.zarr"))
    parser.add_argument("--records", type=int, default=8)
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"), help="where decoding is timed")
    parser.add_argument("--json", type=Path, help="write the figures there")
    args = parser.parse_args()
    features, source = read_features(args.store, args.records)
    exact = {(k, g): attention(standardise(f, f), g) for k, f in features.items() for g in GAINS}
    uniform = {k: torch.full((), -2 * np.log(SIDE)) for k in features}
    own = {k: [divergence(exact[k, g], uniform[k]) for g in GAINS] for k in features}
    cards = {kind: card(codec, features, exact, args) for kind, codec in CODECS.items()}
    shapes = {k: list(f.shape[1:]) for k, f in features.items()}
    print(f"{args.records} records, {source}; {shapes}")
    show(cards, own)
    if args.json:
        facts = {"source": source, "records": args.records, "shapes": shapes, "device": str(args.device)}
        facts |= {"threads": torch.get_num_threads(), "cores": os.cpu_count(), "repetitions": args.repetitions}
        write_json(args.json, facts | {"own_kl": own, "goal_of_int8": GOAL, "codecs": cards})


if __name__ == "__main__":
    main()
