"""The exported page in a real browser: the masks of `sward predict`, from nothing but its own folder."""

import io
import json
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import torch
from chromium import launched, needs_chromium
from exported_page import mask_of, served, shown
from PIL import Image
from pydantic import TypeAdapter

from pipeline.cli import main
from pipeline.datasets.procedural import render
from pipeline.export import speed, web_runtime
from pipeline.export.web_runtime import NEEDED, NOTICES, PACKAGE
from pipeline.prediction.predict import predict
from sward.students import StudentConfig, build_student
from sward.students.saved import dump_weights

CAMERA = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")  # a moving test picture


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A student as a run saves it, with running statistics as training leaves them; wider than high, three classes."""
    folder = tmp_path_factory.mktemp("runs") / "student"
    folder.mkdir()
    config = TypeAdapter(StudentConfig).validate_python({"kind": "unext"})
    student, generator = build_student(config, 3, 0), torch.Generator().manual_seed(1)
    for layer in student.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.2, generator=generator)
            layer.running_var.uniform_(0.5, 2, generator=generator)
    card = {"student": config.model_dump(mode="json"), "classes": ["background", "polyp", "tool"], "size": [64, 96]}
    (folder / "student.json").write_text(json.dumps(card | {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.25, 0.2]}))
    (folder / "student.safetensors").write_bytes(dump_weights(dict(student.state_dict())))
    return folder


@pytest.fixture(scope="module")
def shipped(run, runtime, tmp_path_factory):
    """(folder, what the command printed); with a given runtime npm is not asked."""
    out, said = tmp_path_factory.mktemp("web") / "page", io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(said):
        patch.setattr(speed, "SECONDS", 0.0)
        patch.setenv("PATH", "")
        assert main(["export", str(run), "--format", "web", "--runtime", str(runtime), "--out", str(out)]) == 0
    return out, said.getvalue()


@pytest.fixture(scope="module")
def exported(shipped):
    return shipped[0]


@pytest.fixture(scope="module")
def address(exported):
    with served(exported) as found:
        yield found


@pytest.fixture(scope="module")
def browser():
    with launched(*CAMERA) as opened:
        yield opened


@pytest.fixture
def page(address, browser):
    with shown(browser, address) as opened:
        yield opened


@pytest.mark.slow
@needs_chromium
def test_the_page_shows_the_masks_of_predict(run, page, tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number, size in enumerate([(64, 64), (131, 57), (40, 300)]):  # the student's, an odd one, one that is enlarged
        Image.fromarray(render(number, 0, size)[0]).save(pictures / f"{number}.png")
    clear = Image.fromarray(render(3, 0, (90, 80))[0]).convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize(clear.size).point(lambda v: 255 * (v > 99)))
    clear.save(pictures / "clear.png")
    assert predict(run, [pictures], tmp_path / "ours").failed == {}
    classes = set()
    for picture in sorted(pictures.iterdir()):
        ours = np.array(Image.open(tmp_path / "ours" / f"{picture.stem}_mask.png"))
        theirs = mask_of(page, picture)
        assert ours.shape == theirs.shape
        assert (ours != theirs).mean() <= 1e-4  # where two classes tie, as between torch and onnxruntime
        classes |= set(np.unique(ours))
    assert len(classes) > 1
    assert "ms in the network" in page.get_by_role("status").inner_text()
    page.screenshot(path=tmp_path / "page.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


@pytest.mark.slow
@needs_chromium
def test_the_mask_can_be_hidden_and_what_is_no_picture_is_said(page, tmp_path):
    picture = tmp_path / "picture.png"
    image = render(0, 0, (64, 80))[0]
    Image.fromarray(image).save(picture)
    assert mask_of(page, picture).any()
    painted = "() => [...document.querySelector('canvas').getContext('2d').getImageData(0, 0, 80, 64).data]"
    pixels = [np.array(page.evaluate(painted)).reshape(64, 80, 4)[..., :3]]
    page.get_by_role("checkbox", name="mask").uncheck()
    pixels.append(np.array(page.evaluate(painted)).reshape(64, 80, 4)[..., :3])
    assert (pixels[0] != image).any()
    assert (pixels[1] == image).all()
    text = tmp_path / "text.txt"
    text.write_text("no picture")
    page.get_by_label("Choose a picture").set_input_files(text)
    page.get_by_text("text.txt is not a picture").wait_for()


@pytest.mark.slow
@needs_chromium
def test_the_camera_is_read_until_it_is_stopped(page):
    page.get_by_role("button", name="Use the camera").click()
    page.get_by_role("img", name="picture of 640 × 480 pixels").wait_for()
    page.get_by_role("button", name="Stop the camera").click()
    page.get_by_role("button", name="Use the camera").wait_for()
    assert page.evaluate("document.getElementById('video').srcObject.active") is False


@pytest.mark.slow
@needs_chromium
def test_a_dropped_picture_is_read(page):
    drop = """() => {
        const sheet = new OffscreenCanvas(50, 30), data = new DataTransfer();
        sheet.getContext("2d").fillRect(0, 0, 50, 30);
        return sheet.convertToBlob().then((blob) => {
            data.items.add(new File([blob], "x.png", { type: "image/png" }));
            document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true }));
        });
    }"""
    page.evaluate(drop)
    page.get_by_role("img", name="picture of 50 × 30 pixels").wait_for()


@pytest.mark.slow
def test_the_folder_has_the_runtime_its_licences_and_the_checked_student(exported, runtime):
    names = {str(path.relative_to(exported)) for path in exported.rglob("*") if path.is_file()}
    assert {f"ort/{name}" for name in (*NEEDED, *NOTICES)} < names
    assert {"index.html", "page.css", "page.js", "page.json", "student.onnx", "student.json", "model-card.md"} < names
    assert "MIT License" in (exported / "ort/LICENSE").read_text()
    assert "ort/ort-wasm-simd-threaded.wasm" in (exported / "model-card.md").read_text()


@pytest.mark.slow
def test_the_command_says_how_to_open_the_page(shipped):
    folder, said = shipped
    assert f"python -m http.server --directory {folder} 8000" in said


@pytest.mark.parametrize(
    ("found", "said"),
    [("no npm", "npm is not installed"), ("no network", "npm could not fetch"), ("another file", "expected SHA-512")],
)
def test_without_the_tested_runtime_it_is_said_before_anything_is_written(
    found, said, run, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("SWARD_CACHE", str(tmp_path / "cache"))
    command = ["export", str(run), "--format", "web", "--out", str(tmp_path / "out")]
    if found == "no npm":
        monkeypatch.setenv("PATH", "")
    elif found == "no network":
        npm = Path(tmp_path / "bin/npm")
        npm.parent.mkdir()
        npm.write_text("#!/bin/sh\necho 'npm error code ENOTFOUND' >&2\nexit 1\n")
        npm.chmod(0o755)
        monkeypatch.setenv("PATH", f"{npm.parent}:/usr/bin:/bin")
    else:
        (tmp_path / "other.tgz").write_bytes(b"something else")
        command += ["--runtime", str(tmp_path / "other.tgz")]
    assert main(command) == 1
    error = capsys.readouterr().err
    assert said in error
    assert f"npm pack {PACKAGE}" in error
    assert not (tmp_path / "out").exists()


def test_the_integrity_is_that_of_the_pinned_version():
    assert f"{PACKAGE.replace('@', '-')}.tgz" == web_runtime.FILE
    assert len(web_runtime.INTEGRITY) == 88  # 64 bytes in base64
