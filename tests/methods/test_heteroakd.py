"""HeteroAKD by loops in every form; what the mixture prefers, the warm-up, and who is supervised."""

import math

import pytest
import torch
from rivals import CLASSES, assert_equals_loops, build, kd_loops, labels_of, maps, projected, terms

from sward.align import labels_on_grid
from sward.contracts import IGNORE
from sward.methods.heteroakd import HeteroAKDConfig

READY = {"warmup_steps": 0, "kd": 0}


def normed(Z, norm):
    mean, variance = Z.mean((0, 2, 3), keepdim=True), Z.var((0, 2, 3), correction=0, keepdim=True)
    return (Z - mean) / (variance + 1e-5).sqrt() * norm.weight.view(-1, 1, 1) + norm.bias.view(-1, 1, 1)


def class_maps(method, f_s, f_t):
    Z_s = normed(projected(method.project_s, f_s), method.norm_s)
    Z_t = normed(projected(method.project_t, f_t), method.norm_t)
    if method.config.relu:
        Z_s, Z_t = Z_s.clamp_min(0), Z_t.clamp_min(0)
    return (Z_s if Z_s.shape == Z_t.shape else halved(Z_s)), Z_t


def halved(Z):
    """Bilinear to half the size: the mean of four neighbours."""
    B, K, H, W = Z.shape
    cells = [(y, x) for y in range(0, H, 2) for x in range(0, W, 2)]
    means = [(Z[..., y, x] + Z[..., y, x + 1] + Z[..., y + 1, x] + Z[..., y + 1, x + 1]) / 4 for y, x in cells]
    return torch.stack(means, -1).view(B, K, H // 2, W // 2)


def error(z, hit):
    p = 1 / (1 + (-z).exp())
    return -p.log() if hit else -(1 - p).log()


def bernoulli_kl(a, b):
    p, q = 1 / (1 + (-a).exp()), 1 / (1 + (-b).exp())
    return p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()


def mixed(z_s, z_t, label):
    """(Z_h, urgency) per class at one position, without gradient."""
    pairs = []
    for k in range(CLASSES):
        a, b, hit = z_s[k].detach(), z_t[k].detach(), k == label
        S = 1 - error(b, hit) / (error(b, hit) + error(a, hit))
        z = S * b + (1 - S) * a
        pairs.append((z, error(a, hit) + max(0.0, float(error(a, hit) - error(z, hit)))))
    return torch.stack([z for z, _ in pairs]), torch.stack([u for _, u in pairs])


def counted(f_t):
    y = labels_on_grid(labels_of(f_t), f_t.shape[-2:])
    B, H, W = y.shape
    cells = [(n, i, j) for n in range(B) for i in range(H) for j in range(W) if y[n, i, j] != IGNORE]
    assert 0 < len(cells) < y.numel()
    return y, cells


@pytest.mark.parametrize(
    ("tau", "relu", "student"),
    [(1.0, False, (3, 4)), (4.0, True, (3, 4)), (1.0, False, (6, 8)), (4.0, True, (6, 8))],  # larger: projected first
)
def test_by_class_it_is_the_weighted_cross_entropy_at_labelled_positions(tau, relu, student):
    method = build(HeteroAKDConfig(**READY, tau=tau, relu=relu))

    def loops(f_s, f_t):
        Z_s, Z_t = class_maps(method, f_s, f_t)
        y, cells = counted(f_t)
        total = 0
        for n, i, j in cells:
            Z_h, urgency = mixed(Z_s[n, :, i, j], Z_t[n, :, i, j], y[n, i, j])
            w = urgency.exp() / urgency.exp().sum()
            p, q = (Z_h / tau).exp(), (Z_s[n, :, i, j] / tau).exp()
            total = total - sum(w[k] * p[k] / p.sum() * (q[k] / q.sum()).log() for k in range(CLASSES))
        return total / len(cells)

    assert_equals_loops(method, "mixture", loops, maps(*student)[0], maps(3, 4)[1])


def test_by_space_it_is_the_bernoulli_kl_with_weights_over_positions():
    method = build(HeteroAKDConfig(**READY, evaluation="space", tau=2.0))

    def loops(f_s, f_t):
        Z_s, Z_t = class_maps(method, f_s, f_t)
        y, cells = counted(f_t)
        total = 0
        for n in range(2):
            places = [(i, j) for m, i, j in cells if m == n]
            found = [mixed(Z_s[n, :, i, j], Z_t[n, :, i, j], y[n, i, j]) for i, j in places]
            for k in range(CLASSES):
                mass = sum(urgency[k].exp() for _, urgency in found)
                for (i, j), (Z_h, urgency) in zip(places, found, strict=True):
                    total = total + urgency[k].exp() / mass * bernoulli_kl(Z_h[k] / 2, Z_s[n, k, i, j] / 2)
        return 4 * total / 2

    assert_equals_loops(method, "mixture", loops, *maps(3, 4))


@pytest.mark.parametrize("supervision", ["bce", "ce"])
def test_supervision_is_both_class_maps_error_against_the_labels(supervision):
    method = build(HeteroAKDConfig(supervision=supervision))

    def loops(f_s, f_t):
        y, cells = counted(f_t)
        total = 0
        for Z in class_maps(method, f_s, f_t):
            for n, i, j in cells:
                z, label = Z[n, :, i, j], y[n, i, j]
                if supervision == "bce":
                    total = total + sum(error(z[k], k == label) for k in range(CLASSES)) / CLASSES
                else:
                    total = total - (z[label].exp() / z.exp().sum()).log()
        return total / len(cells)

    assert_equals_loops(method, "supervision", loops, *maps(3, 4))


def test_the_mixture_waits_for_the_warm_up_and_supervision_does_not():
    method = build(HeteroAKDConfig(warmup_steps=3))
    f_s, f_t = maps()
    steps = [terms(method, f_s, f_t, step=step) for step in (0, 2, 3, 4)]
    assert [bool(t["mixture"] > 0) for t in steps] == [False, False, True, True]
    assert len({t["supervision"].item() for t in steps}) == 1


def test_without_supervision_the_teachers_projector_is_fixed_and_declared_so():
    method = build(HeteroAKDConfig(**READY, supervision="none"))
    assert {n.partition(".")[0] for n, p in method.named_parameters() if not p.requires_grad} == {
        "project_t",
        "norm_t",
    }
    found = terms(method, *maps())
    assert set(found) == {"mixture"}
    found["mixture"].backward()
    assert all((p.grad is not None) == p.requires_grad for p in method.parameters())


def test_the_logits_term_is_kd_at_the_methods_temperature_after_the_warm_up():
    method = build(HeteroAKDConfig(warmup_steps=3, tau=2.0))
    assert method.weights["kd"] == 0.1
    assert_equals_loops(method, "kd", lambda z_s, z_t: kd_loops(z_s, z_t, 2.0), *maps(3, 4), step=3)
    assert terms(method, *maps(), step=2)["kd"] == 0


def test_it_reads_the_teachers_head_only_for_the_logits_term():
    bare = {"s32": 4}
    assert build(HeteroAKDConfig()).needs == ("s32", "logits")
    assert HeteroAKDConfig().uses_head
    assert not HeteroAKDConfig(kd=0).uses_head
    assert HeteroAKDConfig(kd=0).build(bare, {"s32": 3}, CLASSES, 6).needs == ("s32",)
    with pytest.raises(ValueError, match=r"teacher's logits.*sward fit-head"):
        HeteroAKDConfig().build(bare, {"s32": 3}, CLASSES, 6)


@pytest.mark.parametrize("evaluation", ["class", "space"])
def test_the_mixture_alone_gives_the_teachers_projector_no_gradient(evaluation):
    method = build(HeteroAKDConfig(**READY, evaluation=evaluation))
    terms(method, *maps())["mixture"].backward()
    assert method.project_t.weight.grad is None
    assert method.project_s.weight.grad.abs().sum() > 0


def test_a_student_that_equals_the_mixture_has_no_spatial_divergence_left():
    method = build(HeteroAKDConfig(**READY, evaluation="space"), teacher=3)
    f_s, _ = maps()
    method.project_t.weight.data = method.project_s.weight.data.clone()
    method.norm_t.load_state_dict(method.norm_s.state_dict())
    assert terms(method, f_s, f_s.detach())["mixture"].abs() < 1e-14


def test_a_rectified_class_map_can_never_say_that_a_class_is_absent():
    method = build(HeteroAKDConfig(relu=True))
    with torch.no_grad():
        absent = terms(method, *maps())["supervision"]
    assert absent >= 2 * math.log(2) * (CLASSES - 1) / CLASSES
