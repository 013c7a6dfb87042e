"""Pages and listed files: an earlier result is replaced, a file of others or an edited one never."""

import numpy as np
import pytest
from PIL import Image

from pipeline.own_files import ForeignFileError, is_own_picture, require_own_page, stamp, write_listed, write_page

PAGE = '<!doctype html><p class="brand">SWARD report</p>'


def test_a_page_is_written_again_over_an_earlier_one(tmp_path):
    write_page(tmp_path / "new/report.html", PAGE)
    write_page(tmp_path / "new/report.html", PAGE + "more")
    assert (tmp_path / "new/report.html").read_text() == PAGE + "more"


@pytest.mark.parametrize("content", ["", "<html>mine</html>", "{}"])
def test_another_page_stays(content, tmp_path):
    (tmp_path / "report.html").write_text(content)
    with pytest.raises(ForeignFileError, match=r"report\.html exists and was not written by this program.*choose"):
        write_page(tmp_path / "report.html", PAGE)
    assert (tmp_path / "report.html").read_text() == content


def test_a_folder_is_no_page(tmp_path):
    with pytest.raises(ForeignFileError, match="is not replaced"):
        require_own_page(tmp_path)


def test_listed_files_are_replaced_unless_they_were_edited(tmp_path):
    write_listed(tmp_path, {"a.csv": b"1", "b.csv": b"2"})
    write_listed(tmp_path, {"a.csv": b"3", "c.csv": b"4"})
    assert (tmp_path / "a.csv").read_bytes() == b"3"
    (tmp_path / "b.csv").write_bytes(b"by hand")
    with pytest.raises(ForeignFileError, match=r"b\.csv"):
        write_listed(tmp_path, {"a.csv": b"5", "b.csv": b"5"})
    assert {p.name: p.read_bytes() for p in tmp_path.glob("[a-z]*")} == {
        "a.csv": b"3",
        "b.csv": b"by hand",
        "c.csv": b"4",
    }


def test_files_that_nobody_listed_stay_and_equal_ones_do_not_matter(tmp_path):
    (tmp_path / "results.csv").write_bytes(b"thesis")
    with pytest.raises(ForeignFileError, match=r"results\.csv"):
        write_listed(tmp_path, {"results.csv": b"new"})
    write_listed(tmp_path, {"results.csv": b"thesis"})
    assert (tmp_path / "results.csv").read_bytes() == b"thesis"


@pytest.mark.parametrize("mode", ["P", "L", "RGB", "I;16"])
def test_a_stamped_picture_is_known_again_in_every_mode_that_is_written(mode, tmp_path):
    pixels = np.arange(48, dtype=np.uint16 if mode == "I;16" else np.uint8)
    picture = Image.fromarray(pixels.reshape(4, 4, 3) if mode == "RGB" else pixels.reshape(4, 12))
    picture = picture.convert("P") if mode == "P" else picture
    picture.save(tmp_path / "x.png", pnginfo=stamp(picture))
    assert is_own_picture(tmp_path / "x.png")
    picture.save(tmp_path / "x.png")
    assert not is_own_picture(tmp_path / "x.png")
