"""Every family of teachers refuses a file with one missing, extra or renamed key, and has one digest for all sizes."""

import pytest
import torch
from safetensors.torch import save_file

from pipeline.weights import load_teacher
from sward.teachers.hiera import HieraConfig, TrunkMismatch, make_trunk
from sward.teachers.timm_backbone import TimmConfig
from sward.teachers.timm_models import make_backbone

SMALL = {"depth": 2, "embed_dim": 24, "num_heads": 2}
STAGES = {"depths": [1, 1, 1, 1], "num_heads": [1, 1, 1, 1]}
PYRAMID = ["s4", "s8", "s16", "s32"]
ONE_SIZE = {"img_size": [64, 64]}
FAMILIES = {
    "dinov2": ("vit_small_patch14_dinov2.lvd142m", ["s14@1", "s14@2"], SMALL),
    "dinov3": ("vit_small_patch16_dinov3.lvd1689m", ["s16@1", "s16@2"], SMALL),
    "siglip": ("vit_base_patch16_siglip_512.v2_webli", ["s16@1", "s16@2"], SMALL),
    "perception encoder": ("vit_pe_spatial_tiny_patch16_512.fb", ["s16@1", "s16@2"], SMALL),
    "eva02": ("eva02_tiny_patch14_224.mim_in22k", ["s14@1", "s14@2"], SMALL),
    "beit": ("beit_base_patch16_224.in22k_ft_in22k", ["s16@1", "s16@2"], SMALL | ONE_SIZE),
    "swin": ("swin_tiny_patch4_window7_224.ms_in1k", PYRAMID, STAGES | {"embed_dim": 8}),
    "tiny_vit": ("tiny_vit_5m_224.dist_in22k", PYRAMID, STAGES | {"embed_dims": [32, 32, 32, 32]}),
    "convnext": ("convnext_tiny.fb_in1k", PYRAMID, {"depths": [1, 1, 1, 1], "dims": [8, 16, 24, 32]}),
    "resnet": ("resnet18.a1_in1k", PYRAMID, {"channels": [8, 8, 16, 16]}),
    "efficientnet": ("tf_efficientnet_lite0.in1k", ["s8", "s32"], {}),
    "mobilenetv4": ("mobilenetv4_conv_small.e1200_r224_in1k", ["s8", "s32"], {}),
}
KINDS = ["hiera of sam2", "hiera of timm", *FAMILIES]
INNER = ("blocks.", "stages.", "layers.", "layer")  # names of what lies between stem and head


def seeded(build):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return {name: tensor.clone() for name, tensor in build().state_dict().items()}


@pytest.fixture(params=KINDS)
def family(request):
    """(configuration, a whole random state dict) of a family."""
    if request.param.startswith("hiera"):
        implementation = request.param.removeprefix("hiera of ")
        config = HieraConfig(architecture="pocket", weights="random", implementation=implementation)
        return config, seeded(lambda: make_trunk("pocket"))
    model, levels, options = FAMILIES[request.param]
    config = TimmConfig(model=model, weights="random", levels=levels, options=options)
    return config, seeded(lambda: make_backbone(model, options))


@pytest.mark.filterwarnings("ignore")  # timm's resizing of relative positions warns of its own indexing
def test_one_missing_extra_or_renamed_key_is_refused_and_named(family):
    config, state = family
    inner = [k for k, v in state.items() if k.startswith(INNER) and v.ndim > 1 and k.endswith("weight")]
    name = inner[len(inner) // 2]
    without = {k: v for k, v in state.items() if k != name}
    config.build(dict(state))
    for changed, wrong in (
        (without, name),
        (state | {f"{name}_extra": torch.ones(1)}, f"{name}_extra"),
        (without | {f"{name}s": state[name]}, name),
    ):
        with pytest.raises(TrunkMismatch) as refusal:
            config.build(changed)
        assert wrong in str(refusal.value)


@pytest.mark.filterwarnings("ignore")
def test_the_digest_is_one_for_two_input_sizes(family, tmp_path):
    config, state = family
    save_file(state, tmp_path / "teacher.safetensors")
    one_size = "img_size" in getattr(config, "options", {})
    found = {}
    for side in (224, 448):
        changes = {"weights": str(tmp_path / "teacher.safetensors"), "size": (side, side)}
        changes |= {"options": config.options | {"img_size": [side, side]}} if one_size else {}
        teacher = load_teacher(config.model_copy(update=changes))
        teacher.require_size((side, side))
        found[side] = teacher.digest()
    assert found[224] == found[448]
    name = next(k for k, v in state.items() if k.startswith(INNER) and v.is_floating_point())
    assert config.build(state | {name: state[name] + 1}).digest() != found[224]
