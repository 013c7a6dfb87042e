"""CWD by loops; what a distribution over positions does not see."""

import pytest
import torch
from rivals import CLASSES, STUDENT, TEACHER, assert_equals_loops, build, maps, projected, randn, terms

from sward.methods.cwd import CWDConfig


def kl_loops(y, f_t, tau):
    total = 0
    for n in range(len(y)):
        for c in range(y.shape[1]):
            e_s = [(v / tau).exp() for v in y[n, c].flatten()]
            e_t = [(v / tau).exp() for v in f_t[n, c].flatten()]
            p_s, p_t = [v / sum(e_s) for v in e_s], [v / sum(e_t) for v in e_t]
            total = total + sum(b * (b.log() - a.log()) for a, b in zip(p_s, p_t, strict=True))
    return tau**2 * total


@pytest.mark.parametrize("tau", [1.0, 4.0])
def test_the_term_is_the_kl_of_spatial_softmaxes_per_sample_and_channel(tau):
    method = build(CWDConfig(level="s32", tau=tau))
    assert_equals_loops(
        method,
        "channels",
        lambda f_s, f_t: kl_loops(projected(method.align, f_s), f_t, tau) / (2 * TEACHER),
        *maps(3, 4),
    )


def test_the_authors_aligner_normalises_and_rectifies():
    method = build(CWDConfig(level="s32", aligner="conv_bn_relu"))

    def loops(f_s, f_t):
        y = projected(method.align, f_s)
        mean, variance = y.mean((0, 2, 3), keepdim=True), y.var((0, 2, 3), correction=0, keepdim=True)
        y = (y - mean) / (variance + 1e-5).sqrt()
        y = (y * method.norm.weight.view(-1, 1, 1) + method.norm.bias.view(-1, 1, 1)).clamp_min(0)
        return kl_loops(y, f_t, 4.0) / (2 * TEACHER)

    assert_equals_loops(method, "channels", loops, *maps(3, 4))


def test_constants_added_to_channels_change_nothing():
    method = build(CWDConfig(level="s32"))
    f_s, f_t = maps()
    moved = terms(method, f_s + randn(1, STUDENT, 1, 1, seed=4), f_t + randn(1, TEACHER, 1, 1, seed=5))
    torch.testing.assert_close(moved["channels"], terms(method, f_s, f_t)["channels"])


def test_dividing_by_the_students_channels_scales_by_their_ratio():
    f_s, f_t = maps()
    ours, theirs = (
        terms(build(CWDConfig(level="s32", channels=c)), f_s, f_t)["channels"] for c in ("aligned", "student")
    )
    torch.testing.assert_close(theirs / ours, torch.tensor(TEACHER / STUDENT, dtype=torch.float64))


def test_equal_maps_are_at_zero():
    method = build(CWDConfig(level="s32"), teacher=STUDENT)
    method.load_state_dict({"align.weight": torch.eye(STUDENT).view(STUDENT, STUDENT, 1, 1)})
    f_s, _ = maps()
    assert terms(method, f_s, f_s.detach())["channels"].abs() < 1e-14


@pytest.mark.parametrize("tau", [1.0, 4.0])
def test_logits_are_compared_as_they_are(tau):
    method = build(CWDConfig(tau=tau))
    assert method.needs == ("logits",)
    assert not list(method.parameters())
    assert_equals_loops(
        method, "channels", lambda z_s, z_t: kl_loops(z_s, z_t[:, :CLASSES], tau) / (2 * CLASSES), *maps(3, 4)
    )


def test_the_weight_follows_what_is_compared_unless_it_is_given():
    weights = [build(CWDConfig(level=level)).weights["channels"] for level in ("logits", "penultimate", "s32")]
    assert weights == [3, 50, 50]
    assert build(CWDConfig(weight=5, tau=1)).weights["channels"] == 5


def test_an_aligner_for_logits_is_refused():
    with pytest.raises(ValueError, match="'conv_bn_relu' belongs to the feature form"):
        CWDConfig(aligner="conv_bn_relu")
