"""The one rule of places."""

from pathlib import Path

import pytest

from pipeline import paths


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SWARD_DATA", str(tmp_path))
    return tmp_path


def test_data_paths_are_written_under_the_data_root(root: Path) -> None:
    assert paths.write_path("data/mine/caches/a") == root / "mine" / "caches" / "a"


@pytest.mark.parametrize("path", ["runs/a", "database/a", "/data/a", "../data/a"])
def test_other_paths_are_taken_as_they_are(root: Path, path: str) -> None:
    assert paths.write_path(path) == Path(path) == paths.read_path(path)


def test_reading_prefers_the_data_root_and_falls_back_to_the_checkout(root: Path) -> None:
    card = "data/cvc-clinicdb/card.yaml"
    assert paths.read_path(card) == paths.CATALOGUE / "cvc-clinicdb" / "card.yaml"
    (root / "cvc-clinicdb").mkdir()
    (root / "cvc-clinicdb" / "card.yaml").touch()
    assert paths.read_path(card) == root / "cvc-clinicdb" / "card.yaml"


def test_what_is_nowhere_is_said_to_belong_under_the_data_root(root: Path) -> None:
    assert paths.read_path("data/mine/images") == root / "mine" / "images"


def test_the_default_root_is_data_in_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SWARD_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    assert paths.write_path("data/a") == tmp_path / "data" / "a"


def test_placing_twice_is_placing_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SWARD_DATA", "data/inner")
    assert paths.write_path(paths.write_path("data/a")) == paths.write_path("data/a")
