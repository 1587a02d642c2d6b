"""What `make teach` builds for courses: slides, figures, the sheet of formulas, and the plans."""

import importlib.util
import re
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from marginlib.symbolic.proof import Equation, Unproved

ROOT = Path(__file__).resolve().parents[1]


def load(name: str):
    """A tool of the book, which is no part of a package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "book" / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


slides, figures, sheet, exercises, outside = map(
    load, ["slides", "figures", "sheet", "exercises", "outside"]
)
CHAPTERS = {path.stem: nbformat.read(path, as_version=4) for path in slides.chapters.chosen([])}
PLANS = (ROOT / "book" / "instructors" / "plans.md").read_text(encoding="utf-8")
FORMULAS = sheet.formulas()

each_chapter = pytest.mark.parametrize("name", CHAPTERS)


def kind(cell) -> str:
    return cell.metadata["slideshow"]["slide_type"]


# --- Slides -----------------------------------------------------------------------------------


@each_chapter
def test_every_section_and_every_figure_of_a_chapter_has_its_slide(name):
    made = slides.deck(CHAPTERS[name])
    headings = [
        cell.source.split("\n")[0].strip()
        for cell in made.cells
        if kind(cell) == "slide" and cell.source.startswith("#")
    ]
    asked = re.findall(
        r"^##? .+$",
        "\n".join(c.source for c in CHAPTERS[name].cells if c.cell_type == "markdown"),
        re.M,
    )
    assert headings == [line for line in asked if line[3:].strip() not in slides.LEFT_OUT]
    count = sum(len(slides.chapters.figures(cell)) for cell in CHAPTERS[name].cells)
    assert sum(len(slides.chapters.figures(cell)) for cell in made.cells) == count


@each_chapter
def test_the_prose_of_a_chapter_is_in_the_notes_word_for_word(name):
    made = slides.deck(CHAPTERS[name])
    notes = [cell.source for cell in made.cells if kind(cell) == "notes"]
    told = [cell for cell in slides.parts(CHAPTERS[name]) if cell.cell_type == "markdown"]
    assert notes == [outside.plain(cell.source) for cell in told]


@each_chapter
def test_nothing_of_the_books_own_markup_is_projected(name):
    made = slides.deck(CHAPTERS[name])
    shown = "\n".join(cell.source for cell in made.cells if cell.cell_type == "markdown")
    assert not re.search(r"^:::|^:label:|\{(eq|numref|prf:ref|doc|ref|cite:[tp])\}", shown, re.M)
    # A lecture room may have no network: nothing is shown from elsewhere.
    assert not re.search(r"<img|\]\(https?:[^)]*\.(?:svg|png)\)|<div", shown)
    still = re.findall(r"!\[.+?\]\((explore/\w+\.svg)\)", shown)
    assert [name for name in still if not (ROOT / "book" / "static" / name).exists()] == []


def test_a_slide_holds_no_more_than_fits():
    text = "\n\n".join(f"$$\nx_{{{k}}} = {k}\n$$" for k in range(20))
    made = slides.deck(new_notebook(cells=[new_markdown_cell("# A"), new_markdown_cell(text)]))
    heights, now = [], 0.0
    for cell in made.cells:
        if kind(cell) != "notes":
            now = slides.height(cell.source) + (now if kind(cell) == "-" else 0.0)
            heights.append(now)
    assert max(heights) <= slides.LINES


def test_a_room_sees_the_lead_the_formula_and_the_statement_and_no_proof():
    text = (
        "A first thought. More of it. It follows that\n\n$$\na = b\n$$ (eq-002-3)\n\n"
        ":::{prf:theorem} Small\n:label: thm-small\n\nAll is well.\n:::\n\n"
        ":::{prf:proof}\nBy {eq}`eq-002-3`.\n:::\n\nWords after."
    )
    shown = slides.visible(text)
    assert shown[0] == "It follows that"
    assert shown[1] == "$$\na = b\n\\tag{002.3}\n$$"
    assert shown[2].startswith("> **Small.**")
    assert "All is well." in shown[2]
    assert len(shown) == 3


# --- Figures ----------------------------------------------------------------------------------


def test_a_drawing_carries_its_caption_its_words_and_its_licence():
    signed = figures.signed(
        '<svg width="1">\n<metadata>date</metadata><g/></svg>', "a < b", "An arrow."
    )
    assert "<title>a &lt; b</title>\n<desc>An arrow.</desc>" in signed
    assert figures.LICENCE in signed
    assert "date" not in signed
    assert signed.endswith("<g/></svg>")


def test_a_captioned_figure_is_drawn_as_svg_and_twice_alike():
    draw = "import matplotlib.pyplot as plt\nplt.plot([0, 1])\nplt.show()"
    cell = new_code_cell(draw)
    cell.metadata["mystnb"] = {
        "figure": {"name": "fig-line", "caption": "As {eq}`eq-002-3` says."},
        "image": {"alt": "A line."},
    }
    one, two = (figures.drawings(new_notebook(cells=[cell]))["fig-line"] for _ in range(2))
    assert one == two
    assert one[0].lstrip().startswith(("<?xml", "<svg"))
    assert one[1:] == ("As (002.3) says.", "A line.")


# --- The sheet --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("label", "claim"),
    [pytest.param(e[0], e[2], id=e[0]) for entries in sheet.SHEET.values() for e in entries],
)
def test_a_formula_of_the_sheet_is_the_chapters_and_is_proved(label, claim):
    assert FORMULAS[label]
    assert sheet.status(claim) == ("definition" if claim is None else "∎")


def test_the_sheet_has_every_chapter_that_defines_a_loss():
    assert list(sheet.SHEET) == sorted(sheet.SHEET)
    assert {stem for stem in CHAPTERS if int(stem[:2]) <= 10} <= set(sheet.SHEET)


def test_a_formula_that_is_false_does_not_get_on_the_sheet():
    a, b = sheet.F[:2]
    with pytest.raises(Unproved):
        sheet.status(lambda: Equation("book", "0", a + b, a - b))


# --- Plans ------------------------------------------------------------------------------------


def test_every_exercise_of_a_plan_is_one_of_the_book():
    named = set(re.findall(r"`(ex-[\w-]+)`", PLANS))
    assert sorted(named - set(exercises.EXERCISES)) == []


def test_every_objective_is_taught_and_shown():
    objectives = re.findall(r"^\| (O\d+) \|.*\| (.+) \|$", PLANS, re.M)
    assert all("`ex-" in shown for _, shown in objectives)
    _, semester = PLANS.split("## A semester")
    taught = set(re.findall(r"\bO\d+", semester))
    assert {name for name, _ in objectives} <= taught


def test_the_semester_has_every_chapter_of_a_loss():
    _, semester = PLANS.split("## A semester")
    assert set(range(1, 11)) <= {int(k) for k in re.findall(r"chapter (\d+)", semester)}


def test_a_plans_sections_are_in_the_chapters():
    rows = re.findall(r"\| chapter (\d+), ([^|]+?) \|$", PLANS.split("## Three weeks")[0], re.M)
    assert rows
    for number, places in rows:
        (notebook,) = (CHAPTERS[stem] for stem in CHAPTERS if int(stem[:2]) == int(number))
        text = "\n".join(cell.source for cell in notebook.cells)
        for place in places.removeprefix("to ").split("; "):
            assert f"## {place}" in text, place


# --- Told outside the book --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("See {eq}`eq-002-3` and {numref}`fig-a`.", "See (002.3) and *fig-a*."),
        ("{cite:t}`kobayashi2019large` says", "Kobayashi (2019) says"),
        ("{doc}`the next <07_group>`", "the next"),
        ("::::{exercise} One\n:label: ex-a\nDo.\n::::", "**One.** Do."),
    ],
)
def test_fences_and_roles_are_put_into_words(written, read):
    assert outside.plain(written) == read
