"""Any picture in, masks out: as evaluation predicts them, whatever the mode, and one broken file stops nothing."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.cli import main
from pipeline.datasets.image_files import decode_image
from pipeline.datasets.procedural import render
from pipeline.drawing.masks import error_layer, fit, overlay, palette
from pipeline.export.onnx_student import OnnxError
from pipeline.prediction.images import explain, output_names, read_any
from pipeline.prediction.predict import open_model, predict, predict_image
from pipeline.prediction_files import on_any_disk
from sward.students import SavedStudentError

RGB, _ = render(3, 0, (40, 56))


@pytest.fixture
def student(compared):
    return compared.run("SWARD")


def write(path, image, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def test_the_device_is_chosen_and_a_missing_one_is_said(student, tmp_path):
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    assert (
        main(["predict", str(student), str(tmp_path / "a.png"), "--out", str(tmp_path / "out"), "--device", "cpu"]) == 0
    )
    with pytest.raises(ValueError, match=r"device: expected auto or one of cpu.*found cuda:7"):
        predict(student, [tmp_path / "a.png"], tmp_path / "out", device="cuda:7")


def test_predictions_are_those_of_the_evaluation(compared, student, tmp_path):
    from pathlib import Path

    images = Path(compared.config.train.cache.dataset).parent / "images"
    assert predict(student, [images], tmp_path).failed == {}
    for written in (student / "predictions").glob("*.png"):
        own = np.array(Image.open(tmp_path / f"{written.stem}_mask.png"))
        assert (own == np.array(Image.open(written))).all()


@pytest.mark.parametrize("size", [(1, 1), (17, 200), (300, 31)])
def test_masks_and_overlays_have_the_images_own_size(student, tmp_path, size):
    image = write(tmp_path / "in.png", Image.fromarray(render(0, 0, (300, 200))[0]).resize(size))
    assert predict(student, [image], tmp_path / "out").failed == {}
    with Image.open(tmp_path / "out/in_mask.png") as mask, Image.open(tmp_path / "out/in_overlay.png") as tinted:
        assert (mask.size, mask.mode, tinted.size, tinted.mode) == (size, "P", size, "RGB")


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1", "CMYK", "LA"])
def test_every_usual_mode_is_read(mode, tmp_path):
    path = write(tmp_path / f"x.{'tif' if mode == 'CMYK' else 'png'}", Image.fromarray(RGB).convert(mode))
    assert read_any(path).shape == (40, 56, 3)


@pytest.mark.parametrize("mode", ["RGB", "L", "P"])
def test_what_training_accepts_is_read_as_training_reads_it(mode, tmp_path):
    path = write(tmp_path / "x.png", Image.fromarray(RGB).convert(mode))
    assert (read_any(path) == decode_image(path.read_bytes())).all()


def test_sixteen_bits_are_scaled_to_eight(tmp_path):
    grey = RGB[..., 0]
    path = write(tmp_path / "x.png", Image.fromarray(grey.astype(np.uint16) * 257))
    assert (read_any(path) == grey[..., None]).all()


def test_transparent_pixels_lie_over_black(tmp_path):
    alpha = np.full(RGB.shape[:2], 255, np.uint8)
    alpha[:10] = 0
    found = read_any(write(tmp_path / "x.png", Image.fromarray(np.dstack([RGB, alpha]), "RGBA")))
    assert (found[:10] == 0).all()
    assert (found[10:] == RGB[10:]).all()


def test_exif_rotation_is_applied(tmp_path):
    turned = Image.fromarray(RGB)
    exif = turned.getexif()
    exif[0x0112] = 6  # the camera was turned: show it rotated clockwise
    path = write(tmp_path / "x.png", turned, exif=exif)
    assert (read_any(path) == np.rot90(RGB, -1)).all()


def spoil(folder):
    """Ten files that cannot be used, name -> what is said of them; and six odd ones that can."""
    picture, film = Image.fromarray(RGB), {"save_all": True, "append_images": [Image.fromarray(255 - RGB)]}
    png, jpg = write(folder / "good.png", picture).read_bytes(), write(folder / "good.jpg", picture).read_bytes()
    broken = {
        "cut.png": png[:500],
        "cut.jpg": jpg[:300],
        "empty.png": b"",
        "text.jpg": b"no picture",
        "head.bmp": b"BM",
        "junk.tif": b"II*\0" + b"\xff" * 40,
    }
    for name, content in broken.items():
        (folder / name).write_bytes(content)
    write(folder / "film.tif", picture, **film)
    write(folder / "film.webp", picture, lossless=True, **film)
    write(folder / "float.tif", Image.fromarray(RGB[..., 0].astype(np.float32) / 255))
    write(folder / "deep.tif", Image.fromarray(RGB[..., 0].astype(np.int32) * 100_000))
    for mode in ("1", "L", "P", "LA", "RGBA"):
        write(folder / f"odd-{mode}.png", picture.convert(mode))
    write(folder / "odd-CMYK.jpg", picture.convert("CMYK"))
    said = dict.fromkeys(["text.jpg", "head.bmp", "junk.tif"], "not a picture")
    said |= {
        "cut.png": "damaged: .*truncated",
        "cut.jpg": "damaged: (?i:.*truncated)",
        "empty.png": "the file is empty",
    }
    said |= {"film.tif": "2 frames", "film.webp": "2 frames"}
    return said | {"float.tif": "floating-point", "deep.tif": "no agreed range"}


def test_ten_kinds_of_broken_files_stop_nothing_and_each_is_told_of(student, tmp_path):
    said = spoil(tmp_path / "in")
    done = predict(student, [tmp_path / "in"], tmp_path / "out")
    assert {path.name for path in done.failed} == set(said)
    assert len(said) == 10
    for path, reason in done.failed.items():
        assert re.search(said[path.name], reason), (path.name, reason)
    odd = {f"odd-{mode}_mask.png" for mode in ("1", "L", "P", "LA", "RGBA", "CMYK")}
    good = {"good.png_mask.png", "good.jpg_mask.png"}
    assert {p.name for p in (tmp_path / "out").glob("*_mask.png")} == odd | good
    assert len(done.written) == 8


def test_paths_that_lead_nowhere_are_told_of(student, tmp_path):
    (tmp_path / "empty").mkdir()
    failed = predict(student, [tmp_path / "empty", tmp_path / "absent", tmp_path / "*.png"], tmp_path / "out").failed
    assert "no images in this folder" in failed[tmp_path / "empty"]
    assert failed[tmp_path / "absent"] == "no such file or folder"
    assert failed[tmp_path / "*.png"] == "no file matches this pattern"


def test_a_picture_of_too_many_pixels_is_told_of(monkeypatch, tmp_path):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    path = write(tmp_path / "x.png", Image.fromarray(RGB))
    with pytest.raises(Image.DecompressionBombError) as caught:
        read_any(path)
    assert "too large to be opened safely" in explain(caught.value)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)  # Pillow would warn
    assert read_any(path).shape == RGB.shape


def test_patterns_keep_the_places_below_their_fixed_part(student, tmp_path):
    for name in ("a/x.png", "b/x.png", "b/x.txt"):
        write(tmp_path / "in" / name, Image.fromarray(RGB), format="png")
    done = predict(student, [tmp_path / "in/*/*.png"], tmp_path / "out")
    assert sorted(p.name for p in done.written) == ["x.png", "x.png"]
    assert (tmp_path / "out/a/x_mask.png").is_file()
    assert (tmp_path / "out/b/x_mask.png").is_file()


def test_probabilities_are_sixteen_bits_and_add_up_to_one(student, tmp_path):
    image = write(tmp_path / "x.png", Image.fromarray(RGB))
    assert predict(student, [image], tmp_path / "out", probabilities=True).failed == {}
    planes = [np.array(Image.open(p)) for p in sorted((tmp_path / "out").glob("x_probability-*.png"))]
    assert [p.name for p in sorted((tmp_path / "out").glob("*probability*"))] == [
        "x_probability-0-background.png",
        "x_probability-1-polyp.png",
    ]
    assert {plane.dtype for plane in planes} == {np.dtype("uint16")}
    assert np.abs(sum(plane.astype(int) for plane in planes) - 65535).max() <= 1
    mask = np.array(Image.open(tmp_path / "out/x_mask.png"))
    clear = planes[0] != planes[1]
    assert (mask == np.argmax(planes, axis=0))[clear].all()


def test_a_picture_no_larger_than_a_tile_is_read_as_a_whole(student):
    model = open_model(student)
    assert (predict_image(model, RGB, tile=56)[0] == predict_image(model, RGB)[0]).all()


def test_larger_pictures_are_read_in_tiles(student, tmp_path):
    image = write(tmp_path / "x.png", Image.fromarray(render(0, 0, (150, 210))[0]))
    done = predict(student, [image], tmp_path / "out", tile=64, probabilities=True)
    assert done.failed == {}
    with Image.open(tmp_path / "out/x_mask.png") as mask:
        assert mask.size == (210, 150)
    with pytest.raises(ValueError, match="tiles of 8 pixels: expected 32 or more"):
        predict(student, [image], tmp_path / "out", tile=8)


def test_pictures_far_larger_than_the_students_input_are_named(student, tmp_path):
    image = write(tmp_path / "x.png", Image.fromarray(RGB).resize((520, 40)))
    assert predict(student, [image], tmp_path / "out").shrunk == [image]
    assert predict(student, [image], tmp_path / "out", tile=64).shrunk == []


def test_a_file_that_is_no_exported_student_is_refused(tmp_path):
    with pytest.raises(OnnxError, match=r"x\.onnx: no such file"):
        open_model(tmp_path / "x.onnx")
    with pytest.raises(OnnxError, match=r"x\.png: expected a run's folder or an \.onnx file"):
        open_model(write(tmp_path / "x.png", Image.fromarray(RGB)))
    (tmp_path / "x.onnx").write_bytes(b"no graph")
    with pytest.raises(OnnxError, match=r"onnxruntime cannot read .*x\.onnx"):
        open_model(tmp_path / "x.onnx")


def test_names_that_would_collide_stay_apart(tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    images = {a / "x.png": a, a / "x.jpg": a, b / "y.png": b, a / "sub/y.png": a, a / "y.png": a}
    names = {str(p.relative_to(tmp_path)): str(n) for p, n in output_names(images).items()}
    assert names["a/sub/y.png"] == "sub/y"
    assert names["a/x.png"] == "x.png"
    assert names["a/x.jpg"] == "x.jpg"
    assert {names["a/y.png"], names["b/y.png"]} == {"a/y.png", "b/y.png"}
    assert len(set(names.values())) == len(images)


ALIKE = {
    "case": ["Frame.png", "frame.png"],
    "three cases": ["A.png", "a.png", "a.PNG"],
    "composition of letters": ["caf\u00e9.png", "cafe\u0301.png"],
    "a folder's case": ["Day/x.png", "day/x.png"],
}


@pytest.mark.parametrize("kind", ALIKE)
def test_pictures_whose_names_a_disk_may_take_for_one_get_results_of_their_own(kind, tmp_path):
    images = {tmp_path / name: tmp_path for name in ALIKE[kind]}
    names = output_names(images)
    assert [*names] == [*images]
    assert len({on_any_disk(str(name)) for name in names.values()}) == len(images)


def test_a_picture_by_two_paths_is_predicted_for_both(student, tmp_path):
    write(tmp_path / "day/x.png", Image.fromarray(RGB))
    (tmp_path / "copy").symlink_to(tmp_path / "day")
    done = predict(student, [tmp_path / "day", tmp_path / "copy"], tmp_path / "out")
    assert len(done.written) == 2
    assert {p.name for p in (tmp_path / "out").iterdir()} >= {"x_mask.png", "x-2_mask.png"}


def test_many_pictures_of_many_folders_are_named_quickly():
    images = {Path(f"/{n % 100}/{n}.png"): Path(f"/{n % 100}") for n in range(20_000)}
    assert len({*output_names(images).values()}) == len(images)


@pytest.mark.parametrize("out", ["notes.txt", "notes.txt/out"])
def test_results_are_not_written_into_a_file(student, tmp_path, out):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"notes\.txt is a file; give a folder for the results"):
        predict(student, [write(tmp_path / "x.png", Image.fromarray(RGB))], tmp_path / out)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_predicting_again_does_not_predict_the_predictions(student, tmp_path):
    write(tmp_path / "x.png", Image.fromarray(RGB))
    for _ in range(2):
        assert predict(student, [tmp_path], tmp_path, probabilities=True).failed == {}
    assert len(list(tmp_path.iterdir())) == 5


def test_a_teacher_head_is_refused(compared, tmp_path):
    with pytest.raises(SavedStudentError, match="reads cached features; give a student's run"):
        predict(compared.run("teacher"), [tmp_path], tmp_path)


def test_the_command_reports_what_failed_and_exits_1(student, tmp_path, capsys):
    write(tmp_path / "x.png", Image.fromarray(RGB))
    arguments = [
        "predict",
        str(student),
        str(tmp_path / "x.png"),
        str(tmp_path / "y.png"),
        "--out",
        str(tmp_path / "out"),
    ]
    assert main(arguments) == 1
    assert "y.png: no such file" in capsys.readouterr().err
    assert (tmp_path / "out/x_mask.png").is_file()


def test_palette_colours_are_distinct_and_start_with_black():
    colours = palette(19)
    assert (colours[0] == 0).all()
    assert len({tuple(c) for c in colours}) == 19


def test_overlays_leave_the_background_and_ignored_pixels_alone():
    image, mask = np.full((2, 2, 3), 100, np.uint8), np.array([[0, 1], [255, 1]])
    changed = (overlay(image, mask, 2) != 100).any(-1)
    assert changed.tolist() == [[False, True], [False, True]]


def test_hits_misses_and_false_finds_have_colours_of_their_own():
    image = np.zeros((1, 4, 3), np.uint8)
    picture = error_layer(np.array([[1, 0, 1, 0]]), np.array([[1, 1, 0, 0]]), 2).over(image)
    assert len({tuple(p) for p in picture[0]}) == 4


def test_fitting_a_mask_keeps_its_classes():
    assert set(np.unique(fit(np.array([[0, 3], [7, 255]]), (9, 5)))) == {0, 3, 7, 255}
