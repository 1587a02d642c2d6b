"""The book's pages keep their promises: run in order, readable, linked, and of one version."""

import doctest
import importlib.util
import re
from itertools import pairwise
from pathlib import Path

import nbformat
import pytest
import yaml

import marginlib

ROOT = Path(__file__).resolve().parents[1]
BOOK = ROOT / "book"

spec = importlib.util.spec_from_file_location("chapters_tool", BOOK / "tools" / "chapters.py")
tool = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tool)

CHAPTERS = tool.chosen([])
NOTEBOOKS = {path.stem: nbformat.read(path, as_version=4) for path in CHAPTERS}
PAGES = [*sorted(BOOK.glob("*.md")), *sorted(BOOK.glob("failures/*.md"))]

SHORT, LONG = 15, 25  # lines of a cell, and of a folded plotting cell
COLUMNS = 76  # as many as a page shows without scrolling
FOLDED = {"hide-input", "remove-input", "hide-cell", "remove-cell"}
# Cells whose output may differ from run to run.  Each weakens the test of its page, so the count
# is kept here and may not rise unnoticed.
MAY_DIFFER = 17

each_chapter = pytest.mark.parametrize("name", NOTEBOOKS)


def code(name: str) -> list:
    return [cell for cell in NOTEBOOKS[name].cells if cell.cell_type == "code"]


def prose(name: str) -> list:
    return [cell for cell in NOTEBOOKS[name].cells if cell.cell_type == "markdown"]


def tags(cell) -> set[str]:
    return set(cell.metadata.get("tags", []))


def body(source: str) -> str:
    """Markdown without its fenced code, whose text is shown and not read."""
    return re.sub(r"^ *(```+|~~~+).*?^ *\1 *$", "", source, flags=re.MULTILINE | re.DOTALL)


def everything() -> dict[str, str]:
    """The markdown of every page of the book: chapters and the pages beside them."""
    pages = {path.relative_to(BOOK).as_posix(): path.read_text(encoding="utf-8") for path in PAGES}
    chapters = {name: "\n\n".join(cell.source for cell in prose(name)) for name in NOTEBOOKS}
    return {**pages, **chapters}


# --- A notebook is what it says: run from top to bottom, by this code -------------------------


@each_chapter
def test_every_cell_was_run_in_order(name):
    # Strict nbval passes an unrun cell, whatever it would print.
    counts = [cell.execution_count for cell in code(name)]
    assert counts == list(range(1, len(counts) + 1))


@each_chapter
def test_the_stored_form_is_the_normal_form(name):
    (path,) = tool.chosen([name])
    assert tool.check(path) == []


@each_chapter
def test_the_first_code_cell_installs_the_version_of_pyproject(name):
    first = code(name)[0]
    assert first.source == tool.install_source()
    assert tags(first) == {"remove-cell"}


def test_outputs_that_may_differ_have_a_reason_and_are_few():
    free = [
        (name, cell)
        for name in NOTEBOOKS
        for cell in code(name)
        if tags(cell) & {"nbval-ignore-output", "nbval-skip"}
    ]
    for name, cell in free:
        assert len(cell.metadata.get("reason", "").split()) >= 3, f"{name}: {cell.id} says no why"
    assert len(free) <= MAY_DIFFER


@each_chapter
def test_cell_ids_are_readable_and_unique(name):
    ids = [cell.id for cell in NOTEBOOKS[name].cells]
    assert len(set(ids)) == len(ids)
    assert [i for i in ids if not tool.READABLE.fullmatch(i)] == []


# --- A page can be read ----------------------------------------------------------------------


@each_chapter
def test_a_cell_is_short_and_narrow(name):
    for cell in code(name):
        lines = cell.source.splitlines()
        assert len(lines) <= (LONG if tags(cell) & FOLDED else SHORT), f"{cell.id} is too long"
        wide = [line for line in lines if len(line) > COLUMNS]
        assert not wide, f"{cell.id} is wider than {COLUMNS}: {wide}"


@each_chapter
def test_every_figure_has_words_for_those_who_do_not_see_it(name):
    for cell in code(name):
        if not tool.figures(cell):
            continue
        shown = cell.metadata.get("mystnb", {})
        assert len(shown.get("image", {}).get("alt", "")) >= 40, f"{cell.id}: no alt text"
        assert shown.get("figure", {}).get("caption"), f"{cell.id}: no caption"
        assert re.fullmatch(r"fig-[a-z0-9-]+", shown["figure"].get("name", "")), f"{cell.id}: name"


@each_chapter
def test_a_picture_in_the_prose_has_alt_text(name):
    for cell in prose(name):
        assert not re.search(r"!\[\s*\]\(|<img (?![^>]*\balt=)", cell.source), cell.id


@each_chapter
def test_a_page_has_one_title_and_sections(name):
    headings = [
        len(level)
        for cell in prose(name)
        for level in re.findall(r"^(#+) ", body(cell.source), re.MULTILINE)
    ]
    assert headings[0] == 1
    assert headings.count(1) == 1
    assert headings.count(2) >= 5
    assert all(after <= before + 1 for before, after in pairwise(headings))


@each_chapter
def test_boxes_are_fenced_with_colons(name):
    # Colab and GitHub show a backtick fence as code, and its formulas as TeX.
    for cell in prose(name):
        assert not re.search(r"^```+\{", cell.source, re.MULTILINE), f"{cell.id}: use :::"


@each_chapter
def test_a_displayed_formula_stands_alone(name):
    # Without blank lines around it, `$$` is shown as it is typed, and nothing warns.
    for cell in prose(name):
        lines = ["", *body(cell.source).splitlines(), ""]
        opened = False
        for before, line, after in zip(lines, lines[1:], lines[2:], strict=False):
            if not line.lstrip().startswith("$$"):
                continue
            whole = line.count("$$") == 2
            if whole or not opened:
                assert not before.strip() or before.startswith(":"), f"{cell.id}: {line}"
            if whole or opened:
                assert not after.strip() or after.startswith(":"), f"{cell.id}: {line}"
            opened = opened != (not whole)
        assert not opened, f"{cell.id}: a formula is not closed"


# --- What a page points to is there -----------------------------------------------------------


def labels() -> list[str]:
    found = []
    for text in everything().values():
        found += re.findall(r"^\$\$ *\(([\w:-]+)\)", text, re.MULTILINE)
        found += re.findall(r"^:(?:label|name): *([\w:-]+)", text, re.MULTILINE)
        found += re.findall(r"^\(([\w:-]+)\)=$", text, re.MULTILINE)
    for name in NOTEBOOKS:
        for cell in code(name):
            found += [cell.metadata.get("mystnb", {}).get("figure", {}).get("name")]
    return [label for label in found if label]


def references(role: str) -> list[tuple[str, str]]:
    found = []
    for page, text in everything().items():
        for target in re.findall(rf"\{{{role}\}}`([^`]*)`", text):
            named = re.fullmatch(r".*<([^>]*)>", target, re.DOTALL)
            found += [(page, part.strip()) for part in (named[1] if named else target).split(",")]
    return found


def test_no_two_places_have_the_same_label():
    every = labels()
    assert sorted({label for label in every if every.count(label) > 1}) == []


@pytest.mark.parametrize("role", ["eq", "numref", "prf:ref", "ref"])
def test_every_reference_meets_its_label(role):
    known = set(labels())
    assert [(page, name) for page, name in references(role) if name not in known] == []


def test_every_citation_is_in_the_bibliography():
    text = (BOOK / "references.bib").read_text(encoding="utf-8")
    keys = re.findall(r"^@\w+\{([^,]+),", text, re.MULTILINE)
    assert len(set(keys)) == len(keys)
    cited = [name for role in ("cite:t", "cite:p", "cite") for name in references(role)]
    assert [(page, key) for page, key in cited if key not in keys] == []


def test_every_role_and_code_span_is_closed():
    # An open one is no warning to Sphinx: the reader sees the braces.
    for page, text in everything().items():
        for paragraph in re.split(r"\n\s*\n", body(text)):
            single = re.sub(r"``.*?``", "", paragraph, flags=re.DOTALL)
            assert single.count("`") % 2 == 0, f"{page}: {paragraph[:80]}"


def test_the_contents_list_every_chapter_and_page():
    contents = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    entries = [chapter for part in contents["parts"] for chapter in part["chapters"]]
    entries += [section for entry in entries for section in entry.get("sections", [])]
    listed = [contents["root"], *(entry["file"] for entry in entries)]
    there = [path.relative_to(ROOT).with_suffix("").as_posix() for path in [*CHAPTERS, *PAGES]]
    assert sorted(listed) == sorted(there)
    assert [page for page in listed if page.startswith("chapters/")] == [
        f"chapters/{path.stem}" for path in CHAPTERS
    ]


def test_the_library_page_describes_every_public_name():
    text = (BOOK / "api.md").read_text(encoding="utf-8")
    described = re.findall(r"^\.\. auto(?:function|class):: (\w+)$", text, re.MULTILINE)
    public = [
        name
        for name, value in vars(marginlib).items()
        if not name.startswith("_") and callable(value)
    ]
    assert sorted(described) == sorted(public)


# --- One version, one address, no machine -----------------------------------------------------


def written() -> list[Path]:
    """The text files of the project: what people wrote and what tools stored beside it."""
    skip = {".venv", "_build", "dist", "build", "__pycache__"}
    kinds = {".bib", ".cff", ".cfg", ".css", ".ipynb", ".js", ".json", ".md", ".py", ".svg"}
    kinds |= {".toml", ".txt", ".yml", ""}

    def ours(path):
        parts = path.relative_to(ROOT).parts
        hidden = any(part.startswith(".") and part not in {".ci", ".github"} for part in parts)
        return path.is_file() and path.suffix in kinds and not hidden and not skip & set(parts)

    return [path for path in ROOT.rglob("*") if ours(path)]


def test_the_version_is_the_same_everywhere():
    version = tool.project()["version"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert version == marginlib.__version__ == citation["version"]
    assert f"## [{version}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_address_is_written_by_hand_in_one_place():
    address = tool.project()["urls"]["Repository"].removeprefix("https://")
    found = []
    for path in written():
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".ipynb":
            text = "\n".join(c.source for c in NOTEBOOKS[path.stem].cells if c.id != "install")
        found += [path.name] * text.count(address)
    assert found == ["pyproject.toml"]


def test_no_folder_of_a_machine_stands_in_a_file():
    homes = re.compile("/(?:" + "|".join(["home", "root", "Users", "tmp", "work", "opt"]) + r")/\w")
    found = [path.name for path in written() if homes.search(path.read_text(encoding="utf-8"))]
    assert found == []


@pytest.mark.parametrize("page", ["README.md", "book/index.md", "book/grading.md"])
def test_the_example_that_a_newcomer_copies_runs(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    # To doctest a closing fence is more of the expected output; to a reader it is not.
    example = doctest.DocTestParser().get_doctest(
        re.sub(r"^ *```.*$", "", text, flags=re.MULTILINE), {}, page, page, 0
    )
    result = doctest.DocTestRunner().run(example)
    assert result.attempted >= 5
    assert result.failed == 0


# --- The tool that stores the notebooks -------------------------------------------------------


def notebook(*cells):
    return nbformat.v4.new_notebook(cells=list(cells))


def test_what_a_machine_leaves_in_a_notebook_is_dropped():
    cell = nbformat.v4.new_code_cell("1 / 0", execution_count=2)
    cell.metadata["execution"] = {"iopub.execute_input": "now"}
    cell.outputs = [
        nbformat.v4.new_output("error", ename="E", evalue="words", traceback=["/a/b/c.py"])
    ]
    stored = tool.normalise(notebook(nbformat.v4.new_markdown_cell("# Title"), cell))
    assert stored.cells[2].metadata == {}
    assert stored.cells[2].outputs[0].traceback == ["E: words"]
    assert stored.metadata.kernelspec.display_name == "Python 3"


def test_ids_tell_where_a_cell_stands_and_stay():
    cells = [
        nbformat.v4.new_markdown_cell("# A title"),
        nbformat.v4.new_code_cell("1"),
        nbformat.v4.new_markdown_cell("## Next: $x$ of 2"),
        nbformat.v4.new_code_cell("2", id="kept-name"),
    ]
    once = tool.normalise(notebook(*cells))
    assert [cell.id for cell in once.cells] == [
        "a-title",
        "install",
        "a-title-2",
        "next-of-2",
        "kept-name",
    ]
    assert tool.text(tool.normalise(once)) == tool.text(once)


@pytest.mark.parametrize(
    ("text", "bad"),
    [
        ("saved in " + "/".join(["", "home", "me", "data.npz"]), True),
        ("see https://example.org/a/b/c", False),
        ("and/or/neither, 1/2/3", False),
        ("$a / b$ and </td></tr></table>", False),
        ("C:" + "\\data", True),
    ],
)
def test_absolute_paths_are_told_from_other_slashes(text, bad):
    found = tool.faults(notebook(nbformat.v4.new_markdown_cell(text)))
    assert bool(found) is bad


def test_a_gpu_is_asked_for_only_where_something_is_trained():
    reads = notebook(nbformat.v4.new_code_cell("from marginlib.lab import show"))
    trains = notebook(nbformat.v4.new_code_cell("from marginlib.lab import nets, train"))
    assert "accelerator" not in tool.notebook_metadata(reads)
    assert tool.notebook_metadata(trains)["accelerator"] == "GPU"
