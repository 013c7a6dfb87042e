"""Every shortlisted student trains 30 steps, with SWARD and plain, and its ONNX file then equals it at two sizes. With
SWARD it is then quantised, and `sward predict` runs all three.

Thirty steps leave running statistics that have not settled, so logits may reach tens at a size that was not trained,
and float32 keeps seven digits of them: linknet-mobilenetv3-small's differ by 4.5e-4 from ONNX there, and in torch by
3.5e-4 from float64. So the measure is that of `sward export`: relative to the largest logit, where that is above 1.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import tiny_train

from pipeline.config import read_yaml
from pipeline.export import speed
from pipeline.export.check import TOLERANCE
from pipeline.export.export import export
from pipeline.export.onnx_student import OnnxStudent
from pipeline.prediction.predict import predict
from pipeline.training.loop import train
from sward.pixels import normaliser
from sward.students import load

ROOT = Path(__file__).resolve().parents[2]
FILES = {path.stem: path for path in sorted((ROOT / "configs" / "students").glob("*.yaml"))}
METHODS = {"plain": {"kind": "plain"}, "sward": {"kind": "sward", "mwad": {"gain": 2.0}}}
CASES = [pytest.param(name, method, id=f"{name}, {method}") for name in FILES for method in METHODS]
SIZES = ((64, 64), (128, 96))  # trained at the first


def pictures(cache, size, mean, std):
    """The validation images at (height, width), normalised."""
    files = sorted((Path(cache.dataset).parent / "images").glob("val-*.png"))
    found = [np.array(Image.open(file).resize((size[1], size[0]), Image.Resampling.BILINEAR)) for file in files]
    return normaliser(mean, std, torch.device("cpu"))(torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2))


@pytest.mark.slow
@pytest.mark.timeout(3600)  # a minute of one processor; the machine may be a busy one
@pytest.mark.parametrize(("name", "method"), CASES)
def test_thirty_steps_then_onnx_equals_torch_at_two_sizes(cache, tmp_path, monkeypatch, name, method):
    monkeypatch.setattr(speed, "SECONDS", 0.0)
    student, quiet = read_yaml(FILES[name]), {"signal_every": 0, "checkpoint_every": 30}
    run = train(tiny_train(tmp_path, cache, student=student, method=METHODS[method], steps=30, **quiet))
    facts, out = export(run, tmp_path / "export", int8=method == "sward")  # checked on noise, at five sizes
    assert facts.limits == []
    model, file = load(run), OnnxStudent(out / "student.onnx", threads=1, gpu=False)
    for size in SIZES:
        x = pictures(cache, size, model.mean, model.std)
        with torch.no_grad():
            logits = model.network(x).logits
        assert logits.std() > 0.01  # the network says something
        largest = max(1.0, float(logits.abs().max()))  # 57 of mobilenetv3-small at the second size
        assert float((file(x).logits - logits).abs().max()) <= TOLERANCE * largest
    if method == "sward":
        require_predictions(cache, run, out, tmp_path)


def require_predictions(cache, run, out, folder):
    """`sward predict` gives the same masks from the run and its ONNX file, and most of them from the int8 file."""
    images, masks = Path(cache.dataset).parent / "images", {}
    for name, source in {"run": run, "onnx": out / "student.onnx", "int8": out / "student-int8.onnx"}.items():
        assert predict(source, [images], folder / name).failed == {}
        masks[name] = [np.array(Image.open(path)) for path in sorted((folder / name).glob("*_mask.png"))]
    assert len(masks["run"]) == 11
    assert np.mean(np.stack(masks["run"]) != np.stack(masks["onnx"])) <= 1e-4  # where two classes tie
    assert np.mean(np.stack(masks["run"]) != np.stack(masks["int8"])) <= 0.1
