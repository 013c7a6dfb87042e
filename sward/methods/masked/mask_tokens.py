"""Tokens that mask a teacher's map, shared by MasKD and FreeKD, and the path from a masked map to the task loss."""

# B batch, T tokens, C channels, H W height and width

from typing import cast

import torch
from torch import Tensor, nn

from sward import seeds
from sward.contracts import HEAD_TENSORS, Batch, Student


def draw(seed: int, name: str, *shape: int) -> nn.Parameter:
    """Initial tokens: normal with standard deviation 0.01, a function of the seed and the name."""
    generator = torch.Generator().manual_seed(seeds.torch_seed(seed, "tokens", name))
    return nn.Parameter(0.01 * torch.randn(shape, generator=generator))


def masks(tokens_TC: Tensor, f_BCHW: Tensor) -> Tensor:
    """Masks M, (B, T, H, W): the sigmoid of plain dot products, without any scale."""
    return torch.einsum("tc,bchw->bthw", tokens_TC.to(f_BCHW.dtype), f_BCHW).sigmoid()


def dice(M_BTHW: Tensor) -> Tensor:
    """Overlap of an image's masks: mean over B and t != u of 2 <M_t, M_u> / (|M_t|^2 + |M_u|^2 + 2e-12)."""
    B, T = M_BTHW.shape[:2]
    M_BTn = M_BTHW.flatten(2)
    inner_BTT = M_BTn @ M_BTn.mT
    square_BT = inner_BTT.diagonal(dim1=1, dim2=2)
    overlap_BTT = 2 * inner_BTT / (square_BT[:, :, None] + square_BT[:, None] + 2e-12)
    others = ~torch.eye(T, dtype=torch.bool, device=M_BTHW.device)
    return overlap_BTT[:, others].sum() / (B * T * (T - 1))


def read_by_head(level: str, teacher: dict[str, int]) -> tuple[str, ...]:
    """Names of the teacher tensors that ``logits_with`` needs for a changed ``level``: itself, or the whole trunk."""
    return (level,) if level in HEAD_TENSORS else tuple(name for name in teacher if name not in HEAD_TENSORS)


def logits_with(changed: dict[str, Tensor], batch: Batch, head: nn.Module | None) -> Tensor:
    """Teacher's logits (B, K, h, w) with some of its tensors replaced.

    Args:
        changed: ``logits`` themselves, the ``penultimate`` map, or trunk levels, in place of the batch's.
        batch: with the other trunk levels, if a trunk level is replaced.
        head: the frozen teacher head; not needed for ``logits``.

    Raises:
        ValueError: there is no head, and ``changed`` lies before it.
    """
    if "logits" in changed:
        return changed["logits"]
    if head is None:
        raise ValueError(
            f"the pre-stage sends a masked {' and '.join(changed)} through the teacher's head, and there is none: "
            "add `head: {steps: 300}` to the training configuration, then `sward fit-head CONFIG`"
        )
    head = cast(Student, head)
    return (
        head.classifier(changed["penultimate"]) if "penultimate" in changed else head(batch.features | changed).logits
    )
