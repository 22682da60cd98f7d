"""The built documentation in a real browser: sizes, theme, search, and no network."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from playwright.sync_api import Page

from chromium import LIMIT, launched
from processes import execute

# Part of `make test-long`: it builds the site, and shows every page.
pytestmark = pytest.mark.slow

ROOT: Final = Path(__file__).resolve().parent.parent
_LONGEST: Final = 6_100  # pixels of a page that somebody reads from its beginning to its end


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    build("html", folder)
    return folder


def build(builder: str, folder: Path) -> None:
    """Build as ``make docs`` does; the pages are parsed once for all builders."""
    parsed = folder.parent / "doctrees"
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "-b", builder, "-d", str(parsed)]
    result = execute([*command, str(ROOT / "docs"), str(folder)])
    assert result.returncode == 0, result.stderr


@pytest.fixture(scope="module")
def browser_page(site: Path) -> Iterator[Page]:
    with launched() as browser:
        context = browser.new_context(viewport={"width": 1200, "height": 900}, color_scheme="light")
        page = context.new_page()
        page.set_default_timeout(LIMIT)
        yield page


def pages(site: Path) -> list[str]:
    names = [str(file.relative_to(site)) for file in site.rglob("*.html")]
    return sorted(name for name in names if not name.startswith(("_", "genindex", "search")))


def test_no_page_is_too_wide_or_long_or_asks_the_network(site: Path, browser_page: Page) -> None:
    asked: list[str] = []
    faults: list[str] = []
    browser_page.on("request", lambda request: asked.append(request.url))
    browser_page.on("pageerror", lambda error: faults.append(str(error)))
    for name in pages(site):
        for width in (1200, 400):
            browser_page.set_viewport_size({"width": width, "height": 900})
            browser_page.goto(f"file://{site / name}")
            wide = browser_page.evaluate(
                """() => [document.documentElement, ...document.querySelectorAll("article table")]
                    .filter(each => each.tagName == "HTML" ? each.scrollWidth > innerWidth
                        : each.scrollWidth > each.closest("article").clientWidth)
                    .map(each => `${each.tagName} ${each.innerText.slice(0, 60)}`)"""
            )
            faults += [f"{name} at {width}: {each}" for each in wide]
            height = browser_page.evaluate("document.documentElement.scrollHeight")
            if width == 1200 and height > _LONGEST and not is_reference(name):
                faults.append(f"{name}: {height} px")
    assert faults == []
    assert {url for url in asked if not url.startswith(("file:", "data:"))} == set()


def test_the_pictures_of_the_console_are_light_and_dark_and_small() -> None:
    files = {file.stem: file for file in (ROOT / "docs" / "screenshots").iterdir()}
    names = {name.rpartition("-")[0] for name in files}
    assert len(names) >= 6
    assert files.keys() == {f"{name}-{scheme}" for name in names for scheme in ("light", "dark")}
    assert [name for name, file in files.items() if file.stat().st_size > 100_000] == []
    page = (ROOT / "docs" / "how-to" / "console-pictures.md").read_text()
    assert [name for name in sorted(files) if f"../screenshots/{name}.png" not in page] == []


def is_reference(name: str) -> bool:
    """Pages in which somebody looks for one thing."""
    return name.startswith("reference/") or name == "changelog.html"


def test_a_diagram_follows_the_theme_and_has_a_text(site: Path, browser_page: Page) -> None:
    colours = set()
    for theme in ("light", "dark"):
        browser_page.goto(f"file://{site}/start/introduction.html")
        browser_page.evaluate(f"document.body.dataset.theme = '{theme}'")
        diagram = browser_page.locator("svg.keyosk-diagram")
        assert diagram.get_attribute("role") == "img"
        assert "verifies the token alone" in str(diagram.get_attribute("aria-label"))
        ink = "e => getComputedStyle(e).fill"
        colours.add(diagram.locator("text").first.evaluate(ink))
    assert len(colours) == 2


def test_code_has_a_copy_button_and_the_search_finds_a_page(site: Path, browser_page: Page) -> None:
    browser_page.goto(f"file://{site}/start/tutorial.html")
    blocks = browser_page.locator("article div.highlight").count()
    assert browser_page.locator("button.copybtn").count() == blocks > 5
    browser_page.goto(f"file://{site}/search.html?q=htpasswd")
    browser_page.locator("#search-results li a", has_text="Migrate").first.wait_for()


def test_the_site_is_also_a_book_and_manual_pages(site: Path, tmp_path: Path) -> None:
    build("epub", site.parent / "epub")
    assert (site.parent / "epub" / "Keyosk.epub").stat().st_size > 100_000
    build("man", site.parent / "man")
    assert "signing\\-key compromise" in (site.parent / "man" / "keyosk.1").read_text()
