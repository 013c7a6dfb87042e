"""ReviewKD by loops, level by level; its start, its pairs, the maps it refuses."""

import pytest
import torch
from rivals import batch_norm, conv3x3, projected, randn

from sward.contracts import Batch, StudentOutput
from sward.methods.attention.reviewkd import ReviewKDConfig, hcl

TEACHER, STUDENT = {"s8": 4, "s16": 3, "s32": 2}, {"s8": 2, "s16": 3, "s32": 4}
SIZES = {"s8": (8, 6), "s16": (4, 3), "s32": (2, 2)}


def build(**switches):
    """In float64, every parameter away from its initial value."""
    method = ReviewKDConfig(**switches).build(TEACHER, STUDENT, 2, 3).double()
    for i, p in enumerate(method.parameters()):
        p.data.copy_(0.5 * randn(*p.shape, seed=100 + i))
    return method


def maps(channels, seed, sizes=SIZES):
    return {k: randn(2, c, *sizes[k], seed=seed + c) for k, c in channels.items()}


def review(method, f_s, f_t, step=0):
    batch = Batch(randn(2, 3, 8, 8, seed=0), torch.zeros(2, 8, 8).long(), f_t, ["a/0", "b/0"], seed=5)
    return method(StudentOutput(f_s["s8"], f_s, f_s["s8"]), batch, step)["review"]


def nearest_loops(f, size):
    H, W = f.shape[-2:]
    rows = [f[..., i * H // size[0], j * W // size[1]] for i in range(size[0]) for j in range(size[1])]
    return torch.stack(rows, -1).unflatten(-1, size)


def pooled_loops(f, side):
    H, W = f.shape[-2:]

    def bounds(i, n):
        return i * n // side, -(-(i + 1) * n // side)

    cells = [(bounds(i, H), bounds(j, W)) for i in range(side) for j in range(side)]
    means = [f[..., a:b, c:d].mean((-2, -1)) for (a, b), (c, d) in cells]
    return torch.stack(means, -1)


def hcl_loops(o, t):
    used = [side for side in (4, 2, 1) if side < t.shape[-2]]
    weights = [1 / 2 ** (i + 1) for i in range(len(used))]
    total = (o - t).square().mean()
    for side, w in zip(used, weights, strict=True):
        total = total + w * (pooled_loops(o, side) - pooled_loops(t, side)).square().mean()
    return total / (1 + sum(weights))


def review_loops(method, f_s, f_t):
    total, deeper = 0, None
    for (t, s), block in reversed(list(zip(method.pairs, method.blocks, strict=True))):
        x = batch_norm(block.enter_norm, projected(block.enter, f_s[s]))
        if deeper is not None:
            y = nearest_loops(deeper, x.shape[-2:])
            z = projected(block.attend, torch.cat([x, y], 1))
            x = x / (1 + (-z[:, :1]).exp()) + y / (1 + (-z[:, 1:]).exp())
        deeper = nearest_loops(x, f_t[t].shape[-2:])
        total = total + hcl_loops(batch_norm(block.leave_norm, conv3x3(block.leave, deeper)), f_t[t])
    return total


@pytest.mark.parametrize("switches", [{}, {"mid": 2}, {"pairing": [("s32", "s32"), ("s8", "s16")]}], ids=str)
@pytest.mark.parametrize("grids", ["equal", "other"])
def test_fused_levels_are_compared_with_the_teachers_at_several_sizes(switches, grids):
    method = build(**switches)
    f_s = {k: f.requires_grad_() for k, f in maps(STUDENT, seed=1).items()}
    f_t = maps(TEACHER, 20, SIZES if grids == "equal" else {"s8": (5, 7), "s16": (4, 4), "s32": (3, 2)})
    found, wanted = review(method, f_s, f_t), review_loops(method, f_s, f_t)
    assert found.dtype == torch.float64
    assert (found - wanted).abs() <= 1e-10 * wanted.abs()
    for _, level in method.pairs:
        (g,), (h,) = (torch.autograd.grad(v, f_s[level], retain_graph=True) for v in (found, wanted))
        assert (g - h).norm() <= 1e-8 * h.norm()


def test_pairs_run_from_shallow_to_deep_and_only_they_are_read():
    assert build().pairs == [("s8", "s8"), ("s16", "s16"), ("s32", "s32")]
    listed = build(pairing=[("s32", "s32"), ("s8", "s16")])
    assert listed.pairs == [("s8", "s16"), ("s32", "s32")]
    assert listed.needs == ("s8", "s32")
    with pytest.raises(ValueError, match=r"pairing: teacher has no s4"):
        build(pairing=[("s4", "s8")])


def test_equal_maps_are_at_zero_and_a_4x4_map_is_pooled_to_sides_of_two_and_one():
    o, t = randn(2, 3, 4, 4, seed=1), randn(2, 3, 4, 4, seed=2)
    assert hcl(t, t) == 0
    parts = [(o - t).square().mean(), *((pooled_loops(o, s) - pooled_loops(t, s)).square().mean() for s in (2, 1))]
    torch.testing.assert_close(hcl(o, t), (parts[0] + parts[1] / 2 + parts[2] / 4) / 1.75)


def test_the_term_rises_linearly():
    f_s, f_t = maps(STUDENT, seed=1), maps(TEACHER, seed=20)
    whole = review(build(), f_s, f_t)
    for step, factor in [(0, 0.5), (1, 1.0), (5, 1.0)]:
        torch.testing.assert_close(review(build(ramp_steps=2), f_s, f_t, step), factor * whole)


def test_convolutions_start_kaiming_uniform_with_slope_one_and_attention_with_pytorchs_default():
    method = ReviewKDConfig(mid=64).build(TEACHER, {"s8": 30, "s16": 50, "s32": 70}, 2, 3)
    for block, channels in zip(method.blocks, (30, 50, 70), strict=True):
        for weight, inputs in ((block.enter.weight, channels), (block.leave.weight, 9 * 64)):
            assert 0.95 * (3 / inputs) ** 0.5 < weight.abs().max() <= (3 / inputs) ** 0.5
    assert method.blocks[0].attend.weight.abs().max() <= 1 / 128**0.5
    assert method.blocks[-1].attend is None


def test_the_fusion_is_as_wide_as_the_students_deepest_level_up_to_512():
    assert build().blocks[0].enter.out_channels == 4
    wide = ReviewKDConfig().build({"s8": 2, "s16": 2}, {"s8": 3, "s16": 600}, 2, 3)
    assert wide.blocks[0].enter.out_channels == 512


def test_maps_of_one_position_are_refused_before_the_first_step():
    f_t = maps(TEACHER, 20, SIZES | {"s32": (1, 1)})
    batch = Batch(randn(2, 3, 8, 8, seed=0), torch.zeros(2, 8, 8).long(), f_t, ["a/0", "b/0"], seed=5)
    with pytest.raises(ValueError, match=r"more than one position; s32 is 1 x 1: list finer pairs"):
        build().prepare(batch, {})
