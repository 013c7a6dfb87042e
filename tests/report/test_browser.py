"""The page in a real browser: nothing is loaded, nothing is complained about, and every control does what it says.

Needs Chromium (Debian: `apt-get install chromium`); skipped where there is none.
"""

from pathlib import Path

import numpy as np
import pytest
from chromium import launched, needs_chromium
from PIL import Image

pytestmark = needs_chromium
QUICKSTART = Path(__file__).resolve().parents[2] / "runs/quickstart/report.html"
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
LOOKS = {"desktop": {}, "phone": {"viewport": PHONE}, "dark": {"color_scheme": "dark"}, "print": {}}


class Watched:
    """A page, and all that it asked for and complained about."""

    def __init__(self, browser, path, **options):
        self.context = browser.new_context(**{"viewport": DESKTOP, "color_scheme": "light"} | options)
        self.page, self.complaints, self.requests = self.context.new_page(), [], []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(Path(path).resolve().as_uri())

    @property
    def fetched(self):
        """Requests besides the page itself and what is embedded in it."""
        return [url for url in self.requests[1:] if not url.startswith("data:")]

    @property
    def background(self):
        return self.page.evaluate("getComputedStyle(document.body).backgroundColor")

    def visible(self, selector):
        return sum(element.is_visible() for element in self.page.query_selector_all(selector))


@pytest.fixture(scope="module")
def browser():
    with launched() as opened:
        yield opened


@pytest.fixture
def opened(browser, compared):
    watched = Watched(browser, compared.folder / "report.html")
    yield watched
    assert watched.complaints == []
    assert watched.fetched == []
    watched.context.close()


def test_it_opens_without_a_request_or_a_complaint_and_looks_like_something(opened, tmp_path):
    opened.page.screenshot(path=tmp_path / "page.png", full_page=True)
    with Image.open(tmp_path / "page.png") as picture:
        assert picture.width == DESKTOP["width"]
        assert picture.height > 3 * DESKTOP["height"]
        assert len(np.unique(np.asarray(picture.convert("L")))) > 100


def test_the_slider_goes_through_the_cases_by_keyboard(opened):
    slider, names = opened.page.get_by_role("slider", name="Case"), []
    slider.focus()
    opened.page.keyboard.press("Home")
    for _ in range(3):
        assert opened.visible("#examples .case") == 1
        names.append(slider.get_attribute("aria-valuetext"))
        assert opened.page.locator("#case-name").inner_text() == names[-1]
        assert opened.page.locator("#examples .case:visible h3").inner_text() == names[-1]
        opened.page.keyboard.press("ArrowRight")
    assert [name.split(",")[0] for name in names] == ["worst", "median", "best"]


def test_a_row_is_switched_off_and_on_everywhere(opened):
    box = opened.page.get_by_role("checkbox", name="SWARD")
    sections = ("#examples", "#activation", "#curves", "#signal", "#images", "#classes", "#space")
    before = {section: opened.visible(f"{section} .row2") for section in sections}
    assert all(before.values())
    box.uncheck()
    assert {section: opened.visible(f"{section} .row2") for section in sections} == dict.fromkeys(sections, 0)
    assert opened.visible("#curves .row1")
    box.check()
    assert {section: opened.visible(f"{section} .row2") for section in sections} == before


def test_layers_are_chosen_and_faded(opened):
    assert opened.visible(".layer.errors") == 3
    assert opened.visible("#examples .layer.mask") == 1  # the ground truth's
    opened.page.get_by_role("radio", name="prediction").check()
    assert opened.visible(".layer.errors") == 0
    assert opened.visible("#examples .layer.mask") == 4
    opened.page.get_by_role("slider", name="Strength").fill("10")
    assert opened.page.eval_on_selector("#examples .layer", "e => getComputedStyle(e).opacity") == "0.1"


def test_the_theme_follows_the_system_unless_it_is_chosen(browser, compared, opened):
    assert opened.background == "rgb(255, 255, 255)"
    opened.page.get_by_role("radio", name="dark").check()
    assert opened.background == "rgb(15, 19, 24)"
    opened.page.emulate_media(media="print")
    assert opened.background == "rgb(255, 255, 255)"
    dark = Watched(browser, compared.folder / "report.html", color_scheme="dark")
    assert dark.background == "rgb(15, 19, 24)"
    dark.page.get_by_role("radio", name="light").check()
    assert dark.background == "rgb(255, 255, 255)"
    dark.context.close()


def test_without_scripts_everything_is_shown(browser, compared):
    plain = Watched(browser, compared.folder / "report.html", java_script_enabled=False)
    assert plain.page.locator("#examples .case:visible").count() == 3
    assert plain.page.locator("#case").is_hidden()
    plain.page.get_by_role("checkbox", name="student alone").uncheck()
    assert plain.page.locator(".row1:visible").count() == 0
    plain.context.close()


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE])
def test_nothing_sticks_out_of_the_page(browser, compared, viewport):
    watched = Watched(browser, compared.folder / "report.html", viewport=viewport)
    assert watched.page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
    watched.context.close()


@pytest.mark.parametrize(("viewport", "shown"), [(DESKTOP, True), (PHONE, False)])
def test_what_is_said_about_a_table_opens_at_a_touch_on_a_phone(browser, compared, viewport, shown):
    watched = Watched(browser, compared.folder / "report.html", viewport=viewport)
    about = watched.page.locator("details.about", has=watched.page.locator("#about-results"))
    assert (about.get_attribute("open") is not None) is shown
    if not shown:
        about.locator("summary").click()
    assert "Mean ± standard deviation over seeds" in about.inner_text()
    watched.context.close()


def test_every_control_has_a_name_and_can_be_reached_by_keyboard(opened):
    reached = set()
    for _ in range(60):
        opened.page.keyboard.press("Tab")
        reached.add(opened.page.evaluate("document.activeElement.id || document.activeElement.tagName"))
    assert {
        "theme-auto",
        "show-0",
        "show-1",
        "show-2",
        "case",
        "layer-errors",
        "strength",
        "all-results",
        "A",
        "SUMMARY",
    } <= reached
    assert opened.page.evaluate("[...document.querySelectorAll('input')].every(e => e.labels.length == 1)")


def test_printing_shows_worst_median_and_best_without_the_configuration(opened, tmp_path):
    opened.page.emulate_media(media="print")
    assert opened.visible("#examples .case") == 3
    assert opened.visible("nav") == 0
    opened.page.pdf(path=tmp_path / "page.pdf")
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")
    assert opened.visible("#reproduce details") == 0


def test_the_first_screen_has_the_answer_and_its_chart_on_a_desk_and_on_a_phone(browser, compared, tmp_path):
    for name, options in LOOKS.items():
        watched = Watched(browser, compared.folder / "report.html", **options)
        if name == "print":
            watched.page.emulate_media(media="print")
        watched.page.screenshot(path=tmp_path / f"{name}.png")
        height = options.get("viewport", DESKTOP)["height"]
        for selector in ("#result .lead", "#result svg"):
            box = watched.page.locator(selector).first.bounding_box()
            assert box["y"] + box["height"] < height, f"{name}: {selector} ends below the first screen"
        assert "student alone" in watched.page.locator("#result .lead").inner_text()
        watched.context.close()


def test_columns_that_few_need_are_behind_a_switch(opened):
    columns = opened.page.locator("#results thead th:visible")
    few = columns.count()
    assert "parameters" not in columns.all_inner_texts()
    opened.page.get_by_role("checkbox", name="all columns").check()
    assert "parameters" in columns.all_inner_texts()
    assert columns.count() > few


def test_switches_wrap_on_a_phone(browser, compared):
    watched = Watched(browser, compared.folder / "report.html", viewport=PHONE)
    for label in watched.page.locator("#switches label").all():
        box = label.bounding_box()
        assert box["x"] + box["width"] <= PHONE["width"]
    watched.context.close()


@pytest.mark.slow
@pytest.mark.skipif(not QUICKSTART.is_file(), reason="no runs/quickstart/report.html: run `make quickstart` first")
def test_the_quickstarts_report_opens_and_is_small(browser):
    assert QUICKSTART.stat().st_size <= 15e6
    watched = Watched(browser, QUICKSTART)
    watched.page.get_by_role("slider", name="Case").fill("9")
    assert watched.page.locator("#case-name").inner_text().startswith("best, 48 of 48")
    assert watched.complaints == watched.fetched == []
    watched.context.close()
