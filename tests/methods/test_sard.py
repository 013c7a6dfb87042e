"""SARD by loops: the structure map, both terms in every mode, and why the printed L_DA teaches nothing."""

import pytest
import torch
import torch.nn.functional as F
from rivals import STUDENT, TEACHER, assert_equals_loops, build, maps, projected, randn, terms

from sward import seeds
from sward.methods.sard.attention_map import StructureConfig, density, edges_and_corners, structure_map
from sward.methods.sard.sard import SARDConfig

UNIFORM = StructureConfig(beta_e=0, beta_c=0, beta_d=0)
KX = [(-1, -1, -1), (-1, 1, 1), (0, -1, -2), (0, 1, 2), (1, -1, -1), (1, 1, 1)]  # (dy, dx, weight) of Sobel's x


def noise_of(f_t, channels, step=0):
    generator = torch.Generator().manual_seed(seeds.torch_seed(5, "sard", step))
    return torch.randn((2, channels, *f_t.shape[-2:]), generator=generator).double()


def tensor_at(f, y, x):
    H, W = f.shape[-2:]

    def at(c, dy, dx):
        return f[c, min(max(y + dy, 0), H - 1), min(max(x + dx, 0), W - 1)]

    J = torch.zeros(2, 2, dtype=f.dtype)
    for c in range(len(f)):
        gx = sum(w * at(c, dy, dx) for dy, dx, w in KX)
        gy = sum(w * at(c, dx, dy) for dy, dx, w in KX)
        J += torch.outer(torch.stack([gx, gy]), torch.stack([gx, gy]))
    return J


def density_at(f, y, x, r):
    H, W = f.shape[-2:]
    near = [(a, b) for a in range(H) for b in range(W) if abs(a - y) <= r and abs(b - x) <= r]
    mu = sum(f[:, a, b] for a, b in near) / len(near)
    return sum((f[:, a, b] - mu).norm() for a, b in near) / len(near)


def test_edges_corners_and_density_are_those_of_eigenvalues_and_windows():
    f = randn(1, 3, 5, 7, seed=1)
    (E,), (C,) = edges_and_corners(f)
    (D,) = density(f, 2)
    for y in range(5):
        for x in range(7):
            l2, l1 = torch.linalg.eigvalsh(tensor_at(f[0], y, x))
            torch.testing.assert_close(E[y, x], l1 - l2, rtol=1e-10, atol=1e-10)
            torch.testing.assert_close(C[y, x], (l1 * l2).clamp_min(0).sqrt(), rtol=1e-8, atol=1e-8)
            torch.testing.assert_close(D[y, x], density_at(f[0], y, x, 2), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("scale", ["minmax", "mean", "literal"])
def test_the_map_mixes_scaled_parts_and_sums_to_one(scale):
    f = randn(2, 3, 5, 7, seed=1)
    W = structure_map(f, StructureConfig(scale=scale, radius=2))
    for n in range(2):
        parts = [part[n] for part in (*edges_and_corners(f), density(f, 2))]
        if scale == "minmax":
            parts = [(p - p.min()) / (p.max() - p.min()) for p in parts]
        if scale == "mean":
            parts = [p / p.mean() for p in parts]
        S = 2 * parts[0] + parts[1] + parts[2]
        torch.testing.assert_close(W[n], S / S.sum(), rtol=1e-10, atol=0)


def test_an_edge_is_worth_more_than_flat_ground_and_nothing_is_worth_the_same_everywhere():
    f = torch.zeros(1, 2, 6, 6).double()
    f[..., 3:] = 1
    W = structure_map(f, StructureConfig(radius=1))[0]
    assert (W[:, 2:4] > W[:, :1]).all()
    flat = structure_map(torch.ones(1, 2, 6, 6), StructureConfig())
    assert torch.equal(flat, torch.full((1, 6, 6), 1 / 36))
    assert torch.equal(structure_map(f, UNIFORM), torch.full((1, 6, 6), 1 / 36, dtype=f.dtype))


def test_as_printed_density_is_lost_against_squared_gradients():
    f = randn(1, 40, 12, 12, seed=3)
    literal, without = StructureConfig(scale="literal"), StructureConfig(scale="literal", beta_d=0)
    assert (structure_map(f, literal) / structure_map(f, without) - 1).abs().max() < 0.05
    repaired = structure_map(f, StructureConfig()) / structure_map(f, StructureConfig(beta_d=0))
    assert (repaired - 1).abs().max() > 0.2


@pytest.mark.parametrize("projection", ["student", "frozen", "learned"])
@pytest.mark.parametrize("denoise", ["conditional", "literal"])
@pytest.mark.parametrize("channels", ["mean", "sum"])
def test_both_terms_are_weighted_sums_over_positions(projection, denoise, channels):
    config = SARDConfig(projection=projection, denoise=denoise, channels=channels, latent=2, signal=0.3)
    method = build(config)
    latent = TEACHER if projection == "student" else 2

    def weighted(difference, W):
        square = sum(difference[:, c] ** 2 for c in range(latent)) / (latent if channels == "mean" else 1)
        return sum(w * v for w, v in zip(W.flatten(), square.flatten(), strict=True)) / 2

    def projections(f_s, f_t):
        return projected(method.P_S, f_s), f_t if method.P_T is None else projected(method.P_T, f_t)

    def consistency(f_s, f_t):
        y_s, y_t = projections(f_s, f_t)
        return weighted(y_s - y_t, structure_map(f_t, config.structure))

    def denoising(f_s, f_t):
        (seen, y_t), noise = projections(f_s, f_t), noise_of(f_t, latent, step=4)
        if denoise == "conditional":
            seen = torch.cat([seen, 0.3**0.5 * y_t + 0.7**0.5 * noise], 1)
        guess = projected(method.g2, projected(method.g1, seen).clamp_min(0))
        return weighted(guess - noise, structure_map(f_t, config.structure))

    assert_equals_loops(method, "consistency", consistency, *maps(3, 4), step=4)
    assert_equals_loops(method, "denoising", denoising, *maps(3, 4), step=4)


def test_as_printed_the_noise_cannot_be_predicted_and_nothing_of_the_teacher_is_seen():
    method = build(SARDConfig(denoise="literal", structure=UNIFORM))
    f_s, f_t = maps()
    assert torch.equal(terms(method, f_s, f_t)["denoising"], terms(method, f_s, -3 * f_t)["denoising"])
    guessing = torch.stack([terms(method, f_s, f_t, step=step)["denoising"] for step in range(100)]).mean()
    torch.nn.init.zeros_(method.g2.weight)
    torch.nn.init.zeros_(method.g2.bias)
    silent = torch.stack([terms(method, f_s, f_t, step=step)["denoising"] for step in range(100)]).mean()
    torch.testing.assert_close(silent, torch.ones(()).double(), rtol=0.05, atol=0)  # 9600 squares of normal numbers
    assert silent < guessing


def test_repaired_a_student_that_knows_the_teacher_removes_the_noise_exactly():
    method = build(SARDConfig(signal=0.5), student=TEACHER)
    _, f_t = maps()
    eye = torch.eye(TEACHER).double()
    noise = noise_of(f_t, TEACHER)
    first = torch.cat([torch.cat([-eye, 2**0.5 * eye], 1), torch.cat([eye, -(2**0.5) * eye], 1)])  # e and -e
    method.g1 = torch.nn.Conv2d(2 * TEACHER, 2 * TEACHER, 1, bias=False).double()
    method.g2 = torch.nn.Conv2d(2 * TEACHER, TEACHER, 1, bias=False).double()
    method.g1.weight.data = first.view(2 * TEACHER, -1, 1, 1)
    method.g2.weight.data = torch.cat([eye, -eye], 1).view(TEACHER, -1, 1, 1)
    W = structure_map(f_t, StructureConfig())
    assert method.denoising(f_t, f_t, W, noise) < 1e-28
    assert method.denoising(F.pad(f_t[:, 1:], (0, 0, 0, 0, 1, 0)), f_t, W, noise) > 1e-3


def test_frozen_projections_are_declared_so_and_the_noise_follows_seed_and_step():
    frozen = build(SARDConfig(projection="frozen"))
    assert {n for n, p in frozen.named_parameters() if not p.requires_grad} == {"P_T.weight", "P_T.bias"}
    assert "denoising" not in build(SARDConfig(lambda_d=0)).weights
    assert build(SARDConfig()).P_S.weight.shape[:2] == (TEACHER, STUDENT)
    method, (f_s, f_t) = build(SARDConfig()), maps()
    draws = {terms(method, f_s, f_t, seed=s, step=t)["denoising"].item() for s, t in [(5, 0), (5, 0), (5, 1), (6, 0)]}
    assert len(draws) == 3
