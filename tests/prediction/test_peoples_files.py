"""Predictions replace no file of others, take pictures as cameras and scanners write them, and pass over others."""

import gzip
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo
from PIL.TiffImagePlugin import AppendingTiffWriter
from scans import dicom, nifti

from pipeline.cli import main
from pipeline.datasets.image_files import Reading, decode_image
from pipeline.datasets.procedural import render
from pipeline.prediction.images import explain, find_images, read_any
from pipeline.prediction.predict import predict

RGB, _ = render(3, 0, (40, 56))
GREY = RGB[..., 0].astype(np.uint16)


@pytest.fixture
def student(compared):
    return compared.run("SWARD")


def write(path, pixels=RGB, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(path, **options)
    return path


FOREIGN = {
    "a mask drawn by hand": lambda path: write(path, RGB[..., 0] * 0 + 255),
    "text": lambda path: path.write_text("notes"),
    "a folder": lambda path: path.mkdir(),
    "a link to nothing": lambda path: path.symlink_to("/nowhere/x.png"),
}


@pytest.mark.parametrize("kind", FOREIGN)
@pytest.mark.parametrize("name", ["x (1)_mask.png", "x (1)_overlay.png"])
def test_files_of_others_are_never_replaced(student, tmp_path, kind, name):
    image = write(tmp_path / "x (1).png")
    FOREIGN[kind](tmp_path / name)
    before = sorted((p.name, p.lstat().st_size, p.lstat().st_mtime_ns) for p in tmp_path.iterdir())
    done = predict(student, [image], tmp_path)
    assert "exists and was not written by this program" in done.failed[image]
    assert sorted((p.name, p.lstat().st_size, p.lstat().st_mtime_ns) for p in tmp_path.iterdir()) == before


def test_a_predicted_mask_that_was_edited_since_is_not_replaced(student, tmp_path):
    image, out = write(tmp_path / "x.png"), tmp_path / "out"
    assert predict(student, [image], out).failed == {}
    with Image.open(out / "x_mask.png") as mask:
        mask.load()
        chunks = mask.info
    edited = np.array(mask)
    edited[0, 0] ^= 1
    picture = Image.fromarray(edited, "P")
    picture.putpalette(mask.getpalette())
    kept = PngInfo()
    for key in ("Software", "sward-pixels"):
        kept.add_text(key, chunks[key])
    picture.save(out / "x_mask.png", pnginfo=kept)
    assert "edited since" in predict(student, [image], out).failed[image]
    assert (np.array(Image.open(out / "x_mask.png")) == edited).all()


def test_own_results_are_known_under_any_name_and_are_no_input(student, tmp_path):
    image = write(tmp_path / "x.png")
    predict(student, [image], tmp_path)
    (tmp_path / "x_mask.png").rename(tmp_path / "renamed.png")
    images, _, passed = find_images([tmp_path])
    assert list(images) == [image]
    assert set(passed.values()) == {"it is a result of this command"}


def test_pictures_are_found_and_others_passed_over_by_name(tmp_path):
    taken = ["a.png", "B.PNG", "sub/c.jpg", "a_maskless.png", "lonely_mask.png"]
    left = ["._a.png", ".hidden/d.png", "@eaDir/a.png", "__MACOSX/a.png", ".ipynb_checkpoints/a-checkpoint.png"]
    masks = ["a_mask.png", "a_mask_1.png", "sub/c_gt.png"]
    for name in taken + left + masks:
        write(tmp_path / "in" / name)
    for asked in (tmp_path / "in", tmp_path / "in/**/*"):
        images, failed, passed = find_images([asked])
        assert {str(p.relative_to(tmp_path / "in")) for p in images} == set(taken)
        assert {str(p.relative_to(tmp_path / "in")) for p in passed} <= set(left + masks)
        assert set(passed) >= {tmp_path / "in" / name for name in masks}
        assert failed == {}
    assert list(find_images([tmp_path / "in/._a.png"])[0]) == [tmp_path / "in/._a.png"]  # asked for by name


def test_linked_folders_are_searched_once(tmp_path):
    write(tmp_path / "elsewhere/y.png")
    write(tmp_path / "in/x.png")
    (tmp_path / "in/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in/again").symlink_to(tmp_path / "in")
    assert sorted(p.name for p in find_images([tmp_path / "in"])[0]) == ["x.png", "y.png"]


def test_a_pattern_may_lie_in_a_folder_with_brackets_in_its_name(tmp_path):
    image = write(tmp_path / "case [1]/a.png")
    assert list(find_images([tmp_path / "case [1]/*.png"])[0]) == [image]
    assert list(find_images([tmp_path / "case*/*.png"])[0]) == [image]


UNKNOWN = {  # values -> what is said, with a remedy
    "12 bits": (GREY * 16, r"values \d+ to \d+ fill 12 of 16 bits.*--window 0 4095"),
    "10 bits": (GREY * 4, r"fill 10 of 16 bits.*--window 0 1023"),
    "8 bits": (GREY.clip(0, 200), r"fill 8 of 16 bits.*--window 0 255"),
    "15 bits": (GREY * 128, r"fill 15 of 16 bits.*--window 0 32767"),
    "floats": (GREY.astype(np.float32) / 255, r"floating-point pixels \(values .*--window 0 1"),
    "32 bits": (GREY.astype(np.int32) * 100_000, "have no agreed range; give it with --window"),
}


@pytest.mark.parametrize("kind", UNKNOWN)
def test_a_range_that_nobody_knows_is_told_and_refused(kind, tmp_path):
    values, said = UNKNOWN[kind]
    with pytest.raises(ValueError, match=said):
        read_any(write(tmp_path / "x.tif", values))


WINDOWS = {
    "12 bits": (GREY * 16, (0, 4080)),
    "from 1000 on": (GREY + 1000, (1000, 1255)),
    "floats": (GREY.astype(np.float32) / 255, (0, 1)),
    "32 bits": (GREY.astype(np.int32) * 100_000, (0, 25_500_000)),
    "below zero": (GREY.astype(np.int32) - 1024, (-1024, -769)),
}


@pytest.mark.parametrize("kind", WINDOWS)
def test_a_window_maps_its_ends_to_black_and_white(kind, tmp_path):
    values, window = WINDOWS[kind]
    assert (read_any(write(tmp_path / "x.tif", values), window) == GREY[..., None]).all()


def test_values_outside_of_the_window_are_black_and_white(tmp_path):
    path = write(tmp_path / "x.png", np.array([[0, 99, 100, 355, 356, 65535]], np.uint16))
    assert read_any(path, (100, 355))[0, :, 0].tolist() == [0, 0, 0, 255, 255, 255]


def test_an_empty_picture_of_sixteen_bits_and_pictures_of_eight_need_no_window(tmp_path):
    assert not read_any(write(tmp_path / "x.png", GREY * 0)).any()
    assert (read_any(write(tmp_path / "y.png"), (0, 4095)) == RGB).all()


@pytest.mark.parametrize("window", [(5, 5), (9, 1), (0, float("nan")), (0, float("inf"))])
def test_an_empty_window_is_refused(window, student, tmp_path):
    with pytest.raises(ValueError, match="expected LOW < HIGH"):
        predict(student, [tmp_path], tmp_path / "out", window=window)


def sixteen_bit_colour(path, values):
    """A PNG with 16 bits per channel, which Pillow reads but cannot write."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    head = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )
    return path


def test_colour_of_sixteen_bits_is_read_if_it_fills_them_and_never_as_black(tmp_path):
    wide = RGB.astype(np.uint16)
    assert (read_any(sixteen_bit_colour(tmp_path / "full.png", wide * 257)) == RGB).all()
    with pytest.raises(ValueError, match=r"16 bits per channel, values up to about 4095.*--window 0 4095"):
        read_any(sixteen_bit_colour(tmp_path / "dark.png", wide * 16))
    assert (read_any(tmp_path / "dark.png", (0, 4080)) == RGB).all()
    assert (read_any(tmp_path / "full.png", (0, 65535)) == RGB).all()


SCANS = {  # name -> (Hounsfield units or labels, photometric interpretation, the file's slope and intercept)
    "CT": (GREY.astype(np.int16) * 4 - 500, "MONOCHROME2", (1, 0)),
    "CT, stored from zero": (GREY.astype(np.int16) * 4 - 500, "MONOCHROME2", (1, -1024)),
    "bright is dark": (GREY.astype(np.int16) * 4 - 500, "MONOCHROME1", (1, 0)),
}


@pytest.mark.parametrize("name", SCANS)
def test_scans_are_read_as_training_reads_them(name, tmp_path):
    values, colours, (slope, intercept) = SCANS[name]
    path = tmp_path / "x.dcm"
    stored = (values.astype(np.int32) - intercept).astype(np.int16)
    path.write_bytes(dicom(stored, colours, PixelRepresentation=1, RescaleSlope=slope, RescaleIntercept=intercept))
    window = (-500.0, 520.0)
    read = read_any(path, window)
    assert (read == decode_image(path.read_bytes(), Reading(window))).all()
    assert (read == (255 - GREY if "dark" in name else GREY)[..., None]).all()
    with pytest.raises(ValueError, match=r"values -\d+ to \d+ have no agreed range; give it with --window LOW HIGH"):
        read_any(path)
    assert list(find_images([tmp_path])[0]) == [path]


def test_slices_of_nifti_are_read_as_training_reads_them(tmp_path):
    (tmp_path / "x.nii").write_bytes(nifti(GREY.astype(np.int16) * 4))
    assert (read_any(tmp_path / "x.nii", (0, 1020)) == GREY[..., None]).all()
    (tmp_path / "y.nii.gz").write_bytes(gzip.compress((tmp_path / "x.nii").read_bytes()))
    assert {path.name for path in find_images([tmp_path])[0]} == {"x.nii", "y.nii.gz"}
    (tmp_path / "volume.nii.gz").write_bytes(gzip.compress(nifti(np.zeros((5, 6, 7), np.int16))))
    with pytest.raises(ValueError, match="save each slice as a file of its own"):
        read_any(tmp_path / "volume.nii.gz", (0, 1))


def test_the_first_picture_of_a_phones_jpeg_and_of_a_pyramid_is_read(tmp_path):
    first, small = Image.fromarray(RGB), Image.fromarray(RGB).resize((28, 20))
    phone = write(tmp_path / "phone.jpg", first, format="MPO", save_all=True, append_images=[small], quality=95)
    assert np.abs(read_any(phone).astype(int) - RGB).mean() < 8
    pyramid = tmp_path / "pyramid.tif"
    with AppendingTiffWriter(str(pyramid), True) as pages:
        first.save(pages, format="TIFF")
        pages.newFrame()
        small.save(pages, format="TIFF", tiffinfo={254: 1})
    assert (read_any(pyramid) == RGB).all()
    film = write(tmp_path / "film.tif", first, save_all=True, append_images=[small])
    with pytest.raises(ValueError, match="2 frames in one file"):
        read_any(film)


def test_the_command_takes_a_window_and_counts_what_it_passed_over(student, tmp_path, capsys):
    write(tmp_path / "in/x.png", GREY * 16)
    write(tmp_path / "in/._x.png")
    asked = ["predict", str(student), str(tmp_path / "in"), "--out", str(tmp_path / "out")]
    assert main(asked) == 1
    said = capsys.readouterr().err
    assert re.search(r"passed over: 1 files, e\.g\. .*\._x\.png: hidden", said)
    assert "fill 12 of 16 bits" in said
    assert main([*asked, "--window", "0", "4095"]) == 0
    with Image.open(tmp_path / "out/x_overlay.png") as shown:
        assert np.array(shown).max() > 150


WHAT_IT_IS = {
    "an HDF5 file .*; save each slice": b"\x89HDF\r\n\x1a\n" + bytes(80),
    "an HTML page": b"<!DOCTYPE html><html></html>",
    "a Git LFS pointer; .* git lfs pull": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n",
    "a video or HEIF file; extract its frames": b"\0\0\0\x20ftypisom" + bytes(40),
    "a PDF; export its pages": b"%PDF-1.4",
    "zeros only: a copy that was cut off": bytes(300),
    "PNG, JPEG, TIFF, BMP, GIF and WebP are read": b"some words",
}


@pytest.mark.parametrize("said", WHAT_IT_IS)
def test_what_is_no_picture_is_called_by_its_name(said, tmp_path):
    (tmp_path / "x.png").write_bytes(WHAT_IT_IS[said])
    with pytest.raises(UnidentifiedImageError, match=said) as raised:
        read_any(tmp_path / "x.png")
    assert explain(raised.value) == str(raised.value)


LONG = ["n" * 240, "息" * 80, "é" * 120]  # of 240 bytes, to which a system adds its own


@pytest.mark.parametrize("name", LONG)
def test_a_picture_whose_name_is_nearly_too_long_for_a_disk_has_its_results(student, tmp_path, name):
    image = write(tmp_path / f"{name}.png")
    done = predict(student, [image], tmp_path / "out")
    assert done.failed == {}
    assert (tmp_path / f"out/{name}_mask.png").is_file()
    assert {path.suffix for path in (tmp_path / "out").iterdir()} == {".png"}


ADDRESSES = ["https://example.org/a.jpg", "https://example.org/a.jpg?size=large", "s3://bucket/a.png"]


@pytest.mark.parametrize("address", ADDRESSES)
def test_an_address_is_not_called_a_missing_file(address):
    images, failed, _ = find_images([Path(address)])
    assert images == {}
    assert list(failed.values()) == ["an address, which is not fetched; download the picture, and give its file"]
