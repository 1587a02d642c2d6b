"""Exercises are fair: each has a hint and a solution, and a check tells right from wrong.

How they are read from the chapters and the instructors' pages is told in
``book/tools/exercises.py``.
"""

import importlib.util
import re
from pathlib import Path

import pytest

from marginlib.lab import studies

ROOT = Path(__file__).resolve().parents[1]
KINDS = ("By hand", "With SymPy", "In code", "An experiment", "Find the mistake")

spec = importlib.util.spec_from_file_location("assignment", ROOT / "book/tools/assignment.py")
assignment = importlib.util.module_from_spec(spec)
spec.loader.exec_module(assignment)
tool = assignment.exercises

EXERCISES = tool.EXERCISES
WRONG = [
    pytest.param(label, hint, code, id=f"{label}-{hint}")
    for label in EXERCISES
    for hint, code in tool.wrong_answers(label)
]

each_chapter = pytest.mark.parametrize("chapter", tool.BY_CHAPTER)

# --- Claimed: every chapter has its exercises, every exercise a hint and a solution -----------


@each_chapter
def test_a_chapter_has_at_least_five_exercises_and_every_kind(chapter):
    titles = [exercise.title for exercise in tool.BY_CHAPTER[chapter].values()]
    assert len(titles) >= 5
    kinds = [re.match(rf"({'|'.join(KINDS)})(?:$|: )", title) for title in titles]
    assert None not in kinds, titles
    assert {kind[1] for kind in kinds} == set(KINDS)


def test_no_two_exercises_have_the_same_label():
    assert len(EXERCISES) == sum(map(len, tool.BY_CHAPTER.values()))
    for chapter, every in tool.BY_CHAPTER.items():
        stem = chapter[3:].replace("_", "-")
        assert [label for label in every if not label.startswith(f"ex-{stem}-")] == []


@pytest.mark.parametrize("label", EXERCISES)
def test_an_exercise_has_a_hint(label):
    hints = re.findall(r"^:{3,}\{dropdown\} (?:A h|H)int\n(.+)", EXERCISES[label].text, re.M)
    assert len(hints) == 1


@each_chapter
def test_the_exercises_and_the_solutions_are_the_same_in_the_same_order(chapter):
    assert list(tool.SOLVED[chapter]) == list(tool.BY_CHAPTER[chapter])


def test_every_page_of_solutions_belongs_to_a_chapter():
    assert list(tool.SOLVED) == list(tool.BY_CHAPTER)


@pytest.mark.parametrize("path", tool.SOLUTIONS, ids=lambda path: path.stem)
def test_every_fence_of_a_solution_is_code_that_is_run(path):
    text = path.read_text(encoding="utf-8")
    run = sum(
        len(tool.blocks(label)) + len(tool.wrong_answers(label)) for label in tool.sections(path)
    )
    assert text.count("```") == 2 * run
    assert text.count("Refused, with") == sum(
        len(tool.wrong_answers(label)) for label in tool.sections(path)
    )


# --- Computed: the solutions run --------------------------------------------------------------


@pytest.fixture
def _rehearsal(monkeypatch):
    """Train for one epoch on a few images: the code of an experiment is run, not its result."""
    train = studies.train

    def short(net, head, images, *, epochs, **options):
        return train(net, head, images.fewer(8), epochs=1, **options)

    monkeypatch.setattr(studies, "train", short)


@pytest.mark.usefixtures("_rehearsal")
@pytest.mark.parametrize("label", [label for label in EXERCISES if tool.blocks(label)])
def test_a_solution_runs_after_the_page(label):
    exercise, code = EXERCISES[label], "\n".join(tool.blocks(label))
    exec(code, tool.at_hand(exercise.before + exercise.code, code))


@pytest.mark.parametrize(
    "label", [label for label, one in EXERCISES.items() if one.title.startswith("With SymPy")]
)
def test_a_solution_in_sympy_is_proved_and_not_only_printed(label):
    assert re.search(r"^ *(assert |prove\()", "\n".join(tool.blocks(label)), re.M)


# --- Told: the page's checks know the right answer --------------------------------------------


def test_every_exercise_has_a_check():
    assert [label for label in EXERCISES if tool.check_of(label) is None] == []


@pytest.mark.usefixtures("_rehearsal")
@pytest.mark.parametrize("label", EXERCISES)
def test_the_check_accepts_the_solution(label):
    assert tool.verdict(label, tool.blocks(label)[0]) == "right"


# --- Refused: the attempt on the page, and the likely slips -----------------------------------


@pytest.mark.parametrize("label", EXERCISES)
def test_the_check_refuses_the_attempt_on_the_page(label):
    assert tool.attempts(label)
    for call in tool.attempts(label):
        exercise = EXERCISES[label]
        space = tool.at_hand(exercise.before + exercise.code, call)
        assert eval(call, space) != "right"


@pytest.mark.parametrize("label", EXERCISES)
def test_two_wrong_answers_or_more_are_written_down(label):
    assert len({hint for hint, _ in tool.wrong_answers(label)}) >= 2


@pytest.mark.usefixtures("_rehearsal")
@pytest.mark.parametrize(("label", "hint", "code"), WRONG)
def test_a_slip_is_refused_with_the_hint_that_names_it(label, hint, code):
    said = tool.verdict(label, code)
    assert hint in said
    assert said != "right"


# --- The tools of this file -------------------------------------------------------------------


def test_what_a_reader_has_at_hand_is_what_the_code_needs():
    cells = ("import math", "a = 2", "def times_a(x):\n    return a * x", "b = 1 / 0", "a = 3")
    space = tool.at_hand(cells, "c = times_a(1)")
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
    assert tool.names(code) == (binds, takes)


# --- Assignments ------------------------------------------------------------------------------


def parted(notebook) -> tuple[str, str]:
    """What a student sees of a master notebook, and what is for the grader."""
    seen, kept, inside = [], [], ""
    for cell in notebook.cells:
        mark = re.match(r"# (BEGIN|END) (SOLUTION|TESTS)", cell.source)
        if cell.cell_type == "raw" and mark:
            inside = mark[2] if mark[1] == "BEGIN" else ""
        else:
            (kept if inside else seen).append(cell.source)
    return "\n".join(seen), "\n".join(kept)


@each_chapter
def test_an_assignment_asks_every_exercise_and_shows_no_solution(chapter):
    seen, kept = parted(assignment.master(chapter))
    for label, exercise in tool.BY_CHAPTER[chapter].items():
        assert seen.count(f"### {exercise.title.strip()}\n") == 1
        assert f"name: {label.replace('-', '_')}\n" in seen
        for code in tool.blocks(label):
            assert code.strip() not in seen
        assert tool.blocks(label)[0].strip() in kept


@each_chapter
def test_an_assignment_reads_well_outside_the_book(chapter):
    seen, _ = parted(assignment.master(chapter))
    assert not re.search(r"^:::|^:label:|\{(eq|numref|prf:ref|dropdown|doc)\}", seen, re.M)


@pytest.mark.parametrize(
    ("code", "start"),
    [
        ("import torch\n\ndef f(x, y=2):\n    return x", "def f(x, y=2):\n    ..."),
        ("a = 1\nrow = [a]", "row = ..."),
    ],
)
def test_a_student_starts_from_the_name_and_three_dots(code, start):
    assert assignment.prompt(code) == start


@pytest.mark.usefixtures("_rehearsal")
@pytest.mark.parametrize("label", EXERCISES)
def test_the_hidden_check_does_not_trust_the_notebook(label):
    # Taken out of the notebook, with nothing but the answer, it accepts the solution, and refuses
    # what a student starts from, whatever the name of the check has become there.
    tests = [cell.source for cell in assignment.graded(label) if "hidden: true" in cell.source]
    space = {}
    exec(tests[0], space)
    exercise, code = EXERCISES[label], tool.blocks(label)[0]
    here = tool.at_hand(exercise.before + exercise.code, code)
    exec(code, here)
    space["test_with_a_check_of_its_own"](here[tool.answer_name(code)])
    with pytest.raises(Exception):  # noqa: B017
        space["test_with_a_check_of_its_own"](...)
