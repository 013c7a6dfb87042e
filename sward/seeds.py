"""Random numbers of the project: functions from a key of integers and strings to numbers.

A draw is a function of its key alone, e.g. (seed, sample digest, view) or (seed, epoch). So it doesn't depend on
order, worker count or machine. Only Philox's raw 64-bit words are used: NumPy keeps these fixed forever, but may
change how its distributions consume them (NEP 19).

The strings in keys are data: another string gives other numbers. They must stay when code is renamed.
"""

import hashlib
import json

import numpy as np


def key(*parts: int | str) -> int:
    """Hashes the key parts to a 128-bit integer. Unlike with ``seed + epoch``, (0, 1) and (1, 0) differ."""
    text = json.dumps(parts, separators=(",", ":"))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "little")


def words(n: int, *parts: int | str) -> np.ndarray:
    """Draws ``n`` uint64 words from the counter-based stream keyed by ``parts``."""
    return np.random.Philox(key=key(*parts)).random_raw(n)


def uniforms(n: int, *parts: int | str) -> np.ndarray:
    """Draws ``n`` uniform float64 numbers in [0, 1)."""
    return (words(n, *parts) >> np.uint64(11)) * 2.0**-53


def integers(n: int, below: int, *parts: int | str) -> np.ndarray:
    """Draws ``n`` uniform int64 numbers in [0, below). The modulo bias is less than 2**-40 for ``below`` < 2**24."""
    return (words(n, *parts) % np.uint64(below)).astype(np.int64)


def permutation(n: int, *parts: int | str) -> np.ndarray:
    """Draws a random permutation of range(n), int64."""
    return np.argsort(words(n, *parts), kind="stable")


def torch_seed(*parts: int | str) -> int:
    """Derives a seed of 63 bits for ``torch.manual_seed``."""
    return key(*parts) & (2**63 - 1)
