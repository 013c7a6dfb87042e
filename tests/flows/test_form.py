"""Forms offer the files that fit, and refuse wrong paths, keys and values as the server does before queueing."""

import logging
import sys
from pathlib import Path
from typing import Any

import pytest
from prefect.utilities.schema_tools.validation import ValidationError, validate

from flows import endings, form
from flows.extract import extract_teacher_features
from flows.train import train_student
from flows.verb_process import ChildFailed

TRAIN = "configs/quickstart/train.yaml"


def check(flow: Any, **parameters: Any) -> None:
    validate(parameters, flow.parameters.model_dump(), raise_on_error=True)


def test_the_drop_down_has_the_files_of_that_kind_and_no_others() -> None:
    found = form.found_files("TrainConfig")
    assert TRAIN in found
    assert "configs/quickstart/cache.yaml" not in found
    assert "configs/quickstart/compare.yaml" not in found


def test_files_of_the_drop_down_and_absolute_paths_are_accepted() -> None:
    check(train_student, config=TRAIN)
    check(train_student, config="/elsewhere/mine.yaml", seed=1, overrides={"method": {"kind": "kd"}})
    check(extract_teacher_features, config="configs/quickstart/cache.yaml", overrides={"runner.kind": "dask"})


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"config": "configs/quickstart/trian.yaml"}, "trian.yaml"),
        ({"config": TRAIN, "overrides": {"stepps": 3}}, "stepps"),
        ({"config": TRAIN, "overrides": {"optimizer.lr": -1}}, "minimum of 0"),
        ({"config": TRAIN, "steps": 0}, "minimum of 1"),
        ({"config": TRAIN, "seed": "one"}, "seed"),
    ],
)
def test_a_wrong_path_key_or_value_is_refused_with_its_name(parameters: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        check(train_student, **parameters)


def test_filled_fields_become_settings_and_free_overrides_win() -> None:
    assert form.settings({"steps": 3, "seed": None}, None) == ["steps=3"]
    assert form.settings({"steps": 3}, {"steps": 4, "optimizer.lr": 0.1}) == ["steps=4", "optimizer.lr=0.1"]


def test_a_runs_name_says_its_file_and_what_was_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    parameters = {"config": Path(TRAIN), "seed": 1, "steps": None, "overrides": {"optimizer.lr": 0.1}}
    monkeypatch.setattr(form, "flow_run", type("Run", (), {"parameters": parameters}))
    assert form.run_name() == "quickstart/train seed=1 optimizer.lr=0.1"


def test_an_expected_error_is_the_states_message_and_a_defect_is_not_hidden() -> None:
    def fail(error: Exception) -> None:
        raise error

    state: Any = endings.with_cause(fail)(ChildFailed("sward train: no store"))
    assert state.is_failed()
    assert state.message == "sward train: no store"
    with pytest.raises(ZeroDivisionError):
        endings.with_cause(fail)(ZeroDivisionError())


def test_the_traceback_of_an_expected_error_is_not_logged() -> None:
    for error, logged in ((ChildFailed("x"), False), (ZeroDivisionError("x"), True)):
        try:
            raise error
        except Exception:
            record = logging.LogRecord("prefect.flow_runs", logging.ERROR, "", 0, "failed", (), sys.exc_info())
        assert endings.is_unexpected(record) is logged
