"""The exercises of the chapters, and their solutions, as data.

The exercises stand in the chapters, between ``:::{exercise}`` and the next; the solutions apart, in
``book/instructors/``, in sections that carry the exercise's label.  Each exercise has a function
``check_...`` on its page; the first block of its section ends with the answer, and the wrong
answers that the check must refuse follow, each under a line ``Refused, with "the hint":``.

The tests run them (``tests/test_exercises.py``), and ``assignment.py`` makes assignments of them.
"""

import ast
import re
import symtable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import nbformat

ROOT = Path(__file__).resolve().parents[2]
CHAPTERS = sorted((ROOT / "chapters").glob("[0-9][0-9]_*.ipynb"))
SOLUTIONS = sorted((ROOT / "book" / "instructors").glob("[0-9][0-9]_*.md"))
BLOCK = re.compile(r'(?:^Refused, with "([^"]+)":\n\n)?^```python\n(.*?)^```$', re.M | re.S)


class Exercise(NamedTuple):
    """One exercise, and what the reader has at hand for it."""

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
                found[-1]["text"] += f"\n\n{rest}"
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


def statements(cell: str) -> list[str]:
    """The statements of a cell, as they are written."""
    lines, found = cell.splitlines(), []
    for node in ast.parse(cell).body:
        first = min([node.lineno, *(mark.lineno for mark in getattr(node, "decorator_list", []))])
        found.append("\n".join(lines[first - 1 : node.end_lineno]))
    return found


def needed(cells: tuple[str, ...], code: str) -> list[str]:
    """The statements of the cells that define the names which the code takes from them.

    A page trains and plots for minutes; an exercise needs little of it.
    """
    every = [text for cell in cells for text in statements(cell)]
    wanted = names(code)[1]
    while True:
        chosen = [text for text in every if names(text)[0] & wanted]
        more = wanted.union(*(names(text)[1] for text in chosen))
        if more == wanted:
            return chosen
        wanted = more


def at_hand(cells: tuple[str, ...], code: str) -> dict[str, Any]:
    """The names that the code finds after the cells, as far as it needs them."""
    space = {"__name__": "chapter"}
    for text in needed(cells, code):
        exec(text, space)
    return space


def check_of(label: str) -> str | None:
    """The name of the function on the page that checks an answer, if there is one."""
    bound = [name for cell in EXERCISES[label].code for name in names(cell)[0]]
    found = [name for name in bound if name.startswith("check_")]
    assert len(found) <= 1, f"{label}: which of {found} is the check?"
    return found[0] if found else None


def answer_name(code: str) -> str:
    """The name that the last statement of a block defines."""
    last = ast.parse(code).body[-1]
    return last.name if isinstance(last, ast.FunctionDef) else last.targets[0].id


def verdict(label: str, code: str) -> str:
    """What the page says to an answer."""
    exercise, check = EXERCISES[label], check_of(label)
    space = at_hand(exercise.before + exercise.code, f"{check}\n{code}")
    exec(code, space)
    return space[check](space[answer_name(code)])


def attempts(label: str) -> list[str]:
    """The calls by which a page shows its check at work."""
    calls = [
        node
        for cell in EXERCISES[label].code
        for node in ast.walk(ast.parse(cell))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    ]
    return [ast.unparse(call) for call in calls if call.func.id == check_of(label)]
