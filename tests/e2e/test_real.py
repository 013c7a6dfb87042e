"""Real SAM 2 Hiera-T features of real ClinicDB frames: stored ones against sam2's own class, then both stages."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from sam2.modeling.backbones.hieradet import Hiera

from pipeline.augmented_views import render
from pipeline.cache.config import CacheConfig
from pipeline.cache.extraction.extract import extract
from pipeline.cache.store import Store
from pipeline.cli import main
from pipeline.config import load_config
from pipeline.datasets import load_dataset, read_image, read_label
from pipeline.training.config import TrainConfig
from pipeline.training.loop import train
from pipeline.weights import load_teacher, read_state
from sward.teachers.hiera import MEAN, STD

pytestmark = pytest.mark.real

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "configs/cache/clinicdb-hiera-t-256.yaml"
TINY = {  # written out, not taken from our table
    "embed_dim": 96,
    "num_heads": 1,
    "stages": (1, 2, 7, 2),
    "global_att_blocks": (5, 7, 9),
    "window_pos_embed_bkg_spatial_size": (7, 7),
}
FRAMES = {"1": "train", "200": "train", "400": "val", "600": "test"}
LIMIT = {"fp16": 1e-3, "int8": 1.5e-2}
CARD = """
name: frames
title: four frames of CVC-ClinicDB
citation: Bernal et al. 2015
licence: research and education
classes: [background, polyp]
images: images/{id}.png
masks: masks/{id}.png
encoding: {kind: binary}
splits:
  random: {kind: matched, patterns: {train: train-*, val: val-*, test: test-*}}
source: {kind: files, homepage: none}
"""


@pytest.fixture(scope="module")
def weights(shared):
    path = shared / "weights/sam2_hiera_tiny_trunk.fp16.safetensors"
    if not path.is_file():
        pytest.skip(f"the SAM 2 Hiera-T trunk is not at {path}")
    return path


@pytest.fixture(scope="module")
def card(shared, tmp_path_factory):
    """A user's own set: a card beside images and masks."""
    folder = tmp_path_factory.mktemp("frames")
    for kind in ("images", "masks"):
        (folder / kind).mkdir()
        for frame, subset in FRAMES.items():
            source = shared / "datasets/cvc-clinicdb" / kind / f"{frame}.png"
            shutil.copy(source, folder / kind / f"{subset}-{frame}.png")
    (folder / "card.yaml").write_text(CARD)
    return folder / "card.yaml"


@pytest.fixture(scope="module")
def caches(card, weights):
    """Codec -> the configuration of a made store; the trunk's digest is pinned by the shipped configuration."""
    made = {}
    for codec in LIMIT:
        settings = {"dataset": card, "teacher.weights": weights, "codec.kind": codec, "device": "cpu", "batch_size": 2}
        settings["store"] = card.parent / f"{codec}.zarr"
        made[codec] = load_config(CacheConfig, CONFIG, [f"{name}={value}" for name, value in settings.items()])
        extract(made[codec])
    return made


@pytest.fixture(scope="module")
def direct(caches, weights):
    """Record name -> sam2's own features, shallow to deep, of the view rendered again from the source image."""
    trunk = Hiera(**TINY).eval()
    prefix = "image_encoder.trunk."
    trunk.load_state_dict({k.removeprefix(prefix): v.float() for k, v in read_state(weights).items()})
    config, store = caches["fp16"], Store(caches["fp16"].store)
    samples = {sample.digest: sample for sample in load_dataset(config.dataset, config.split).samples}
    found = {}
    for record in (r for records in store.records.values() for r in records):
        sample = samples[record.digest]
        pixels, _ = render(read_image(sample), read_label(sample), record.view, (256, 256))
        x = torch.tensor(pixels).permute(2, 0, 1) / 255
        x = (x - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
        with torch.no_grad():
            found[record.name] = [f[0].double() for f in trunk(x[None])]
    return found


@pytest.mark.parametrize("codec", LIMIT)
def test_stored_features_are_sam2s_own_of_the_view_rendered_again(caches, direct, codec):
    store = Store(caches[codec].store)
    records = [r for records in store.records.values() for r in records]
    assert sorted(direct) == sorted(r.name for r in records)
    assert len(records) == 6
    for record in records:
        for (level, stored), f in zip(store.features(record).items(), direct[record.name], strict=True):
            centred = f - f.mean((1, 2), keepdim=True)
            error = float((stored.double() - f).norm() / centred.norm())
            assert error <= LIMIT[codec], f"{level} of {record.subset}/{record.id} view {record.view.number}: {error}"


@pytest.mark.parametrize("codec", LIMIT)
def test_verify_passes(caches, codec, capsys):
    assert main(["verify", caches[codec].store, "--records", "2"]) == 0
    assert "all good" in capsys.readouterr().out


def test_the_trunk_is_the_one_the_shipped_configuration_pins(caches):
    pinned = load_config(CacheConfig, CONFIG).teacher.digest
    assert pinned is not None
    assert load_teacher(caches["fp16"].teacher).digest() == pinned
    assert Store(caches["fp16"].store).identity["teacher.digest"] == pinned


def test_sward_trains_on_real_features(caches, tmp_path):
    values = {
        "name": "real",
        "runs": str(tmp_path),
        "cache": caches["int8"],
        "student": {"kind": "unext"},
        "method": {"kind": "sward", "pdr": {"features": "penultimate"}},
        "steps": 2,
        "batch_size": 2,
        "log_every": 1,
        "device": "cpu",
    }
    folder = train(TrainConfig.model_validate(values))
    first, last = (json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()[:2])
    assert {"term/attn", "term/value", "term/context", "term/separation", "term/compactness"} <= first.keys()
    assert all(value is None or abs(value) < 1e6 for key, value in last.items() if key.startswith(("loss", "term/")))
    assert json.loads((folder / "run.json").read_text())["status"] == "finished"
    with Image.open(next((folder / "predictions").glob("*.png"))) as prediction:
        assert prediction.size == (384, 288)  # at the source's resolution, not the cache's
