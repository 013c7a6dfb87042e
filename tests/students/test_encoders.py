"""Pretrained encoders from local files: strict, with or without smp's prefix, and refused by name otherwise."""

import json

import pytest
import torch
from pydantic import TypeAdapter
from safetensors.torch import load_file, save_file

from sward.students import SMPConfig, StudentConfig, build_student
from sward.students.saved import untrained

MOBILENET = {"kind": "smp", "architecture": "linknet", "encoder": "tu-mobilenetv3_small_100"}
RESNET = {"kind": "smp", "architecture": "fpn", "encoder": "resnet18"}
REAL = {
    "mobilenet_v2_imagenet": ("mobilenet_v2", {}),
    "tu_mobilenetv2_100_imagenet": ("tu-mobilenetv2_100", {}),
    "tu_tf_efficientnet_lite0_imagenet": ("tu-tf_efficientnet_lite0", {}),
    "tu_mobilenetv3_small_100_qvac3class": ("tu-mobilenetv3_small_100", {"bn_eps": 0.001}),
}


def config(values, **changes):
    return TypeAdapter(StudentConfig).validate_python(values | changes)


def state_of(values, seed=5):
    return {k: v.clone() for k, v in build_student(config(values), 2, seed).encoder.state_dict().items()}


def saved(state, path):
    (save_file if path.suffix == ".safetensors" else torch.save)(state, path)
    return str(path)


@pytest.mark.parametrize("values", [MOBILENET, RESNET], ids=["timm", "smp"])
def test_the_students_encoder_is_the_files(values, tmp_path):
    state = state_of(values)
    bare = {k.removeprefix("model."): v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    bare |= {"classifier.weight": torch.ones(5, 3)}
    for number, form in enumerate((state, bare)):
        path = saved(form, tmp_path / f"{number}.pt")
        built = build_student(config(values, encoder_weights=path), 2, seed=0).encoder.state_dict()
        assert all(torch.equal(built[k], v) for k, v in state.items())


@pytest.mark.parametrize("values", [MOBILENET, RESNET], ids=["timm", "smp"])
def test_missing_extra_and_renamed_tensors_are_refused_and_named(values, tmp_path):
    state = state_of(values)
    name = next(k for k in state if k.endswith("conv1.weight") or k.endswith("conv_pw.weight"))
    without = {k: v for k, v in state.items() if k != name}
    changed = {
        f"1 missing: {name}": without,
        "1 unexpected: (model.)?adapter": state | {"adapter": torch.ones(1)},
        "1 missing: .*\n  1 unexpected: .*other": without | {"other.weight": state[name]},
        "1 of another shape": state | {name: torch.ones(2)},
    }
    for number, (said, form) in enumerate(changed.items()):
        path = saved(form, tmp_path / f"{number}.safetensors")
        with pytest.raises(ValueError, match=rf"not of this encoder:(?s:.)*{said}"):
            config(values, encoder_weights=path).build(2)


def test_a_missing_file_is_named_and_nothing_is_downloaded(tmp_path):
    with pytest.raises(ValueError, match=r"there is no file .*gone\.safetensors; correct the path"):
        config(MOBILENET, encoder_weights=str(tmp_path / "gone.safetensors")).build(2)


@pytest.mark.parametrize("weights", ["weights/encoder.ckpt", "weights/encoder", "noisy-student"])
def test_a_text_that_is_no_file_fetches_no_weights_of_timm(weights):
    with pytest.raises(ValueError, match=rf"found '{weights}', which is no file .*set imagenet .*, or the path of a"):
        config(MOBILENET, encoder_weights=weights).build(2)


def test_a_saved_student_needs_no_file(tmp_path):
    trained = config(MOBILENET, encoder_weights=str(tmp_path / "gone.safetensors"), encoder_options={"bn_eps": 0.001})
    built = untrained(trained).build(2)
    assert {m.eps for m in built.encoder.modules() if isinstance(m, torch.nn.BatchNorm2d)} == {0.001}


def test_options_reach_timm_and_stand_in_a_saved_configuration_only_where_they_are_used():
    assert "encoder_options" not in json.loads(config(MOBILENET).model_dump_json())
    assert config(MOBILENET, encoder_options={"bn_eps": 0.001}).model_dump()["encoder_options"] == {"bn_eps": 0.001}
    with pytest.raises(ValueError, match=r"encoder_options are for encoders of timm \(tu-…\), found 'resnet18'"):
        config(RESNET, encoder_options={"bn_eps": 0.001}).build(2)
    with pytest.raises(ValueError, match="unexpected keyword argument 'epsilon'"):
        config(MOBILENET, encoder_options={"epsilon": 1}).build(2)


def test_an_encoder_without_a_pyramid_is_refused_with_another_one():
    with pytest.raises(ValueError, match=r"strides 4, 8, 16 and 32 that decoders need; choose a pyramid"):
        SMPConfig(architecture="linknet", encoder="tu-vit_tiny_patch16_224").build(2)


def test_an_encoder_of_one_size_is_refused_when_it_is_built_and_works_with_its_size():
    values = {"architecture": "fpn", "encoder": "tu-swin_tiny_patch4_window7_224"}
    with pytest.raises(ValueError, match=r"does not take views of 256×256: .*encoder_options: {img_size: 256}"):
        SMPConfig(**values).build(2)
    student = SMPConfig(**values, encoder_options={"img_size": 64}).build(2).eval()
    with torch.no_grad():
        assert student(torch.zeros(1, 3, 64, 64)).logits.shape[:2] == (1, 2)


@pytest.mark.real
@pytest.mark.parametrize("name", REAL)
def test_real_encoders_load_strictly(shared, name):
    encoder, options = REAL[name]
    path = shared / "weights" / f"{name}.fp16.safetensors"
    student = SMPConfig(
        architecture="linknet", encoder=encoder, encoder_weights=str(path), encoder_options=options
    ).build(2)
    own, file = student.encoder.state_dict(), load_file(path)
    assert all(torch.equal(own[k], v.float()) for k, v in file.items())


@pytest.mark.real
def test_a_real_file_of_another_encoder_is_refused(shared):
    path = shared / "weights" / "tu_mobilenetv2_100_imagenet.fp16.safetensors"
    with pytest.raises(ValueError, match="not of this encoder"):
        config(MOBILENET, encoder_weights=str(path)).build(2)
