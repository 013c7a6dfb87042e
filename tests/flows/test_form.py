"""Forms offer the files that fit, and refuse wrong paths, keys and values as the server does before queueing."""

import logging
import sys
from pathlib import Path
from typing import Any

import pytest
from prefect.utilities.schema_tools.validation import ValidationError, validate

from flows import endings, form
from flows.ablate import ablate_student
from flows.extract import extract_teacher_features
from flows.train import fit_teacher_head, train_student
from flows.verb_process import ChildFailed

TRAIN = "configs/quickstart/train.yaml"
FLOWS = (extract_teacher_features, train_student, fit_teacher_head, ablate_student)


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


@pytest.mark.parametrize("flow", FLOWS, ids=lambda flow: flow.name)
def test_a_field_is_one_box_that_may_be_left_empty(flow: Any) -> None:
    """Prefect draws a switch for alternatives, sends a default of null as a value, and draws a field per property."""
    fields = {name: field for name, field in flow.parameters.properties.items() if name != "config"}
    assert all("type" in field and not {"default", "anyOf", "properties"} & set(field) for field in fields.values())
    config = flow.parameters.properties["config"]["anyOf"][0]["enum"][0]
    check(flow, config=config)
    check(flow, config=config, **dict.fromkeys(fields))


@pytest.mark.parametrize(
    ("unknown", "said", "known"),
    [
        ("stepps", "'stepps' is not one of ['name', ", "'optimizer', "),
        ("optimiser.lr", "'optimiser.lr' does not", "| optimizer |"),
    ],
)
def test_an_unknown_key_is_refused_with_the_known_ones(unknown: str, said: str, known: str) -> None:
    with pytest.raises(ValidationError) as refused:
        check(train_student, config=TRAIN, overrides={unknown: 3})
    assert said in str(refused.value)
    assert known in str(refused.value)
    assert max(len(word) for word in str(refused.value).split()) < 30  # the page breaks lines at spaces alone


def test_the_flow_gets_none_for_what_was_left_empty_and_all_else_as_it_was_given() -> None:
    @form.with_empty_fields
    def flow(config: str, steps: form.Count = None, seed: form.Seed = None) -> tuple[Any, ...]:
        return config, steps, seed

    assert flow("a") == ("a", None, None)
    assert flow("a", form.MISSING, seed=0) == ("a", None, 0)
    assert flow(config="a", steps=3, seed=None) == ("a", 3, None)


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
