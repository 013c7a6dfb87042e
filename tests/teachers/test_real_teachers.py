"""Real weights over forty frames of ClinicDB: every stored level is that of sam2's class or of the formula."""

from pathlib import Path

import pytest
from benchmarks.agreement import SIDE, TEACHERS, configured, differences, frames_card, reference
from safetensors.torch import load_file

from pipeline.cache.extraction.extract import extract
from pipeline.cache.store import Store
from pipeline.cache.tools.verify import verify
from pipeline.files import read_json
from pipeline.maintenance.teachers_page import AGREED
from sward.levels import stride

CLOSE = 1e-4  # largest absolute difference of a feature
MB = {"sam2": 1.475, "timm": 1.475, "MobileSAM": 1.032}  # of a view, as fp16


@pytest.fixture(scope="module")
def card(shared, tmp_path_factory):
    return frames_card(tmp_path_factory.mktemp("forty") / "frames", shared / "datasets/cvc-clinicdb")


@pytest.fixture(scope="module", params=TEACHERS)
def made(request, card, shared):
    """(teacher's name, its store of all frames, its weights)."""
    config = configured(request.param, card, shared / "weights")
    extract(config)
    return request.param, config, load_file(config.teacher.weights)


@pytest.mark.real
def test_every_level_of_every_frame_is_the_references(made):
    name, config, state = made
    found = differences(config, reference(name, state))
    assert list(found) == list(config.teacher.levels)
    assert max(level["difference"] for level in found.values()) <= CLOSE, found
    assert min(level["largest"] for level in found.values()) > 1


@pytest.mark.real
def test_the_store_is_verified_and_a_view_has_the_bytes_that_are_stated(made):
    name, config, _ = made
    store = Store(config.store)
    assert verify(store.path, 2, config=config).problems == []
    values = sum(c * (SIDE // stride(level)) ** 2 for level, c in store.channels.items())
    assert 2 * values / 1e6 == pytest.approx(MB[name], rel=1e-3)


def test_the_saved_run_has_every_teacher_and_every_level_within_the_limit():
    saved = read_json(AGREED)["rows"]
    assert len(saved) == len(TEACHERS)
    for row, (name, values) in zip(saved, TEACHERS.items(), strict=True):
        assert row["weights"] == Path(values["weights"]).name, name
        assert len(row["levels"]) == 4
        assert max(level["difference"] for level in row["levels"].values()) <= CLOSE
        assert row["frames"] >= 8
    assert saved[0]["digest"] == saved[1]["digest"] != saved[2]["digest"]  # one trunk in both implementations
