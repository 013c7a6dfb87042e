"""Reports are served where a link in Prefect can open them, and nothing else is."""

import threading
from collections.abc import Iterator
from functools import partial
from http.server import ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from flows.report_server import VARIABLE, Reports, address
from pipeline.own_files import HEADING


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Reports, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(VARIABLE, f"http://127.0.0.1:{server.server_port}")
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_the_link_of_a_report_opens_it(url: str, tmp_path: Path) -> None:
    report = tmp_path / "runs/my comparison/report.html"
    report.parent.mkdir(parents=True)
    report.write_bytes(b"<html>" + HEADING + b"report</p>")
    link = address(report)
    assert link == f"{url}/runs/my%20comparison/report.html"
    assert httpx.get(link, trust_env=False).content == report.read_bytes()


def test_nothing_but_reports_is_served(url: str, tmp_path: Path) -> None:
    (tmp_path / "secret.html").write_text("<html>not ours</html>")
    (tmp_path / "secret.txt").write_bytes(HEADING)
    for path in ("", "secret.html", "secret.txt", "../etc/passwd", "gone.html"):
        assert httpx.get(f"{url}/{path}", trust_env=False).status_code == 404


def test_there_is_no_link_without_a_server_or_outside_of_its_folder(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert address(tmp_path.parent / "report.html") is None
    monkeypatch.delenv(VARIABLE)
    assert address(tmp_path / "report.html") is None
