"""Prefect's own pages in a real browser: the form of a run, what it refuses, and a comparison's artifacts.

A real server on loopback with the deployments of prefect.yaml. Pictures of the pages are left in the folder of the test
(pytest's `--basetemp`). Needs Chromium, see `chromium.py`. About two minutes.
"""

import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from chromium import launched, needs_chromium
from loopback import Loopback

from flows.report_server import VARIABLE, Reports

ROOT = Path(__file__).resolve().parents[2]
TRAIN = "configs/quickstart/train.yaml"
PATIENCE = 120_000  # ms, for a page on a busy machine
SHOW = """
import sys
from pathlib import Path
from prefect import flow
from flows.ablate import publish_comparison
flow(name="show")(publish_comparison)(Path(sys.argv[1]))
"""  # the last step of ablate-student, in a flow run of its own
pytestmark = [pytest.mark.slow, needs_chromium]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loopback]:
    loopback = Loopback(tmp_path_factory.mktemp("prefect"))
    try:
        loopback.serve()
        for pool in ("local", "control"):
            loopback.prefect("work-pool", "create", pool, "--type", "process")
        loopback.prefect("deploy", "--all")
        yield loopback
    finally:
        loopback.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launched() as opened:
        yield opened


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1280, "height": 1300})
    context.set_default_timeout(PATIENCE)
    yield context.new_page()
    context.close()


class Form:
    """The page on which a person starts a run of a deployment."""

    def __init__(self, page: Any, server: Loopback, flow: str) -> None:
        deployment = server.api.get(f"deployments/name/{flow}/local")["id"]
        self.page, self.ui = page, server.api.url.removesuffix("/api")
        page.goto(f"{self.ui}/deployments/deployment/{deployment}/run")
        page.get_by_text("Submit", exact=True).wait_for()
        page.locator(".schema-form-property").last.wait_for()

    def field(self, label: str) -> Any:
        return self.page.locator(".schema-form-property").filter(
            has=self.page.get_by_text(f"{label} (Optional)", exact=True)
        )

    def choose(self, file: str) -> None:
        self.page.locator(".p-select-button__control").first.focus()
        self.page.keyboard.press("Space")
        self.page.get_by_role("option", name=file, exact=True).click()
        self.page.get_by_role("option").first.wait_for(state="detached")
        self.page.wait_for_timeout(1000)  # a click that comes at once is lost

    def submit(self) -> None:
        self.page.get_by_text("Submit", exact=True).click()


def test_the_form_has_one_box_for_each_setting_and_a_drop_down_of_the_files(
    page: Any, server: Loopback, tmp_path: Path
) -> None:
    Form(page, server, "train-student")
    labels = page.locator(".schema-form-property__label").all_inner_texts()
    names = ["steps", "seed", "batch_size", "learning_rate", "device", "overrides"]
    assert labels == ["config", *(f"{name} (Optional)" for name in names)]
    assert page.get_by_text("optimiser steps; empty: as in the file.").is_visible()
    assert page.get_by_text("None", exact=True).count() == 0
    assert page.locator(".schema-form-property input[type=number]").count() == 4
    page.screenshot(path=tmp_path / "form.png", full_page=True)
    page.locator(".p-select-button__control").first.focus()
    page.keyboard.press("Space")
    page.get_by_role("option").first.wait_for()
    offered = page.get_by_role("option").all_inner_texts()
    assert TRAIN in offered
    assert not [file for file in offered if "/cache/" in file or "/compare/" in file]
    page.screenshot(path=tmp_path / "files.png")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({}, "'config' is a required property"),
        ({"steps": "0"}, "0 is less than the minimum of 1"),
        ({"overrides": '{"stepps": 3}'}, "'stepps' is not one of"),
        ({"overrides": '{"optimizer.lr": -1}'}, "-1 is less than or equal to the minimum of 0"),
    ],
)
def test_what_is_wrong_is_said_on_the_page_and_nothing_is_queued(
    page: Any, server: Loopback, tmp_path: Path, wrong: dict[str, str], said: str
) -> None:
    form = Form(page, server, "train-student")
    if wrong:
        form.choose(TRAIN)
    for label, value in wrong.items():
        form.field(label).locator("input, textarea").fill(value)
    form.submit()
    message = page.get_by_text(said)
    message.first.wait_for()
    page.wait_for_timeout(1000)  # it slides in
    assert message.first.evaluate("e => e.scrollWidth <= e.clientWidth")
    page.screenshot(path=tmp_path / "refused.png")
    assert server.api.filtered("flow_runs", {"flow_runs": {"name": {"like_": "quickstart/"}}}) == []
    assert page.url.endswith("/run")


def test_a_form_with_a_file_alone_queues_a_run_with_that_file_alone(page: Any, server: Loopback) -> None:
    form = Form(page, server, "train-student")
    form.choose(TRAIN)
    with page.expect_response("**/create_flow_run") as created:
        form.submit()
    assert created.value.status == 201
    assert server.api.get(f"flow_runs/{created.value.json()['id']}")["parameters"] == {"config": TRAIN}


@pytest.fixture
def reports(compared: Any) -> Iterator[str]:
    """Address of a server of the comparison's reports, as `make prefect` starts one."""
    served = partial(Reports, directory=str(compared.folder.parent))
    server = ThreadingHTTPServer(("127.0.0.1", 0), served)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_comparison_is_a_table_with_its_conclusion_and_a_link_that_opens_the_report(
    page: Any, server: Loopback, compared: Any, reports: str, tmp_path: Path
) -> None:
    env = server.env | {VARIABLE: reports, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", SHOW, str(compared.folder)], cwd=compared.folder.parent, env=env, check=True)
    shown = {row["key"]: row["id"] for row in server.api.filtered("artifacts", {})}
    (table,), (link,) = ([i for key, i in shown.items() if key.startswith(k)] for k in ("comparison-", "report-"))
    ui = server.api.url.removesuffix("/api")
    page.goto(f"{ui}/artifacts/artifact/{table}")
    for row in ("teacher", "student alone", "SWARD"):
        page.locator("td").get_by_text(row, exact=True).wait_for()
    page.screenshot(path=tmp_path / "comparison.png", full_page=True)
    assert page.get_by_text("SWARD is not distinguishable from student alone with these runs").is_visible()
    assert page.locator("th").all_inner_texts()[:5] == ["row", "mDice %", "mIoU %", "seeds", "Δ mDice"]
    page.goto(f"{ui}/artifacts/artifact/{link}")
    anchor = page.get_by_role("link", name=f"Report of {compared.folder.name}")
    anchor.wait_for()
    page.screenshot(path=tmp_path / "link.png")
    page.goto(anchor.get_attribute("href"))
    page.locator("#result .lead").wait_for()
