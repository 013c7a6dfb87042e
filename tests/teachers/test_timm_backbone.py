"""Backbones of timm as teachers: strict loading, levels, sizes, normalisation, and the whole way to an export."""

import json

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from safetensors.torch import load_file, save_file
from tiny import HEAD, tiny_cache, tiny_train

from pipeline.cache.config import CacheConfig
from pipeline.cache.extraction.extract import extract
from pipeline.cache.store import Store
from pipeline.cache.tools.inspect import describe, inspect
from pipeline.cache.tools.verify import verify
from pipeline.config import ConfigError, validate
from pipeline.export import speed
from pipeline.export.export import export
from pipeline.report.report import write_report
from pipeline.training.loop import train
from pipeline.training.teacher.append import append
from pipeline.weights import load_teacher
from sward.teachers import TeacherConfig
from sward.teachers.hiera import TrunkMismatch
from sward.teachers.timm_backbone import TimmConfig
from sward.teachers.timm_models import make_backbone

VIT = {
    "model": "vit_small_patch16_dinov3.lvd1689m",
    "options": {"depth": 4, "embed_dim": 24, "num_heads": 2},
    "levels": ["s16@1", "s16@2", "s16@3", "s16@4"],
}
CONVNEXT = {
    "model": "convnext_tiny.fb_in1k",
    "options": {"depths": [1, 1, 1, 1], "dims": [8, 16, 24, 32]},
    "levels": ["s4", "s8", "s16", "s32"],
}
RESNET = {"model": "resnet18.a1_in1k", "levels": ["s8", "s32"], "options": {"channels": [8, 8, 16, 16]}}
FAMILIES = {"vit": VIT, "convnext": CONVNEXT, "resnet": RESNET}
FULL = {  # networks of the published shapes, which go the whole way in minutes
    "DINOv3 small": {"model": VIT["model"], "levels": ["s16@3", "s16@6", "s16@9", "s16@12"]},
    "ConvNeXt tiny": {"model": "convnext_tiny.dinov3_lvd1689m", "levels": ["s4", "s8", "s16", "s32"]},
}
LOST = {
    "vit": "blocks.2.attn.qkv.weight",
    "convnext": "stages.2.blocks.0.conv_dw.weight",
    "resnet": "layer2.0.conv1.weight",
}


def random_state(settings, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = make_backbone(settings["model"], settings.get("options", {}))
    return {name: tensor.clone() for name, tensor in net.state_dict().items()}


def teacher(settings, state=None, **changes):
    config = TimmConfig(weights="random", **(settings | changes))
    return config.build(random_state(settings) if state is None else state)


def images(height, width):
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(1))


def test_maps_are_those_of_the_network_without_its_class_and_register_tokens():
    state = random_state(VIT)
    net = make_backbone(VIT["model"], VIT["options"])
    net.load_state_dict(state)
    with torch.no_grad():
        tokens = images(64, 96)
        x, rope = net._pos_embed(net.patch_embed(tokens))
        for block in net.blocks[:3]:
            x = block(x, rope=rope)
        third = net.norm(x)[:, net.num_prefix_tokens :].transpose(1, 2).unflatten(2, (4, 6))
        raw = x[:, net.num_prefix_tokens :].transpose(1, 2).unflatten(2, (4, 6))
    torch.testing.assert_close(teacher(VIT, state)(tokens)["s16@3"], third)
    torch.testing.assert_close(teacher(VIT, state, norm=False)(tokens)["s16@3"], raw)


def test_levels_are_ordered_and_have_their_channels():
    found = teacher(CONVNEXT, levels=["s32", "s4"])
    assert found.channels == {"s4": 8, "s32": 32}
    assert {k: tuple(f.shape) for k, f in found(images(64, 96)).items()} == {"s4": (2, 8, 16, 24), "s32": (2, 32, 2, 3)}


def test_a_level_without_a_block_is_the_last_of_its_stride():
    state, x = random_state(VIT), images(32, 32)
    last, named = (teacher(VIT, state, levels=levels)(x) for levels in (["s16"], ["s16@4"]))
    assert torch.equal(last["s16"], named["s16@4"])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_missing_an_extra_and_a_renamed_tensor_are_refused_and_named(family):
    settings, name = FAMILIES[family], LOST[family]
    state = random_state(settings)
    without = {k: v for k, v in state.items() if k != name}
    with pytest.raises(TrunkMismatch, match=f"1 missing: {name}"):
        teacher(settings, without)
    with pytest.raises(TrunkMismatch, match=r"1 unexpected: adapter\.weight"):
        teacher(settings, state | {"adapter.weight": torch.ones(1)})
    with pytest.raises(TrunkMismatch, match=rf"1 missing: {name}\n  1 unexpected: other\.{name}"):
        teacher(settings, without | {f"other.{name}": state[name]})
    with pytest.raises(TrunkMismatch, match=f"1 of another shape: {name}"):
        teacher(settings, state | {name: torch.ones(3)})


def test_a_classifier_and_blocks_after_the_last_level_are_not_needed():
    state = random_state(CONVNEXT)
    shallow = {k: v for k, v in state.items() if k.startswith(("stem", "stages.0", "stages.1"))}
    with_classifier = shallow | {"head.fc.weight": torch.ones(5, 32), "head.fc.bias": torch.ones(5)}
    a, b = (teacher(CONVNEXT, s, levels=["s4", "s8"]) for s in (shallow, {"model": with_classifier}))
    assert torch.equal(a(images(32, 32))["s8"], b(images(32, 32))["s8"])
    assert a.digest() == b.digest()


def test_names_of_other_authors_are_converted_as_timm_does():
    state = random_state(VIT)
    meta = {k.replace("gamma_1", "ls1.gamma").replace("gamma_2", "ls2.gamma"): v for k, v in state.items()}
    meta = {k.replace("reg_token", "storage_tokens"): v for k, v in meta.items()}
    bias = {"blocks.0.attn.qkv.bias": torch.zeros(72)}
    assert meta.keys() != state.keys()
    assert teacher(VIT, meta | bias).digest() == teacher(VIT, state).digest()
    with pytest.raises(TrunkMismatch, match=r"no blocks\.0\.attn\.qkv\.bias, and the file's is not zero"):
        teacher(VIT, meta | {k: v + 1 for k, v in bias.items()})


@pytest.mark.parametrize("model", ["vit_tiny_patch16_224", "beit_base_patch16_224"])
@pytest.mark.filterwarnings("ignore")  # timm's resizing of relative positions warns of its own indexing
def test_the_digest_does_not_depend_on_the_input_size(model):
    settings = {"model": model, "levels": ["s16"], "options": {"depth": 2, "embed_dim": 24, "num_heads": 2}}
    state = random_state(settings)
    sizes = [{}, {"img_size": [64, 96]}, {"img_size": [128, 128]}]
    found = {teacher(settings, state, options=settings["options"] | size).digest() for size in sizes}
    assert len(found) == 1
    assert found != {teacher(settings, random_state(settings, seed=1)).digest()}


def test_a_stride_can_be_changed_by_the_convolutions_name():
    strides = {"layer4.0.conv1": 1, "layer4.0.downsample.0": 1}
    found = teacher(RESNET, strides=strides, levels=["s8", "s16@4", "s16@5"])
    assert found.channels == {"s8": 8, "s16@4": 16, "s16@5": 16}
    assert found(images(64, 96))["s16@5"].shape == (2, 16, 4, 6)
    with pytest.raises(TrunkMismatch, match=r"no convolution stages\.9; those with a stride: stem\.0, .*stages\.3"):
        teacher(CONVNEXT, strides={"stages.9": 1})


def test_a_level_that_the_model_lacks_is_refused_with_those_it_has():
    with pytest.raises(TrunkMismatch, match="no map s2; the model has s4, s8, s16, s32"):
        teacher(CONVNEXT, levels=["s2"])
    with pytest.raises(TrunkMismatch, match="no map s16@5; the model has s16@1, s16@2, s16@3, s16@4"):
        teacher(VIT, levels=["s16@5"])
    with pytest.raises(ValidationError, match="name the block of each: s16@12"):
        TimmConfig(model="vit_tiny_patch16_224", weights="w", levels=["s16", "s16@1"])


def test_an_unknown_option_and_an_unknown_tag_are_refused():
    with pytest.raises(
        TrunkMismatch, match=r"cannot build teacher\.model resnet18.*unexpected keyword argument 'depht'"
    ):
        teacher(RESNET, options={"depht": 3})
    with pytest.raises(ValueError, match=r"Invalid pretrained tag \(none\).*Similar names: vit_small_patch16_dinov3"):
        _ = TimmConfig(model="vit_small_patch16_dinov3.none", weights="w", levels=["s16"]).normalisation


def test_sam_2_has_a_kind_of_its_own():
    with pytest.raises(ValidationError, match="kind: hiera, architecture: tiny"):
        TimmConfig(model="sam2_hiera_tiny.fb_r896", weights="w", levels=["s4"])


def test_every_teacher_is_told_by_its_kind():
    values = {"kind": "timm", "weights": "w", **VIT}
    assert isinstance(TypeAdapter(TeacherConfig).validate_python(values), TimmConfig)
    hiera = TypeAdapter(TeacherConfig).validate_python({"architecture": "tiny", "weights": "w"})
    assert hiera.kind == "hiera"


def test_a_mistake_in_the_teacher_is_named_alone(tmp_path):
    values = tiny_cache(tmp_path).model_dump(exclude={"mean", "std", "teacher"})
    with pytest.raises(ConfigError) as refusal:
        validate(CacheConfig, values | {"teacher": {"kind": "timm", "model": "resnet18", "weights": "w"}}, "cache.yaml")
    assert [line.split(":")[0].strip() for line in str(refusal.value).splitlines()[1:]] == ["teacher.timm.levels"]


def test_sizes_that_a_patch_does_not_divide_are_refused_with_the_configuration(tmp_path):
    values = {"kind": "timm", "model": "vit_small_patch14_dinov2.lvd142m", "weights": "w", "levels": ["s14"]}
    with pytest.raises(ValidationError, match=r"needs multiples of 14 pixels .*use multiples of 224"):
        tiny_cache(tmp_path, teacher=values, size=(512, 512))
    assert tiny_cache(tmp_path, teacher=values, size=(448, 448)).size == (448, 448)


def test_a_model_of_one_size_is_refused_before_any_record_is_planned(tmp_path):
    settings = {"model": "beit_base_patch16_224", "options": {"depth": 1, "embed_dim": 24, "num_heads": 2}}
    save_file(random_state(settings), tmp_path / "beit.safetensors")
    values = {"kind": "timm", "weights": str(tmp_path / "beit.safetensors"), "levels": ["s16"], **settings}
    with pytest.raises(ValueError, match=r"does not take views of 64×64.*img_size: \[64, 64\]"):
        extract(tiny_cache(tmp_path, teacher=values))
    assert not (tmp_path / "store.zarr" / "plan").exists()


def test_the_normalisation_is_the_tags_own_unless_the_configuration_says_otherwise(tmp_path):
    values = {"kind": "timm", "weights": "w", "levels": ["s16"], "model": "vit_large_patch16_dinov3.sat493m"}
    config = tiny_cache(tmp_path, teacher=values)
    assert (config.mean, config.std) == ((0.430, 0.411, 0.296), (0.213, 0.156, 0.143))
    assert tiny_cache(tmp_path, teacher=values, mean=(0.5, 0.5, 0.5)).mean == (0.5, 0.5, 0.5)
    assert tiny_cache(tmp_path).mean == (0.485, 0.456, 0.406)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["vit", "convnext", *FULL])
def test_a_backbone_goes_the_whole_way_from_extraction_to_export(family, tmp_path, monkeypatch):
    monkeypatch.setattr(speed, "SECONDS", 0.0)
    settings = (FAMILIES | FULL)[family]
    save_file(random_state(settings), tmp_path / "random.safetensors")
    values = {"kind": "timm", "weights": str(tmp_path / "random.safetensors"), **settings}
    cache = tiny_cache(tmp_path, teacher=values, codec={"kind": "fp32"})
    extract(cache)
    store = Store(tmp_path / "store.zarr")
    assert list(store.channels) == settings["levels"]
    assert verify(store.path, records=3).problems == []
    assert settings["model"] in "\n".join(describe(inspect(store.path)))
    found = load_teacher(cache.teacher)
    assert store.identity["teacher.digest"] == found.digest()

    head = train(tiny_train(tmp_path, cache, head=HEAD).head_run())
    assert append(store.path, ("logits", "penultimate"), head, device="cpu") == 17
    parts = {"features": {"kind": "fitnet"}, "logits": {"kind": "kd"}, "both": {"kind": "sward", "mwad": {"gain": 2.0}}}
    combined = {"kind": "combined", "parts": parts}
    stored = HEAD | {"tensors": "appended"}
    run = train(tiny_train(tmp_path, cache, head=stored, method=combined, steps=30, name="combined"))
    losses = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert losses[-1]["step"] == 30
    assert (run / "student.safetensors").is_file()
    assert "combined" in write_report([run], tmp_path / "page.html").read_text()
    export(run, tmp_path / "export")
    assert (tmp_path / "export" / "student.onnx").is_file()


@pytest.mark.real
def test_the_encoder_of_mobilesam_loads_and_only_its_own_stride_fits_the_levels(shared):
    state = load_file(shared / "weights" / "mobilesam_tiny_vit_5m.fp16.safetensors")
    own = {"strides": {"stages.3.downsample.conv2.conv": 1}, "levels": ["s4", "s8", "s16@3", "s16@4"]}
    found = teacher({"model": "tiny_vit_5m_224", **own}, state)
    assert found.channels == {"s4": 64, "s8": 128, "s16@3": 160, "s16@4": 320}
    features = found(images(64, 96))
    assert features["s16@4"].shape == (2, 320, 4, 6)
    assert 1 < features["s16@4"].abs().max() < 100
    with pytest.raises(TrunkMismatch, match="no map s16@4; the model has s4, s8, s16, s32"):
        teacher({"model": "tiny_vit_5m_224", **own, "strides": {}}, state)
