"""sam2's Hiera and timm's, with one checkpoint: equal features, digest and identity, and one that needs no sam2."""

import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import tiny_cache, tiny_train

from pipeline.cache.config import CacheConfig
from pipeline.cache.extraction.extract import extract
from pipeline.cache.manifest.identity import identity_from_config
from pipeline.cache.store import Store
from pipeline.cache.tools.verify import verify
from pipeline.weights import load_teacher
from sward.teachers.hiera import HieraConfig, HieraTeacher, TrunkMismatch, make_trunk, trunk_channels


def both(architecture, state=None):
    """The same weights, random unless given, in both implementations."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        reference = make_trunk(architecture)
    timm = make_trunk(architecture, "timm")
    if state is not None:
        reference.load_state_dict(state)
    timm.load_state_dict(reference.state_dict(), strict=True)
    return HieraTeacher(reference), HieraTeacher(timm)


def require_equal(reference, timm, size):
    images = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(1))
    theirs, ours = reference(images), timm(images)
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[level], ours[level]) for level in theirs)


@pytest.mark.parametrize(
    "architecture",
    ["pocket", "tiny", *(pytest.param(name, marks=pytest.mark.slow) for name in ("small", "base_plus", "large"))],
)
def test_both_implementations_give_the_same_features_to_the_bit(architecture):
    reference, timm = both(architecture)
    assert reference.channels == timm.channels == trunk_channels(reference.trunk)
    require_equal(reference, timm, (96, 64))
    assert reference.digest() == timm.digest()


def with_timm(config):
    teacher = config.teacher.model_copy(update={"implementation": "timm"})
    return config.model_copy(update={"teacher": teacher})


def test_the_implementation_is_no_part_of_any_identity(tmp_path):
    config = tiny_cache(tmp_path)
    other = with_timm(config)
    assert identity_from_config(other) == identity_from_config(config)
    assert tiny_train(tmp_path, other).identity() == tiny_train(tmp_path, config).identity()
    assert "implementation" not in config.recorded()["teacher"]
    assert CacheConfig.model_validate(other.recorded()).teacher.implementation == "timm"


def test_a_store_of_one_is_verified_by_the_other_and_says_in_its_receipts_which_made_it(tmp_path):
    config = tiny_cache(tmp_path, codec={"kind": "fp32"})
    extract(config)
    store = Store(config.store)
    assert "sam2" in next(iter(store.receipts.values()))["provenance"]["versions"]
    found = verify(store.path, records=2, config=with_timm(config))
    assert found.problems == []
    assert found.records == 2
    assert extract(with_timm(config)).computed == 0


def test_without_sam2_timm_makes_the_store_and_sam2_is_refused_with_both_remedies(tmp_path, monkeypatch):
    config = tiny_cache(tmp_path)
    for name in [name for name in sys.modules if name.split(".")[0] == "sam2"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "sam2", None)
    with pytest.raises(TrunkMismatch, match=r"pip install 'sward\[teacher\]', or set teacher\.implementation: timm"):
        extract(config)
    assert extract(with_timm(config)).computed == 17
    versions = next(iter(Store(config.store).receipts.values()))["provenance"]["versions"]
    assert "timm" in versions
    assert "sam2" not in versions


@pytest.mark.parametrize("change", ["missing", "extra", "renamed"])
def test_checkpoints_are_refused_as_strictly(change, tmp_path):
    state = {name: tensor.clone() for name, tensor in make_trunk("pocket").state_dict().items()}
    name = "blocks.3.mlp.layers.0.weight"
    value = state[name]
    if change != "extra":
        del state[name]
    if change != "missing":
        state["blocks.3.mlp.fc1.weight"] = value.clone()
    save_file(state, tmp_path / "trunk.safetensors")
    config = HieraConfig(architecture="pocket", weights=str(tmp_path / "trunk.safetensors"), implementation="timm")
    with pytest.raises(TrunkMismatch, match=r"blocks\.3\.mlp"):
        load_teacher(config)


@pytest.mark.real
def test_sam_2s_own_weights_give_the_same_features_in_both(shared):
    state = load_file(shared / "weights" / "sam2_hiera_tiny_trunk.fp16.safetensors")
    config = HieraConfig(architecture="tiny", weights="real")
    reference, timm = (config.model_copy(update={"implementation": i}).build(state) for i in ("sam2", "timm"))
    assert reference.digest() == timm.digest()
    require_equal(reference, timm, (256, 128))
