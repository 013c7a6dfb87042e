"""Students from smp: true strides of dilated stages, any pair by name, and errors with a remedy."""

from typing import get_args

import pytest
import torch

from sward.compat import import_torchvision_safely
from sward.students import DeepLabV3Config, SMPConfig
from sward.students.deeplab import Architecture


def test_deeplabv3_keeps_nominal_names_and_declares_true_strides() -> None:
    student = DeepLabV3Config().build(19).eval()
    assert student.channels == {"s4": 16, "s8": 24, "s16": 48, "s32": 576}
    assert student.strides == {"s4": 4, "s8": 8, "s16": 8, "s32": 8}
    output = student(torch.zeros(1, 3, 64, 128))
    assert output.logits.shape == (1, 19, 8, 16)
    assert output.penultimate.shape == (1, 128, 8, 16)


@pytest.mark.parametrize("architecture", get_args(Architecture))
def test_every_architecture_works_by_name(architecture: str) -> None:
    config = SMPConfig(architecture=architecture, encoder="tu-mobilenetv3_small_100")
    student = config.build(2).eval()
    output = student(torch.zeros(1, 3, 128, 128))
    for level, feature in output.features.items():
        assert feature.shape[1:] == (student.channels[level], *[128 // student.strides[level]] * 2)
    assert output.penultimate.shape[1] == student.classifier.in_channels


def test_options_reach_smp_and_unknown_ones_are_refused() -> None:
    pair = {"architecture": "fpn", "encoder": "resnet18"}
    student = SMPConfig(**pair, options={"decoder_segmentation_channels": 64}).build(2)
    assert student.classifier.in_channels == 64
    with pytest.raises(ValueError, match=r"FPN: got options \['colour'\], expected some of .*decoder_dropout"):
        SMPConfig(**pair, options={"colour": 1}).build(2)


def test_an_unknown_encoder_is_answered_with_where_the_names_are() -> None:
    with pytest.raises(ValueError, match=r"'resnet17' .*get_encoder_names\(\), tu-<timm model>"):
        SMPConfig(architecture="unet", encoder="resnet17").build(2)


def test_weights_without_network_are_an_error_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    import_torchvision_safely()
    import segmentation_models_pytorch as smp

    def unreachable(*args: object, **kwargs: object) -> None:
        assert kwargs["encoder_weights"] is True  # timm's names carry the variant themselves
        raise ConnectionError("name not resolved")

    monkeypatch.setattr(smp, "create_model", unreachable)
    with pytest.raises(ValueError, match=r"name not resolved.*without network, set encoder_weights: null"):
        DeepLabV3Config(encoder_weights="imagenet").build(19)
