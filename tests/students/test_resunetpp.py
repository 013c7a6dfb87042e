"""The blocks of ResUNet++ against their formulas."""

import torch
import torch.nn.functional as F

from sward.students.resunetpp import Decoder, Residual, ResUNetPP, SqueezeExcite, SummedASPP


def maps(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def test_squeeze_and_excitation_scales_each_channel_by_its_own_gate() -> None:
    f, block = maps(2, 16, 3, 5), SqueezeExcite(16)
    first, second = (layer.weight for layer in block.gate if isinstance(layer, torch.nn.Linear))
    gate = torch.sigmoid(torch.relu(f.mean((2, 3)) @ first.T) @ second.T)
    expected = torch.stack([torch.stack([f[b, c] * gate[b, c] for c in range(16)]) for b in range(2)])
    torch.testing.assert_close(block(f), expected)


def test_aspp_is_the_sum_of_its_branches_mixed() -> None:
    f, block = maps(1, 4, 20, 20), SummedASPP(4, 6).eval()
    total = torch.zeros(1, 6, 20, 20)
    for branch, rate in zip(block.branches, (1, 6, 12, 18), strict=True):
        total += branch[1](F.conv2d(f, branch[0].weight, branch[0].bias, padding=rate, dilation=rate))
    torch.testing.assert_close(block(f), block.mix(total))


def test_the_decoder_gates_the_deep_features_without_squashing() -> None:
    block = Decoder(4, 8, 8).eval()
    shallow, deep = maps(1, 4, 8, 8), maps(1, 8, 4, 4)
    gate = block.gate(block.shallow(shallow) + block.deep(deep))
    doubled = (deep * gate).repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(block(shallow, deep), block.join(torch.cat([doubled, shallow], 1)))


def test_only_the_stem_starts_without_activation() -> None:
    stem, block = Residual(3, 16, stem=True), Residual(16, 32, stride=2)
    assert isinstance(stem.body[0], torch.nn.Conv2d)
    assert isinstance(block.body[0][0], torch.nn.BatchNorm2d)
    assert block(maps(2, 16, 8, 8)).shape == (2, 32, 4, 4)


def test_logits_and_the_first_level_have_the_resolution_of_the_image() -> None:
    output = ResUNetPP(2).eval()(torch.zeros(1, 3, 24, 16))
    assert output.logits.shape == (1, 2, 24, 16)
    assert output.features["s1"].shape == (1, 16, 24, 16)
