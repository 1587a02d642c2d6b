"""Write the ledger of claims and the list of misprints.

    python book/tools/ledger.py           write book/ledger.md and book/misprints.md
    python book/tools/ledger.py --check   write nothing; fail if a page is not up to date

What a source claims, and what is true, stands in ``book/claims.toml``, one table a claim.  Which
tests settle it is read from the tests themselves: ``@pytest.mark.claim("L4")`` on a function, a
class or a parameter of one says so.  The tests are parsed and never run, so a page can be
written while a test fails; that it passes is for ``make test`` to say.
"""

import argparse
import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]

STATUSES = {
    "proved": "argued for any number of classes, in the chapter; a test checks steps or outcome",
    "symbolic": "shown by SymPy, for a fixed number of classes",
    "numeric": "computed, at chosen or random points; a counter-example counts here",
    "empirical": "a matter of training networks; measured, here or by the source",
    "quoted": "taken over from the source or read off its page; no test",
}
TESTED = ("proved", "symbolic", "numeric")
VERDICTS = {
    "holds": "true as printed",
    "holds if": "true under a condition that the source does not state",
    "corrected": "not true as printed, and true after a change that we give",
    "false": "not true, and no small change makes it so",
    "not testable here": "needs what this project does not have",
    "open": "not settled yet",
}
AMISS = ("corrected", "false")
# In the order of the book: the letter of the row ids, a short name, the key in references.bib.
SOURCES = {
    "002": ("L", "Large margin", "kobayashi2019large"),
    "001": ("E", "Ensemble soft margin", "wang2018ensemble"),
    "003": ("S", "Large-margin softmax", "liu2016large"),
    "004": ("W", "Gaussian mixture", "wan2018rethinking"),
    "000": ("G", "Group softmax", "kobayashi2021group"),
}

GENERATED = "% Written by book/tools/ledger.py from book/claims.toml and the marks in tests/."


@dataclass(frozen=True)
class Misprint:
    """What a page says, what it should say, and what follows for who does not know."""

    printed: str
    read: str
    matters: str


@dataclass(frozen=True)
class Row:
    """One claim of one source, as book/claims.toml has it."""

    id: str
    source: str
    place: str
    statement: str
    status: str
    verdict: str
    remark: str
    chapter: str
    misprint: Misprint | None = None

    @property
    def kind(self) -> str:
        """The verdict without its condition."""
        return "holds if" if self.verdict.startswith("holds if ") else self.verdict


def one_line(table: dict) -> dict:
    """The table's text with every run of white space, line breaks too, as one space."""
    return {key: " ".join(text.split()) for key, text in table.items()}


def read_rows(root: Path = ROOT) -> list[Row]:
    """Every row of book/claims.toml, in its order.  An unknown or missing field is an error."""
    tables = tomllib.loads((root / "book/claims.toml").read_text(encoding="utf-8"))
    rows = []
    for name, table in tables.items():
        misprint = table.pop("misprint", None)
        try:
            wrong = None if misprint is None else Misprint(**one_line(misprint))
            rows.append(Row(name, **one_line(table), misprint=wrong))
        except TypeError as error:
            raise ValueError(f"book/claims.toml, [{name}]: {error}") from None
    return rows


def marks_in(tree: ast.AST) -> list[ast.Call]:
    """Every call of the form pytest.mark.claim(...) below ``tree``."""
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
    return [call for call in calls if ast.unparse(call.func) == "pytest.mark.claim"]


def rows_named(marks: list[ast.Call]) -> list[str]:
    """The row ids that the marks name, in order, each once."""
    return list(dict.fromkeys(ast.literal_eval(arg) for mark in marks for arg in mark.args))


def tests_in(body: list[ast.stmt], outer: str, above: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Each test's id with the rows that its marks, or those of its class, name."""
    for node in body:
        if not isinstance(node, ast.FunctionDef | ast.ClassDef):
            continue
        own = rows_named(
            [mark for decorator in node.decorator_list for mark in marks_in(decorator)]
        )
        name, rows = f"{outer}::{node.name}", list(dict.fromkeys(above + own))
        if isinstance(node, ast.ClassDef):
            yield from tests_in(node.body, name, rows)
        elif node.name.startswith("test_"):
            yield name, rows


def read_marks(root: Path = ROOT) -> dict[str, list[str]]:
    """For each row that a mark names, the ids of the tests so marked.

    Raises:
        ValueError: if a claim mark stands where no test can carry it: it would say nothing.
    """
    found: dict[str, list[str]] = {}
    for path in sorted((root / "tests").glob("test_*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        where = path.relative_to(root).as_posix()
        tests = list(tests_in(tree.body, where, []))
        for test, rows in tests:
            for row in rows:
                found.setdefault(row, []).append(test)
        lost = set(rows_named(marks_in(tree))) - {row for _, rows in tests for row in rows}
        if lost:
            raise ValueError(f"{where}: a claim mark on no test names {', '.join(sorted(lost))}")
    return found


def chapter_link(stem: str, root: Path) -> str:
    """A link to the chapter if the book has it; its stem otherwise."""
    toc = root / "_toc.yml"
    listed = toc.read_text(encoding="utf-8") if toc.exists() else ""
    for path in (root / "chapters").glob(f"[0-9][0-9]_{stem}.ipynb"):
        if f"chapters/{path.stem}" in listed:
            return f"{{doc}}`../chapters/{path.stem}`"
    return f"chapter `{stem}` (to come)"


def sentence(test: str) -> str:
    """A test's id as the sentence that it is named by."""
    *classes, name = test.split("::")[1:]
    return ": ".join([*classes, name.removeprefix("test_").replace("_", " ")])


def shown_by(tests: list[str]) -> list[str]:
    """A paragraph and a list for each file of tests; none for none.

    Sentences and not ids: a long word in a fixed font breaks out of a narrow screen.
    """
    files: dict[str, list[str]] = {}
    for test in tests:
        files.setdefault(test.split("::")[0], []).append(f"- {sentence(test)}")
    return ["\n".join([f"*Shown by* `{file}`:\n", *items]) for file, items in files.items()]


def ledger_entry(row: Row, tests: list[str], root: Path) -> str:
    """One row of the ledger."""
    parts = [
        f"(claim-{row.id})=\n### {row.id}",
        f"**{row.verdict}** · {row.status} · {row.place} · {chapter_link(row.chapter, root)}",
        f"*Claimed.* {row.statement}",
        f"*Found.* {row.remark}",
    ]
    if row.misprint:
        parts.append(f"*Misprint.* See {{ref}}`misprint-{row.id}`.")
    return "\n\n".join(parts + shown_by(tests))


def misprint_entry(row: Row, tests: list[str]) -> str:
    """One row of the list of misprints."""
    assert row.misprint is not None
    parts = [
        f"(misprint-{row.id})=\n### {row.id}: {row.place}",
        f"*Printed.* {row.misprint.printed}",
        f"*Should read.* {row.misprint.read}",
        f"*Why it matters.* {row.misprint.matters}",
        f"*In the ledger.* {{ref}}`claim-{row.id}`",
    ]
    return "\n\n".join(parts + shown_by(tests))


def meanings(words: dict[str, str]) -> str:
    """A definition list."""
    return "\n\n".join(f"{word}\n: {meaning}" for word, meaning in words.items())


def by_source(rows: list[Row], entry: Callable[[Row], str]) -> str:
    """The entries under a heading for each source."""
    parts = []
    for source, (letter, name, key) in SOURCES.items():
        theirs = [row for row in rows if row.source == source]
        if theirs:
            parts.append(f"## {letter}: {name}")
            parts.append(f"Rows {letter} are claims of {{cite:t}}`{key}`, source {source}.")
            parts += [entry(row) for row in theirs]
    return "\n\n".join(parts)


def ledger_page(rows: list[Row], marks: dict[str, list[str]], root: Path) -> str:
    """book/ledger.md."""
    table = []
    for verdict in VERDICTS:
        ids = [row.id for row in rows if row.kind == verdict]
        links = " ".join(f"{{ref}}`claim-{name}`" for name in ids)
        table += [f"| {verdict} | {len(ids)} | {links} |"] if ids else []
    settled = sum(row.id in marks for row in rows)
    tests = len({test for found in marks.values() for test in found})
    intro = f"""\
{GENERATED}

# The ledger

Every numbered equation and every claim of the sources that this book covers, one row each: what
the source says, what we found, how we know, and the tests that show it. There are {len(rows)}
rows; {tests} tests speak to {settled} of them. A test's name is the sentence given here, with
underscores, so `pytest -k leave_one_rival` runs the one that says "leave one rival". The
misprints have a page of their own, {{doc}}`misprints`.

| verdict | rows | which |
|---|---|---|
{chr(10).join(table)}

## How to read a row

The **verdict** says whether the claim is true:

{meanings(VERDICTS)}

The **status** says how we know:

{meanings(STATUSES)}"""
    entries = by_source(rows, lambda row: ledger_entry(row, marks.get(row.id, []), root))
    return f"{intro}\n\n{entries}\n"


def misprints_page(rows: list[Row], marks: dict[str, list[str]]) -> str:
    """book/misprints.md."""
    wrong = [row for row in rows if row.misprint]
    intro = f"""\
{GENERATED}

# Misprints

Where a source prints one thing and another is true: slips of the pen, conditions left out, and
claims that a counter-example refutes. There are {len(wrong)}. The sources are good papers, and we
read them as plain text, so a slip of notation may come from the transcription. Each entry names
the test that shows it, where there is something to test. All claims, these and those that hold,
are in {{doc}}`ledger`."""
    return f"{intro}\n\n{by_source(wrong, lambda r: misprint_entry(r, marks.get(r.id, [])))}\n"


def pages(root: Path = ROOT) -> dict[Path, str]:
    """Each generated page's path with the text that it should have."""
    rows, marks = read_rows(root), read_marks(root)
    return {
        root / "book/ledger.md": ledger_page(rows, marks, root),
        root / "book/misprints.md": misprints_page(rows, marks),
    }


def stale(root: Path = ROOT) -> dict[Path, str]:
    """The generated pages whose text is not what it should be, with that text."""
    return {
        path: text
        for path, text in pages(root).items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    }


def main() -> None:
    """Read the command line; write the pages, or say which are out of date."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail if out of date")
    check = parser.parse_args().check
    changed = stale()
    for path, text in changed.items():
        if not check:
            path.write_text(text, encoding="utf-8")
        print(f"{'out of date' if check else 'wrote'}: {path.relative_to(ROOT)}")
    raise SystemExit(1 if check and changed else 0)


if __name__ == "__main__":
    main()
