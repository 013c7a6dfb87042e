"""Serves reports on loopback, so that a link in Prefect's page opens them; browsers block links to local files.

`make prefect` starts it. Only pages that this program wrote are served, from below the working directory.
"""

import os
import sys
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote

from pipeline.own_files import HEADING

VARIABLE = "SWARD_REPORTS_URL"  # base address of the reports below the workers' working directory
HEAD_BYTES = 1_000_000  # of a page, within which its heading is


def address(report: Path) -> str | None:
    """Address at which a report is served; None if no server is set or the file is outside of its folder."""
    base, path = os.environ.get(VARIABLE), report.resolve()
    if not base or not path.is_relative_to(Path.cwd()):
        return None
    return f"{base.rstrip('/')}/{quote(path.relative_to(Path.cwd()).as_posix())}"


class Reports(SimpleHTTPRequestHandler):
    """Answers GET and HEAD for the program's own HTML pages; everything else is not found."""

    def send_head(self):  # type: ignore[no-untyped-def]  # as the base class declares it
        """Opens the page, or answers 404."""
        path, root = Path(self.translate_path(self.path)).resolve(), Path(self.directory).resolve()
        if path.is_relative_to(root) and is_page(path):
            return super().send_head()
        self.send_error(HTTPStatus.NOT_FOUND, "no report of SWARD is there")
        return None

    def log_message(self, format: str, *args: object) -> None:
        """Prints nothing: the terminal belongs to server and workers."""


def is_page(path: Path) -> bool:
    """True for an HTML file with the heading of this program's pages."""
    if path.suffix != ".html" or not path.is_file():
        return False
    with path.open("rb") as file:
        return HEADING in file.read(HEAD_BYTES)


def main(host: str, port: int) -> None:
    """Serves the working directory until the process is stopped."""
    ThreadingHTTPServer((host, port), partial(Reports, directory=str(Path.cwd()))).serve_forever()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
