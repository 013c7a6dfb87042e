"""TensorFlow's padding, fixed before tracing, is what timm computes from the size."""

import pytest
import torch
from torch import nn

from pipeline.export.same_padding import FixedSame, with_fixed_padding
from sward.compat import import_torchvision_safely
from sward.students import SMPConfig


@pytest.mark.parametrize("stride", [1, 2, (2, 1)])
@pytest.mark.parametrize("kernel", [1, 2, 3, 5, (3, 5)])
@pytest.mark.parametrize("dilation", [1, 2])
def test_every_convolution_pads_as_timm_does_where_its_stride_divides_the_input(stride, kernel, dilation):
    import_torchvision_safely()
    from timm.layers.conv2d_same import Conv2dSame

    torch.manual_seed(0)
    conv = Conv2dSame(2, 3, kernel, stride, dilation=dilation)
    x = torch.randn(2, 2, 12, 18)
    assert torch.equal(FixedSame(conv)(x), conv(x))


def test_a_student_with_such_an_encoder_keeps_its_logits_and_itself():
    student = SMPConfig(architecture="linknet", encoder="tu-tf_efficientnet_lite0").build(2).eval()
    changed = with_fixed_padding(student)
    assert sum(isinstance(layer, FixedSame) for layer in changed.modules()) == 5  # every halving of the size
    assert not any(isinstance(layer, FixedSame) for layer in student.modules())
    with torch.no_grad():
        for size in ((64, 96), (224, 32)):
            x = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))
            assert torch.equal(changed(x).logits, student(x).logits)


def test_a_network_without_them_is_not_copied():
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1))
    assert with_fixed_padding(net) is net
