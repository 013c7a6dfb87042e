"""Every id has a file of its own, whose name a file system takes and from which the id can be read."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.prediction_files import alike, find_prediction, on_any_disk, prediction_file, prediction_id

IDS = [
    "a/b",
    "a__b",
    "a%2Fb",
    "a%b",
    "a%/b",
    "a",
    "A b (1)",
    ".hidden",
    "é/ü",
    "a\\b",
    "x" * 199 + "/" + "y" * 300,
    "ß" * 600,
]
FOLDER = Path("runs/r/predictions")


def test_ids_that_shared_a_file_have_their_own():
    assert len({prediction_file(FOLDER, id) for id in IDS}) == len(IDS)


@pytest.mark.parametrize("id", IDS)
def test_every_file_can_be_made_and_found_again(id, tmp_path):
    path = prediction_file(tmp_path, id)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    assert find_prediction(tmp_path, id) == path
    assert prediction_id(tmp_path, path) == id


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=900))
def test_names_are_bounded_and_reversible(id):
    path = prediction_file(FOLDER, id)
    assert prediction_id(FOLDER, path) == id
    assert all(len(part.encode()) <= 210 for part in path.relative_to(FOLDER).parts)


@pytest.mark.parametrize(("id", "name"), [("test-0", "test-0.png"), ("a__b", "a__b.png"), ("a b", "a b.png")])
def test_plain_ids_keep_the_names_they_had(id, name):
    assert prediction_file(FOLDER, id) == FOLDER / name


def test_the_predictions_of_earlier_versions_are_found(tmp_path):
    (tmp_path / "video__1.png").write_bytes(b"")
    assert find_prediction(tmp_path, "video/1") == tmp_path / "video__1.png"
    assert find_prediction(tmp_path, "video/2") == tmp_path / "video%2F2.png"
    assert find_prediction(tmp_path, "x/" * 300) == prediction_file(tmp_path, "x/" * 300)


ALIKE = {
    "case": ["Frame1", "frame1", "FRAME1"],
    "composition of letters": ["caf\u00e9", "cafe\u0301"],
    "both": ["Caf\u00e9", "cafe\u0301", "caf\u00c9"],
    "folders": ["A/x", "a/x", "a/X"],
    "sharp s": ["stra\u00dfe", "STRASSE"],
    "long": ["X" * 300, "x" * 300],
}


@pytest.mark.parametrize("kind", ALIKE)
def test_ids_that_a_disk_may_take_for_one_have_files_that_no_disk_does(kind, tmp_path):
    ids = ["other", *ALIKE[kind]]
    assert alike(ids) == set(ALIKE[kind])
    paths = {id: prediction_file(tmp_path, id, id in alike(ids)) for id in ids}
    assert len({on_any_disk(str(path)) for path in paths.values()}) == len(ids)
    assert {prediction_id(tmp_path, path): path for path in paths.values()} == paths
    for path in paths.values():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    assert {id: find_prediction(tmp_path, id) for id in ids} == paths


def test_ids_that_differ_by_more_keep_their_plain_names():
    assert alike(["Frame1", "frame2", "é", "e"]) == set()
