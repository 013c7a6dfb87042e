"""Parameters and multiply-accumulates are those of the published students.

The paper prints UNeXt 1.47 M / 4.63 G and ResUNet++ 4.06 M / 126.84 G at 512x512 (2 x MAC), and the
Cityscapes student 3.30 M / 22.60 G at 512x1024 (MAC). MACs are counted on a sixteenth of the pixels: all but
the squeeze-and-excitation's and the pooled branch's (0.2 % of DeepLabV3+) scale with the area.
"""

import pytest
import torch
from torch import nn

from sward.compat import import_torchvision_safely
from sward.students import DeepLabV3Config, DeepLabV3PlusConfig, ResUNetPPConfig, StudentConfig, UNeXtConfig


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def gmac(model: nn.Module, height: int, width: int, backend: str = "pytorch") -> float:
    """ptflops' count, whose ``aten`` backend counts convolutions and matrix products alone."""
    import_torchvision_safely()
    import ptflops

    count, _ = ptflops.get_model_complexity_info(
        model, (3, height // 4, width // 4), as_strings=False, print_per_layer_stat=False, backend=backend
    )
    return 16 * count / 1e9


@pytest.mark.parametrize(
    ("config", "num_classes", "expected"),
    [
        (UNeXtConfig(), 2, 1_471_938),
        (ResUNetPPConfig(), 1, 4_062_993),  # the published count has one output,
        (ResUNetPPConfig(), 2, 4_062_993 + 17),  # ours two: 16 weights and a bias more
        (DeepLabV3Config(), 19, 3_298_739),
        (DeepLabV3PlusConfig(), 19, 2_165_763),
    ],
)
def test_parameters_are_those_published(config: StudentConfig, num_classes: int, expected: int) -> None:
    with torch.device("meta"):
        assert parameters(config.build(num_classes)) == expected


def test_unext_costs_what_was_published() -> None:
    count = gmac(UNeXtConfig().build(2), 512, 512)
    assert count == pytest.approx(2.313183232, abs=1e-9)
    assert round(2 * count, 2) == 4.63


def test_resunetpp_costs_what_was_published() -> None:
    count = gmac(ResUNetPPConfig().build(1), 512, 512)
    assert count == pytest.approx(63.4176, abs=5e-4)
    assert round(2 * count, 2) == 126.84


def test_deeplabv3_costs_what_was_published() -> None:
    assert gmac(DeepLabV3Config().build(19), 512, 1024, "aten") == pytest.approx(22.6154, rel=5e-4)


def test_deeplabv3plus_at_stride_16_costs_a_quarter_of_that() -> None:
    assert gmac(DeepLabV3PlusConfig().build(19), 512, 1024, "aten") == pytest.approx(5.9667, rel=2e-3)
