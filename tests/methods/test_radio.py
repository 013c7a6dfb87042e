"""RADIO by loops in every form; PHI-S: variances, signs, and what the choice of the matrix changes."""

import math

import pytest
import torch
import torch.nn.functional as F
from rivals import assert_equals_loops, build, labels_of, maps, projected, randn, terms

from sward.contracts import Batch
from sward.methods.radio.hadamard import hadamard
from sward.methods.radio.phi_s import PhiS, transform
from sward.methods.radio.radio import RADIOConfig


def batch_of(f, level="s32"):
    return Batch(f.new_zeros(len(f), 3, 8, 8), labels_of(f), {level: f}, [f"{i}/0" for i in range(len(f))], seed=5)


def correlated(count, channels=4, side=5, seed=7):
    """Maps whose channels differ in scale, mean and correlation."""
    mixing = randn(channels, channels, seed=seed) * torch.logspace(-1, 1, channels, dtype=torch.float64)[:, None]
    cells = torch.einsum("dc,bchw->bdhw", mixing, randn(count, channels, side, side, seed=seed + 1))
    return cells + torch.arange(channels, dtype=torch.float64)[:, None, None]


def fitted(f):
    stage = PhiS("s32", f.shape[1])
    stage.add(batch_of(f))
    return stage.result()


def ready(**given):
    """In float64, the target fitted to the maps of ``rivals.maps``."""
    method = build(RADIOConfig(**given))
    f_t = maps()[1]
    if method.config.target == "phi_s":
        method.load_prestage(fitted(correlated(3)))
    if method.config.target == "channel":
        mean, std = f_t.mean((0, 2, 3)), f_t.std((0, 2, 3))
        weights = dict(method.named_parameters())
        kept = {name: p.detach().clone() for name, p in weights.items()}
        method.prepare(batch_of(f_t), {"s32": (mean, std)})
        method.load_state_dict(kept, strict=False)
    return method


def mlp_loops(method, f_s):
    y = projected(method.hidden, f_s)
    B, C, H, W = y.shape
    rows = []
    for n, i, j in ((n, i, j) for n in range(B) for i in range(H) for j in range(W)):
        v = [y[n, c, i, j] for c in range(C)]
        mean = sum(v) / C
        variance = sum((x - mean) ** 2 for x in v) / C
        normed = [
            (x - mean) / (variance + 1e-5).sqrt() * method.norm.weight[c] + method.norm.bias[c] for c, x in enumerate(v)
        ]
        rows.append(torch.stack([x * (1 + torch.erf(x / math.sqrt(2))) / 2 for x in normed]))
    return projected(method.out, torch.stack(rows).view(B, H, W, C).permute(0, 3, 1, 2))


def target_loops(method, f_t):
    if method.config.target == "raw":
        return f_t
    B, C, H, W = f_t.shape
    x = torch.empty_like(f_t)
    for n, d, i, j in ((n, d, i, j) for n in range(B) for d in range(C) for i in range(H) for j in range(W)):
        centred = [f_t[n, c, i, j] - method.mean[c] for c in range(C)]
        if method.config.target == "channel":
            x[n, d, i, j] = centred[d] / method.std[d]
        else:
            x[n, d, i, j] = sum(method.transform[d, c] * centred[c] for c in range(C))
    return x


def cosine_loops(h, x):
    B, C, H, W = x.shape
    total = 0
    for n, i, j in ((n, i, j) for n in range(B) for i in range(H) for j in range(W)):
        a, b = h[n, :, i, j], x[n, :, i, j]
        lengths = sum(a[c] ** 2 for c in range(C)).sqrt() * sum(b[c] ** 2 for c in range(C)).sqrt()
        total = total + 1 - sum(a[c] * b[c] for c in range(C)) / lengths
    return total / (B * H * W)


def smooth_l1_loops(h, x):
    gaps = [(a - b).abs() for a, b in zip(h.flatten(), x.flatten(), strict=True)]
    assert {bool(gap < 1) for gap in gaps} == {True, False}
    return sum(gap**2 / 2 if gap < 1 else gap - 0.5 for gap in gaps) / len(gaps)


def mse_loops(h, x):
    return sum((a - b) ** 2 for a, b in zip(h.flatten(), x.flatten(), strict=True)) / x.numel()


FORMS = {"cosine": ("radio", cosine_loops), "smooth_l1": ("radio", smooth_l1_loops), "mse": ("mse", mse_loops)}


@pytest.mark.parametrize("head", ["linear", "mlp"])
@pytest.mark.parametrize("target", ["phi_s", "channel", "raw"])
@pytest.mark.parametrize("name", FORMS)
def test_every_term_is_the_distance_of_the_head_from_the_target(name, target, head):
    loss, distance = FORMS[name]
    method = ready(loss=loss, target=target, head=head)

    def loops(f_s, f_t):
        h = projected(method.align, f_s) if head == "linear" else mlp_loops(method, f_s)
        return distance(h, target_loops(method, f_t))

    assert_equals_loops(method, name, loops, *maps(3, 4))


def test_the_student_is_resized_to_the_teachers_grid():
    method = ready()
    f_s, f_t = randn(2, 3, 7, 5, seed=8), maps()[1]
    resized = F.interpolate(f_s, f_t.shape[-2:], mode="bilinear", align_corners=False)
    a, b = terms(method, f_s, f_t), terms(method, resized, f_t)
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_weights_are_am_radios_mixture_or_the_one_of_the_square():
    assert build(RADIOConfig()).weights == {"task": 1.0, "cosine": 0.9, "smooth_l1": 0.1}
    assert build(RADIOConfig(weight=2)).weights == {"task": 1.0, "cosine": 1.8, "smooth_l1": 0.2}
    assert build(RADIOConfig(loss="mse", weight=2)).weights == {"task": 1.0, "mse": 2.0}


def test_mean_and_covariance_are_those_of_all_cells_by_loops():
    f, found = correlated(3), fitted(correlated(3))
    cells = [f[n, :, i, j] for n in range(3) for i in range(5) for j in range(5)]
    mean = sum(cells) / len(cells)
    covariance = sum(torch.outer(cell - mean, cell - mean) for cell in cells) / (len(cells) - 1)
    torch.testing.assert_close(found["mean"], mean, rtol=1e-12, atol=0)
    torch.testing.assert_close(found["covariance"], covariance, rtol=1e-11, atol=1e-11)
    assert all(tensor.dtype == torch.float64 for tensor in found.values())


def test_after_phi_s_every_channel_has_variance_one_and_mean_zero():
    f, found = correlated(4, channels=12), fitted(correlated(4, channels=12))
    x = torch.einsum("dc,bchw->bdhw", found["transform"], f - found["mean"][:, None, None])
    cells = x.movedim(1, 0).flatten(1)
    torch.testing.assert_close(cells.var(1), torch.ones(12, dtype=torch.float64), rtol=1e-9, atol=0)
    assert cells.mean(1).abs().max() < 1e-10


def test_the_transform_is_one_rotation_and_one_scale():
    T = fitted(correlated(3, channels=8))["transform"]
    scale = T[0].square().sum()
    torch.testing.assert_close(T @ T.mT, scale * torch.eye(8, dtype=torch.float64), rtol=1e-9, atol=1e-12)


def test_of_every_eigenvector_the_largest_component_is_positive():
    covariance = fitted(correlated(3, channels=8))["covariance"]
    H, T = hadamard(8) / 8**0.5, transform(covariance)
    U = (H.mT @ T).mT
    U = U / U.norm(dim=0)
    e = torch.linalg.eigvalsh(covariance)
    assert all(U[U[:, k].abs().argmax(), k] > 0 for k in range(8))
    torch.testing.assert_close(U @ torch.diag(e) @ U.mT, covariance, rtol=1e-9, atol=1e-9)


def test_how_records_are_batched_changes_no_bit():
    f, one, many = correlated(6), PhiS("s32", 4), PhiS("s32", 4)
    one.add(batch_of(f))
    for record in f.split(1):
        many.add(batch_of(record))
    a, b = one.result(), many.result()
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_the_squared_error_and_the_cosine_do_not_depend_on_the_hadamard_matrix_or_on_signs():
    f_s, f_t = maps(3, 4)
    found = fitted(f_t)
    turned = torch.linalg.qr(randn(4, 4, seed=9))[0]  # from one orthogonal matrix to any other
    for loss, name in (("mse", "mse"), ("radio", "cosine")):
        method, other = ready(loss=loss), ready(loss=loss)
        method.load_prestage(found)
        other.load_prestage(found | {"transform": turned @ found["transform"]})
        weight, bias = method.align.weight.detach(), method.align.bias.detach()
        turned_weight = torch.einsum("dc,cskl->dskl", turned, weight)
        other.load_state_dict({"align.weight": turned_weight, "align.bias": turned @ bias}, strict=False)
        a, b = terms(method, f_s, f_t)[name], terms(other, f_s, f_t)[name]
        torch.testing.assert_close(a, b, rtol=1e-12, atol=0)
        (g,), (h,) = torch.autograd.grad(a, f_s), torch.autograd.grad(b, f_s)
        torch.testing.assert_close(g, h, rtol=1e-10, atol=1e-14)


def test_the_best_linear_heads_squared_error_does_not_depend_on_it_either():
    f_s, f_t = maps(4, 6)
    found = fitted(f_t)
    inputs = torch.cat([f_s.detach().movedim(1, -1).flatten(0, 2), torch.ones(48, 1, dtype=torch.float64)], 1)
    left = []
    for matrix in (hadamard(4) / 2, torch.eye(4, dtype=torch.float64), torch.linalg.qr(randn(4, 4, seed=9))[0]):
        T = matrix @ (hadamard(4) / 2).mT @ found["transform"]
        x = torch.einsum("dc,bchw->bdhw", T, f_t - found["mean"][:, None, None]).movedim(1, -1).flatten(0, 2)
        left.append((inputs @ torch.linalg.lstsq(inputs, x).solution - x).square().mean())
    assert all(torch.isclose(a, left[0], rtol=1e-12) for a in left)


def test_null_directions_add_zeros_and_a_constant_teacher_is_refused():
    f = correlated(3, channels=8)
    f[:, 4:] = f[:, :4]  # rank 4
    found = fitted(f)
    x = torch.einsum("dc,bchw->bdhw", found["transform"], f - found["mean"][:, None, None])
    torch.testing.assert_close(x.movedim(1, 0).flatten(1).var(1), torch.ones(8, dtype=torch.float64), rtol=1e-6, atol=0)
    with pytest.raises(ValueError, match=r"the same vector in all cells of s32"):
        fitted(torch.ones(2, 4, 3, 3, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"found 1 cells of s32"):
        fitted(torch.ones(1, 4, 1, 1, dtype=torch.float64))


def test_channels_without_a_hadamard_matrix_are_refused_before_training():
    def made(channels, **given):
        return RADIOConfig(**given).build({"s32": channels}, {"s32": 3}, 3, 6)

    with pytest.raises(ValueError, match=r"found 6 channels of s32.*set target: channel"):
        made(6)
    assert made(6, target="channel").prestage() is None
    assert made(6, target="raw").prestage() is None
    assert made(12).prestage().key == {"kind": "radio", "statistic": "phi_s", "level": "s32", "channels": 12}


def test_standardised_channels_come_from_the_stores_statistics_of_a_trunk_level():
    method = build(RADIOConfig(target="channel"))
    f_t = maps()[1]
    method.prepare(batch_of(f_t), {"s32": (torch.arange(4.0), torch.tensor([1.0, 2.0, 0.0, 4.0]))})
    assert method.mean.tolist() == [0, 1, 2, 3]
    assert method.std.tolist() == [1, 2, 1, 4]  # a constant channel is only centred
    with pytest.raises(ValueError, match=r"expected \(mean, std\) of s32.*found \[\]"):
        method.prepare(batch_of(f_t), {})
    with pytest.raises(ValueError, match=r"found level penultimate; set target to phi_s or raw"):
        RADIOConfig(target="channel", level="penultimate")


def test_names_of_parameters_and_buffers_are_those_documented():
    assert build(RADIOConfig()).state_dict().keys() == {"align.weight", "align.bias", "mean", "transform"}
    names = {"hidden.weight", "hidden.bias", "norm.weight", "norm.bias", "out.weight", "out.bias", "mean", "std"}
    assert build(RADIOConfig(head="mlp", target="channel")).state_dict().keys() == names
    assert build(RADIOConfig(target="raw")).state_dict().keys() == {"align.weight", "align.bias"}
