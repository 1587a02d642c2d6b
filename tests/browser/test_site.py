"""What a reader meets on the built site: by eye, by keyboard, by ear, on a phone and on paper."""

import math
import re
from functools import cache
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
SITE = ROOT / "_build" / "html"
# The pages of the book; of pages made alike one stands for all.
KINDS = ("book/*.md", "book/*/index.md", "chapters/*.ipynb")
PAGES = [
    path.relative_to(ROOT).with_suffix("").as_posix()
    for kind in KINDS
    for path in sorted(ROOT.glob(kind))
]
PAGES += ["genindex", "search", "source/marginlib/softmax", "source/tests/test_softmax"]
CHAPTER = "chapters/04_large_margin"
MEGABYTE = 1_000_000
SERIOUS = {"serious", "critical"}


@pytest.fixture(scope="module", params=PAGES)
def visit(request, visits):
    """Each page in turn, loaded once for all the tests that look at it."""
    one = visits()
    one.open(f"{request.param}.html")
    yield one
    one.context.close()


@pytest.fixture
def window(visits):
    """A fresh window, closed behind the test."""
    opened = []

    def open_window(name, **settings):
        opened.append(visits(**settings))
        return opened[-1].open(f"{name}.html")

    yield open_window
    for one in opened:
        one.context.close()


# --- Every page -------------------------------------------------------------------------------


def test_a_page_loads_without_a_complaint_and_asks_for_nothing_outside(visit):
    assert visit.complaints == []


def test_every_formula_is_drawn(visit):
    asked = visit.page.locator(".math").count()
    assert visit.page.locator(".math mjx-container").count() >= asked
    assert visit.page.locator("mjx-merror").count() == 0
    prose = visit.page.evaluate(
        """() => {
          const page = document.querySelector("article, main").cloneNode(true);
          const quoted = "pre, code, mjx-container, script, style";
          page.querySelectorAll(quoted).forEach((e) => e.remove());
          return page.textContent;
        }"""
    )
    assert re.findall(r"\\\(|\\\[|\$\$|\{(?:ref|eq|doc|term|cite:\w)\}", prose) == []


def test_a_page_comes_with_less_than_a_megabyte(visit):
    assert visit.bytes() < MEGABYTE


def test_a_figure_keeps_its_place_until_it_is_scrolled_to(visit):
    bare = visit.page.locator(
        'article img[src*="_images/"]:not([loading="lazy"][width][height])'
    ).count()
    assert bare == 0


def test_a_picture_has_words_for_those_who_do_not_see_it(visit):
    assert visit.page.locator("article img:not([alt]), article img[alt='']").count() == 0


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_no_serious_fault(visit, theme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    # Colours that are still on their way from light to dark are none that anybody reads.
    visit.page.add_style_tag(content="*, ::before, ::after { transition: none !important }")
    visit.page.evaluate("theme => { document.documentElement.dataset.theme = theme }", theme)
    # Colours are all that changes with the theme.
    only = {} if theme == "light" else {"runOnly": ["color-contrast"]}
    found = axe.run(visit.page, options={"resultTypes": ["violations"], **only}).response
    faults = [
        (one["id"], one["help"], [node["target"] for node in one["nodes"]][:5])
        for one in found["violations"]
        if one["impact"] in SERIOUS
    ]
    assert faults == []


def test_nothing_is_wider_than_a_phone(visit):
    visit.page.set_viewport_size({"width": 390, "height": 844})
    width = visit.page.evaluate("() => document.documentElement.scrollWidth")
    visit.page.set_viewport_size({"width": 1280, "height": 900})
    assert width <= 390


# --- Links ------------------------------------------------------------------------------------


class Links(HTMLParser):
    """The links of a page and the places in it that can be linked to."""

    def __init__(self):
        super().__init__()
        self.links, self.places = set(), {"", "top"}

    def handle_starttag(self, tag, attributes):
        told = dict(attributes)
        self.places |= {told[key] for key in ("id", "name") if told.get(key)}
        for key in ("href", "src", "xlink:href"):
            if told.get(key):
                self.links.add(told[key])


@cache
def read(path):
    parser = Links()
    parser.feed(path.read_text(encoding="utf-8"))
    return parser


def dead_links(page):
    dead = []
    for address in read(page).links:
        if re.match(r"(?:[a-z][a-z+.-]*:|//)", address):
            continue  # outside: `make links` looks at those
        place, anchor = urldefrag(address)
        place = unquote(place.partition("?")[0])
        target = (page.parent / place).resolve() if place else page
        page_there = target.suffix == ".html" and target.exists()
        if not target.exists() or (page_there and unquote(anchor) not in read(target).places):
            dead.append(address)
    return dead


def test_every_link_inside_the_book_leads_somewhere(site):
    dead = {
        page.relative_to(SITE).as_posix(): found
        for page in SITE.rglob("*.html")
        if "_static" not in page.parts and (found := dead_links(page))
    }
    assert dead == {}


def test_a_dead_link_is_noticed(tmp_path):
    (tmp_path / "other.html").write_text('<p id="here">')
    page = tmp_path / "page.html"
    page.write_text(
        '<a href="other.html#here">1</a><a href="other.html#gone">2</a><a href="none.html">3</a>'
        '<a href="#nowhere">4</a><a href="https://example.org/x">5</a><img src="no.png">'
    )
    assert set(dead_links(page)) == {"other.html#gone", "none.html", "#nowhere", "no.png"}


# --- Finding one's way ------------------------------------------------------------------------


def test_a_search_for_psi_finds_its_chapter(window):
    page = window(CHAPTER)
    page.keyboard.press("Control+k")
    page.keyboard.type("psi")
    page.keyboard.press("Enter")
    page.wait_for_url("**/search.html?q=psi*")
    page.wait_for_function("document.querySelectorAll('ul.search li').length > 2")
    found = page.locator("ul.search").inner_text()
    assert "Angular" in found
    assert "The library" in found


def test_a_page_leads_to_the_one_before_and_the_one_after(window):
    page = window(CHAPTER)
    page.locator("a.right-next").click()
    page.wait_for_url("**/part_angles.html")
    page.locator("a.left-prev").click()
    page.wait_for_url(f"**/{CHAPTER}.html")


def test_the_map_leads_to_every_chapter_with_a_loss(window):
    page = window("book/map")
    drawn = page.locator("svg.map.wide a")
    targets = {drawn.nth(i).get_attribute("href") for i in range(drawn.count())}
    listed = page.locator("article dd a.reference[href*='chapters/']")
    assert {listed.nth(i).get_attribute("href") for i in range(listed.count())} <= targets
    drawn.filter(has_text="ArcFace").click()
    page.wait_for_url("**/05_angular.html")


@pytest.mark.parametrize(
    ("width", "seen", "hidden"), [(1280, "wide", "narrow"), (390, "narrow", "wide")]
)
def test_a_screen_shows_the_map_that_fits_it(window, width, seen, hidden):
    page = window("book/map", viewport={"width": width, "height": 844})
    assert page.locator(f"svg.map.{seen}").is_visible()
    assert page.locator(f"svg.map.{hidden}").is_hidden()
    letters = page.locator(f"svg.map.{seen} .changes").first.bounding_box()["height"]
    assert letters >= 11  # pixels: the drawing was not shrunk until nobody can read it


def test_an_entry_of_the_library_leads_to_equation_row_test_and_source_and_back(window):
    page = window("book/api")
    entry = page.locator("dl.py:has(> dt[id='marginlib.large_margin_loss']) .where")
    for text, place in [
        ("(002.11)", f"{CHAPTER}.html#equation-eq-002-11"),
        ("L12", "ledger.html#claim-l12"),
        ("marginlib/large_margin.py", "source/marginlib/large_margin.html#large_margin_loss"),
    ]:
        link = entry.locator(f"a:text('{text}')").first
        assert link.get_attribute("href").endswith(place), text
    entry.locator("summary").click()
    entry.locator("details a").first.click()
    page.wait_for_url("**/source/tests/test_large_margin.html#test_*")
    anchor = page.url.partition("#")[2]
    page.locator(f"div#{anchor} > .ways a:text('large_margin_loss')").first.click()
    page.wait_for_url("**/book/api.html#marginlib.large_margin_loss")


# --- By eye -----------------------------------------------------------------------------------


def test_the_dark_page_is_dark_and_stays_so(window):
    page = window(CHAPTER, color_scheme="light")
    lightness = "() => getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)"
    assert min(page.evaluate(lightness)) > 200
    for _ in range(3):
        if page.evaluate("document.documentElement.dataset.theme") == "dark":
            break
        page.locator("button.theme-switch-button").first.click()
    assert max(page.evaluate(lightness)) < 60
    page.reload()
    assert max(page.evaluate(lightness)) < 60


@pytest.mark.parametrize(("scheme", "lightness"), [("light", (240, 255)), ("dark", (0, 60))])
def test_a_figures_paper_is_that_of_the_page(window, scheme, lightness):
    figure = window(CHAPTER, color_scheme=scheme).locator("div.cell_output img").first
    figure.scroll_into_view_if_needed()
    figure.evaluate("image => image.decode()")
    corner = Image.open(BytesIO(figure.screenshot())).convert("L").getpixel((3, 3))
    assert lightness[0] <= corner <= lightness[1]


def bias_of(page):
    return page.evaluate("() => document.querySelector('svg.idea').dataset")


def test_the_picture_on_the_cover_moves_by_the_formula_and_stops(window):
    page = window("book/index")
    page.wait_for_function("document.querySelector('svg.idea').dataset.bias > 1.1")
    page.get_by_role("button", name="Stop the picture").click()
    told = bias_of(page)
    unit = 103
    places = page.evaluate(
        "() => document.querySelector('svg.idea .others').getAttribute('d').match(/M[\\d.]+/g)"
    )
    rivals = [(float(place[1:]) - 202) / unit for place in places]
    # Positions are written with full digits, the bias with four decimals.
    assert float(told["bias"]) == pytest.approx(math.log(1 + sum(map(math.exp, rivals))), abs=1e-4)
    # The same loss all the time: the margin less the bias does not change.
    still = (418 - 202) / unit - math.log(
        1 + sum(math.exp((x - 202) / unit) for x in (44, 112, 152))
    )
    assert float(told["margin"]) - float(told["bias"]) == pytest.approx(still, abs=2e-4)
    page.wait_for_timeout(300)
    assert bias_of(page) == told


def test_the_picture_stands_still_for_readers_who_asked_for_that(window):
    page = window("book/index", reduced_motion="reduce")
    page.wait_for_timeout(300)
    assert "bias" not in bias_of(page)
    assert page.get_by_role("button", name="Move the picture").is_visible()


def test_without_scripts_the_text_the_figures_and_the_card_are_there(visits):
    one = visits(java_script_enabled=False)
    one.page.goto(f"{one.site}{CHAPTER}.html")
    assert one.page.locator(".opening").is_visible()
    assert one.page.locator("article img").count() > 0
    assert "let the rivals agree" in one.page.locator("article h1").inner_text()
    one.page.goto(f"{one.site}book/index.html")
    assert one.page.locator("svg.idea").is_visible()
    one.context.close()


# --- By keyboard ------------------------------------------------------------------------------


def focused(page):
    return page.evaluate("() => document.activeElement.outerHTML.slice(0, 300)")


def test_the_first_stop_skips_to_the_text(window):
    page = window(CHAPTER)
    page.keyboard.press("Tab")
    assert "#main-content" in focused(page)
    assert page.locator("#pst-skip-link a, a.skip-link").first.is_visible()
    page.keyboard.press("Enter")
    assert page.url.endswith("#main-content")


def test_the_sidebar_and_the_text_are_reached_in_a_bearable_number_of_stops(window):
    page = window(CHAPTER)
    seen = []
    for _ in range(60):
        page.keyboard.press("Tab")
        seen.append(focused(page))
    assert any("part_logits.html" in one for one in seen)
    assert any("11_one_family" in one or "10_pairs.html" in one for one in seen)
    # Hundreds of formulas are no stops of their own.
    stops = page.evaluate(
        "() => [...document.querySelectorAll('mjx-container')].filter("
        "(e) => e.tabIndex >= 0 && e.scrollWidth <= e.clientWidth + 1).length"
    )
    assert stops == 0


def test_hidden_cells_open_by_keyboard(window):
    page = window(CHAPTER)
    closed = page.locator("details.hide summary").first
    closed.focus()
    assert not closed.evaluate("(e) => e.parentElement.open")
    page.keyboard.press("Enter")
    assert closed.evaluate("(e) => e.parentElement.open")


def test_a_term_says_what_it_means_to_the_keyboard_and_is_silenced_by_escape(window):
    page = window(CHAPTER)
    term = page.locator("a.reference:has(> .std-term)").first
    term.focus()
    hint = page.get_by_role("tooltip")
    assert hint.is_visible()
    assert len(hint.inner_text()) > 30
    assert term.get_attribute("aria-describedby") == "hint"
    page.keyboard.press("Escape")
    assert hint.is_hidden()


# --- By pointer -------------------------------------------------------------------------------


def test_a_symbol_says_what_it_means_when_it_is_pointed_at(window):
    page = window(CHAPTER)
    # The bias stands in the first paragraph.
    page.locator("article section > p mjx-container").first.locator("mjx-mi").first.hover()
    hint = page.get_by_role("tooltip")
    hint.wait_for(state="visible")
    assert "the bias" in hint.inner_text()
    page.mouse.move(5, 5)
    hint.wait_for(state="hidden")


def test_the_symbols_stand_in_a_table_too(window):
    page = window(CHAPTER)
    table = page.locator("details.symbols")
    table.locator("summary").click()
    assert "the bias" in table.inner_text()
    assert table.locator("tr").count() > 10


# --- On paper ---------------------------------------------------------------------------------


def test_a_chapter_is_printed_without_what_only_a_screen_can_use(window, tmp_path):
    page = window(CHAPTER)
    page.emulate_media(media="print")
    for name in (
        ".bd-sidebar-primary",
        ".bd-sidebar-secondary",
        ".header-article",
        ".prev-next-footer",
    ):
        found = page.locator(name)
        assert all(not found.nth(i).is_visible() for i in range(found.count())), name
    box = page.locator("article").bounding_box()
    assert box["width"] > 900  # the text has the width of the paper
    paper = page.pdf(format="A4", path=tmp_path / "chapter.pdf")
    pages = len(re.findall(rb"/Type\s*/Page\b", paper))
    # Formulas, code and figures take room: a full page has some two hundred words here.
    assert 100 < len(page.inner_text("article").split()) / pages < 600
    # Figures that nobody scrolled to are printed, too.
    assert len(re.findall(rb"/Subtype\s*/Image", paper)) >= page.locator("article img").count() / 2
