"""Hinton's KD by loops, and what its temperature and reduction change."""

import pytest
import torch
import torch.nn.functional as F
from rivals import CLASSES, assert_equals_loops, build, kd_loops, maps, randn, terms

from sward.methods.kd import KDConfig


@pytest.mark.parametrize("tau", [1.0, 4.0])
def test_the_term_is_the_kl_of_class_probabilities_summed_over_classes_and_averaged_over_pixels(tau):
    method = build(KDConfig(tau=tau))
    assert_equals_loops(method, "kd", lambda z_s, z_t: kd_loops(z_s, z_t, tau), *maps(3, 4))


def test_the_mean_over_classes_has_no_squared_temperature():
    method = build(KDConfig(tau=2.0, classes="mean"))
    assert_equals_loops(method, "kd", lambda z_s, z_t: kd_loops(z_s, z_t, 2.0) / (4 * CLASSES), *maps(3, 4))


def test_the_student_is_resized_to_the_teachers_logits_and_they_are_left_alone():
    method = build(KDConfig())
    z_s, z_t = randn(2, 3, 7, 5, seed=8), maps()[1]
    resized = F.interpolate(z_s, z_t.shape[-2:], mode="bilinear", align_corners=False)
    assert torch.equal(terms(method, z_s, z_t)["kd"], terms(method, resized, z_t)["kd"])


def test_equal_logits_and_constants_added_to_a_pixel_are_at_zero():
    z_s, _ = maps()
    assert terms(build(KDConfig()), z_s + randn(2, 1, 4, 6, seed=4), z_s.detach())["kd"].abs() < 1e-14


def test_it_needs_logits_and_nothing_else():
    assert build(KDConfig()).needs == ("logits",)
    assert KDConfig().uses_head
    with pytest.raises(ValueError, match=r"teacher's logits.*sward fit-head"):
        KDConfig().build({"s32": 4}, {"s32": 3}, CLASSES, 6)
    with pytest.raises(ValueError, match="logits"):
        KDConfig(level="s32")


def test_an_unstated_weight_is_that_of_the_reductions_authors():
    weights = [build(KDConfig(**given)).weights["kd"] for given in ({}, {"classes": "mean"}, {"weight": 3})]
    assert weights == [1, 10, 3]
