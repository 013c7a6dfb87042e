"""The one task and what becomes of a child's lines; and how an ablation starts its points. No server."""

import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from flows import ablate, server_outage, task, verb_process
from pipeline import console


@pytest.fixture
def updates(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Percentages that reach the server."""
    seen: list[float] = []

    def create(percent: float, **_: Any) -> UUID:
        seen.append(percent)
        return uuid4()

    monkeypatch.setattr(task, "get_run_logger", lambda: logging.getLogger("flows"))
    monkeypatch.setattr(task, "create_progress_artifact", create)
    monkeypatch.setattr(task, "update_progress_artifact", lambda _, percent, **__: seen.append(percent))
    return seen


def test_prefect_never_caches_and_tries_again_only_what_may_pass() -> None:
    def state(kind: type[Exception]) -> Any:
        return SimpleNamespace(result=lambda raise_on_failure: kind("x"))

    assert task.sward.cache_policy == task.NO_CACHE
    assert task.transient(None, None, state(verb_process.TransientError))
    assert not task.transient(None, None, state(verb_process.ChildFailed))
    assert not task.transient(None, None, state(verb_process.Stopped))


@pytest.mark.parametrize("unit", ["records", "steps"])
def test_the_plain_lines_of_the_console_are_understood_as_progress(unit: str, capsys: pytest.CaptureFixture) -> None:
    with console.progress("a title-1", unit) as show:
        show(30, 30, 0.25)
    found = task.COUNTS.match(capsys.readouterr().err)
    assert found is not None
    assert (found["title"], found["done"], found["total"]) == ("a title-1", "30", "30")


def test_progress_is_updated_once_a_second_and_always_at_the_end(updates: list[float]) -> None:
    shown = task.LineReporter("extract-progress")
    for done in (0, 10, 20, 40):
        shown(f"extracting: {done}/40 records, 9.0/s")
    assert updates == [0, 100]


def test_other_lines_are_logged_and_no_progress(updates: list[float], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "flows"):
        task.LineReporter("extract-progress")("q.zarr: 5 records, 2 computed now; 100% done")
    assert caplog.messages == ["q.zarr: 5 records, 2 computed now; 100% done"]
    assert updates == []


def test_a_server_that_was_away_gets_the_progress_when_it_is_back(
    updates: list[float], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise httpx.ConnectError("All connection attempts failed")

    monkeypatch.setattr(server_outage, "get_run_logger", lambda: logging.getLogger("flows"))
    shown = task.LineReporter("extract-progress")
    with monkeypatch.context() as server:
        server.setattr(task, "create_progress_artifact", refuse)
        for done in (1, 2, 3):
            shown(f"extracting: {done}/40 records, 9.0/s")
    shown("extracting: 40/40 records, 9.0/s")
    assert updates == [100]
    told = "progress is not shown in Prefect: All connection attempts failed"
    assert [m for m in caplog.messages if "progress" in m] == [told]  # not once a line


def test_a_repeated_ablation_finds_a_point_that_is_going_and_starts_an_ended_one_anew(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    keys: list[str] = []

    def state(final: bool) -> Any:
        return SimpleNamespace(is_final=lambda: final)

    def run_deployment(name: str, *, idempotency_key: str, **_: Any) -> Any:
        keys.append(idempotency_key.rpartition("-")[2])
        return SimpleNamespace(id=len(keys), state=state(final=len(keys) == 1))

    monkeypatch.setattr(ablate, "run_deployment", run_deployment)
    dump: Callable[..., dict] = lambda mode: {"steps": 3}  # noqa: E731
    point: Any = SimpleNamespace(folder=tmp_path / "SWARD-seed0-ab", name="SWARD-seed0", model_dump=dump)
    assert ablate.submit(point, tmp_path / "configs") == 2
    assert keys == ["0", "1"]
    assert (tmp_path / "configs" / "SWARD-seed0-ab.yaml").read_text() == "steps: 3\n"
