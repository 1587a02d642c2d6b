"""Exercises are fair: each has a hint and a solution, and a check tells right from wrong.

The solutions stand apart, in ``book/instructors/``, in sections that carry the exercise's label.
Their code is run after what the reader has at hand: of the chapter's cells those that define a
name which the code uses.  Where the chapter has a function ``check_...`` for the exercise, the
first block of the section ends with the answer, and the wrong answers that a check must refuse
follow, each under a line ``Refused, with "the hint":``.
"""

import ast
import re
import symtable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import nbformat
import pytest

from marginlib.lab import studies

ROOT = Path(__file__).resolve().parents[1]
CHAPTERS = sorted((ROOT / "chapters").glob("[0-9][0-9]_*.ipynb"))
SOLUTIONS = sorted((ROOT / "book" / "instructors").glob("*.md"))
KINDS = ("By hand", "With SymPy", "In code", "An experiment", "Find the mistake")
BLOCK = re.compile(r'(?:^Refused, with "([^"]+)":\n\n)?^```python\n(.*?)^```$', re.M | re.S)


class Exercise(NamedTuple):
    chapter: str
    title: str
    text: str  # as far as the next exercise, so with a hint that stands below
    before: tuple[str, ...]  # the code cells of the page above the exercise
    code: tuple[str, ...]  # those that belong to it


def read(path: Path) -> dict[str, Exercise]:
    """The exercises of a chapter by their labels."""
    above, found = [], []
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code" and cell.id != "install":
            (found[-1]["code"] if found else above).append(cell.source)
        if cell.cell_type == "markdown":
            rest, *starts = re.split(r"^:{3,}\{exercise\}", cell.source, flags=re.M)
            if found:
                found[-1]["text"] += rest
            found += [{"text": text, "code": []} for text in starts]
    every = {}
    for one in found:
        opening = re.match(r" *(.*)\n:label: (\S+)\n", one["text"])
        assert opening, f"{path.stem}: no label in {one['text'][:60]!r}"
        title, label = opening.groups()
        assert label not in every, f"{path.stem}: two exercises {label}"
        every[label] = Exercise(path.stem, title, one["text"], tuple(above), tuple(one["code"]))
        above += one["code"]
    return every


def sections(path: Path) -> dict[str, str]:
    """The sections of a page of solutions by the labels in their headings."""
    _, *parts = re.split(r"^## ", path.read_text(encoding="utf-8"), flags=re.M)
    every = {}
    for part in parts:
        heading = part.splitlines()[0]
        label = re.search(r"\(`(ex-[\w-]+)`\)$", heading)
        assert label, f"{path.stem}: {heading!r} does not end with an exercise's label"
        assert label[1] not in every, f"{path.stem}: two solutions of {label[1]}"
        every[label[1]] = part
    return every


BY_CHAPTER = {path.stem: read(path) for path in CHAPTERS}
EXERCISES = {label: one for every in BY_CHAPTER.values() for label, one in every.items()}
SOLVED = {path.stem: sections(path) for path in SOLUTIONS}
SECTIONS = {label: text for every in SOLVED.values() for label, text in every.items()}

each_chapter = pytest.mark.parametrize("chapter", BY_CHAPTER)


def blocks(label: str) -> list[str]:
    """The code of a solution."""
    return [code for hint, code in BLOCK.findall(SECTIONS.get(label, "")) if not hint]


def wrong_answers(label: str) -> list[tuple[str, str]]:
    """The hints and the code of the answers that are to be refused."""
    return [(hint, code) for hint, code in BLOCK.findall(SECTIONS.get(label, "")) if hint]


# --- What a reader has at hand ----------------------------------------------------------------


def scopes(table: symtable.SymbolTable) -> list[symtable.SymbolTable]:
    """A table of names and those of the functions and comprehensions in it."""
    return [table, *(inner for child in table.get_children() for inner in scopes(child))]


@cache
def names(code: str) -> tuple[frozenset[str], frozenset[str]]:
    """The global names that a piece of code binds, and those that it takes from before."""
    binds, takes = set(), set()
    for node in ast.parse(code).body:
        top = symtable.symtable(ast.unparse(node), "statement", "exec")
        seen = [name for scope in scopes(top) for name in scope.get_symbols()]
        seen = [*top.get_symbols(), *(name for name in seen if name.is_global())]
        bound = {name.get_name() for name in seen if name.is_assigned() or name.is_imported()}
        read = {name.get_name() for name in seen if name.is_referenced()}
        # `x = x + 1` takes x from before; a loop over x, or a function that calls itself, does not.
        takes |= read - binds - (set() if isinstance(node, ast.Assign | ast.AugAssign) else bound)
        binds |= bound
    return frozenset(binds), frozenset(takes)


def at_hand(cells: tuple[str, ...], code: str) -> dict:
    """Run of the cells what defines the names that the code takes from them, and no more.

    A page trains and plots for minutes; an exercise needs little of it.
    """
    statements = [ast.unparse(node) for cell in cells for node in ast.parse(cell).body]
    wanted = names(code)[1]
    while True:
        needed = [text for text in statements if names(text)[0] & wanted]
        more = wanted.union(*(names(text)[1] for text in needed))
        if more == wanted:
            break
        wanted = more
    space = {"__name__": "chapter"}
    for text in needed:
        exec(text, space)
    return space


def check_of(label: str) -> str | None:
    """The name of the function on the page that checks an answer, if there is one."""
    bound = [name for cell in EXERCISES[label].code for name in names(cell)[0]]
    found = [name for name in bound if name.startswith("check_")]
    assert len(found) <= 1, f"{label}: which of {found} is the check?"
    return found[0] if found else None


def answer(code: str, space: dict):
    """Run a block and take what its last line defines."""
    exec(code, space)
    last = ast.parse(code).body[-1]
    return space[last.name if isinstance(last, ast.FunctionDef) else last.targets[0].id]


def verdict(label: str, code: str) -> str:
    """What the page says to an answer."""
    exercise, check = EXERCISES[label], check_of(label)
    space = at_hand(exercise.before + exercise.code, f"{check}\n{code}")
    return space[check](answer(code, space))


def attempts(label: str) -> list[str]:
    """The calls by which a page shows its check at work."""
    calls = [
        node
        for cell in EXERCISES[label].code
        for node in ast.walk(ast.parse(cell))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    ]
    return [ast.unparse(call) for call in calls if call.func.id == check_of(label)]


CHECKED = [label for label in EXERCISES if check_of(label)]
WRONG = [
    pytest.param(label, hint, code, id=f"{label}-{hint}")
    for label in EXERCISES
    for hint, code in wrong_answers(label)
]

# --- Claimed: every chapter has its exercises, every exercise a hint and a solution -----------


@each_chapter
def test_a_chapter_has_at_least_five_exercises_and_every_kind(chapter):
    titles = [exercise.title for exercise in BY_CHAPTER[chapter].values()]
    assert len(titles) >= 5
    kinds = [re.match(rf"({'|'.join(KINDS)})(?:$|: )", title) for title in titles]
    assert None not in kinds, titles
    assert {kind[1] for kind in kinds} == set(KINDS)


def test_no_two_exercises_have_the_same_label():
    assert len(EXERCISES) == sum(map(len, BY_CHAPTER.values()))
    for chapter, every in BY_CHAPTER.items():
        stem = chapter[3:].replace("_", "-")
        assert [label for label in every if not label.startswith(f"ex-{stem}-")] == []


@pytest.mark.parametrize("label", EXERCISES)
def test_an_exercise_has_a_hint(label):
    hints = re.findall(r"^:{3,}\{dropdown\} (?:A h|H)int\n(.+)", EXERCISES[label].text, re.M)
    assert len(hints) == 1


@each_chapter
def test_the_exercises_and_the_solutions_are_the_same_in_the_same_order(chapter):
    assert list(SOLVED[chapter]) == list(BY_CHAPTER[chapter])


def test_every_page_of_solutions_belongs_to_a_chapter():
    assert list(SOLVED) == list(BY_CHAPTER)


@pytest.mark.parametrize("path", SOLUTIONS, ids=lambda path: path.stem)
def test_every_fence_of_a_solution_is_code_that_is_run(path):
    text = path.read_text(encoding="utf-8")
    run = sum(len(blocks(label)) + len(wrong_answers(label)) for label in sections(path))
    assert text.count("```") == 2 * run
    assert text.count("Refused, with") == sum(len(wrong_answers(label)) for label in sections(path))


# --- Computed: the solutions run --------------------------------------------------------------


@pytest.fixture
def _rehearsal(monkeypatch):
    """Train for one epoch on a few images: the code of an experiment is run, not its result."""
    train = studies.train

    def short(net, head, images, *, epochs, **options):
        return train(net, head, images.fewer(8), epochs=1, **options)

    monkeypatch.setattr(studies, "train", short)


@pytest.mark.usefixtures("_rehearsal")
@pytest.mark.parametrize("label", [label for label in EXERCISES if blocks(label)])
def test_a_solution_runs_after_the_page(label):
    exercise, code = EXERCISES[label], "\n".join(blocks(label))
    exec(code, at_hand(exercise.before + exercise.code, code))


@pytest.mark.parametrize(
    "label", [label for label, one in EXERCISES.items() if one.title.startswith("With SymPy")]
)
def test_a_solution_in_sympy_is_proved_and_not_only_printed(label):
    assert re.search(r"^ *(assert |prove\()", "\n".join(blocks(label)), re.M)


# --- Told: the page's checks know the right answer --------------------------------------------


def test_every_exercise_in_code_has_a_check():
    in_code = [label for label, one in EXERCISES.items() if one.title.startswith("In code")]
    assert sorted(set(in_code) - set(CHECKED)) == []


@pytest.mark.parametrize("label", CHECKED)
def test_the_check_accepts_the_solution(label):
    assert verdict(label, blocks(label)[0]) == "right"


# --- Refused: the attempt on the page, and the likely slips -----------------------------------


@pytest.mark.parametrize("label", CHECKED)
def test_the_check_refuses_the_attempt_on_the_page(label):
    assert attempts(label)
    for call in attempts(label):
        exercise = EXERCISES[label]
        space = at_hand(exercise.before + exercise.code, call)
        assert eval(call, space) != "right"


@pytest.mark.parametrize("label", CHECKED)
def test_two_wrong_answers_or_more_are_written_down(label):
    assert len({hint for hint, _ in wrong_answers(label)}) >= 2


@pytest.mark.parametrize(("label", "hint", "code"), WRONG)
def test_a_slip_is_refused_with_the_hint_that_names_it(label, hint, code):
    assert hint in verdict(label, code)
    assert verdict(label, code) != "right"


# --- The tools of this file -------------------------------------------------------------------


def test_what_a_reader_has_at_hand_is_what_the_code_needs():
    cells = ("import math", "a = 2", "def times_a(x):\n    return a * x", "b = 1 / 0", "a = 3")
    space = at_hand(cells, "c = times_a(1)")
    assert "math" not in space
    # A function on the page sees what its names mean at the end, as in a notebook.
    assert space["times_a"](1) == 3


@pytest.mark.parametrize(
    ("code", "binds", "takes"),
    [
        ("def f(x):\n    y = x + g\n    return [z for z in y]", {"f"}, {"g"}),
        ("x = x + 1", {"x"}, {"x"}),
        ("x = 1\ny = x", {"x", "y"}, set()),
        ("for x in (1, 2):\n    x", {"x"}, set()),
        ("from a import b as c", {"c"}, set()),
    ],
)
def test_the_names_that_code_binds_and_takes_are_told_apart(code, binds, takes):
    assert names(code) == (binds, takes)
