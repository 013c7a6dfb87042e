"""The Python blocks of README and documentation run as they are printed, on real tensors and a real student."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pipeline.datasets import load_dataset
from pipeline.datasets.samples import read_label
from pipeline.yaml_files import dump_yaml
from sward.students import UNeXtConfig, build_student

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
TEACHER, CELLS = {"s4": 96, "s8": 192, "s16": 384, "s32": 768}, {"s4": 32, "s8": 16, "s16": 8, "s32": 4}
LOSSES = ["README.md", "docs/how-to/own-loop.md"]


def blocks(page):
    return BLOCK.findall((ROOT / page).read_text())


def maps(channels):
    random = torch.Generator().manual_seed(0)
    return {
        level: torch.randn(2, width, CELLS[level], CELLS[level], generator=random) for level, width in channels.items()
    }


def test_every_python_block_is_run_by_a_test():
    """The reader of stores is run by test_docs.py."""
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/**/*.md")]
    found = {str(page.relative_to(ROOT)) for page in pages if blocks(page)}
    assert found == {*LOSSES, "docs/how-to/ship-a-student.md", "docs/datasets.md", "docs/reference/store-format.md"}


@pytest.mark.parametrize("page", LOSSES)
def test_the_losses_run_as_printed_and_give_the_terms_that_the_comment_says(page):
    student = build_student(UNeXtConfig(), 2, 0)
    own = {level: student.channels[level] for level in TEACHER if level in student.channels}
    given = {"student": SimpleNamespace(channels=own), "teacher_features": maps(TEACHER), "step": 0}
    given |= {
        "output": SimpleNamespace(features=maps(own)),
        "labels": torch.arange(2 * 128 * 128).reshape(2, 128, 128) % 2,
    }
    (block,) = blocks(page)
    exec(block, given)
    said = {name for names in re.findall(r"# \{(.*)\}, unweighted", block) for name in re.findall(r'"(\w+)"', names)}
    assert set(given["terms"]) == said
    assert all(torch.isfinite(term) for term in given["terms"].values())


def test_a_shipped_student_is_used_as_printed(tmp_path, monkeypatch):
    network, folder = build_student(UNeXtConfig(), 2, 0), tmp_path / "runs/NAME"
    folder.mkdir(parents=True)
    save_file(network.state_dict(), folder / "student.safetensors")
    card = {"student": {"kind": "unext"}, "classes": ["background", "lesion"], "size": [64, 64]}
    (folder / "student.json").write_text(json.dumps(card | {"mean": [0.5] * 3, "std": [0.2] * 3, "method": "plain"}))
    monkeypatch.chdir(tmp_path)
    given = {"image": np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)}
    (block,) = blocks("docs/how-to/ship-a-student.md")
    exec(block, given)
    assert given["mask"].shape == (50, 70)
    assert given["p"].shape == (2, 50, 70)
    assert (given["p"].argmax(0) == given["mask"]).mean() > 0.99  # ties aside


def test_slices_of_a_volume_are_saved_as_printed_and_are_a_data_set(tmp_path, monkeypatch):
    nibabel = pytest.importorskip("nibabel", reason="pip install 'sward[medical]'")
    random = np.random.default_rng(0)
    volume, labels = random.uniform(-500, 500, (40, 30, 6)), np.zeros((40, 30, 6))
    labels[5:20, 5:10] = 1
    monkeypatch.chdir(tmp_path)
    for name, values in (("ct", volume), ("seg", labels)):
        nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), f"{name}.nii.gz")
    for folder in ("images", "masks"):
        Path(folder).mkdir()
    (block,) = blocks("docs/datasets.md")
    exec(block, {})
    card = {"name": "ct", "title": "slices", "citation": "none", "licence": "mine", "classes": ["background", "organ"]}
    card |= {
        "images": "images/{id}.png",
        "masks": "masks/{id}.npy",
        "encoding": {"kind": "indexed", "labels": {0: 0, 1: 1}},
    }
    card |= {"splits": {"mine": {"kind": "drawn", "fractions": [0.5, 0.25, 0.25]}}}
    Path("card.yaml").write_text(dump_yaml(card))
    samples = load_dataset(Path("card.yaml"), "mine").samples
    assert len(samples) == volume.shape[2]
    assert all((read_label(sample) == labels[:, :, int(Path(sample.id).name)].T).all() for sample in samples)
