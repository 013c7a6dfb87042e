"""An exported page in a real browser, on a server of this machine: asks its folder alone, complains of nothing."""

import re
import subprocess
import sys
from contextlib import contextmanager

import numpy as np
from PIL import Image

BUSY = 300_000  # milliseconds: on two cores that fourteen processes shared, a student of 5 MB took 31,000 to load


@contextmanager
def served(folder):
    """The address of a folder's page."""
    command = [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory", str(folder)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        yield re.search(r"\((http://127.0.0.1:\d+/)\)", server.stdout.readline())[1]
    finally:
        server.terminate()
        server.communicate()


@contextmanager
def shown(browser, address):
    """The page when the student is loaded; afterwards: it asked nothing but its folder, and nothing went wrong."""
    asked, wrong = [], []
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.set_default_timeout(BUSY)
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto(address)
    status = page.get_by_role("status")  # asked by locators: the page's policy forbids to evaluate text in it
    status.filter(has_text=re.compile("^ready|could not")).wait_for()
    assert status.inner_text() == "ready"
    yield page
    page.close()
    assert wrong == []
    assert len(asked) > 5
    assert [url for url in asked if not url.startswith((address, "data:", f"blob:{address}"))] == []


def mask_of(page, picture):
    """The mask that the page saves for a picture."""
    page.get_by_label("Choose a picture").set_input_files(picture)
    with Image.open(picture) as opened:
        seen = page.get_by_role("img", name=f"picture of {opened.width} × {opened.height} pixels")
    status = page.get_by_role("status")
    seen.or_(status.filter(has_text="could not")).first.wait_for()
    assert seen.count(), status.inner_text()
    with page.expect_download() as saved:
        page.get_by_role("button", name="Save the mask").click()
    return np.array(Image.open(saved.value.path()).convert("L"))
