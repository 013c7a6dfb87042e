"""DKD by loops; how it adds up to KD; what it does with two classes and with sure networks."""

import pytest
import torch
from pydantic import ValidationError
from rivals import CLASSES, assert_equals_loops, build, labels_of, maps, randn, terms

from sward.align import labels_on_grid
from sward.contracts import IGNORE
from sward.methods.kd import logit_kl
from sward.methods.logits.dkd import DKDConfig, kl, split


def probabilities(z, tau):
    e = [(v / tau).exp() for v in z]
    return [v / sum(e) for v in e]


def kl_loops(p, q):
    return sum(a * (a / b).log() for a, b in zip(p, q, strict=True))


def labelled(f_t):
    y = labels_on_grid(labels_of(f_t), f_t.shape[-2:])
    return [(n, i, j, int(y[n, i, j])) for n, i, j in (y != IGNORE).nonzero().tolist()]


def target_loops(z_s, z_t, tau):
    rows = labelled(z_t)
    total = 0
    for n, i, j, c in rows:
        p, q = (probabilities(z[n, :CLASSES, i, j], tau)[c] for z in (z_t, z_s))
        total = total + kl_loops([p, 1 - p], [q, 1 - q])
    return tau**2 * total / len(rows)


def others_loops(z_s, z_t, tau):
    rows = labelled(z_t)
    total = 0
    for n, i, j, c in rows:
        rest = [k for k in range(CLASSES) if k != c]
        total = total + kl_loops(*(probabilities([z[n, k, i, j] for k in rest], tau) for z in (z_t, z_s)))
    return tau**2 * total / len(rows)


@pytest.mark.parametrize("tau", [1.0, 4.0])
@pytest.mark.parametrize(("name", "loops"), [("target", target_loops), ("others", others_loops)])
def test_each_term_is_its_kl_over_the_labelled_pixels(name, loops, tau):
    assert_equals_loops(build(DKDConfig(tau=tau)), name, lambda z_s, z_t: loops(z_s, z_t, tau), *maps(3, 4))


def test_kd_of_a_pixel_is_the_target_plus_the_others_times_the_teachers_doubt():
    z_s, z_t = randn(2, 5, 3, 4, seed=1), randn(2, 5, 3, 4, seed=2)
    y = torch.randint(0, 5, (2, 3, 4), generator=torch.Generator().manual_seed(0))
    label = torch.nn.functional.one_hot(y, 5).movedim(-1, 1).bool()
    s, t = split(z_s / 2, label), split(z_t / 2, label)
    doubt = 1 - (z_t / 2).softmax(1).masked_fill(~label, 0).sum(1)
    whole = 4 * (kl(t["target"], s["target"]) + doubt * kl(t["others"], s["others"])).mean()
    torch.testing.assert_close(whole, logit_kl(z_s, z_t, 2.0), rtol=1e-12, atol=0)


def test_two_classes_are_refused_until_the_dead_term_is_left_out_and_dkd_is_kd():
    given, student = {"s32": 4, "logits": 2}, {"s32": 3}
    with pytest.raises(
        ValueError, match=r"others has weight 1 and there are 2 classes.*Set others: 0, or use kind: kd"
    ):
        DKDConfig().build(given, student, 2, 3)
    method = DKDConfig(others=0).build(given, student, 2, 3)
    assert method.weights == {"task": 1, "target": 1}
    label = torch.tensor([[[[True]], [[False]]]])
    z_s, z_t = randn(1, 2, 1, 1, seed=1), randn(1, 2, 1, 1, seed=2)
    assert kl(split(z_t, label)["others"], split(z_s, label)["others"]) == 0
    torch.testing.assert_close(
        kl(split(z_t, label)["target"], split(z_s, label)["target"])[0, 0, 0],
        logit_kl(z_s, z_t, 1.0),
    )


def test_a_logit_gap_at_which_probabilities_underflow_stays_finite_in_float32():
    z = torch.tensor([300.0, 0.0, -10.0]).view(1, 3, 1, 1)
    z_s, label = (-z).requires_grad_(), torch.tensor([True, False, False]).view(1, 3, 1, 1)
    s, t = split(z_s, label), split(z, label)
    total = (kl(t["target"], s["target"]) + kl(t["others"], s["others"])).sum()
    (gradient,) = torch.autograd.grad(total, z_s)
    assert total.isfinite()
    assert gradient.isfinite().all()


def test_both_terms_rise_linearly_and_a_term_of_weight_zero_is_left_out():
    f_s, f_t = maps()
    whole, rising = terms(build(DKDConfig()), f_s, f_t), build(DKDConfig(ramp_steps=4))
    for step, factor in [(0, 0.25), (2, 0.75), (3, 1.0), (9, 1.0)]:
        found = terms(rising, f_s, f_t, step=step)
        assert {k: v.item() for k, v in found.items()} == pytest.approx(
            {k: factor * v.item() for k, v in whole.items()}
        )
    assert set(terms(build(DKDConfig(target=0)), f_s, f_t)) == {"others"}
    with pytest.raises(ValidationError, match="target and others are both 0"):
        DKDConfig(target=0, others=0)


def test_it_needs_logits_and_nothing_else():
    assert build(DKDConfig()).needs == ("logits",)
    assert DKDConfig().uses_head
