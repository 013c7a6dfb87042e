"""Hadamard matrices from textbook constructions: Sylvester (1867), Paley (1933), and their Kronecker products.

Entries are 1 and -1, rows are orthogonal. Of an order's divisors the smallest is tried first: where a matrix of that
order is known directly (2, or Paley I, or Paley II) and the quotient has a matrix by the same search, their Kronecker
product is taken, the quotient's on the left. The result depends on the order alone. Paley's matrices are built over
prime fields only, not over powers of primes, so a few orders that exist are not found (the first: 52).
"""

from functools import lru_cache

import torch
from torch import Tensor


@lru_cache(maxsize=64)
def hadamard(order: int) -> Tensor | None:
    """(order, order) float64 of 1 and -1 with H H^T = order I; None where the search finds none."""
    if order == 1:
        return torch.ones(1, 1, dtype=torch.float64)
    for divisor in range(2, order + 1):
        if order % divisor == 0 and (base := elementary(divisor)) is not None:
            rest = hadamard(order // divisor)
            if rest is not None:
                return torch.kron(rest, base)
    return None


def elementary(order: int) -> Tensor | None:
    """The matrix of order 2, Paley's first of order q + 1, or his second of order 2 (q + 1), q prime; else None."""
    if order == 2:
        return torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
    if order % 4:
        return None
    if is_prime(order - 1):  # then q = 3 mod 4
        return bordered(residues(order - 1), below=-1.0) + torch.eye(order, dtype=torch.float64)
    if is_prime(order // 2 - 1) and order % 8 == 4:  # q = 1 mod 4
        B = bordered(residues(order // 2 - 1), below=1.0)
        for_sign = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
        for_zero = torch.tensor([[1.0, -1.0], [-1.0, -1.0]], dtype=torch.float64)
        return torch.kron(B, for_sign) + torch.kron(torch.eye(len(B), dtype=torch.float64), for_zero)
    return None


def residues(q: int) -> Tensor:
    """(q, q) of chi(a - b): 0 for 0, 1 for squares modulo the prime q, else -1 (Jacobsthal's matrix)."""
    chi = torch.full((q,), -1.0, dtype=torch.float64)
    chi[[x * x % q for x in range(q)]] = 1.0
    chi[0] = 0.0
    index = torch.arange(q)
    return chi[(index[:, None] - index) % q]


def bordered(Q: Tensor, below: float) -> Tensor:
    """Q with a first row of ones and a first column of ``below``, 0 in the corner."""
    B = torch.zeros(len(Q) + 1, len(Q) + 1, dtype=torch.float64)
    B[0, 1:], B[1:, 0], B[1:, 1:] = 1.0, below, Q
    return B


def is_prime(n: int) -> bool:
    return n > 1 and all(n % d for d in range(2, int(n**0.5) + 1))
