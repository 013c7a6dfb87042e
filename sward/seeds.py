"""Every random draw of the project: integers and strings in, numbers out.

A draw is a function of its key alone, e.g. (seed, sample digest, view) or (seed, epoch), so it doesn't
depend on order, worker count or machine. Only Philox's raw 64-bit words are used: NumPy keeps those
fixed for ever, but may change how its distributions consume them (NEP 19).
"""

import hashlib
import json

import numpy as np


def key(*parts: int | str) -> int:
    """128-bit integer of the key parts; unlike ``seed + epoch``, (0, 1) and (1, 0) differ."""
    text = json.dumps(parts, separators=(",", ":"))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "little")


def words(n: int, *parts: int | str) -> np.ndarray:
    """``n`` uint64 words of the counter-based stream keyed by ``parts``."""
    return np.random.Philox(key=key(*parts)).random_raw(n)


def uniforms(n: int, *parts: int | str) -> np.ndarray:
    """``n`` float64 numbers in [0, 1)."""
    return (words(n, *parts) >> np.uint64(11)) * 2.0**-53


def integers(n: int, below: int, *parts: int | str) -> np.ndarray:
    """``n`` int64 numbers in [0, below); the modulo bias is below 2**-40 for below < 2**24."""
    return (words(n, *parts) % np.uint64(below)).astype(np.int64)


def permutation(n: int, *parts: int | str) -> np.ndarray:
    """A permutation of range(n)."""
    return np.argsort(words(n, *parts), kind="stable")


def torch_seed(*parts: int | str) -> int:
    """A seed for ``torch.manual_seed`` (63 bits)."""
    return key(*parts) & (2**63 - 1)
