"""Tiny float64 inputs for one rival method, and the comparison of its term with plain loops."""

from collections.abc import Callable

import torch
from torch import Tensor

from sward.contracts import IGNORE, Batch, Config, Method, StudentOutput

TEACHER, STUDENT, CLASSES = 4, 3, 3


def randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def build(config: Config, teacher: int = TEACHER, student: int = STUDENT) -> Method:
    """The method in float64, every parameter away from its initial value."""
    given = {"s16": 7, "s32": teacher, "penultimate": teacher, "logits": CLASSES}
    method = config.build(given, {"s16": 5, "s32": student}, CLASSES, student).double()
    for i, p in enumerate(method.parameters()):
        p.data.copy_(0.5 * randn(*p.shape, seed=100 + i))
    return method


def maps(height: int = 4, width: int = 6, teacher: int = TEACHER, student: int = STUDENT) -> tuple[Tensor, Tensor]:
    """(f_s, f_t) of two samples on one grid."""
    return randn(2, student, height, width, seed=1).requires_grad_(), randn(2, teacher, height, width, seed=2)


def labels_of(f: Tensor) -> Tensor:
    """Random labels at four times the grid's resolution, the first rows not counted."""
    B, _, H, W = f.shape
    labels = torch.randint(0, CLASSES, (B, 4 * H, 4 * W), generator=torch.Generator().manual_seed(3))
    labels[:, :4] = IGNORE
    return labels


def terms(method: Method, f_s: Tensor, f_t: Tensor, seed: int = 5, step: int = 0) -> dict[str, Tensor]:
    """Of one step; the maps also stand for penultimate maps and, in their first ``CLASSES`` channels, for logits."""
    features = {"s32": f_t, "penultimate": f_t, "logits": f_t[:, :CLASSES]}
    batch = Batch(f_t.new_zeros(len(f_t), 3, 8, 8), labels_of(f_t), features, ["a/0", "b/0"], seed=seed)
    return method(StudentOutput(f_s, {"s16": f_s, "s32": f_s}, f_s), batch, step)


def assert_equals_loops(
    method: Method, name: str, loops: Callable[[Tensor, Tensor], Tensor], f_s: Tensor, f_t: Tensor, step: int = 0
) -> None:
    """Value within 1e-10, gradient with respect to the student within 1e-8, both relative."""
    found, wanted = terms(method, f_s, f_t, step=step)[name], loops(f_s, f_t)
    assert found.dtype == torch.float64
    assert (found - wanted).abs() <= 1e-10 * wanted.abs()
    (g,), (h,) = torch.autograd.grad(found, f_s), torch.autograd.grad(wanted, f_s)
    assert (g - h).norm() <= 1e-8 * h.norm()


def project(conv: torch.nn.Conv2d, f: Tensor, n: int, y: int, x: int) -> list[Tensor]:
    """One position through a 1x1 convolution, by loops."""
    rows = conv.weight[:, :, 0, 0]
    return [
        sum(row[c] * f[n, c, y, x] for c in range(f.shape[1])) + (0 if conv.bias is None else conv.bias[k])
        for k, row in enumerate(rows)
    ]


def projected(conv: torch.nn.Conv2d, f: Tensor) -> Tensor:
    """A whole map through a 1x1 convolution, by loops."""
    N, _, H, W = f.shape
    values = [torch.stack(project(conv, f, n, y, x)) for n in range(N) for y in range(H) for x in range(W)]
    return torch.stack(values).view(N, H, W, -1).permute(0, 3, 1, 2)


def conv3x3(layer: torch.nn.Conv2d, f: Tensor) -> Tensor:
    """A whole map through a 3x3 convolution with zeros outside, by loops."""
    N, C, H, W = f.shape
    rows = []
    for n in range(N):
        for k in range(layer.out_channels):
            for y in range(H):
                for x in range(W):
                    near = [(a, b) for a in (-1, 0, 1) for b in (-1, 0, 1) if 0 <= y + a < H and 0 <= x + b < W]
                    parts = [
                        layer.weight[k, c, a + 1, b + 1] * f[n, c, y + a, x + b] for c in range(C) for a, b in near
                    ]
                    rows.append(sum(parts) + (0 if layer.bias is None else layer.bias[k]))
    return torch.stack(rows).view(N, layer.out_channels, H, W)


def batch_norm(norm: torch.nn.Module, g: Tensor) -> Tensor:
    """Batch normalisation by the batch's own statistics, as written in the papers."""
    mean, variance = g.mean((0, 2, 3), keepdim=True), g.var((0, 2, 3), correction=0, keepdim=True)
    return (g - mean) / (variance + 1e-5).sqrt() * norm.weight.view(-1, 1, 1) + norm.bias.view(-1, 1, 1)


def kd_loops(z_s: Tensor, z_t: Tensor, tau: float) -> Tensor:
    """KD on the channels that stand for logits, by loops: sum over classes, mean over pixels, times tau^2."""
    B, _, H, W = z_t.shape
    total = z_s.new_zeros(())
    for n, y, x in ((n, y, x) for n in range(B) for y in range(H) for x in range(W)):
        e_s, e_t = ([(v / tau).exp() for v in z[n, :CLASSES, y, x]] for z in (z_s, z_t))
        p_s, p_t = [v / sum(e_s) for v in e_s], [v / sum(e_t) for v in e_t]
        total = total + sum(q * (q / p).log() for p, q in zip(p_s, p_t, strict=True))
    return tau**2 * total / (B * H * W)
