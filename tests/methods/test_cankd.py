"""CanKD by loops; at the start it is a plain distance of instance-normalised maps."""

import pytest
import torch
from rivals import assert_equals_loops, build, maps, project, projected, randn, terms

from sward.methods.cankd import CanKDConfig


def pooled(f):
    N, C, H, W = f.shape
    cells = [(y, x) for y in range(0, H - 1, 2) for x in range(0, W - 1, 2)]
    blocks = [f[:, :, y : y + 2, x : x + 2].flatten(2).max(-1).values for y, x in cells]
    return torch.stack(blocks, -1).view(N, C, H // 2, W // 2)


def instance_norm(f):
    rows = []
    for row in f.flatten(0, 1).flatten(1):
        mean = sum(row) / len(row)
        variance = sum((v - mean) ** 2 for v in row) / len(row)
        rows.append((row - mean) / (variance + 1e-5).sqrt())
    return torch.stack(rows)


def distance(z, f_t):
    square = (instance_norm(z) - instance_norm(f_t)) ** 2
    return sum(square.flatten()) / f_t.numel() / 2


@pytest.mark.parametrize("subsample", [True, False])
@pytest.mark.parametrize("size", [(4, 4), (3, 5)])
def test_the_term_is_the_distance_after_unnormalised_cross_attention(subsample, size):
    method = build(CanKDConfig(subsample=subsample))

    def loops(f_s, f_t):
        y = projected(method.align, f_s)
        phi, g = (projected(layer, f_t) for layer in (method.phi, method.g))
        phi, g = (pooled(v) if subsample else v for v in (phi, g))
        N, C, H, W = y.shape
        out = torch.zeros(N, C, H, W).double()
        for n in range(N):
            for i in range(H * W):
                theta = project(method.theta, y, n, i // W, i % W)
                keys, values = phi[n].flatten(1).T, g[n].flatten(1).T
                weight = [sum(a * b for a, b in zip(theta, k, strict=True)) / len(keys) for k in keys]
                found = sum(w * v for w, v in zip(weight, values, strict=True)).view(1, -1, 1, 1)
                out[n, :, i // W, i % W] = torch.stack(project(method.out, found, 0, 0, 0))
        mean, variance = out.mean((0, 2, 3), keepdim=True), out.var((0, 2, 3), correction=0, keepdim=True)
        normed = (out - mean) / (variance + 1e-5).sqrt()
        z = normed * method.norm.weight.view(-1, 1, 1) + method.norm.bias.view(-1, 1, 1) + y
        return distance(z, f_t)

    assert_equals_loops(method, "cross", loops, *maps(*size))


def test_at_the_start_it_is_the_distance_of_instance_normalised_maps():
    method = CanKDConfig().build({"s32": 4}, {"s32": 3}, 2, 6).double()
    f_s, f_t = maps()
    y = projected(method.align, f_s)
    assert torch.equal(method.attended(y, f_t), y)
    torch.testing.assert_close(terms(method, f_s, f_t)["cross"], distance(y, f_t))


def test_scale_and_offset_of_the_teachers_channels_do_not_matter_at_the_start():
    method = CanKDConfig().build({"s32": 4}, {"s32": 3}, 2, 6).double()
    f_s, f_t = maps()
    moved = f_t * (1 + randn(1, 4, 1, 1, seed=9).abs()) + randn(1, 4, 1, 1, seed=10)
    before, after = (terms(method, f_s, f)["cross"] for f in (f_t, moved))
    torch.testing.assert_close(before, after, rtol=1e-4, atol=0)  # IN's eps


def test_a_map_too_small_to_pool_is_refused_with_the_remedy():
    with pytest.raises(ValueError, match="s32 is 1 x 4: use a finer level"):
        terms(build(CanKDConfig()), *maps(1, 4))


def test_the_weight_is_the_code_s_and_every_parameter_is_trained():
    method = build(CanKDConfig())
    assert method.weights == {"task": 1.0, "cross": 10.0}
    terms(method, *maps())["cross"].backward()
    assert all(p.grad is not None for p in method.parameters())
    names = {name.partition(".")[0] for name, _ in method.named_parameters()}
    assert names == {"align", "theta", "phi", "g", "out", "norm"}
