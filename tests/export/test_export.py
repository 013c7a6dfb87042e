"""Exports agree with torch before they are published, hold their own preprocessing, and predict the same masks."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import yaml
from onnxruntime import InferenceSession
from PIL import Image
from pydantic import TypeAdapter

from pipeline.cli import main
from pipeline.datasets.procedural import render
from pipeline.export import export as module
from pipeline.export import speed
from pipeline.export.check import TOLERANCE, check
from pipeline.export.export import ExportError, export
from pipeline.export.graph import Graph, to_onnx, trace
from pipeline.export.onnx_student import OnnxError, OnnxStudent
from pipeline.export.speed import flops
from pipeline.files import read_json
from pipeline.prediction.predict import open_model, predict, predict_image
from sward.students import Segmenter, StudentConfig, build_student

SLOW = partial(pytest.param, marks=pytest.mark.slow)
CARD = {"classes": ["a", "b", "c"], "size": [64, 96], "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.2]}


@pytest.fixture(scope="module")
def exported(compared, tmp_path_factory):
    out = tmp_path_factory.mktemp("export") / "new"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(speed, "SECONDS", 0.0)
        facts, folder = export(compared.run("SWARD"), out, ["onnx", "torch-export"], int8=True)
    return facts, folder


def network(kind):
    """With running statistics as training leaves them, not the neutral ones of a fresh network."""
    student = build_student(TypeAdapter(StudentConfig).validate_python({"kind": kind}), 3, 0).eval()
    generator = torch.Generator().manual_seed(1)
    for layer in student.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.2, generator=generator)
            layer.running_var.uniform_(0.5, 2, generator=generator)
    return student


@pytest.mark.parametrize(
    "kind",  # UNeXt is checked in the fast tests too: by `exported`
    [SLOW("unext"), "resunetpp", SLOW("deeplabv3"), SLOW("deeplabv3plus")],
)
def test_onnx_equals_torch_for_every_family_and_odd_sizes(kind, tmp_path):
    student = network(kind)
    graph = trace(student, (64, 96))
    (tmp_path / "student.onnx").write_bytes(to_onnx(graph, CARD))
    onnx_student = OnnxStudent(tmp_path / "student.onnx")
    found = check(student, lambda x: onnx_student(x).logits, graph, kind, [])
    assert (graph.limits, found.difference <= TOLERANCE) == ([], True)
    for size in ((37, 61), (64, 96), (200, 33)):  # of pictures: brought to the network's size and back
        image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
        mask, _ = predict_image(Segmenter(onnx_student, onnx_student.card), image)
        assert (mask == predict_image(Segmenter(student, CARD), image)[0]).all()


def test_every_file_of_an_export_was_checked_on_random_and_on_real_images(exported):
    facts, folder = exported
    assert [c.file for c in facts.checks] == ["student.onnx", "student.pt2"]
    assert all(
        c.difference <= TOLERANCE and c.real == 2 and c.changed == 0 and len(c.shapes) == 5 for c in facts.checks
    )
    assert {p.name for p in folder.iterdir()} == {*facts.files, "model-card.md", "export.json"}
    assert not list(folder.parent.glob(".*"))


def test_a_run_and_its_onnx_file_predict_the_same_masks(compared, exported, tmp_path):
    images = Path(compared.config.train.cache.dataset).parent / "images"
    odd = tmp_path / "odd.png"
    Image.fromarray(render(0, 0, (131, 57))[0]).save(odd)
    assert predict(compared.run("SWARD"), [images, odd], tmp_path / "run").failed == {}
    assert predict(exported[1] / "student.onnx", [images, odd], tmp_path / "onnx").failed == {}
    masks = sorted((tmp_path / "run").glob("*_mask.png"))
    assert len(masks) == 12
    for path in masks:
        ours, theirs = (np.array(Image.open(f)) for f in (path, tmp_path / "onnx" / path.name))
        assert (ours != theirs).mean() <= 1e-4  # where two classes tie; 2 of 68 million pixels on ClinicDB


def test_preprocessing_and_classes_are_inside_and_beside(compared, exported):
    card, folder = read_json(compared.run("SWARD") / "student.json"), exported[1]
    extra = {"student.json": ""}
    torch.export.load(folder / "student.pt2", extra_files=extra)
    held = {p.key: json.loads(p.value) for p in onnx.load(folder / "student.onnx").metadata_props}
    for metadata in (held, json.loads(extra["student.json"]), read_json(folder / "student.json")):
        assert [metadata[k] for k in ("classes", "size", "mean", "std")] == [
            card[k] for k in ("classes", "size", "mean", "std")
        ]
    assert open_model(folder / "student-int8.onnx").classes == card["classes"]


def test_files_name_no_path_of_the_machine_they_were_made_on(exported):
    for name in ("student.onnx", "student.pt2"):
        assert str(Path(__file__).parents[2]).encode() not in (exported[1] / name).read_bytes()


def test_int8_is_calibrated_judged_on_the_validation_split_and_smaller(compared, exported):
    facts, _ = exported
    assert facts.calibrated == 6
    assert facts.judged["torch"]["dice"] == pytest.approx(facts.card["validation"]["dice"], abs=1e-4)
    assert abs(facts.judged["student-int8.onnx"]["dice"] - facts.judged["torch"]["dice"]) < 0.05
    assert facts.files["student-int8.onnx"] < 0.4 * facts.files["student.onnx"]


def test_the_card_begins_with_the_block_that_hubs_read(exported):
    facts, folder = exported
    _, block, text = (folder / "model-card.md").read_text().split("---\n", 2)
    found = yaml.safe_load(block)
    assert found["library_name"] == "sward"
    assert found["license"] == "other"
    assert "mDice" in found["metrics"]
    values = {m["type"]: m["value"] for m in found["model-index"][0]["results"][0]["metrics"]}
    assert values["dice"] == facts.run["test"]["dice"]
    assert "| mDice % |" in text.replace("|  |", "|")


def test_the_card_tells_what_was_measured(exported):
    facts, folder = exported
    text = (folder / "model-card.md").read_text()
    for said in ("1,471,938 parameters", "multiples of 32, from 64 up", "max abs diff", "background, polyp", "GMAC"):
        assert said in text
    rows = {(s.engine, s.threads) for s in facts.speeds}
    assert {("torch", "1"), ("onnxruntime, student.onnx", "1"), ("onnxruntime, student-int8.onnx", "1")} <= rows


def test_flops_count_a_multiplication_and_its_addition_as_two():
    student = network("resunetpp")
    assert flops(student, (128, 128)) / 2e9 == pytest.approx(63.4176 / 16, rel=0.02)  # ptflops counts norms too


@pytest.fixture
def made(exported, monkeypatch):
    """The graph of ``exported`` again, without the time it takes to make it."""
    content = (exported[1] / "student.onnx").read_bytes()
    monkeypatch.setattr(module, "trace", lambda student, size: Graph(None, size, 32, []))
    monkeypatch.setattr(module, "to_onnx", lambda graph, metadata: content)
    monkeypatch.setattr(speed, "SECONDS", 0.0)


@pytest.mark.usefixtures("made")
def test_a_file_that_disagrees_is_not_published(compared, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "onnx_runner", lambda path: lambda x: OnnxStudent(path)(x).logits + 1e-2)
    with pytest.raises(ExportError, match=r"student\.onnx differs from torch by 1\.00e-02 .* not published"):
        export(compared.run("SWARD"), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_network_that_fixes_its_size_says_so(monkeypatch):
    student = network("resunetpp")
    real, calls = torch.export.export, []

    def refuse_sizes(*args, **kwargs):
        calls.append(kwargs)
        if 2 in kwargs["dynamic_shapes"][0]:
            raise RuntimeError("sizes are constants here")
        return real(*args, **kwargs)

    monkeypatch.setattr(torch.export, "export", refuse_sizes)
    graph = trace(student, (64, 96))
    assert graph.describe() == "batch free; height and width fixed"
    assert "cannot keep it free: sizes are constants here" in graph.limits[0]
    assert graph.program.module()(torch.zeros(3, 3, 64, 96)).shape == (3, 3, 64, 96)


def test_what_speaks_against_an_export_is_said_before_it_starts(compared, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    with pytest.raises(ExportError, match="is not empty; give another --out"):
        export(compared.run("SWARD"), tmp_path / "full")
    with pytest.raises(ExportError, match="add --format onnx"):
        export(compared.run("SWARD"), tmp_path / "new", ["torch-export"], int8=True)
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("student.json", "student.safetensors"):
        (bare / name).write_bytes((compared.run("SWARD") / name).read_bytes())
    with pytest.raises(ExportError, match=r"calibrated on the run's images, but .* has no config\.yaml"):
        export(bare, tmp_path / "new", int8=True)


@pytest.mark.usefixtures("made")
def test_a_student_without_its_store_is_exported_and_the_card_says_what_is_missing(compared, tmp_path, capsys):
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("student.json", "student.safetensors"):
        (bare / name).write_bytes((compared.run("SWARD") / name).read_bytes())
    assert main(["export", str(bare)]) == 0
    assert "no real images" in capsys.readouterr().out
    assert "none, because" in (bare / "export/model-card.md").read_text()


def test_an_onnx_file_without_our_metadata_is_refused(exported, tmp_path):
    model = onnx.load(exported[1] / "student.onnx")
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "x.onnx")
    with pytest.raises(OnnxError, match="lacks the metadata classes, size, mean, std; give a file that `sward export`"):
        open_model(tmp_path / "x.onnx")


def test_a_saved_program_runs_without_this_code(exported):
    loaded = torch.export.load(exported[1] / "student.pt2").module()
    assert loaded(torch.zeros(2, 3, 96, 160)).shape == (2, 2, 96, 160)


def test_onnxruntimes_own_conversion_to_float16_takes_the_exported_file(exported):
    from onnxruntime.transformers.float16 import convert_float_to_float16

    _, folder = exported
    file = next(path for path in folder.glob("*.onnx") if "int8" not in path.name)
    images = np.random.default_rng(0).standard_normal((1, 3, 64, 64)).astype(np.float32)
    half = convert_float_to_float16(onnx.load(file), keep_io_types=True)
    found, wanted = (
        InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, {"images": images})[0]
        for model in (half.SerializeToString(), file.read_bytes())
    )
    assert np.abs(found - wanted).max() < 0.02 * np.abs(wanted).max()
