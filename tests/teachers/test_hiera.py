"""The frozen teacher: which checkpoints open, that they cannot run code, and that the features are sam2's own."""

import os
from functools import partial
from pathlib import Path

import pytest
import sam2
import torch
import yaml
from safetensors.torch import load_file, save_file
from sam2.modeling.backbones.hieradet import Hiera

from pipeline.cache.config import CacheConfig
from pipeline.config import load_config
from pipeline.weights import WeightsError, load_teacher
from sward.teachers.hiera import ARCHITECTURES, HieraConfig, HieraTeacher, TrunkMismatch, make_trunk, trunk_channels

ROOT = Path(__file__).resolve().parents[2]
POCKET = ROOT / "data/pocket-teacher/trunk.safetensors"
SAM2_FILES = {"tiny": "t", "small": "s", "base_plus": "b+", "large": "l"}
COUNTS = {"tiny": 26_849_472, "large": 212_149_296}
CHANNELS = {
    "pocket": [32, 64, 128, 256],
    "tiny": [96, 192, 384, 768],
    "small": [96, 192, 384, 768],
    "base_plus": [112, 224, 448, 896],
    "large": [144, 288, 576, 1152],
}


@pytest.fixture(scope="module")
def trunk():
    """sam2's own class with random weights, and nothing of ours around it."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Hiera(**ARCHITECTURES["pocket"]).eval()


@pytest.fixture(scope="module")
def state(trunk):
    return {name: tensor.detach().clone() for name, tensor in trunk.state_dict().items()}


@pytest.fixture
def on_meta(monkeypatch):
    """Shapes without memory; sam2 reads drop-path rates out of a linspace, so that one stays real."""
    monkeypatch.setattr(torch, "linspace", partial(torch.linspace, device="cpu"))
    return torch.device("meta")


def config(path, architecture="pocket", digest=None):
    return HieraConfig(architecture=architecture, weights=str(path), digest=digest)


def prefixed(state, prefix="image_encoder.trunk."):
    return {prefix + name: tensor for name, tensor in state.items()}


def saved(state, path):
    (save_file if path.suffix == ".safetensors" else torch.save)(state, path)
    return path


def test_every_form_of_a_checkpoint_gives_the_same_teacher(state, tmp_path):
    others = {"image_encoder.neck.convs.0.conv.weight": torch.ones(2, 2), "memory_encoder.out_proj.bias": torch.ones(3)}
    forms = {
        "meta.pt": {"model": prefixed(state) | others},
        "medsam2.pt": {"model": prefixed(state) | others, "epoch": 70, "best_meter_values": {}, "steps": {"train": 9}},
        "encoder.pt": prefixed(state, "trunk."),
        "bare.pt": state,
        "half-the-prefix.safetensors": prefixed(state),
        "bare.safetensors": state,
    }
    digests = {name: load_teacher(config(saved(form, tmp_path / name))).digest() for name, form in forms.items()}
    assert set(digests.values()) == {HieraTeacher(make_loaded(state)).digest()}


def make_loaded(state):
    trunk = Hiera(**ARCHITECTURES["pocket"])
    trunk.load_state_dict(state)
    return trunk


def test_the_digest_sees_a_single_changed_bit(state):
    changed = {name: tensor.clone() for name, tensor in state.items()}
    changed["pos_embed"].view(torch.int32).view(-1)[0] ^= 1
    assert HieraTeacher(make_loaded(state)).digest() != HieraTeacher(make_loaded(changed)).digest()


@pytest.mark.usefixtures("torchs_own_products")
def test_features_are_those_of_sam2s_own_class_bit_for_bit(trunk, state, tmp_path):
    teacher = load_teacher(config(saved({"model": prefixed(state)}, tmp_path / "meta.pt")))
    images = torch.randn(2, 3, 96, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        direct = trunk(images)
    features = teacher(images)
    assert [tuple(f.shape) for f in features.values()] == [
        (2, c, 96 // stride, 64 // stride) for c, stride in zip(CHANNELS["pocket"], (4, 8, 16, 32), strict=True)
    ]
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(features.values(), direct, strict=True))


@pytest.mark.usefixtures("torchs_own_products")
def test_half_precision_weights_give_float32_features(state, tmp_path):
    half = {name: tensor.half() for name, tensor in state.items()}
    teacher = load_teacher(config(saved(half, tmp_path / "half.safetensors")))
    rounded = make_loaded({name: tensor.float() for name, tensor in half.items()}).eval()
    images = torch.ones(1, 3, 64, 64)
    features = teacher(images)
    with torch.no_grad():
        direct = rounded(images)
    assert {f.dtype for f in features.values()} == {torch.float32}
    assert all(torch.equal(a, b) for a, b in zip(features.values(), direct, strict=True))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_channels_by_level(architecture, on_meta):
    with on_meta:
        assert trunk_channels(make_trunk(architecture)) == dict(
            zip(("s4", "s8", "s16", "s32"), CHANNELS[architecture], strict=True)
        )


@pytest.mark.parametrize("version", ["sam2", "sam2.1"])
@pytest.mark.parametrize("architecture", SAM2_FILES)
def test_architectures_are_those_of_sam2s_own_files(architecture, version, on_meta):
    file = Path(sam2.__file__).parent / f"configs/{version}/{version}_hiera_{SAM2_FILES[architecture]}.yaml"
    values = yaml.safe_load(file.read_text())["model"]["image_encoder"]["trunk"]
    with on_meta:
        ours, theirs = make_trunk(architecture), Hiera(**{k: v for k, v in values.items() if k != "_target_"})
        timms = make_trunk(architecture, "timm")
    shapes = [{k: v.shape for k, v in trunk.state_dict().items()} for trunk in (ours, theirs, timms)]
    assert shapes[0] == shapes[1] == shapes[2]
    assert ours.global_att_blocks == tuple(theirs.global_att_blocks)
    assert [b.window_size for b in ours.blocks] == [b.window_size for b in theirs.blocks]
    count = sum(p.numel() for p in ours.parameters())
    assert count == COUNTS.get(architecture, count)


def test_another_architecture_is_refused_and_the_likely_one_named(state, tmp_path):
    path = saved(prefixed(state), tmp_path / "pocket.safetensors")
    with pytest.raises(TrunkMismatch) as refusal:
        load_teacher(config(path, architecture="tiny"))
    said = str(refusal.value)
    assert "is not a Hiera `tiny` trunk" in said
    assert "missing: blocks.10." in said
    assert "of another shape: pos_embed (1, 32, 7, 7) instead of (1, 96, 7, 7)" in said
    assert "its tensors fit: pocket; set teacher.architecture to that" in said


def test_missing_and_unexpected_tensors_are_named(state, tmp_path):
    changed = {name: tensor for name, tensor in state.items() if name != "pos_embed_window"}
    path = saved(changed | {"blocks.0.adapter": torch.ones(1)}, tmp_path / "changed.safetensors")
    with pytest.raises(TrunkMismatch, match=r"1 missing: pos_embed_window\n  1 unexpected: blocks\.0\.adapter"):
        load_teacher(config(path))


def test_a_checkpoint_of_something_else_is_refused_with_its_keys(tmp_path):
    path = saved({"conv1.weight": torch.ones(1)}, tmp_path / "resnet.pt")
    with pytest.raises(TrunkMismatch, match=r"no Hiera trunk in the checkpoint.*found \['conv1\.weight'\]"):
        load_teacher(config(path))


def test_a_checkpoint_without_names_is_refused(tmp_path):
    with pytest.raises(WeightsError, match="holds a list, expected tensors by name"):
        load_teacher(config(saved([torch.ones(1)], tmp_path / "list.pt")))


class Trap:
    """A pickle that makes a folder when it is opened carelessly."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def test_a_pickle_that_would_run_code_is_refused_before_it_runs(tmp_path):
    path = saved({"model": Trap(tmp_path / "sprung")}, tmp_path / "trap.pt")
    with pytest.raises(WeightsError, match=r"trap\.pt(?s:.)*weights_only=True, so it cannot run code"):
        load_teacher(config(path))
    assert not (tmp_path / "sprung").exists()
    torch.load(path, weights_only=False)
    assert (tmp_path / "sprung").exists()  # the trap was a live one


@pytest.mark.parametrize("name", ["cut.pt", "cut.safetensors"])
def test_a_truncated_file_is_named(state, tmp_path, name):
    path = saved(state, tmp_path / name)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(WeightsError, match=f"cannot read .*{name}"):
        load_teacher(config(path))


def test_a_missing_file_is_named_with_what_to_set(tmp_path):
    with pytest.raises(WeightsError, match=r"not found: .*nowhere\.pt; set teacher\.weights to a \.pt or"):
        load_teacher(config(tmp_path / "nowhere.pt"))


def test_an_unreachable_hub_says_what_to_do_instead(monkeypatch):
    def unreachable(repository, file):
        raise ConnectionError(f"no route to {repository}")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", unreachable)
    with pytest.raises(WeightsError) as refusal:
        load_teacher(config("hub:facebook/sam2.1-hiera-tiny/sam2.1_hiera_tiny.pt", "tiny"))
    said = str(refusal.value)
    assert "has not given facebook/sam2.1-hiera-tiny/sam2.1_hiera_tiny.pt: no route to" in said
    assert "download the file elsewhere and set teacher.weights to its path" in said
    assert isinstance(refusal.value.__cause__, ConnectionError)


def test_the_hub_is_asked_for_the_named_file(monkeypatch, state, tmp_path):
    path = saved(state, tmp_path / "bare.pt")
    asked = []
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *names: asked.append(names) or str(path))
    load_teacher(config("hub:owner/repository/folder/file.pt"))
    assert asked == [("owner/repository", "folder/file.pt")]


def test_a_hub_name_without_a_file_is_refused():
    with pytest.raises(WeightsError, match="hub:facebook/sam2; expected hub:<owner>/<repository>/<file>"):
        load_teacher(config("hub:facebook/sam2"))


def test_another_digest_than_the_pinned_one_is_refused(state, tmp_path):
    path = saved(state, tmp_path / "bare.pt")
    with pytest.raises(WeightsError, match=r"teacher\.digest: expected 00ff, found [0-9a-f]{64} in .*bare\.pt"):
        load_teacher(config(path, digest="00ff"))


def test_the_teacher_stays_in_eval_and_without_gradients(trunk, state):
    teacher = HieraTeacher(make_loaded(state)).train()
    assert not any(module.training for module in teacher.modules())
    assert not any(p.requires_grad for p in teacher.parameters())
    images = torch.ones(1, 3, 32, 32, requires_grad=True)
    with torch.enable_grad(), pytest.raises(RuntimeError, match="does not require grad"):
        teacher(images)["s32"].sum().backward()
    assert images.grad is None
    assert all(p.grad is None for p in teacher.parameters())


def test_a_size_off_the_grid_is_refused_with_the_size_to_use(state):
    with pytest.raises(ValueError, match="100×64; sides must be multiples of 32: use 128×64"):
        HieraTeacher(make_loaded(state))(torch.zeros(1, 3, 100, 64))


def test_the_committed_pocket_teacher_is_the_one_its_card_and_the_quickstart_name():
    cache = load_config(CacheConfig, ROOT / "configs/quickstart/cache.yaml")
    teacher = load_teacher(cache.teacher)
    card = yaml.safe_load((POCKET.parent / "teacher.yaml").read_text())
    assert teacher.digest() == card["digest"] == cache.teacher.digest
    assert sum(p.numel() for p in teacher.parameters()) == card["parameters"]
    assert {tensor.dtype for tensor in load_file(POCKET).values()} <= {torch.float16, torch.float32}
    assert POCKET.stat().st_size <= 8_000_000
