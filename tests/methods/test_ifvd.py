"""IFVD by loops in every form; ignored pixels, lone pixels, and where it carries nothing."""

import pytest
import torch
from rivals import CLASSES, assert_equals_loops, build, kd_loops, labels_of, maps, terms

from sward.align import labels_on_grid
from sward.contracts import IGNORE, Batch, StudentOutput
from sward.methods.relations.ifvd import IFVDConfig


def with_labels(method, f_s, f_t, labels):
    batch = Batch(f_t, labels, {"s32": f_t, "penultimate": f_t, "logits": f_t[:, :CLASSES]}, ["a/0", "b/0"], seed=5)
    return method(StudentOutput(f_s, {"s16": f_s, "s32": f_s}, f_s), batch, 0)


def cosine(v, w):
    def length(values):
        return sum(value**2 for value in values).sqrt()

    return sum(a * b for a, b in zip(v, w, strict=True)) / (length(v) * length(w))


def to_mean(f, y, n, i, j, images):
    """Cosine of one position with the mean of its class over ``images``."""
    _, C, H, W = f.shape
    places = [(m, a, b) for m in images for a in range(H) for b in range(W) if y[m, a, b] == y[n, i, j]]
    mean = [sum(f[m, c, a, b] for m, a, b in places) / (len(places) + 1e-6) for c in range(C)]
    return cosine([f[n, c, i, j] for c in range(C)], mean)


@pytest.mark.parametrize("means", ["image", "batch"])
@pytest.mark.parametrize("reduction", ["valid", "as_code"])
def test_variation_is_the_squared_difference_of_cosines_with_the_class_means(reduction, means):
    method = build(IFVDConfig(reduction=reduction, means=means))

    def loops(f_s, f_t):
        B, _, H, W = f_t.shape
        y = labels_on_grid(labels_of(f_t), (H, W))
        counted = [(n, i, j) for n in range(B) for i in range(H) for j in range(W) if y[n, i, j] != IGNORE]
        total = 0
        for n, i, j in counted:
            images = [n] if means == "image" else range(B)
            total = total + (to_mean(f_s, y, n, i, j, images) - to_mean(f_t, y, n, i, j, images)) ** 2
        assert len(counted) < B * H * W
        return total / (len(counted) if reduction == "valid" else B * H * W)

    assert_equals_loops(method, "variation", loops, *maps(3, 4))


def test_kd_is_the_mean_over_classes_too():
    method = build(IFVDConfig())
    assert_equals_loops(method, "kd", lambda z_s, z_t: kd_loops(z_s, z_t, 1.0) / CLASSES, *maps(3, 4))


@pytest.mark.parametrize("reduction", ["valid", "as_code"])
def test_pixels_of_no_class_have_no_part_in_it_whatever_their_label(reduction):
    method = build(IFVDConfig(reduction=reduction))
    f_s, f_t = maps(3, 4)
    labels = labels_on_grid(labels_of(f_t), (3, 4))
    found = with_labels(method, f_s, f_t, labels)["variation"]
    (gradient,) = torch.autograd.grad(found, f_s)
    assert not gradient.movedim(1, -1)[labels == IGNORE].any()
    for other in (CLASSES, 200, -1):
        again = with_labels(method, f_s, f_t, torch.where(labels == IGNORE, other, labels))["variation"]
        assert torch.equal(again, found)


@pytest.mark.parametrize("label", [IGNORE, 0])
def test_nothing_labelled_is_zero_and_so_is_every_class_of_one_pixel(label):
    f_s, f_t = maps(1, 2)
    labels = torch.tensor([[[label, 1]], [[1, label]]]) if label == 0 else torch.full((2, 1, 2), IGNORE)
    variation = with_labels(build(IFVDConfig()), f_s, f_t, labels)["variation"]
    (gradient,) = torch.autograd.grad(variation, f_s)
    assert variation.abs() < 1e-20
    assert gradient.abs().max() < 1e-8


def test_features_of_zeros_are_finite():
    f_s, f_t = maps(3, 4)
    zero = torch.zeros_like(f_s).requires_grad_()
    variation = terms(build(IFVDConfig()), zero, f_t)["variation"]
    (gradient,) = torch.autograd.grad(variation, zero)
    assert variation > 0
    assert not gradient.any()


def test_a_map_of_one_position_is_refused_before_training():
    f = maps(1, 1)[1]
    batch = Batch(f, labels_of(f), {"penultimate": f}, ["a/0", "b/0"])
    with pytest.raises(ValueError, match=r"found penultimate of 1 x 1.*means: batch"):
        build(IFVDConfig()).prepare(batch, {})
    build(IFVDConfig(means="batch")).prepare(batch, {})


def test_an_unstated_weight_is_the_authors_on_head_maps_and_smaller_on_trunk_levels():
    assert build(IFVDConfig()).weights == {"task": 1.0, "variation": 200.0, "kd": 10.0}
    assert build(IFVDConfig(level="s32", kd=0)).weights == {"task": 1.0, "variation": 20.0}
    assert build(IFVDConfig(level="s32", weight=3)).weights["variation"] == 3


def test_a_trunk_level_without_kd_needs_no_head():
    assert build(IFVDConfig(level="s32", kd=0)).needs == ("s32",)
    assert not IFVDConfig(level="s32", kd=0).uses_head
    assert IFVDConfig(level="s32").uses_head
    assert IFVDConfig(kd=0).uses_head
