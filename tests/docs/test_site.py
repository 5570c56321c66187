"""The built documentation in a browser: by keyboard, for screen readers, on a phone.

`.ci/all` builds the docs and then says where: VAEXPRS_SITE=docs/_build/html. Without a build these tests skip.
"""

import os
import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.browser
SITE = Path(os.environ.get("VAEXPRS_SITE") or Path(__file__).parents[2] / "docs/_build/html").resolve()
# one of each kind of page, and those with pictures and tables
PAGES = [
    "index", "tour", "workflows", "from-r", "faq", "gallery", "how-it-works", "judging", "api", "reference/cli",
    "reference/vaexprs.fit_vae", "tutorials/sharing", "tutorials/balancing", "benchmarks/RESULTS", "search",
    "genindex", "_modules/vaexprs/latent/density",
]  # fmt: skip

if not (SITE / "index.html").exists():
    if os.environ.get("VAEXPRS_SITE"):
        raise FileNotFoundError(f"There is no site at {SITE}.")
    pytest.skip("the docs are not built: sphinx-build docs docs/_build/html", allow_module_level=True)


@pytest.fixture
def tab(browser):
    """Return a function that opens a page of the site, and watches that it asks for nothing from elsewhere."""
    contexts, outside = [], []

    def opened(name, width=1280, theme="light"):
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=theme, reduced_motion="reduce"
        )
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda r: outside.append(r.url) if r.url.startswith("http") else None)
        page.goto((SITE / f"{name}.html").as_uri())
        page.wait_for_load_state("load")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert outside == []


def problems(page):
    """Return what axe-core finds that is serious or critical, as text."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    return [
        f"{rule['id']} ({rule['impact']}): {rule['help']}: {node['html'][:200]} {node.get('failureSummary', '')[:300]}"
        for rule in found
        if rule["impact"] in ("serious", "critical")
        for node in rule["nodes"]
    ]


@pytest.mark.parametrize("theme", ["light", pytest.param("dark", marks=pytest.mark.nightly)])
@pytest.mark.parametrize("name", PAGES)
def test_no_serious_problem_of_access(tab, name, theme):
    assert problems(tab(name, theme=theme)) == []


@pytest.mark.parametrize("theme", ["light", pytest.param("dark", marks=pytest.mark.nightly)])
def test_no_serious_problem_of_access_in_the_report(tab, theme):
    page = tab("sample-report", theme=theme)
    page.wait_for_selector("html[data-ready]", timeout=30_000)
    assert problems(page) == []


@pytest.mark.parametrize("name", PAGES)
def test_a_phone_shows_all_of_a_page_without_moving_it_sideways(tab, name):
    page = tab(name, width=390)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


@pytest.mark.parametrize("name", ["index", "tour", "gallery", "from-r"])
def test_what_a_screen_reader_is_told(tab, name):
    page = tab(name)
    told = page.evaluate(
        """() => ({
            language: document.documentElement.lang,
            title: document.title,
            main: document.querySelectorAll('main').length,
            levels: [...document.querySelectorAll('main article :is(h1, h2, h3, h4)')].map(h => +h.tagName[1]),
            alts: [...document.querySelectorAll('article img')].map(image => image.alt),
        })"""
    )
    assert told["language"] == "en"
    assert "vaexprs" in told["title"]
    assert told["main"] == 1
    assert told["levels"][0] == 1
    assert told["levels"].count(1) == 1
    assert all(b - a <= 1 for a, b in zip(told["levels"], told["levels"][1:], strict=False))
    assert "" not in told["alts"]
    if name == "gallery":
        assert len(told["alts"]) >= 6
        assert all(len(alt) > 30 for alt in told["alts"])


def focused(page):
    return page.evaluate(
        """() => { const e = document.activeElement; const r = e.getBoundingClientRect();
        const s = getComputedStyle(e);
        return {tag: e.tagName, text: (e.textContent || e.ariaLabel || e.title || '').trim().slice(0, 60),
                seen: r.width > 0 && r.height > 0 && r.bottom > 0 && r.top < innerHeight,
                marked: s.outlineStyle != 'none' || s.boxShadow != 'none'}; }"""
    )


def test_the_keyboard_reaches_everything_and_focus_is_seen(tab):
    page = tab("tour")
    page.keyboard.press("Tab")
    page.wait_for_timeout(500)  # it slides in
    assert focused(page) == {"tag": "A", "text": "Skip to main content", "seen": True, "marked": True}
    page.keyboard.press("Enter")
    assert page.evaluate("location.hash") == "#main-content"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('main') !== null")
    seen = []
    for _ in range(60):
        here = focused(page)
        seen.append((here["tag"], here["text"]))
        if here["tag"] == "BODY":
            break
        assert here["seen"], here
        assert here["marked"], here
        page.keyboard.press("Tab")
    assert any(tag == "A" and text == "gallery" for tag, text in seen)


@pytest.mark.parametrize("name", ["tour", "from-r", "scaling"])
def test_what_is_cut_off_on_a_phone_can_be_scrolled_by_keyboard(tab, name):
    page = tab(name, width=390)
    cut_off = page.evaluate(
        """() => [...document.querySelectorAll('article pre, article .math')]
            .filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.tabIndex)"""
    )
    assert len(cut_off) >= 1
    assert set(cut_off) == {0}


def test_each_message_of_the_page_on_messages_is_there(tab):
    """A cell that should end in an error and does not would not be told by the build."""
    source = (Path(__file__).parents[2] / "docs/faq.md").read_text(encoding="utf-8")
    told = tab("faq").locator("article .cell_output").all_inner_texts()
    assert len(told) == source.count("[raises-exception]") > 15
    for text in told:
        assert re.match(
            r"(ValueError|TypeError|FileNotFoundError|FileExistsError): [A-Za-z_']", text.strip()
        ), text


def test_the_search_opens_and_closes_by_keyboard_and_finds(tab):
    page = tab("index")
    page.keyboard.press("Control+k")
    page.wait_for_selector("dialog[open] input[type=search]")
    assert page.evaluate("document.activeElement.type") == "search"
    page.keyboard.press("Escape")
    page.wait_for_selector("dialog[open]", state="detached")
    index = (SITE / "searchindex.js").read_text(encoding="utf-8")
    assert "shrunken" in index


def test_the_menu_of_a_phone_opens_and_closes_by_keyboard(tab):
    page = tab("tour", width=390)
    button = page.locator("button.primary-toggle:visible").first
    assert button.get_attribute("aria-label") or button.get_attribute("title")
    button.focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("#pst-primary-sidebar-modal[open], .bd-sidebar-primary:visible")
    page.keyboard.press("Escape")
    page.wait_for_timeout(300)
    assert page.locator("#pst-primary-sidebar-modal[open]").count() == 0
