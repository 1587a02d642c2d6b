"""The ledger says only what the tests show, and says it for every claim of the sections covered."""

import importlib.util
import re
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

spec = importlib.util.spec_from_file_location("ledger", ROOT / "book/tools/ledger.py")
ledger = importlib.util.module_from_spec(spec)
spec.loader.exec_module(ledger)

ROWS = ledger.read_rows()
MARKS = ledger.read_marks()

# What must be there: the last row of each source that is covered as far as it goes, and the
# numbered equations of the sections covered.
LAST = {"L": 27, "E": 38, "S": 21, "W": 22, "G": 42}
EQUATIONS = {
    "002": set(range(1, 16)),
    "001": set(range(1, 10)),
    "004": {16},
    "000": set(range(1, 18)),
}
STEMS = [
    "softmax",
    "hinge",
    "soft_margin",
    "large_margin",
    "angular",
    "gaussian_mixture",
    "group",
    "ensemble",
    "perturbed",
    "pairs",
    "one_family",
    "side_by_side",
    "at_scale",
    "choosing",
]

# --- Claimed and proved: the ledger of this repository -------------------------------------


def test_the_pages_are_up_to_date_or_make_pages_was_forgotten():
    assert not [path.name for path in ledger.stale()]


@pytest.mark.parametrize("row", [r for r in ROWS if r.status in ledger.TESTED], ids=lambda r: r.id)
def test_a_row_said_to_be_shown_has_a_test_that_shows_it(row):
    assert MARKS.get(row.id), f"no test carries @pytest.mark.claim({row.id!r})"


def test_every_mark_names_a_row():
    assert not set(MARKS) - {row.id for row in ROWS}


def test_the_rows_of_each_source_are_numbered_without_a_gap():
    for source, (letter, _, _) in ledger.SOURCES.items():
        ids = [row.id for row in ROWS if row.source == source]
        assert len(ids) >= LAST.get(letter, 0)
        assert ids == [f"{letter}{number}" for number in range(1, len(ids) + 1)]


@pytest.mark.parametrize("source", EQUATIONS)
def test_every_equation_of_the_sections_covered_has_a_row(source):
    places = " ".join(row.place for row in ROWS if row.source == source)
    assert {int(number) for number in re.findall(r"\((\d+)\)", places)} >= EQUATIONS[source]


# --- Computed and compared: legal rows -----------------------------------------------------


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_a_row_speaks_in_the_ledgers_own_words(row):
    assert row.source in ledger.SOURCES
    assert row.status in ledger.STATUSES
    assert row.kind in ledger.VERDICTS
    assert row.verdict != "holds if"
    assert row.chapter in STEMS
    assert "section" in row.place


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_a_row_that_is_amiss_says_what_was_printed_and_what_to_read(row):
    assert row.misprint or row.kind not in ledger.AMISS
    texts = [row.place, row.statement, row.verdict, row.remark]
    if row.misprint:
        texts += [row.misprint.printed, row.misprint.read, row.misprint.matters]
    assert all(texts)
    # An odd dollar would swallow the rest of the page as a formula.
    assert not [text for text in texts if text.count("$") % 2]


def test_each_row_can_be_linked_to_by_its_id():
    page = (ROOT / "book/ledger.md").read_text(encoding="utf-8")
    for row in ROWS:
        assert page.count(f"(claim-{row.id})=\n### {row.id}\n") == 1


def test_the_list_of_misprints_holds_all_of_them_and_nothing_else():
    page = (ROOT / "book/misprints.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\(misprint-(\w+)\)=$", page, re.MULTILINE)
    assert listed == [row.id for row in ROWS if row.misprint]


# --- Told and checked: the tool on a small project of its own --------------------------------

CLAIM = """
[L1]
source = "002"
place = "eq. (1), section 2.1"
statement = '''
A margin is
$m$.'''
status = "proved"
verdict = "holds"
remark = "Yes."
chapter = "softmax"
"""

MARKED = """
import pytest

@pytest.mark.claim("L1", "L2")
def test_two_rows():
    pass

@pytest.mark.claim("L1")
class TestBelow:
    @pytest.mark.parametrize("x", [pytest.param(1, marks=pytest.mark.claim("L3"))])
    def test_inside(self, x):
        pass

def test_none():
    pass
"""


@pytest.fixture
def project(tmp_path):
    (tmp_path / "book").mkdir()
    (tmp_path / "tests").mkdir()
    (tmp_path / "book/claims.toml").write_text(CLAIM)
    (tmp_path / "tests/test_softmax.py").write_text(MARKED)
    return tmp_path


def test_marks_are_found_on_functions_classes_and_parameters(project):
    two, inside = "tests/test_softmax.py::test_two_rows", "tests/test_softmax.py::TestBelow"
    inside += "::test_inside"
    assert ledger.read_marks(project) == {"L1": [two, inside], "L2": [two], "L3": [inside]}


def test_a_test_is_listed_under_its_file_by_the_sentence_it_is_named_by(project):
    assert ledger.shown_by(ledger.read_marks(project)["L1"]) == [
        "*Shown by* `tests/test_softmax.py`:\n\n- two rows\n- TestBelow: inside"
    ]
    assert ledger.shown_by([]) == []


def test_a_line_break_in_the_toml_is_a_space_on_the_page(project):
    (row,) = ledger.read_rows(project)
    assert row.statement == "A margin is $m$."


def test_a_page_goes_stale_when_a_claim_or_a_mark_changes(project):
    for path, text in ledger.pages(project).items():
        path.write_text(text)
    assert not ledger.stale(project)
    (project / "tests/test_softmax.py").write_text(MARKED.replace('"L1", "L2"', '"L2"'))
    assert [path.name for path in ledger.stale(project)] == ["ledger.md"]
    shutil.copy(ROOT / "book/claims.toml", project / "book/claims.toml")
    assert [path.name for path in ledger.stale(project)] == ["ledger.md", "misprints.md"]


def test_a_chapter_is_linked_once_the_book_lists_it(project):
    assert ledger.chapter_link("softmax", project) == "chapter `softmax` (to come)"
    (project / "chapters").mkdir()
    (project / "chapters/01_softmax.ipynb").touch()
    (project / "_toc.yml").write_text("chapters:\n- file: chapters/01_softmax\n")
    assert ledger.chapter_link("softmax", project) == "{doc}`../chapters/01_softmax`"


# --- Refused -------------------------------------------------------------------------------


def test_a_mark_that_no_test_carries_is_refused(project):
    (project / "tests/test_softmax.py").write_text('pytestmark = pytest.mark.claim("L1")\n')
    with pytest.raises(ValueError, match=r"test_softmax.py: a claim mark on no test names L1"):
        ledger.read_marks(project)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("remark", "remarks"), r"\[L1\].*unexpected keyword argument 'remarks'"),
        (('status = "proved"\n', ""), r"\[L1\].*missing.*'status'"),
    ],
)
def test_a_row_with_an_unknown_or_a_missing_field_is_refused(project, change, message):
    (project / "book/claims.toml").write_text(CLAIM.replace(*change))
    with pytest.raises(ValueError, match=message):
        ledger.read_rows(project)
