"""The pages of failures tell the truth: each makes its symptom happen, and mends it."""

import ast
import doctest
import re
from functools import cache
from pathlib import Path

import nbformat
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "book" / "failures"
INDEX = FOLDER / "index.md"
PAGES = {path.stem: path.read_text(encoding="utf-8") for path in sorted(FOLDER.glob("*.md"))}
del PAGES["index"]
PARTS = ["Make it happen", "Cause", "Cure", "Shown by"]
COLUMNS = 80  # with the prompt; more would scroll

each_page = pytest.mark.parametrize("name", PAGES)


def parts(name: str) -> dict[str, str]:
    """The sections of a page by their headings; the symptom stands under the title."""
    title, *rest = re.split(r"^#{1,2} ", PAGES[name], flags=re.M)[1:]
    return {"symptom": title, **dict(part.split("\n", 1) for part in rest)}


def code(text: str) -> str:
    """The examples of a text, without the fences, which to doctest are expected output."""
    return "\n".join(re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S))


def run(text: str, name: str) -> doctest.TestResults:
    """Run the examples of a page in a world of their own."""
    test = doctest.DocTestParser().get_doctest(code(text), {}, name, name, 0)
    return doctest.DocTestRunner(verbose=False).run(test)


@cache
def functions(file: str) -> frozenset[str]:
    """The tests in a file."""
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


@cache
def headings(chapter: Path) -> frozenset[str]:
    """The anchors of a chapter's headings: lower case, dashes for blanks, no punctuation."""
    text = "\n".join(
        cell.source
        for cell in nbformat.read(chapter, as_version=4).cells
        if cell.cell_type == "markdown"
    )
    found = re.findall(r"^#{1,3} +(.+)$", text, re.M)
    return frozenset(re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in found)


# --- Claimed: a page is built like the others, and every page can be found --------------------


@each_page
def test_a_page_has_a_symptom_and_the_four_parts_in_order(name):
    found = parts(name)
    assert list(found) == ["symptom", *PARTS]
    assert all(text.strip() for text in found.values())
    _, told = found["symptom"].split("\n", 1)
    assert len(told.split()) >= 10


def test_the_index_lists_every_page_once_and_by_its_own_title():
    # An empty link text takes the page's title, so the two cannot differ.
    listed = re.findall(r"^- \[\]\((\w+)\.md\)$", INDEX.read_text(encoding="utf-8"), re.M)
    assert sorted(listed) == sorted(PAGES)


def test_the_contents_list_the_pages_in_the_order_of_the_index():
    contents = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    entries = [chapter for part in contents["parts"] for chapter in part["chapters"]]
    (museum,) = [entry for entry in entries if entry["file"] == "book/failures/index"]
    listed = re.findall(r"^- \[\]\((\w+)\.md\)$", INDEX.read_text(encoding="utf-8"), re.M)
    assert [entry["file"] for entry in museum["sections"]] == [
        f"book/failures/{name}" for name in listed
    ]


def test_no_two_pages_have_the_same_title():
    titles = [text.splitlines()[0] for text in PAGES.values()]
    assert len(set(titles)) == len(titles)


@each_page
def test_the_code_of_a_page_fits_its_column(name):
    assert [line for line in code(PAGES[name]).splitlines() if len(line) > COLUMNS] == []


# --- Computed: what a page prints is what happens ---------------------------------------------


@each_page
def test_the_examples_of_a_page_print_what_the_page_says(name):
    result = run(PAGES[name], name)
    assert result.attempted >= 4
    assert result.failed == 0


@each_page
def test_symptom_and_cure_both_show_a_result(name):
    for part in ("Make it happen", "Cure"):
        examples = doctest.DocTestParser().get_examples(code(parts(name)[part]))
        assert any(example.want for example in examples), part


# --- Told: who reproduces it is there ---------------------------------------------------------


@each_page
def test_a_page_names_a_section_of_a_chapter_and_a_test(name):
    shown = parts(name)["Shown by"]
    places = re.findall(r"\]\(\.\./\.\./(chapters/\w+\.ipynb)#([\w-]+)\)", shown)
    tests = re.findall(r"^- `(tests/test_\w+\.py)::(test_\w+)`$", shown, re.M)
    assert places
    assert tests
    assert [anchor for file, anchor in places if anchor not in headings(ROOT / file)] == []
    assert [test for file, test in tests if test not in functions(file)] == []


def test_every_chapter_that_breaks_something_has_a_page():
    breaks = {
        path.stem for path in (ROOT / "chapters").glob("*.ipynb") if "what-breaks" in headings(path)
    }
    named = {stem for text in PAGES.values() for stem in re.findall(r"chapters/(\w+)\.ipynb", text)}
    assert sorted(breaks - named) == []


# --- Refused: a page whose code does not print that -------------------------------------------


def test_an_example_that_prints_something_else_is_noticed(capsys):
    assert run("```python\n>>> 1 + 1\n3\n```\n", "wrong").failed == 1
    assert "Expected" in capsys.readouterr().out
