"""SKD by loops in every form; its nodes, and where they carry nothing."""

import math

import pytest
import torch
from rivals import CLASSES, assert_equals_loops, build, kd_loops, labels_of, maps, randn, terms

from sward.align import labels_on_grid
from sward.contracts import IGNORE, Batch
from sward.methods.relations.skd import SKDConfig, pooled


def cells(side, scale):
    """(first, past the last) position of every pooled cell along one axis."""
    size = max(1, int(side * scale))
    count = math.ceil((side - size) / size) + 1
    return [(i * size, min(side, (i + 1) * size)) for i in range(count)]


def nodes(f, n, scale):
    """The maxima of one image's cells, as lists over channels."""
    _, C, H, W = f.shape
    return [
        [torch.stack([f[n, c, y, x] for y in range(*rows) for x in range(*columns)]).max() for c in range(C)]
        for rows in cells(H, scale)
        for columns in cells(W, scale)
    ]


def cosine(v, w, constant_lengths=False):
    def length(values):
        root = sum(value**2 for value in values).sqrt()
        return root.detach() + 1e-8 if constant_lengths else root

    return sum(a * b for a, b in zip(v, w, strict=True)) / (length(v) * length(w))


@pytest.mark.parametrize("norm_gradient", ["plain", "as_code"])
@pytest.mark.parametrize("scale", [0.5, 0.3, 0.01])
def test_pair_is_the_mean_squared_difference_of_cosines_between_pooled_cells(scale, norm_gradient):
    method = build(SKDConfig(level="s32", pixel=0, scale=scale, norm_gradient=norm_gradient))

    def loops(f_s, f_t):
        total = 0
        for n in range(2):
            v_s, v_t = nodes(f_s, n, scale), nodes(f_t, n, scale)
            for i in range(len(v_t)):
                for j in range(len(v_t)):
                    a_s, a_t = (cosine(v[i], v[j], norm_gradient == "as_code") for v in (v_s, v_t))
                    total = total + (a_t - a_s) ** 2
        return total / (2 * len(v_t) ** 2)

    assert_equals_loops(method, "pair", loops, *(maps(5, 4) if scale < 0.1 else maps(5, 7)))


def test_the_lengths_gradient_changes_the_gradient_and_not_the_value():
    f_s, f_t = maps(5, 7)
    a, b = (
        terms(build(SKDConfig(level="s32", pixel=0, norm_gradient=form)), f_s, f_t)["pair"]
        for form in ("plain", "as_code")
    )
    assert abs(a - b) <= 1e-7 * a
    (g,), (h,) = torch.autograd.grad(a, f_s), torch.autograd.grad(b, f_s)
    assert (g - h).norm() > 0.1 * g.norm()


@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("form", ["as_paper", "as_code"])
def test_pixel_is_a_mean_kl_or_the_codes_sum_of_cross_entropies(form, mask):
    method = build(SKDConfig(pixel_form=form, mask=mask))

    def loops(z_s, z_t):
        B, _, H, W = z_t.shape
        y = labels_on_grid(labels_of(z_t), (H, W))
        total, count = 0, 0
        for n, i, j in ((n, i, j) for n in range(B) for i in range(H) for j in range(W)):
            if mask and y[n, i, j] == IGNORE:
                continue
            e_s, e_t = ([z[n, k, i, j].exp() for k in range(CLASSES)] for z in (z_s, z_t))
            q, p = [e / sum(e_s) for e in e_s], [e / sum(e_t) for e in e_t]
            own = sum(b * b.log() for b in p) if form == "as_paper" else 0
            total = total + own - sum(b * a.log() for a, b in zip(q, p, strict=True))
            count += 1
        assert count > 0
        assert (count < B * H * W) == mask
        return total / (count if form == "as_paper" else H * W)

    assert_equals_loops(method, "pixel", loops, *maps(3, 4))


def test_unmasked_the_pixel_term_is_kd_and_the_codes_has_its_gradient_times_the_batch():
    f_s, f_t = maps(3, 4)
    assert_equals_loops(build(SKDConfig()), "pixel", lambda z_s, z_t: kd_loops(z_s, z_t, 1.0), f_s, f_t)
    paper, code = (terms(build(SKDConfig(pixel_form=form)), f_s, f_t)["pixel"] for form in ("as_paper", "as_code"))
    (g,), (h,) = torch.autograd.grad(paper, f_s), torch.autograd.grad(code, f_s)
    torch.testing.assert_close(h, 2 * g)


@pytest.mark.parametrize(("side", "scale", "count"), [(64, 0.5, 2), (65, 0.5, 3), (64, 0.125, 8), (4, 0.125, 4)])
def test_a_partial_last_cell_is_a_node_of_its_own(side, scale, count):
    assert pooled(randn(1, 2, side, side, seed=0), scale).shape == (1, count**2, 2)


def test_vectors_of_zeros_have_cosine_zero_and_no_gradient():
    f_s, f_t = maps(2, 2)
    f_s = (f_s.detach() * torch.tensor([[0.0, 1.0], [1.0, 1.0]])).requires_grad_()
    pair = terms(build(SKDConfig(level="s32", pixel=0)), f_s, f_t)["pair"]
    (gradient,) = torch.autograd.grad(pair, f_s)
    assert pair.isfinite()
    assert not gradient[..., 0, 0].any()
    assert gradient.isfinite().all()


def test_a_map_pooled_to_one_node_is_refused_before_training():
    f = maps(1, 1)[1]
    batch = Batch(f, labels_of(f), {"s32": f}, ["a/0", "b/0"])
    with pytest.raises(ValueError, match=r"found one cell of s32, 1 x 1.*finer level"):
        build(SKDConfig(level="s32", pixel=0)).prepare(batch, {})


def test_a_trunk_level_without_the_pixel_term_needs_no_head():
    assert SKDConfig().uses_head
    assert not SKDConfig(level="s32", pixel=0).uses_head
    assert SKDConfig(pixel=0).uses_head
    assert build(SKDConfig()).needs == ("penultimate", "logits")
    assert build(SKDConfig(level="s32", pixel=0)).needs == ("s32",)
    assert build(SKDConfig()).weights == {"task": 1.0, "pair": 4.0, "pixel": 10.0}


def test_terms_that_are_no_means_over_samples_see_the_whole_batch():
    assert build(SKDConfig()).per_sample
    assert not build(SKDConfig(mask=True)).per_sample
    assert not build(SKDConfig(pixel_form="as_code")).per_sample
