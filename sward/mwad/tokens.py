"""Cuts maps into the tokens of their windows, all or chosen ones, by reordering rows; for the fused terms of MWAD."""

# B batch, C channels, H W of the common grid, n windows of an image, W windows of the batch, T tokens of a window

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from sward.align import resize
from sward.mwad.windows import Windows

TABLES: dict[tuple[Windows, torch.device], tuple[Tensor, Tensor]] = {}  # of windows that have been seen
MOST_TABLES = 256  # all offsets of four levels with 8 x 8 windows; 16 bytes a cell of the grid each


def rows_of(windows: Windows, device: torch.device) -> tuple[Tensor, Tensor]:
    """``windows.rows``, made once: offsets come back every few steps. Keep the tensors as they are."""
    found = TABLES.get((windows, device))
    if found is None:
        found = windows.rows(device)
        if type(found[0]) is not Tensor or found[0].is_inference():
            return found  # of a trace, or unfit for a backward pass
        if len(TABLES) >= MOST_TABLES:
            TABLES.clear()
        TABLES[windows, device] = found
    return found


def chosen_rows(windows: Windows, device: torch.device, chosen: Tensor | None) -> tuple[Tensor, Tensor]:
    """``windows.rows`` of the chosen windows alone: pixels outside them have the token n * T, which has no gradient."""
    token_of, pixel_of = rows_of(windows, device)
    if chosen is None:
        return token_of, pixel_of
    T, place = windows.side**2, torch.full((windows.count,), len(chosen), device=device)
    place[chosen] = torch.arange(len(chosen), device=device)
    kept = place[token_of // T]
    token_of = torch.where(kept < len(chosen), kept * T + token_of % T, len(chosen) * T)
    return token_of, pixel_of.unflatten(0, (-1, T)).index_select(0, chosen).flatten()


def window_tokens(f_BCHW: Tensor, windows: Windows, rows: tuple[Tensor, Tensor], antialias: bool) -> Tensor:
    """Resizes the map to the common grid and cuts it into the windows of ``rows``, all on one axis: (W, T, C)."""
    f = resize(f_BCHW, (windows.height, windows.width), antialias)
    return GatherTokens.apply(
        f.flatten(2).mT, *rows, any(windows.padding), len(rows[1]) < windows.count * windows.side**2
    ).unflatten(0, (-1, windows.side**2))


class GatherTokens(torch.autograd.Function):
    """Gathers tokens (B n T, C) from pixels (B, H W, C), by the indices of ``chosen_rows``.

    Forward and backward only select rows. The gradient has the memory layout of the pixels, because adding gradients
    of different layouts would slow down the backward passes of the layers before.
    """

    @staticmethod
    def forward(ctx: Any, x_BnC: Tensor, token_of: Tensor, pixel_of: Tensor, padded: bool, partial: bool) -> Tensor:
        ctx.partial, ctx.by_pixel, ctx.images, ctx.tokens = partial, x_BnC.is_contiguous(), len(x_BnC), len(pixel_of)
        ctx.save_for_backward(token_of)
        x_BnC = F.pad(x_BnC, (0, 0, 0, 1)) if padded else x_BnC.contiguous()
        return x_BnC.flatten(0, 1).index_select(0, _of_each_image(pixel_of, x_BnC.shape[1], ctx.images))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (token_of,) = ctx.saved_tensors
        rows = _of_each_image(token_of, ctx.tokens, ctx.images)
        if ctx.partial:  # pixels outside the chosen windows get the row of zeros behind the last token
            outside = (token_of == ctx.tokens).repeat(ctx.images)
            grad, rows = F.pad(grad, (0, 0, 0, 1)), torch.where(outside, len(grad), rows)
        grad = grad.index_select(0, rows).unflatten(0, (ctx.images, -1))
        return grad if ctx.by_pixel else grad.mT.contiguous().mT, None, None, None, None


def _of_each_image(rows: Tensor, count: int, images: int) -> Tensor:
    """Extends one image's row indices to all images of ``count`` rows each.

    Selecting from one flat axis uses all threads; selecting from two axes uses a single one.
    """
    return (torch.arange(0, images * count, count, device=rows.device)[:, None] + rows).flatten()
