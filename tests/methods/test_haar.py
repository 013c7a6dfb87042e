"""The Haar transform by loops and by its properties: nothing lost, energy kept, odd sides padded."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rivals import randn

from sward.methods.masked import haar


def by_loops(f):
    N, C, H, W = f.shape
    cells = torch.zeros(N, C, H + H % 2, W + W % 2, dtype=f.dtype)
    cells[:, :, :H, :W] = f
    low = torch.zeros(N, C, (H + 1) // 2, (W + 1) // 2, dtype=f.dtype)
    details = torch.zeros(N, C, 3, *low.shape[2:], dtype=f.dtype)
    for y in range(low.shape[2]):
        for x in range(low.shape[3]):
            a, b = cells[:, :, 2 * y, 2 * x], cells[:, :, 2 * y, 2 * x + 1]
            c, d = cells[:, :, 2 * y + 1, 2 * x], cells[:, :, 2 * y + 1, 2 * x + 1]
            low[:, :, y, x] = (a + b + c + d) / 2
            details[:, :, 0, y, x] = (a + b - c - d) / 2
            details[:, :, 1, y, x] = (a - b + c - d) / 2
            details[:, :, 2, y, x] = (a - b - c + d) / 2
    return low, details


@pytest.mark.parametrize("size", [(8, 8), (5, 6), (7, 3), (1, 1)])
def test_every_level_is_the_block_transform_of_the_low_band_before(size):
    f = randn(2, 3, *size, seed=1)
    low, details = haar.forward(f, 3)
    assert len(details) == 3
    for detail in details:
        f, wanted = by_loops(f)
        torch.testing.assert_close(detail, wanted)
    torch.testing.assert_close(low, f)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 17), st.integers(1, 17), st.integers(1, 4), st.integers(0, 99))
def test_the_inverse_gives_the_map_back_and_energy_is_kept_at_any_size(height, width, levels, seed):
    f = randn(1, 2, height, width, seed=seed)
    low, details = haar.forward(f, levels)
    torch.testing.assert_close(haar.inverse(low, details, (height, width)), f)
    energy = low.square().sum() + sum(d.square().sum() for d in details)
    torch.testing.assert_close(energy, f.square().sum())


def test_a_constant_has_no_detail_and_each_orientation_answers_to_its_own_edge():
    low, details = haar.forward(torch.ones(1, 1, 8, 8), 3)
    assert torch.equal(low, torch.full((1, 1, 1, 1), 8.0))
    assert all((d == 0).all() for d in details)
    rows = torch.tensor([[1.0, 1.0], [-1.0, -1.0]])
    for orientation, pattern in enumerate((rows, rows.mT, rows * rows.mT)):
        _, (detail,) = haar.forward(pattern[None, None], 1)
        assert detail.flatten().tolist() == [2.0 * (orientation == o) for o in range(3)]


def test_the_gradient_of_a_band_is_the_inverse_of_that_band():
    f = randn(1, 1, 4, 6, seed=2).requires_grad_()
    low, (detail,) = haar.forward(f, 1)
    probe = randn(*detail.shape, seed=3)
    (gradient,) = torch.autograd.grad((detail * probe).sum(), f)
    torch.testing.assert_close(gradient, haar.inverse(torch.zeros_like(low), [probe], (4, 6)))
