"""Af-DCD by loops in every form: mask, projectors, pooling, patches, groups; what it refuses."""

import math

import pytest
import torch
from rivals import CLASSES, STUDENT, TEACHER, assert_equals_loops, build, kd_loops, labels_of, maps, projected, terms

from sward import seeds
from sward.contracts import Batch
from sward.methods.relations.afdcd import AfDCDConfig, contrast, middle_hidden

PLAIN = {"kd": 0, "groups": 2}


def conv3x3(layer, f):
    N, C, H, W = f.shape
    rows = []
    for n, k, y, x in (
        (n, k, y, x) for n in range(N) for k in range(layer.out_channels) for y in range(H) for x in range(W)
    ):
        near = [(a, b) for a in (-1, 0, 1) for b in (-1, 0, 1) if 0 <= y + a < H and 0 <= x + b < W]
        parts = [layer.weight[k, c, a + 1, b + 1] * f[n, c, y + a, x + b] for c in range(C) for a, b in near]
        rows.append(sum(parts) + layer.bias[k])
    return torch.stack(rows).view(N, layer.out_channels, H, W)


def visible(config, H, W, step):
    """(2, 1, H, W) of zeros and ones."""
    if config.mask == "fixed":
        hidden = [[H // 3 <= y <= 2 * H // 3 - 1 and W // 3 <= x <= 2 * W // 3 - 1 for x in range(W)] for y in range(H)]
        return torch.tensor([[[[0.0 if h else 1.0 for h in row] for row in hidden]]] * 2, dtype=torch.float64)
    u = seeds.uniforms(2 * H * W, 5, "af-dcd", step)
    return torch.tensor([0.0 if v > 1 - config.masked else 1.0 for v in u], dtype=torch.float64).view(2, 1, H, W)


def rebuilt(method, f_s, step):
    aligned = f_s if method.align is None else projected(method.align, f_s)
    y, P = aligned * visible(method.config, *f_s.shape[-2:], step), method.projector
    b1 = conv3x3(P.first, y).clamp_min(0)
    if method.config.projector == "plain":
        return conv3x3(P.second, b1)
    b2 = conv3x3(P.second, b1).clamp_min(0)
    return (conv3x3(P.from_first, b1) + conv3x3(P.from_second, b2)) / 2


def max_pooled(f, pool):
    H, W = (side // pool for side in f.shape[-2:])
    rows = [
        [f[..., y * pool : (y + 1) * pool, x * pool : (x + 1) * pool].amax((2, 3)) for x in range(W)] for y in range(H)
    ]
    return torch.stack([torch.stack(row, -1) for row in rows], 2)


def contrast_loops(r, f_t, patch, M, tau):
    """Sum of the units' losses over images, cropped rows and columns."""
    B, C, H, W = f_t.shape
    side_y, side_x = min(patch, H), min(patch, W)
    g, total, positions = C // M, 0, 0
    corners = [(y, x) for y in range(0, H - side_y + 1, side_y) for x in range(0, W - side_x + 1, side_x)]
    for n, (top, left) in ((n, corner) for n in range(B) for corner in corners):
        places = [(top + a, left + b) for a in range(side_y) for b in range(side_x)]
        positions += len(places)

        def score(own, m, other, k, n=n):
            a, b = r[n, m * g : (m + 1) * g, *own], f_t[n, k * g : (k + 1) * g, *other]
            return -sum((a[c] - b[c]).abs() for c in range(g)) / tau

        for own in places:
            for m in range(M):
                partner = score(own, m, own, m)
                others = [score(own, m, other, k) for other in places for k in range(M) if k != m]
                total = total - (partner.exp() / (partner.exp() + sum(s.exp() for s in others))).log()
    return total / positions


@pytest.mark.parametrize("teacher", [TEACHER, STUDENT])
@pytest.mark.parametrize("projector", ["plain", "enhanced"])
@pytest.mark.parametrize("mask", ["random", "fixed"])
def test_reconstruction_is_the_mean_square_of_what_is_rebuilt_from_the_visible_positions(mask, projector, teacher):
    groups = 2 if teacher == TEACHER else 3
    config = AfDCDConfig(kd=0, groups=groups, mask=mask, projector=projector, masked=0.5)
    method = build(config, teacher=teacher)
    assert (method.align is None) == (teacher == STUDENT)

    def loops(f_s, f_t):
        pairs = zip(rebuilt(method, f_s, 7).flatten(), f_t.flatten(), strict=True)
        return sum((a - b) ** 2 for a, b in pairs) / f_t.numel()

    assert_equals_loops(method, "reconstruction", loops, *maps(3, 4, teacher=teacher), step=7)


def test_the_sum_is_the_mean_times_the_maps_size():
    f_s, f_t = maps()
    as_sum, as_mean = (
        terms(build(AfDCDConfig(**PLAIN, reduction=r)), f_s, f_t)["reconstruction"] for r in ("sum", "mean")
    )
    torch.testing.assert_close(as_sum, as_mean * f_t[0].numel())


@pytest.mark.parametrize(
    ("size", "given"),
    [
        ((4, 5), {"groups": 2, "pool": 1, "patch": 2, "tau": 0.5}),  # one column is cut off
        ((5, 4), {"groups": 4, "pool": 2, "patch": 2, "tau": 0.5, "projector": "enhanced", "mask": "fixed"}),
        ((2, 3), {"groups": 2, "tau": 2.0}),  # smaller than a patch: one patch of 2 x 3
        ((1, 1), {"groups": 4, "tau": None}),
    ],
)
def test_contrast_sets_a_unit_and_its_partner_against_the_other_groups_of_the_patch(size, given):
    method = build(AfDCDConfig(kd=0, masked=0.5, **given))
    tau = given["tau"] or 0.07

    def loops(f_s, f_t):
        pool = given.get("pool", 1)
        r, target = max_pooled(rebuilt(method, f_s, 3), pool), max_pooled(f_t, pool)
        return contrast_loops(r, target, given.get("patch", 4), given["groups"], tau)

    assert_equals_loops(method, "contrast", loops, *maps(*size), step=3)


def test_kd_is_that_of_the_method_kd():
    assert_equals_loops(build(AfDCDConfig(groups=2)), "kd", lambda z_s, z_t: kd_loops(z_s, z_t, 1.0), *maps(3, 4))


@pytest.mark.parametrize(("side", "pool"), [(4, 1), (8, 1), (16, 2), (32, 4), (64, 4)])
def test_unstated_the_pooling_follows_the_map_up_to_the_authors_4(side, pool):
    f_s, f_t = maps(side, side)
    found, wanted = (terms(build(AfDCDConfig(**PLAIN, pool=p)), f_s, f_t)["contrast"] for p in (None, pool))
    assert torch.equal(found, wanted)


def test_maps_that_are_no_multiple_of_the_patch_are_cropped_as_the_authors_crop_camvids():
    f_s, f_t = maps(10, 9)
    method = build(AfDCDConfig(**PLAIN, pool=1, mask="fixed"))
    r = method.projector(torch.where(middle_hidden(f_s), projected(method.align, f_s), 0.0))
    wanted = contrast(r[..., :8, :8], f_t[..., :8, :8], 4, 2, 0.07)
    torch.testing.assert_close(terms(method, f_s, f_t)["contrast"], wanted, rtol=1e-12, atol=0)


def test_the_mask_follows_seed_and_step_and_the_fixed_one_does_not():
    f_s, f_t = maps()

    def term(mask, seed, step):
        method = build(AfDCDConfig(**PLAIN, mask=mask))
        return terms(method, f_s, f_t, seed=seed, step=step)["reconstruction"].item()

    keys = [(5, 0), (5, 1), (6, 0)]
    assert len({term("random", *key) for key in keys}) == 3
    assert len({term("fixed", *key) for key in keys}) == 1
    assert build(AfDCDConfig(**PLAIN, mask="fixed")).per_sample
    assert not build(AfDCDConfig(**PLAIN)).order_invariant


def test_unstated_groups_are_the_most_that_fit_and_others_are_refused():
    def groups(channels, given=None):
        return AfDCDConfig(kd=0, groups=given).build({"s32": channels}, {"s32": 3}, CLASSES, 6).channel_groups

    assert [groups(c) for c in (768, 96, 12, 6, 2)] == [16, 16, 12, 6, 2]
    assert groups(144, 9) == 9
    with pytest.raises(
        ValueError, match=r"groups that divide the 12 channels of s32, found 5; set groups to one of \[2, 3"
    ):
        groups(12, 5)
    with pytest.raises(ValueError, match=r"divide the 17 channels of s32, found None; set another level"):
        groups(17)
    with pytest.raises(ValueError, match="greater than or equal to 2"):
        AfDCDConfig(groups=1)


def test_an_unstated_temperature_grows_with_the_channels_of_a_group():
    def tau(channels, given):
        return AfDCDConfig(kd=0, tau=given).build({"s32": channels}, {"s32": 3}, CLASSES, 6).tau

    assert [tau(96, None), tau(768, None), tau(768, 0.07)] == [0.07, pytest.approx(0.07 * 6), 0.07]


def test_a_pooling_larger_than_the_map_is_refused_before_training():
    f = maps(2, 2)[1]
    batch = Batch(f, labels_of(f), {"s32": f}, ["a/0", "b/0"])
    with pytest.raises(ValueError, match=r"found pool 4 for s32 of 2 x 2; expected at most 2"):
        build(AfDCDConfig(**PLAIN, pool=4)).prepare(batch, {})
    build(AfDCDConfig(**PLAIN)).prepare(batch, {})


def test_unstated_weights_agree_on_the_authors_maps_and_kd_needs_a_head():
    assert build(AfDCDConfig(**PLAIN)).weights == {"task": 1.0, "reconstruction": 33.6, "contrast": 5e-3}
    assert build(AfDCDConfig(**PLAIN, reduction="sum")).weights["reconstruction"] == 2e-6
    assert math.isclose(2e-6 * 2048 * 64 * 128, 33.6, rel_tol=2e-3)
    assert build(AfDCDConfig(groups=2)).needs == ("s32", "logits")
    assert AfDCDConfig().uses_head
    assert not AfDCDConfig(kd=0).uses_head


def test_parameters_have_the_names_that_are_documented():
    names = {n.removesuffix(".weight").removesuffix(".bias") for n, _ in build(AfDCDConfig(**PLAIN)).named_parameters()}
    assert names == {"align", "projector.first", "projector.second"}
    enhanced = dict(build(AfDCDConfig(**PLAIN, projector="enhanced")).named_parameters())
    assert {"projector.from_first.weight", "projector.from_second.bias"} <= enhanced.keys()
