"""The book's pages keep their promises: run in order, readable, linked, and of one version."""

import doctest
import importlib.util
import re
from itertools import combinations, pairwise
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

# What the book's own Sphinx extension makes pages of; one of its modules imports another by name.
with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(BOOK / "_ext")
    contents = importlib.import_module("contents")
    drawing = importlib.import_module("drawing")
    made = importlib.import_module("book_pages")

CHAPTERS = tool.chosen([])
NOTEBOOKS = {path.stem: nbformat.read(path, as_version=4) for path in CHAPTERS}
PAGES = [*sorted(BOOK.glob("*.md")), *sorted(BOOK.glob("failures/*.md"))]

SHORT, LONG = 15, 25  # lines of a cell, and of a folded plotting cell
COLUMNS = 76  # as many as a page shows without scrolling
FOLDED = {"hide-input", "remove-input", "hide-cell", "remove-cell"}
# Cells whose output may differ from run to run.  Each weakens the test of its page, so the count
# is kept here and may not rise unnoticed.
MAY_DIFFER = 22

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
    known = {*labels(), "genindex"}  # the index is a page that Sphinx makes and labels
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


# --- What the book makes of its own files: contents, map, glossary, links ---------------------


@each_chapter
def test_a_chapter_opens_with_what_it_needs_gives_and_takes(name):
    chapter = contents.read_chapter(f"chapters/{name}")
    assert chapter.question.endswith("?")
    assert chapter.need
    assert chapter.able
    assert 10 <= chapter.minutes <= 120
    assert all(number < chapter.number for number in chapter.needs)


@each_chapter
def test_a_chapter_leads_to_the_sources_tables(name):
    assert any("../book/tables" in cell.source for cell in prose(name))


def test_every_chapter_belongs_to_a_part_with_a_page():
    assert [chapter.docname for chapter in contents.chapters()] == [
        f"chapters/{path.stem}" for path in CHAPTERS
    ]
    for part in contents.parts():
        text = (ROOT / f"{part.page}.md").read_text(encoding="utf-8")
        assert text.startswith(f"# {part.caption}\n"), part.page
        assert "?" in text
        assert "\n@part@\n" in text, f"{part.page} does not list its chapters"


def test_the_map_has_every_loss_once_and_in_its_chapter():
    places, losses = contents.losses()
    shown = {loss.function for loss in losses}
    public = {name for name in vars(marginlib) if name.endswith("_loss")}
    assert public <= shown <= set(contents.public())
    keys = {place.key for place in places}
    for loss in losses:
        assert loss.place in keys or not loss.parent, f"{loss.function}: {loss.place}"
        assert {loss.parent, loss.also} <= {"", *shown}, loss.function
        assert made.chapter_of(loss.function) is not None, loss.function
    assert [loss.function for loss in losses if not loss.parent] == ["softmax_loss"]


@pytest.mark.parametrize("size", drawing.SIZES, ids=lambda size: size.kind)
def test_no_two_boxes_of_the_map_overlap_and_no_word_leaves_its_box(size):
    places, losses = contents.losses()
    cards, _, height = drawing.layout(places, losses, size)
    assert len(cards) == len(losses) - 1  # all but the sentence itself
    for (x0, y0), (x1, y1) in combinations(cards.values(), 2):
        assert abs(x0 - x1) >= size.card or abs(y0 - y1) >= drawing.HEIGHT
    assert max(y for _, y in cards.values()) + drawing.HEIGHT <= height
    for loss in losses:
        lines = drawing.wrapped(loss.changes, size.letters)
        assert len(lines) <= 2, loss.function
        assert max(map(len, lines)) <= size.letters, loss.function


def test_a_term_of_the_glossary_is_used_where_it_is_said_to_come_in():
    for term, says in made.glossary().items():
        pattern = re.compile(made.as_written(term))
        number = made.brought_in(says)
        used = [name for name in NOTEBOOKS if pattern.search("\n".join(map(str, prose(name))))]
        assert any(int(name[:2]) >= number for name in used), term
        assert not number or int(used[-1][:2]) >= number
        assert len(says.split()) <= 40, f"{term}: a definition, not an essay"
        assert not re.search(r"[$`{}]", says), f"{term}: a hint is plain text"


@pytest.mark.parametrize(
    ("term", "text", "found"),
    [
        ("rival", "Two rivals stand", "rivals"),
        ("entropy", "of entropies", "entropies"),
        ("softmax loss", "The Softmax\nlosses", "Softmax\nlosses"),
        ("loss", "a lossless code", None),
        ("margin", "a soft-margin", None),
    ],
)
def test_a_term_is_found_as_people_write_it(term, text, found):
    match = re.search(made.as_written(term), text)
    assert (match and match[0]) == found


def test_every_symbol_of_the_notation_is_read_with_meaning_and_chapter():
    rows = re.findall(r"^\| \$.*$", (BOOK / "notation.md").read_text("utf-8"), re.MULTILINE)
    symbols = contents.symbols()
    assert len(symbols) >= len(rows) > 50
    numbers = [chapter.number for chapter in contents.chapters()]
    assert [s.tex for s in symbols if not s.meaning or s.chapter not in numbers] == []


@pytest.mark.parametrize(
    ("formula", "symbol", "there"),
    [
        (r"\lambda_j \ge 0", r"\lambda_j", True),
        (r"\lambda + 1", r"\lambda_j", False),
        (r"f_* - f_y", "f_y", True),
        (r"\operatorname{softmax}(f)", "m", False),
        (r"\text{the margin } \rho", "m", False),
        (r"\min_c f_c", "n", False),
        (r"\rho_1", r"\rho", True),
    ],
)
def test_a_symbol_is_told_from_letters_of_words(formula, symbol, there):
    assert contents.stands_in(contents.tokens(symbol), contents.tokens(formula)) is there


def test_a_letter_with_two_meanings_has_the_one_of_its_chapter():
    def meaning(number):
        return [symbol.special for symbol in contents.symbols_on(["m"], number)]

    assert meaning(5) == ["of an angle"]
    assert meaning(3) == [""]


@pytest.mark.parametrize("name", contents.public())
def test_a_public_name_leads_to_its_tests(name):
    # Report and the heads that all share are tested through what returns or extends them.
    through = {"Report": "check"}.get(name, name)
    assert contents.tests_of(contents.public()[through])


@pytest.mark.parametrize("name", [name for name in contents.public() if name.endswith("_loss")])
def test_a_loss_leads_to_a_section_of_its_chapter(name):
    chapter = made.chapter_of(name)
    labels = made.labels_of(contents.public()[name])
    headings = contents.speaks_of(chapter.docname, name, labels)
    assert headings
    assert set(headings) <= {heading for heading, _, _ in contents.sections(chapter.docname)}


def test_a_range_of_chapters_is_read_as_all_of_them():
    cells = {"need": "chapters 1 to 3, the divergence of chapter 5, and chapters 7 and 8."}
    told = contents.Chapter(9, "some", "T", "Q?", able="", minutes=1, run="1 second", **cells)
    assert told.needs == (1, 2, 3, 5, 7, 8)


@pytest.mark.parametrize(
    ("minutes", "words"),
    [(45, "45 minutes"), (60, "1 hour"), (95, "1½ hours"), (105, "1¾ hours"), (185, "3 hours")],
)
def test_a_time_is_said_as_a_reader_says_it(minutes, words):
    assert contents.duration(minutes) == words


def test_an_opening_in_other_words_is_refused_with_the_words_to_use():
    with pytest.raises(ValueError, match="You will be able to"):
        contents.opening("# A chapter\n\nWhy? You should know some algebra.")


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
