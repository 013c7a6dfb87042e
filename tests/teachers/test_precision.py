"""Precision of a teacher: no TF32 in float32, bfloat16 on request on CPUs too, with the sensitive layers in float32."""

import copy
from contextlib import nullcontext

import pytest
import torch
from tiny import tiny_cache
from torch import nn

from pipeline.cache.extraction.extract import extract
from pipeline.cache.store import Store
from pipeline.cache.tools.verify import AUTOCAST_ERROR, verify
from pipeline.weights import load_teacher
from sward.cpu_products import fast_bfloat16
from sward.teachers.hiera import HieraConfig, HieraTeacher, make_trunk
from sward.teachers.precision import FasterLinear
from sward.teachers.rounded_products import RoundedProducts, slow_bfloat16
from sward.teachers.timm_backbone import TimmConfig


def teacher(autocast=False, implementation="sam2"):
    torch.manual_seed(0)
    return HieraTeacher(make_trunk("pocket", implementation), autocast)


def images():
    return torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))


def errors(found, expected):
    return {k: float((found[k] - f).norm() / f.norm()) for k, f in expected.items()}


def tf32(x):
    """Rounded to the 10 bits of mantissa that a tensor core reads of a float32."""
    bits = x.contiguous().view(torch.int32)
    return ((bits + 0xFFF + ((bits >> 13) & 1)) & ~0x1FFF).view(torch.float32)


class EmulatedCuda(nn.Conv2d):
    """A convolution as cuDNN computes it: from TF32 numbers, if that is allowed."""

    def forward(self, x):
        if not torch.backends.cudnn.allow_tf32:
            return super().forward(x)
        return self._conv_forward(tf32(x), tf32(self.weight), self.bias)


def test_tf32_is_off_in_the_forward_pass_and_restored_after_it():
    reference, emulated = teacher(), teacher()
    emulated.trunk.patch_embed.proj.__class__ = EmulatedCuda
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = True
    try:
        with torch.no_grad():
            rounded = dict(zip(reference.channels, emulated.trunk(images()), strict=True))
        exact, found = reference(images()), emulated(images())
        assert torch.backends.cudnn.allow_tf32
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before
    assert max(errors(rounded, exact).values()) > 1e-4  # what cuDNN would do by itself
    assert all(torch.equal(found[level], exact[level]) for level in exact)


@pytest.mark.parametrize("implementation", ["sam2", "timm"])
def test_bfloat16_runs_on_a_cpu_with_the_sensitive_layers_in_float32(implementation):
    plain, half = teacher(implementation=implementation), teacher(True, implementation)
    seen = {}
    for name, layer in half.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(lambda layer, x, y, name=name: seen.update({name: y.dtype}))
    found, expected = half(images()), plain(images())
    assert all(f.dtype == torch.float32 for f in found.values())
    assert 0 < max(errors(found, expected).values()) < AUTOCAST_ERROR
    wide = {name for name, dtype in seen.items() if dtype == torch.float32}
    assert len(wide) == 4  # the patch embedding and the three projections between stages
    assert not any("attn" in name or "mlp" in name for name in wide)
    assert len(seen) > 4 * len(wide)


@pytest.mark.parametrize("implementation", ["sam2", "timm"])
def test_without_bfloat16_instructions_products_are_rounded_float32_and_the_features_those_of_bfloat16(
    implementation, monkeypatch
):
    plain, half = teacher(implementation=implementation), teacher(True, implementation)
    found = {}
    for slow in (True, False):
        monkeypatch.setattr("sward.teachers.precision.slow_bfloat16", lambda device, slow=slow: slow)
        found[slow] = half(images())
    expected = plain(images())
    between, changed = (errors(found[True], other) for other in (found[False], expected))
    assert all(0 < changed[level] < AUTOCAST_ERROR for level in changed)
    assert all(between[level] < changed[level] for level in changed)


@pytest.mark.parametrize("without_gradients", [nullcontext, torch.no_grad, torch.inference_mode])
def test_rounded_products_are_the_products_of_rounded_factors_with_float32_sums(without_gradients):
    x, w = (torch.randn(40, 300, generator=torch.Generator().manual_seed(k)).bfloat16() for k in (0, 1))
    with without_gradients(), RoundedProducts():
        found = nn.functional.linear(x, w)
        untouched = nn.functional.linear(x.double(), w.double())
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, (x.float() @ w.float().T).bfloat16())
    assert torch.equal(untouched, x.double() @ w.double().T)


@pytest.mark.parametrize("implementation", ["sam2", "timm"])
def test_linear_layers_by_another_library_give_the_features_up_to_rounding(implementation, monkeypatch):
    found, before = [], torch.backends.mkldnn.matmul.fp32_precision
    for faster in (False, True):
        for place in ("sward.teachers.precision", "sward.cpu_products"):
            monkeypatch.setattr(f"{place}.onednn_is_faster", lambda faster=faster: faster)
        made = teacher(implementation=implementation)
        assert any(isinstance(layer, FasterLinear) for layer in made.modules()) is faster
        found.append(copy.deepcopy(made)(images()))
    limit = 1e-5 if not fast_bfloat16() else AUTOCAST_ERROR  # with tiles the factors are rounded
    assert max(errors(found[1], found[0]).values()) < limit
    assert torch.backends.mkldnn.matmul.fp32_precision == before


@pytest.mark.usefixtures("torchs_own_products")
def test_in_float32_nothing_changes_by_a_bit():
    plain = teacher()
    torch.manual_seed(0)
    untouched = make_trunk("pocket").eval()
    with torch.no_grad():
        outputs = untouched(images())
    assert all(torch.equal(a, b) for a, b in zip(plain(images()).values(), outputs, strict=True))
    assert plain.trunk.state_dict().keys() == untouched.state_dict().keys()


def test_a_store_in_bfloat16_is_another_store_and_verifies_against_a_float32_teacher(tmp_path, monkeypatch):
    half = tiny_cache(tmp_path, codec={"kind": "fp32"})
    half = half.model_copy(update={"teacher": half.teacher.model_copy(update={"autocast": True})})
    path = extract(half).path
    assert Store(path).identity["teacher.autocast"] is True
    assert verify(path).ok
    limit = AUTOCAST_ERROR / 3 if slow_bfloat16(torch.device("cpu")) else 2e-3  # other batches sum in another order
    assert max(error for _, error in verify(path).levels.values()) < limit
    monkeypatch.setattr(HieraTeacher, "__init__", _never_half(HieraTeacher.__init__))
    across = verify(path)
    assert across.ok, across.problems
    assert max(error for _, error in across.levels.values()) > 1e-4


def _never_half(original):
    def init(self, trunk, autocast=False):
        original(self, trunk, False)

    return init


@pytest.mark.parametrize("implementation", ["sam2", "timm"])
def test_with_half_the_first_blocks_are_float32s_and_the_later_ones_are_not(implementation):
    exact, half = (teacher(autocast, implementation)(images()) for autocast in (False, "half"))
    found = errors(half, exact)
    assert found["s4"] == 0
    assert 0 < found["s32"] < max(errors(teacher(True, implementation)(images()), exact).values())


def test_half_is_another_store_than_true():
    settings = {"architecture": "pocket", "weights": "w"}
    assert HieraConfig(**settings, autocast="half").identity()["autocast"] == "half"
    with pytest.raises(ValueError, match="autocast"):
        HieraConfig(**settings, autocast="most")


def test_a_float32_store_has_the_identity_it_had():
    config = HieraConfig(architecture="pocket", weights="w")
    assert config.identity()["autocast"] is False
    assert TimmConfig(model="resnet18.a1_in1k", weights="w", levels=("s8",)).identity()["autocast"] is False


@pytest.mark.real
def test_with_sam_2s_own_weights_bfloat16_stays_below_verifys_limit(shared):
    import numpy as np
    from PIL import Image

    from sward.pixels import normaliser
    from sward.teachers.hiera import MEAN, STD

    weights = shared / "weights" / "sam2_hiera_tiny_trunk.fp16.safetensors"
    loaded = load_teacher(HieraConfig(architecture="tiny", weights=str(weights)))
    file = sorted((shared / "datasets" / "cvc-clinicdb" / "images").glob("*.png"))[0]
    with Image.open(file) as picture:
        pixels = torch.from_numpy(np.array(picture.convert("RGB").resize((256, 256)))).permute(2, 0, 1)[None]
    x = normaliser(MEAN, STD, torch.device("cpu"))(pixels)
    expected = loaded(x)
    loaded.autocast = True
    assert 0 < max(errors(loaded(x), expected).values()) < AUTOCAST_ERROR
