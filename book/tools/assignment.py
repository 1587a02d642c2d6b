"""Make assignments for Otter-Grader of the chapters' exercises, and grade each once to be sure.

    python book/tools/assignment.py                        every chapter
    python book/tools/assignment.py 01_softmax 07_group    these

For each chapter ``_build/assignments/NN_stem`` then holds

    student/       the notebook to hand out: exercises, hints, the page's checks, no solution
    autograder/    the notebook with the worked solutions, and the zip that grades a submission

An exercise is graded by its check, twice: in the open, so that the student sees the hint, and
hidden, with the check defined anew, whatever a student's notebook made of its name.  The worked
solution comes with it, for who reads the answers too.  The tool ends with an error if a chapter's
own solutions do not get every point, or its skeleton gets any.
"""

import argparse
import ast
import re
import shutil
import sys
import textwrap
from pathlib import Path

import nbformat
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_raw_cell

sys.path.insert(0, str(Path(__file__).parent))

import exercises
import outside

import chapters

FOLDER = chapters.ROOT / "_build" / "assignments"
POINTS = 2  # for each exercise: the open test and the hidden one

# --- What a student reads -------------------------------------------------------------------


def asked(label: str) -> str:
    """An exercise with its hint, and without the prose that follows on the page."""
    text = exercises.EXERCISES[label].text
    closed = [found.end() for found in re.finditer(r"^:{3,}$", text, re.M)]
    hint = text.index("{dropdown}")
    title, rest = text[: min(end for end in closed if end > hint)].split("\n", 1)
    return f"### {title.strip()}\n\n{outside.plain(rest)}"


def prompt(code: str) -> str:
    """What a student starts from: the signature, or the name, and three dots."""
    last = ast.parse(code).body[-1]
    if isinstance(last, ast.FunctionDef):
        return f"def {last.name}({ast.unparse(last.args)}):\n    ..."
    return f"{exercises.answer_name(code)} = ..."


# --- What Otter reads -----------------------------------------------------------------------


def between(kind: str, *cells: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    """Cells between Otter's marks."""
    return [new_raw_cell(f"# BEGIN {kind}"), *cells, new_raw_cell(f"# END {kind}")]


def test_cell(hidden: bool, name: str, takes: str, *body: str) -> nbformat.NotebookNode:
    """One test of Otter's: a function of what the notebook defines under these names."""
    code = "\n".join(body)
    return new_code_cell(
        f'""" # BEGIN TEST CONFIG\nhidden: {str(hidden).lower()}\n""" # END TEST CONFIG\n'
        f"def {name}({takes}):\n{textwrap.indent(code, '    ')}"
    )


def from_the_chapter(label: str, code: str, *but: str) -> list[nbformat.NotebookNode]:
    """What some code takes from the page, as a cell, except what defines one of the names."""
    exercise = exercises.EXERCISES[label]
    there = exercises.needed(exercise.before + exercise.code, code)
    there = [text for text in there if not exercises.names(text)[0] & set(but)]
    spaced = (f"\n\n{text}\n\n" if text.startswith(("def ", "@")) else text for text in there)
    listed = re.sub(r"\n{3,}", "\n\n\n", "\n".join(spaced)).strip()
    return [new_code_cell(f"# From the chapter, as far as it is needed here.\n{listed}")]


def graded(label: str) -> list[nbformat.NotebookNode]:
    """The cells of an exercise that its check grades."""
    exercise, check = exercises.EXERCISES[label], exercises.check_of(label)
    code = exercises.blocks(label)[0].strip()
    _, worked = exercises.SECTIONS[label].split("\n", 1)
    name = exercises.answer_name(code)
    cells = exercise.before + exercise.code
    ask = f"said = {check}({name})\nassert said == 'right', said"
    anew = [text for text in exercises.needed(cells, check) if exercises.names(text)[0] != {name}]
    solution = (
        f"# BEGIN SOLUTION NO PROMPT\n{code}\n# END SOLUTION\n"
        f'""" # BEGIN PROMPT\n{prompt(code)}\n""" # END PROMPT'
    )
    return [
        *from_the_chapter(label, f"{check}\n{code}", name),
        *between("SOLUTION", new_code_cell(solution), new_markdown_cell(worked.strip())),
        *between(
            "TESTS",
            test_cell(False, "test_as_on_the_page", f"{check}, {name}", ask),
            test_cell(True, "test_with_a_check_of_its_own", name, *anew, ask),
        ),
    ]


def master(chapter: str) -> nbformat.NotebookNode:
    """The notebook that Otter turns into an assignment."""
    about = chapters.project()
    source = f"git+{about['urls']['Repository']}@v{about['version']}"
    config = {
        "name": f"margins-{chapter}",
        "requirements": [f"marginlib[lab] @ {source}"],
        "tests": {"ok_format": False},
        "check_all_cell": True,
        "export_cell": {"pdf": False},
    }
    heading = nbformat.read(chapters.CHAPTERS / f"{chapter}.ipynb", as_version=4).cells[0].source
    title = heading.splitlines()[0].removeprefix("# ")
    cells = [
        new_raw_cell("# ASSIGNMENT CONFIG\n" + yaml.safe_dump(config, sort_keys=False)),
        new_markdown_cell(
            f"# Exercises: {title}\n\nFrom chapter {int(chapter[:2])} of *Margins*, "
            f"{about['urls']['Repository']}. Names in italics are labels of that page."
        ),
        new_code_cell(chapters.install_source()),
    ]
    for label in exercises.BY_CHAPTER[chapter]:
        question = {"name": label.replace("-", "_"), "points": POINTS, "manual": False}
        cells += [
            new_raw_cell("# BEGIN QUESTION\n" + yaml.safe_dump(question, sort_keys=False)),
            new_markdown_cell(asked(label)),
            *graded(label),
            new_raw_cell("# END QUESTION"),
        ]
    notebook = new_notebook(cells=cells)
    notebook.metadata = {"kernelspec": {"display_name": "Python 3", "name": "python3"}}
    return notebook


# --- Building and grading -------------------------------------------------------------------


def build(chapter: str) -> Path:
    """Write the assignment of a chapter and return its folder."""
    from otter.assign import main as assign

    folder = FOLDER / chapter
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    source = folder / f"{chapter}.ipynb"
    nbformat.write(master(chapter), source)
    assign(str(source), str(folder), no_run_tests=True)
    source.unlink()
    return folder


def grade(submission: Path, folder: Path) -> tuple[float, float]:
    """The automatic points of a submission, and how many there are."""
    from otter.api import grade_submission

    (zipped,) = folder.glob("autograder/*.zip")
    results = grade_submission(str(submission), str(zipped), quiet=True)
    return results.total, results.possible


def main() -> None:
    """Read the command line, build, grade, say what came out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="01_softmax, softmax or 01; all if none")
    options = parser.parse_args()
    amiss = []
    for path in chapters.chosen(options.names):
        chapter = path.stem
        folder = build(chapter)
        full, possible = grade(folder / "autograder" / path.name, folder)
        empty, _ = grade(folder / "student" / path.name, folder)
        print(f"{chapter}: the solution gets {full:g} of {possible:g}, the skeleton {empty:g}")
        if not full == possible == POINTS * len(exercises.BY_CHAPTER[chapter]) or empty:
            amiss.append(chapter)
    raise SystemExit(f"Not to be handed out: {', '.join(amiss)}" if amiss else 0)


if __name__ == "__main__":
    main()
