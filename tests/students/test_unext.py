"""The shifts of UNeXt against loops, and its blocks against their formulas."""

import pytest
import torch
import torch.nn.functional as F

from sward.students.unext import ShiftedMLP, UNeXt, shift


def shift_by_loops(f: torch.Tensor, dim: int) -> torch.Tensor:
    """out[..., i, ...] = f[..., i - step, ...], zero where that is outside."""
    size, group = f.shape[dim], -(-f.shape[1] // 5)
    out = torch.zeros_like(f)
    for channel in range(f.shape[1]):
        step = channel // group - 2
        for i in range(size):
            if 0 <= i - step < size:
                out[:, channel].select(dim - 1, i).copy_(f[:, channel].select(dim - 1, i - step))
    return out


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("channels", [10, 13])
def test_channel_groups_move_by_minus_two_to_two_cells(dim: int, channels: int) -> None:
    f = torch.randn(2, channels, 4, 5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(shift(f, dim), shift_by_loops(f, dim))


def test_a_shifted_mlp_is_its_formula_on_tokens() -> None:
    f = torch.randn(1, 10, 3, 4, generator=torch.Generator().manual_seed(1))
    block = ShiftedMLP(10)
    tokens = F.layer_norm(f.flatten(2).mT, (10,))  # (B, N, C)
    hidden = block.linear1(shift(tokens.mT.reshape(f.shape), dim=2).flatten(2).mT)
    hidden = F.gelu(block.depthwise(hidden.mT.reshape(f.shape)))
    expected = f + block.linear2(shift(hidden, dim=3).flatten(2).mT).mT.reshape(f.shape)
    torch.testing.assert_close(block(f), expected)


def test_logits_have_the_resolution_of_the_image_and_the_stride_two_stage_stays_inside() -> None:
    output = UNeXt(2).eval()(torch.zeros(1, 3, 64, 32))
    assert output.logits.shape == (1, 2, 64, 32)
    assert {level: f.shape[1] for level, f in output.features.items()} == {
        "s4": 32, "s8": 128, "s16": 160, "s32": 256,
    }  # fmt: skip
