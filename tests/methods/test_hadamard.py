"""Hadamard matrices: orthogonal rows of ones and minus ones, for the channel counts of every teacher."""

import pytest
import torch

from sward.methods.radio.hadamard import hadamard, is_prime, residues

HIERA = [96, 192, 384, 768, 112, 224, 448, 896, 144, 288, 576, 1152, 256]


@pytest.mark.parametrize("order", [1, 2, 4, 8, 12, 16, 20, 24, 28, 36, 40, 44, 60, 64, *HIERA])
def test_rows_are_orthogonal_and_entries_are_one_or_minus_one(order):
    H = hadamard(order)
    assert H.shape == (order, order)
    assert H.abs().eq(1).all()
    assert torch.equal(H @ H.mT, order * torch.eye(order, dtype=torch.float64))


def test_every_multiple_of_four_below_100_is_found_but_52_and_92():
    found = [order for order in range(1, 100) if hadamard(order) is not None]
    assert found == [1, 2, *(order for order in range(4, 100, 4) if order not in (52, 92))]


def test_of_powers_of_two_it_is_sylvesters():
    two = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
    assert torch.equal(hadamard(8), torch.kron(two, torch.kron(two, two)))


def test_residues_are_the_squares_modulo_a_prime():
    Q = residues(7)
    for a in range(7):
        for b in range(7):
            squares = {x * x % 7 for x in range(1, 7)}
            assert Q[a, b] == (0 if a == b else 1 if (a - b) % 7 in squares else -1)
    assert [n for n in range(30) if is_prime(n)] == [2, 3, 5, 7, 11, 13, 17, 19, 23, 29]
