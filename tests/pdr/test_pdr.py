"""PDR against the equations written as loops, and its edge cases: ignored, absent, one-pixel, identical classes."""

import math
from itertools import combinations
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from sward import PDR, PDRConfig
from sward.contracts import IGNORE


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def labels_of(*shape: int, classes: int, seed: int = 0) -> Tensor:
    y = torch.randint(0, classes, shape, generator=torch.Generator().manual_seed(seed))
    return torch.where(torch.rand(shape, generator=torch.Generator().manual_seed(seed + 1)) < 0.2, IGNORE, y)


def grid_label(labels: Tensor, b: int, y: int, x: int, H: int, W: int, pure: bool) -> int:
    h, w = labels.shape[1:]
    rows = range(y * h // H, -(-(y + 1) * h // H))
    columns = range(x * w // W, -(-(x + 1) * w // W))
    cell = {int(labels[b, r, c]) for r in rows for c in columns}
    if pure:
        return cell.pop() if len(cell) == 1 else IGNORE
    return int(labels[b, rows[0], columns[0]])


def loops(f: Tensor, labels: Tensor, config: PDRConfig) -> dict[str, float]:
    B, _, H, W = f.shape
    members: dict[int, list[list[float]]] = {}
    for b in range(B):
        for y in range(H):
            for x in range(W):
                k = grid_label(labels, b, y, x, H, W, config.label_grid == "pure")
                v = f[b, :, y, x].tolist()
                if config.normalise:
                    length = math.sqrt(math.fsum(a * a for a in v))
                    v = [a / length for a in v]
                if k != IGNORE:
                    members.setdefault(k, []).append(v)
    mean = {k: [math.fsum(c) / len(vs) for c in zip(*vs, strict=True)] for k, vs in members.items()}
    hinges = [max(0.0, config.margin - math.dist(mean[i], mean[j])) for i, j in combinations(mean, 2)]
    traces = []
    for k, vs in members.items():
        if len(vs) > 1:
            traces.append(math.fsum(math.dist(v, mean[k]) ** 2 for v in vs) / (len(vs) - 1))
    return {
        "separation": sum(hinges) / len(hinges) if hinges else 0.0,
        "compactness": sum(traces) / len(traces) if traces else 0.0,
    }


@pytest.mark.parametrize("switches", [{}, {"preset": "paper"}, {"label_grid": "pure"}, {"margin": 0.4}], ids=str)
@pytest.mark.parametrize("size", [(6, 8), (12, 16), (5, 7)], ids=["half", "equal", "uneven"])
@pytest.mark.parametrize("num_classes", [7, None])
def test_the_terms_equal_the_equations_written_as_loops(
    switches: dict[str, Any], size: tuple[int, int], num_classes: int | None
) -> None:
    config = PDRConfig(**switches)
    f, labels = 0.7 + randn(2, 5, *size), labels_of(2, 12, 16, classes=5)
    found = PDR(config, num_classes)(f, labels)
    for name, value in loops(f, labels, config).items():
        assert found[name].item() == pytest.approx(value, rel=1e-10), name


@pytest.mark.parametrize("normalise", [True, False])
def test_gradients_are_those_of_finite_differences(normalise: bool) -> None:
    f, labels = (1 + randn(2, 3, 3, 4)).requires_grad_(), labels_of(2, 6, 8, classes=3)
    pdr = PDR(PDRConfig(normalise=normalise, margin=2.0), 4)
    assert torch.autograd.gradcheck(lambda f: tuple(pdr(f, labels).values()), [f])


def test_unit_vectors_have_the_trace_their_mean_says() -> None:
    f, labels = randn(1, 6, 4, 4), torch.zeros(1, 4, 4, dtype=torch.long)
    unit = f[0].flatten(1) / f[0].flatten(1).norm(dim=0)
    n = unit.shape[1]
    expected = n / (n - 1) * (1 - unit.mean(1).square().sum())
    torch.testing.assert_close(PDR(num_classes=1)(f, labels)["compactness"], expected)


def test_unnormalised_compactness_grows_with_the_channels_and_normalised_does_not() -> None:
    labels = torch.zeros(1, 32, 32, dtype=torch.long)
    for channels in (24, 96):
        f = randn(1, channels, 32, 32)
        assert PDR(PDRConfig(normalise=False), 1)(f, labels)["compactness"].item() == pytest.approx(channels, rel=0.05)
        assert PDR(PDRConfig(), 1)(f, labels)["compactness"].item() == pytest.approx(1, rel=0.05)


def test_ignored_pixels_count_nowhere() -> None:
    f, labels = randn(2, 4, 6, 6), labels_of(2, 6, 6, classes=3)
    other = torch.where((labels == IGNORE)[:, None], 5 * randn(2, 4, 6, 6, seed=9), f).requires_grad_()
    found = PDR(num_classes=3)(other, labels)
    for name, value in PDR(num_classes=3)(f, labels).items():
        torch.testing.assert_close(found[name], value)
    sum(found.values()).backward()
    assert other.grad.movedim(1, -1)[labels == IGNORE].eq(0).all()


def test_absent_classes_change_nothing() -> None:
    f, labels = randn(2, 4, 6, 6), labels_of(2, 6, 6, classes=3)
    for name, value in PDR(num_classes=3)(f, labels).items():
        torch.testing.assert_close(PDR(num_classes=150)(f, labels)[name], value, rtol=1e-12, atol=0)


def test_a_class_of_one_pixel_is_separated_but_has_no_variance() -> None:
    f = randn(1, 3, 1, 4)
    labels = torch.tensor([[[0, 0, 0, 1]]])
    pdr = PDR(PDRConfig(margin=5.0), num_classes=2)
    found, alone = pdr(f, labels), pdr(f[..., :3], labels[..., :3])
    torch.testing.assert_close(found["compactness"], alone["compactness"])
    assert found["separation"] > 0
    assert alone["separation"] == 0
    assert pdr(f[..., 2:], labels[..., 2:])["compactness"] == 0


@pytest.mark.parametrize("label", [IGNORE, 0])
def test_nothing_to_separate_gives_zeros_with_finite_gradients(label: int) -> None:
    f = randn(1, 3, 4, 4).requires_grad_()
    found = PDR(num_classes=2)(f, torch.full((1, 8, 8), label))
    assert found["separation"] == 0
    assert (found["compactness"] == 0) == (label == IGNORE)
    sum(found.values()).backward()
    assert f.grad.isfinite().all()


def test_identical_centroids_and_zero_vectors_have_finite_gradients() -> None:
    f = torch.ones(1, 3, 2, 2, dtype=torch.float64)
    f[..., 1] = 0
    f.requires_grad_()
    labels = torch.tensor([[[0, 0], [1, 1]]])
    found = PDR(num_classes=2)(f, labels)
    assert found["separation"].item() == pytest.approx(1.3, abs=1e-5)
    sum(found.values()).backward()
    assert f.grad.isfinite().all()


def test_separated_tight_classes_cost_nothing() -> None:
    f = torch.zeros(1, 2, 2, 2)
    f[0, 0, 0], f[0, 1, 1] = 3.0, 5.0  # orthogonal: distance sqrt(2) > 1.3 after scaling to length 1
    found = PDR(num_classes=2)(f, torch.tensor([[[0, 0], [1, 1]]]))
    assert found["separation"] == found["compactness"] == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_autocast_are_computed_in_float32(dtype: torch.dtype) -> None:
    f, labels = randn(2, 4, 6, 6).to(dtype), labels_of(2, 6, 6, classes=3)
    with torch.autocast("cpu", torch.bfloat16):
        found = PDR(num_classes=3)(f, labels)
    exact = PDR(num_classes=3)(f.float(), labels)
    assert all(found[k].dtype == torch.float32 and torch.equal(found[k], exact[k]) for k in exact)


@pytest.mark.parametrize("wrong", [{"margin": 0}, {"features": "last"}, {"label_grid": "mode"}, {"m": 1}], ids=str)
def test_impossible_switches_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        PDRConfig(**wrong)
