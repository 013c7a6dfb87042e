"""Attention transfer by loops; its map has length 1 whatever the scale."""

import torch
from rivals import assert_equals_loops, build, maps, randn, terms

from sward.methods.at import ATConfig, energy


def loops(f_s, f_t):
    total = 0
    N, _, H, W = f_t.shape
    for n in range(N):
        q = []
        for f in (f_s, f_t):
            e = [sum(v**2 for v in f[n, :, y, x]) / f.shape[1] for y in range(H) for x in range(W)]
            q.append([v / sum(u**2 for u in e) ** 0.5 for v in e])
        total = total + sum((a - b) ** 2 for a, b in zip(*q, strict=True))
    return total / (N * H * W)


def test_the_term_is_the_mean_squared_difference_of_normalised_energy():
    assert_equals_loops(build(ATConfig()), "attention", loops, *maps(3, 4))


def test_the_scale_of_either_map_and_its_channels_do_not_matter():
    method = build(ATConfig())
    f_s, f_t = maps()
    before = terms(method, f_s, f_t)["attention"]
    torch.testing.assert_close(terms(method, 7 * f_s, 0.1 * f_t)["attention"], before)
    torch.testing.assert_close(terms(method, f_s.flip(1), -f_t)["attention"], before)
    assert terms(method, f_s, 3 * f_s.detach())["attention"] < 1e-30


def test_maps_without_common_energy_are_at_two_over_the_positions():
    f_s, f_t = torch.zeros(2, 3, 2, 4).double(), torch.zeros(2, 4, 2, 4).double()
    f_s[:, :, 0, 0] = 2
    f_t[:, :, 1, 3] = -1
    torch.testing.assert_close(float(terms(build(ATConfig()), f_s, f_t)["attention"]), 2 / 8)


def test_the_weight_is_the_code_s_ten_thousand_and_nothing_is_trained():
    method = build(ATConfig())
    assert method.weights == {"task": 1.0, "attention": 10000.0}
    assert list(method.parameters()) == []


def test_a_map_of_zeros_has_no_energy_and_a_finite_gradient():
    f = torch.zeros(1, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    assert energy(f).sum() == 0
    (gradient,) = torch.autograd.grad((energy(f) - energy(randn(1, 2, 3, 3, seed=0))).square().mean(), f)
    assert gradient.isfinite().all()
