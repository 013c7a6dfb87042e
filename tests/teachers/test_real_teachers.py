"""Real weights over forty frames of ClinicDB: every stored level is that of sam2's class or of the formula."""

import shutil

import pytest
import torch
from safetensors.torch import load_file
from sam2.modeling.backbones.hieradet import Hiera
from teachers.published_tiny_vit import published_maps
from tiny import CARD, tiny_cache

from pipeline.augmented_views import render
from pipeline.cache.extraction.extract import extract
from pipeline.cache.store import Store
from pipeline.cache.tools.verify import verify
from pipeline.datasets import load_dataset, read_image, read_label
from sward.pixels import normaliser
from sward.teachers.hiera import ARCHITECTURES, MEAN, STD

pytestmark = pytest.mark.real

FRAMES = [1 + 15 * n for n in range(40)]  # of 612, over all sequences
SIDE = 256
CLOSE = 1e-4  # largest absolute difference of a feature
HIERA = {"architecture": "tiny", "weights": "sam2_hiera_tiny_trunk.fp16.safetensors"}
TINY_VIT = {
    "kind": "timm",
    "model": "tiny_vit_5m_224.dist_in22k",
    "weights": "mobilesam_tiny_vit_5m.fp16.safetensors",
    "levels": ["s4", "s8", "s16@3", "s16@4"],
    "strides": {"stages.3.downsample.conv2.conv": 1},
}
TEACHERS = {"sam2": HIERA, "timm": HIERA | {"implementation": "timm"}, "MobileSAM": TINY_VIT}
MB = {"sam2": 1.475, "timm": 1.475, "MobileSAM": 1.032}  # of a view, as fp16


@pytest.fixture(scope="module")
def card(shared, tmp_path_factory):
    folder = tmp_path_factory.mktemp("forty")
    for kind in ("images", "masks"):
        (folder / kind).mkdir()
        for n, frame in enumerate(FRAMES):
            subset = ("train", "train", "val", "test")[n % 4]
            shutil.copy(
                shared / "datasets/cvc-clinicdb" / kind / f"{frame}.png", folder / kind / f"{subset}-{frame}.png"
            )
    text = CARD.format(name="forty").replace("{kind: indexed, labels: {0: 0, 1: 1}}", "{kind: binary}")
    (folder / "card.yaml").write_text(text)
    return folder / "card.yaml"


@pytest.fixture(scope="module", params=TEACHERS)
def made(request, card, shared):
    """(teacher's name, its store of all frames, its weights)."""
    values = TEACHERS[request.param]
    weights = shared / "weights" / values["weights"]
    config = tiny_cache(
        card.parent,
        dataset=str(card),
        teacher={"kind": "hiera", **values, "weights": str(weights)},
        size=(SIDE, SIDE),
        views={"count": 1, "seed": 0},
        codec={"kind": "fp32"},
        store=str(card.parent / f"{request.param}.zarr"),
    )
    extract(config)
    return request.param, config, load_file(weights)


@pytest.fixture(scope="module")
def reference():
    """Of a teacher's name: the function from a normalised image to its levels, shallow to deep."""
    trunks = {}

    def of(name, state):
        if name == "MobileSAM":
            return lambda x: published_maps(state, x)
        if name not in trunks:
            trunks[name] = Hiera(**ARCHITECTURES["tiny"]).eval()
            trunks[name].load_state_dict({k.removeprefix("image_encoder.trunk."): v.float() for k, v in state.items()})
        return trunks[name]

    return of


def test_every_level_of_every_frame_is_the_references(made, reference):
    name, config, state = made
    store, direct = Store(config.store), reference(name, state)
    samples = {sample.digest: sample for sample in load_dataset(config.dataset, config.split).samples}
    records = [r for subset in ("train", "val", "test") for r in store.records[subset]]
    assert len(records) == len(FRAMES)
    largest = dict.fromkeys(store.channels, 0.0)
    for record in records:
        sample = samples[record.digest]
        pixels, _ = render(read_image(sample), read_label(sample), record.view, (SIDE, SIDE))
        x = normaliser(MEAN, STD, torch.device("cpu"))(torch.from_numpy(pixels.copy()).permute(2, 0, 1))[None]
        with torch.no_grad():
            expected = direct(x)
        for (level, stored), f in zip(store.features(record).items(), expected, strict=True):
            assert stored.shape == f[0].shape
            largest[level] = max(largest[level], float((stored - f[0]).abs().max()))
    print(name, {level: f"{difference:.1e}" for level, difference in largest.items()})
    assert max(largest.values()) <= CLOSE, largest


def test_the_store_is_verified_and_a_view_has_the_bytes_that_are_stated(made):
    name, config, _ = made
    store = Store(config.store)
    assert verify(store.path, 2, config=config).problems == []
    grids = {level: SIDE // int(level[1:].split("@")[0]) for level in store.channels}
    assert sum(2 * c * grids[level] ** 2 for level, c in store.channels.items()) / 1e6 == pytest.approx(
        MB[name], rel=1e-3
    )
