"""Every shortlisted student in a real browser: the masks of `sward predict`.

A student as it is initialised says one class nearly everywhere. So its running statistics are those of pictures, as
after training: its masks have several classes.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from chromium import launched, needs_chromium
from exported_page import mask_of, served, shown
from PIL import Image
from pydantic import TypeAdapter

from pipeline.config import read_yaml
from pipeline.datasets.procedural import render
from pipeline.export import speed
from pipeline.export.check import TOLERANCE
from pipeline.export.export import export
from pipeline.prediction.predict import predict
from sward.pixels import normaliser
from sward.students import StudentConfig, build_student, load
from sward.students.saved import dump_weights

pytestmark = [
    pytest.mark.slow,
    needs_chromium,
    pytest.mark.timeout(3600),  # a minute of one processor; the machine may be a busy one
]
FILES = sorted((Path(__file__).resolve().parents[2] / "configs" / "students").glob("*.yaml"))
SIZE, MEAN, STD = (64, 96), (0.5, 0.4, 0.3), (0.2, 0.25, 0.2)
PICTURES = ((64, 64), (131, 57), (40, 300))  # height and width: none is the student's size


@pytest.fixture(scope="module")
def browser():
    with launched() as opened:
        yield opened


def settled(config):
    """A student of three classes whose running statistics are the average over two batches of pictures."""
    student = build_student(config, 3, 0).train()
    for layer in student.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = None  # the plain average
    ready = normaliser(MEAN, STD, torch.device("cpu"))
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)  # of dropout
        for batch in range(2):
            pixels = np.stack([render(batch, number, SIZE)[0] for number in range(8)])
            student(ready(torch.from_numpy(pixels).permute(0, 3, 1, 2)))
    return student.eval()


def save(folder, config):
    """Writes the student as a run saves it."""
    folder.mkdir()
    card = {"student": config.model_dump(mode="json"), "classes": ["background", "polyp", "tool"], "size": SIZE}
    (folder / "student.json").write_text(json.dumps(card | {"mean": MEAN, "std": STD}))
    (folder / "student.safetensors").write_bytes(dump_weights(dict(settled(config).state_dict())))


def margin(run, picture):
    """How far the largest logit is above the second in every pixel, and the largest logit but at least 1."""
    pixels = torch.tensor(np.array(Image.open(picture))).permute(2, 0, 1)[None]
    with torch.no_grad():
        logits = load(run)(pixels)[0]
    first, second = logits.topk(2, dim=0).values
    return (first - second).numpy(), max(1.0, float(logits.abs().max()))


@pytest.mark.parametrize("file", [pytest.param(file, id=file.stem) for file in FILES])
def test_the_page_shows_the_masks_of_predict(file, runtime, browser, tmp_path, monkeypatch):
    monkeypatch.setattr(speed, "SECONDS", 0.0)
    run, pictures = tmp_path / "student", tmp_path / "pictures"
    save(run, TypeAdapter(StudentConfig).validate_python(read_yaml(file)))
    export(run, tmp_path / "page", ["web"], web_runtime=runtime)
    pictures.mkdir()
    for number, size in enumerate(PICTURES):
        Image.fromarray(render(9, number, size)[0]).save(pictures / f"{number}.png")
    assert predict(run, [pictures], tmp_path / "ours").failed == {}
    with served(tmp_path / "page") as address, shown(browser, address) as page:
        for picture in sorted(pictures.iterdir()):
            ours, theirs = np.array(Image.open(tmp_path / "ours" / f"{picture.stem}_mask.png")), mask_of(page, picture)
            assert len(np.unique(ours)) > 1
            assert ours.shape == theirs.shape
            differs, (above, largest) = ours != theirs, margin(run, picture)
            assert differs.mean() <= 1e-3
            assert (above[differs] <= 2 * TOLERANCE * largest).all()  # where classes tie
