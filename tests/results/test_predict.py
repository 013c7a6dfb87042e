"""Any picture in, masks out: as evaluation predicts them, whatever the mode, and one broken file stops nothing."""

import numpy as np
import pytest
from PIL import Image

from pipeline.cli import main
from pipeline.datasets.procedural import render
from pipeline.datasets.reading import decode_image
from pipeline.results.masks import errors, fit, overlay, palette
from pipeline.results.predict import output_names, predict, read_any
from pipeline.results.runs import RunError

RGB, _ = render(3, 0, (40, 56))


@pytest.fixture
def student(compared):
    return compared.run("SWARD")


def write(path, image, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def test_predictions_are_those_of_the_evaluation(compared, student, tmp_path):
    from pathlib import Path

    images = Path(compared.config.train.cache.dataset).parent / "images"
    assert predict(student, [images], tmp_path) == {}
    for written in (student / "predictions").glob("*.png"):
        own = np.array(Image.open(tmp_path / f"{written.stem}_mask.png"))
        assert (own == np.array(Image.open(written))).all()


@pytest.mark.parametrize("size", [(1, 1), (17, 200), (300, 31)])
def test_masks_and_overlays_have_the_images_own_size(student, tmp_path, size):
    image = write(tmp_path / "in.png", Image.fromarray(render(0, 0, (300, 200))[0]).resize(size))
    assert predict(student, [image], tmp_path / "out") == {}
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


def test_a_broken_file_stops_nothing(student, tmp_path):
    good = write(tmp_path / "in/good.png", Image.fromarray(RGB))
    (tmp_path / "in/cut.png").write_bytes(good.read_bytes()[:500])
    (tmp_path / "in/text.jpg").write_text("no picture")
    write(tmp_path / "in/film.tif", Image.fromarray(RGB), save_all=True, append_images=[Image.fromarray(RGB)])
    (tmp_path / "empty").mkdir()
    failed = predict(student, [tmp_path / "in", tmp_path / "empty", tmp_path / "absent"], tmp_path / "out")
    assert {p.name for p in failed} == {"cut.png", "text.jpg", "film.tif", "empty", "absent"}
    assert "2 frames" in failed[tmp_path / "in/film.tif"]
    assert "no images in this folder" in failed[tmp_path / "empty"]
    assert failed[tmp_path / "absent"] == "no such file or folder"
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["good_mask.png", "good_overlay.png"]


def test_names_that_would_collide_stay_apart(tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    images = {a / "x.png": a, a / "x.jpg": a, b / "y.png": b, a / "sub/y.png": a, a / "y.png": a}
    names = {str(p.relative_to(tmp_path)): str(n) for p, n in output_names(images).items()}
    assert names["a/sub/y.png"] == "sub/y"
    assert names["a/x.png"] == "x.png"
    assert names["a/x.jpg"] == "x.jpg"
    assert {names["a/y.png"], names["b/y.png"]} == {"a/y.png", "b/y.png"}
    assert len(set(names.values())) == len(images)


def test_predicting_again_does_not_predict_the_predictions(student, tmp_path):
    write(tmp_path / "x.png", Image.fromarray(RGB))
    for _ in range(2):
        assert predict(student, [tmp_path], tmp_path) == {}
    assert len(list(tmp_path.iterdir())) == 3


def test_a_teacher_head_is_refused(compared, tmp_path):
    with pytest.raises(RunError, match="reads cached features; give a student's run"):
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
    picture = errors(image, np.array([[1, 0, 1, 0]]), np.array([[1, 1, 0, 0]]))
    assert len({tuple(p) for p in picture[0]}) == 4


def test_fitting_a_mask_keeps_its_classes():
    assert set(np.unique(fit(np.array([[0, 3], [7, 255]]), (9, 5)))) == {0, 3, 7, 255}
