"""Are the stored features of real teachers those of a reference? Real weights over frames of CVC-ClinicDB.

    SWARD_DATA=… PYTHONPATH=tests python -m benchmarks.agreement [--frames 40] [--only NAME …] [--json OUT]

Every teacher extracts its levels of the frames (one view at 256 px, stored in float32); the reference then runs on each
view, rendered anew. SAM 2's Hiera-T, run by sam2 and by timm: sam2's own class, with the file's weights. MobileSAM's
TinyViT: the published formula written out in plain functions (tests/teachers/published_tiny_vit.py). Of every level the
largest absolute difference of a feature, over all frames, beside the largest feature.

results/benchmarks/agreement.json is what the page of teachers shows.
"""

import argparse
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from teachers.published_tiny_vit import published_maps
from tiny import CARD, tiny_cache
from torch import Tensor

from pipeline.augmented_views import render
from pipeline.cache.config import CacheConfig
from pipeline.cache.extraction.extract import extract
from pipeline.cache.store import Store
from pipeline.datasets import load_dataset, read_image, read_label
from pipeline.files import write_json
from pipeline.paths import read_path
from pipeline.training.run_folder import commit
from sward.pixels import normaliser
from sward.teachers.hiera import ARCHITECTURES, MEAN, STD

FRAMES, OF = 40, 612  # spread over all frames, so over all sequences
SIDE = 256
HIERA = {"kind": "hiera", "architecture": "tiny", "weights": "sam2_hiera_tiny_trunk.fp16.safetensors"}
TINY_VIT = {
    "kind": "timm",
    "model": "tiny_vit_5m_224.dist_in22k",
    "weights": "mobilesam_tiny_vit_5m.fp16.safetensors",
    "levels": ["s4", "s8", "s16@3", "s16@4"],
    "strides": {"stages.3.downsample.conv2.conv": 1},
}
TEACHERS: dict[str, dict[str, Any]] = {"sam2": HIERA, "timm": HIERA | {"implementation": "timm"}, "MobileSAM": TINY_VIT}
TITLES = {
    "sam2": ("SAM 2 Hiera-T, implementation: sam2", "sam2's class"),
    "timm": ("SAM 2 Hiera-T, implementation: timm", "sam2's class"),
    "MobileSAM": ("MobileSAM's TinyViT", "the published formula"),
}
Reference = Callable[[Tensor], Any]  # normalised image (1, 3, H, W) -> its levels, shallow to deep


def frames_card(folder: Path, source: Path, count: int = FRAMES) -> Path:
    """A card of ``count`` frames of the data set in ``source``, copied into ``folder``."""
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
        for n in range(count):
            frame = 1 + OF // count * n
            subset = ("train", "train", "val", "test")[n % 4]
            shutil.copy(source / kind / f"{frame}.png", folder / kind / f"{subset}-{frame}.png")
    text = CARD.format(name="frames").replace("{kind: indexed, labels: {0: 0, 1: 1}}", "{kind: binary}")
    (folder / "card.yaml").write_text(text)
    return folder / "card.yaml"


def configured(name: str, card: Path, weights: Path) -> CacheConfig:
    """Configuration of a teacher's store of all frames, beside the card; ``weights``: folder of the files."""
    return tiny_cache(
        card.parent,
        dataset=str(card),
        teacher=TEACHERS[name] | {"weights": str(weights / TEACHERS[name]["weights"])},
        size=(SIDE, SIDE),
        views={"count": 1, "seed": 0},
        codec={"kind": "fp32"},
        store=str(card.parent / f"{name}.zarr"),
    )


def reference(name: str, state: dict[str, Tensor]) -> Reference:
    """The network that is not ours, with the weights of ``state``."""
    if name == "MobileSAM":
        return lambda x: published_maps(state, x)
    from sam2.modeling.backbones.hieradet import Hiera

    trunk = Hiera(**ARCHITECTURES["tiny"]).eval()
    trunk.load_state_dict({k.removeprefix("image_encoder.trunk."): v.float() for k, v in state.items()})
    return trunk


@torch.no_grad()
def differences(config: CacheConfig, direct: Reference) -> dict[str, dict[str, float]]:
    """Of every level of a store, over all its records: largest difference from the reference, and largest feature."""
    store, found = Store(config.store), dict[str, dict[str, float]]()
    samples = {sample.digest: sample for sample in load_dataset(config.dataset, config.split).samples}
    for record in (r for records in store.records.values() for r in records):
        sample = samples[record.digest]
        pixels, _ = render(read_image(sample), read_label(sample), record.view, (SIDE, SIDE))
        x = normaliser(MEAN, STD, torch.device("cpu"))(torch.from_numpy(pixels.copy()).permute(2, 0, 1))[None]
        for (level, stored), f in zip(store.features(record).items(), direct(x), strict=True):
            if stored.shape != f[0].shape:
                raise ValueError(f"{level} has the shape {tuple(stored.shape)}, expected {tuple(f[0].shape)}")
            own = found.setdefault(level, {"difference": 0.0, "largest": 0.0})
            own["difference"] = max(own["difference"], float((stored - f[0]).abs().max()))
            own["largest"] = max(own["largest"], float(f.abs().max()))
    return found


def row(name: str, card: Path, weights: Path) -> dict[str, Any]:
    """Extracts a teacher's store and compares it; facts of both sides, ready for JSON."""
    config = configured(name, card, weights)
    extract(config)
    store, file = Store(config.store), weights / TEACHERS[name]["weights"]
    title, against = TITLES[name]
    return {
        "teacher": title,
        "weights": file.name,
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "digest": store.identity["teacher.digest"],
        "reference": against,
        "frames": sum(map(len, store.records.values())),
        "levels": differences(config, reference(name, load_file(file))),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=FRAMES)
    parser.add_argument("--only", nargs="+", choices=list(TEACHERS), default=list(TEACHERS), metavar="NAME")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    weights, rows = read_path("data/weights"), []
    with tempfile.TemporaryDirectory() as folder:
        card = frames_card(Path(folder, "frames"), read_path("data/cvc-clinicdb"), args.frames)
        for name in args.only:
            rows.append(row(name, card, weights))
            print(json.dumps(rows[-1]), flush=True)
    result = {"data": "CVC-ClinicDB", "size": [SIDE, SIDE], "commit": commit(), "threads": torch.get_num_threads()}
    result |= {"versions": {package: version(package) for package in ("torch", "timm", "sam2")}}
    result |= {"load": os.getloadavg()[0], "rows": rows}
    if args.json:
        write_json(args.json, result)


if __name__ == "__main__":
    main()
