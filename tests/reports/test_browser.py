"""The page in Chromium: no error, accessible, no wider than its screen, whole on paper, in light and in the dark."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reports.beside import device_of
from reports.figures import Plot
from reports.results import load
from tests.support import synthetic_rows as synthetic
from tests.support.reporting import ROOT, page_of
from tests.support.sweeps import sweep

pytestmark = sweep
DESKTOP, PHONE = 1280, 390
A4_LANDSCAPE, A4_HEIGHT = (
    round((side - 2 * 10) / 25.4 * 96) for side in (297, 210)
)  # pixels between its margins
SCREENS = pytest.mark.parametrize("width", [DESKTOP, PHONE])
# What is further right than the screen and in nothing that scrolls sideways.
SPILLED = """() => [...document.querySelectorAll("main *, header *")].filter(element => {
  const box = element.getBoundingClientRect();
  if (!box.width || box.right <= innerWidth + 1) return false;
  for (let around = element.parentElement; around; around = around.parentElement)
    if (["auto", "scroll"].includes(getComputedStyle(around).overflowX)) return false;
  return true;
}).map(element => `${element.tagName} ${(element.textContent || "").trim().slice(0, 40)}`)"""
# Texts of the figures that are shown, with letters of fewer pixels than nine.
SMALL = """() => [...document.querySelectorAll("figure svg")].flatMap(svg => {
  const scale = svg.getBoundingClientRect().width / svg.viewBox.baseVal.width;
  const isSmall = text => scale && parseFloat(getComputedStyle(text).fontSize) * scale < 9;
  return [...svg.querySelectorAll("text")].filter(isSmall).map(text => `${svg.id}: ${text.textContent}`);
})"""
OPEN = "document.querySelectorAll('details').forEach(each => { each.open = true; })"


def chromium() -> str:
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None and os.environ.get("REQUIRE_BROWSER") == "1":
        pytest.fail("REQUIRE_BROWSER=1, but there is no chromium")
    return found or pytest.skip("no chromium to open the page in")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if os.environ.get("REQUIRE_BROWSER") != "1":
        pytest.importorskip("playwright")
        pytest.importorskip("axe_playwright_python")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])


@pytest.fixture(scope="module")
def pages(tmp_path_factory, whole_page: tuple[str, list[Plot]]) -> dict[str, Path]:
    """Every study on one device, and what is committed of two devices, with something measured by hand beside it."""
    folder = tmp_path_factory.mktemp("pages")
    two = load(ROOT / "results", "reference/h100")
    by_hand = load(synthetic.write(folder, [synthetic.throughput_row("restv2_tiny@224", study=None)]).parent)
    two.beside = [device_of(load(ROOT / "results", "reference/cpu")), device_of(by_hand)]
    found = {}
    for name, html in (("everything", whole_page[0]), ("two", page_of(two)), ("by-hand", page_of(by_hand))):
        found[name] = folder / f"{name}.html"
        found[name].write_text(html, encoding="utf-8")
    return found


PAGES = pytest.mark.parametrize("name", ["everything", "two", "by-hand"])


@pytest.fixture
def opened(browser, pages):
    """Opens a page with everything unfolded; whatever it complains of is an error."""
    contexts, errors = [], []

    def open_page(name: str, width: int, scheme: str = "light") -> Any:
        contexts.append(browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme))
        page = contexts[-1].new_page()
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(pages[name].as_uri())
        page.evaluate(OPEN)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert errors == []


@PAGES
@SCREENS
def test_nothing_is_wider_than_the_screen_but_what_scrolls_by_itself(opened, name, width):
    page = opened(name, width)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.evaluate(SPILLED) == []


@pytest.mark.parametrize("name", ["everything", "two"])
def test_on_a_phone_no_figure_scrolls_and_its_letters_have_nine_pixels(opened, name):
    page = opened(name, PHONE)
    assert page.query_selector_all("figure svg")
    figures = "[...document.querySelectorAll('figure')]"
    wider = f"{figures}.filter(each => each.scrollWidth > each.clientWidth).map(each => each.ariaLabel)"
    assert page.evaluate(wider) == []
    assert page.evaluate(SMALL) == []


@PAGES
def test_paper_loses_no_column_and_cuts_no_figure(opened, name):
    page = opened(name, A4_LANDSCAPE)
    page.emulate_media(media="print")
    assert page.evaluate(SPILLED) == []
    cells = "[...document.querySelectorAll('th, td')]"
    assert page.evaluate(f"{cells}.filter(cell => getComputedStyle(cell).display === 'none').length") == 0
    figures = "[...document.querySelectorAll('figure')].map(figure => figure.getBoundingClientRect().height)"
    assert page.evaluate(f"Math.max(0, ...{figures})") <= A4_HEIGHT


@PAGES
@pytest.mark.parametrize(("width", "scheme"), [(DESKTOP, "light"), (PHONE, "dark")])
def test_axe_finds_nothing_serious(opened, name, width, scheme):
    from axe_playwright_python.sync_playwright import Axe

    page = opened(name, width, scheme)
    found = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    serious = [
        (each["id"], each["nodes"][0]["html"]) for each in found if each["impact"] in ("serious", "critical")
    ]
    assert serious == []


@pytest.mark.parametrize("name", ["everything"])
def test_in_the_dark_no_large_ground_is_light(opened, name):
    """A slab is a shape of a figure, or a box of the page, of a hundredth of the screen, that is nearly white."""
    page = opened(name, DESKTOP, "dark")
    slabs = page.evaluate(
        """() => [...document.querySelectorAll("body, body *")].filter(element => {
          const box = element.getBoundingClientRect(), style = getComputedStyle(element);
          const ground = element instanceof SVGElement ? style.fill : style.backgroundColor;
          const rgb = (ground.match(/[0-9.]+/g) || []).map(Number);
          if (ground.startsWith("url") || rgb.length < 3 || rgb[3] === 0 || box.width * box.height < 9999) return false;
          return !element.matches("text, tspan, g, svg") && Math.min(...rgb.slice(0, 3)) > 225;
        }).map(element => element.outerHTML.slice(0, 120))"""
    )
    assert slabs == []


def test_commands_can_be_reached_and_scrolled_by_keyboard(opened):
    page = opened("everything", PHONE)
    for one in page.query_selector_all("pre, .scroll, figure"):
        one.focus()
        assert one.evaluate("element => element === document.activeElement")
        assert one.get_attribute("aria-label")
