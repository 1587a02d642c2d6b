"""What the book holds, read from its own files: parts, chapters, losses, symbols, tests.

Nothing here knows Sphinx.  The pages that list chapters, draw the map or link an entry of the
library ask these functions, so that a new chapter, loss or test appears on them by itself.
"""

import ast
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]

NEED, ABLE = "You need", "You will be able to"
OPENING = re.compile(
    rf"\*{NEED}\*:?(?P<need>.*?)\*{ABLE}\*:?(?P<able>.*?)"
    r"\*About (?P<read>\d+) minutes to read, (?P<run>\d+ \w+) to run\.?\*",
    re.DOTALL,
)
CHAPTERS_NAMED = re.compile(r"[Cc]hapters?\s+\d+(?:(?:,\s*(?:and\s+)?|\s+and\s+|\s+to\s+)\d+\b)*")
DIFFICULTY = ("introductory", "intermediate", "advanced")


# --- Parts and chapters ----------------------------------------------------------------------


@dataclass(frozen=True)
class Chapter:
    """One notebook, as its first cell introduces it."""

    number: int
    stem: str
    title: str
    question: str
    need: str
    able: str
    minutes: int
    run: str

    @property
    def docname(self) -> str:
        """The page's name for Sphinx."""
        return f"chapters/{self.number:02}_{self.stem}"

    @property
    def name(self) -> str:
        """The title up to its colon."""
        return self.title.split(":")[0]

    @property
    def needs(self) -> tuple[int, ...]:
        """The numbers of the chapters that this one says it needs."""
        found: set[int] = set()
        for words in CHAPTERS_NAMED.findall(self.need):
            for first, last in re.findall(r"(\d+)(?:\s+to\s+(\d+))?", words):
                found |= set(range(int(first), int(last or first) + 1))
        return tuple(sorted(found - {self.number}))


@dataclass(frozen=True)
class Part:
    """A group of chapters, with the page that introduces it."""

    caption: str
    page: str | None
    chapters: tuple[Chapter, ...]

    @property
    def minutes(self) -> int:
        """How long its chapters take to read."""
        return sum(chapter.minutes for chapter in self.chapters)


def opening(markdown: str) -> dict[str, str]:
    """What the first cell of a chapter says about it.

    Raises:
        ValueError: if it is not told in the words that every chapter uses.
    """
    found = OPENING.search(markdown)
    title = re.match(r"# +(.+)", markdown)
    if not (found and title):
        raise ValueError(
            f"A chapter opens with '# Title', a question, and a paragraph '*{NEED}* ... *{ABLE}* "
            "... *About 40 minutes to read, 20 seconds to run.*'; this one opens with: "
            f"{markdown[:200]!r}"
        )
    parts = {name: " ".join(text.split()) for name, text in found.groupdict().items()}
    question = " ".join(markdown[title.end() : found.start()].split())
    return {"title": title[1].strip(), "question": question, **parts}


@cache
def notebook(stem: str) -> tuple[tuple[str, str], ...]:
    """The kind and the source of every cell of a chapter."""
    cells = json.loads((ROOT / f"{stem}.ipynb").read_text(encoding="utf-8"))["cells"]
    return tuple((cell["cell_type"], "".join(cell["source"])) for cell in cells)


def read_chapter(docname: str) -> Chapter:
    """A chapter by its page's name."""
    number, stem = docname.removeprefix("chapters/").split("_", 1)
    told = opening(notebook(docname)[0][1])
    minutes = int(told.pop("read"))
    return Chapter(int(number), stem, minutes=minutes, **told)


@cache
def parts() -> tuple[Part, ...]:
    """The parts that hold chapters, from _toc.yml.

    A block with a caption opens a part.  Its page stands in a block of its own, because pages of
    a numbered block are counted as chapters; the block without a caption that follows belongs
    to the same part.
    """
    blocks = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))["parts"]
    gathered: list[tuple[str, list[str]]] = []
    for block in blocks:
        files = [item["file"] for item in block["chapters"]]
        if "caption" in block:
            gathered.append((block["caption"], files))
        else:
            gathered[-1][1].extend(files)
    found = []
    for caption, files in gathered:
        page = next((name for name in files if name.startswith("book/part_")), None)
        names = [name for name in files if name.startswith("chapters/")]
        if page or names:
            chapters = tuple(read_chapter(name) for name in names)
            found.append(Part(caption, page, chapters))
    return tuple(found)


def chapters() -> tuple[Chapter, ...]:
    """Every chapter of the book, in order."""
    return tuple(chapter for part in parts() for chapter in part.chapters)


def depth(chapter: Chapter) -> int:
    """How many chapters stand one behind the other below this one."""
    known = {other.number: other for other in chapters()}
    below = [known[number] for number in chapter.needs if number in known]
    return 1 + max(depth(other) for other in below) if below else 0


def difficulty(chapter: Chapter) -> int:
    """From 1 to 3: the longest chain of chapters that lead up to this one."""
    return min(max(depth(chapter), 1), len(DIFFICULTY))


def duration(minutes: int) -> str:
    """Minutes as a reader says them."""
    if minutes < 60:
        return f"{minutes} minutes"
    hours, rest = divmod(round(minutes / 15) * 15, 60)
    fraction = {0: "", 15: "¼", 30: "½", 45: "¾"}[rest]
    return f"{hours}{fraction} hour{'' if (hours, rest) == (1, 0) else 's'}"


# --- The library -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Name:
    """A public name of the library: where it is defined and what its docstring opens with."""

    name: str
    module: str  # the path in the repository
    line: int
    doc: str
    uses: frozenset[str]  # the names in its body

    @property
    def stem(self) -> str:
        """The chapter's stem, for what a chapter derives."""
        return {"rivals": "softmax"}.get(Path(self.module).stem, Path(self.module).stem)


def definitions(path: Path) -> Iterator[ast.FunctionDef | ast.ClassDef]:
    """The functions and classes at the top of a file."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node


def names_in(node: ast.AST) -> frozenset[str]:
    """Every name and every attribute that code mentions."""
    found = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
    return frozenset(found | {n.attr for n in ast.walk(node) if isinstance(n, ast.Attribute)})


@cache
def public() -> dict[str, Name]:
    """The public functions and classes of the library, in the order of its ``__init__``."""
    tree = ast.parse((ROOT / "marginlib/__init__.py").read_text(encoding="utf-8"))
    found = {}
    for node in tree.body:
        if not isinstance(node, ast.ImportFrom):
            continue
        place = ROOT / "marginlib" / node.module.replace(".", "/")
        path = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
        here = {definition.name: definition for definition in definitions(path)}
        for alias in node.names:
            if alias.name in here:
                d, where = here[alias.name], path.relative_to(ROOT).as_posix()
                doc = ast.get_docstring(d) or ""
                found[d.name] = Name(d.name, where, d.lineno, doc, names_in(d))
    return found


def home(name: Name) -> str:
    """The stem of the chapter that derives what a name computes; "" for what has none.

    A head belongs to the chapter of the losses that it calls.
    """
    stems = [chapter.stem for chapter in chapters()]
    if name.stem in stems:
        return name.stem
    if name.stem == "heads":
        used = [public()[other].stem for other in name.uses if other in public()]
        own = sorted({stem for stem in used if stem in stems} - {"softmax", "soft_margin"})
        return own[0] if len(own) == 1 else ""
    return ""


# --- Where a chapter speaks of something -----------------------------------------------------


@cache
def sections(docname: str) -> tuple[tuple[str, str, str], ...]:
    """The heading, the prose and the code of every section (##) of a chapter."""
    found: list[list[str]] = [["", "", ""]]
    for kind, source in notebook(docname):
        if kind == "code":
            found[-1][2] += source + "\n"
            continue
        for line in source.splitlines():
            if line.startswith("## "):
                found.append([line[3:].strip(), "", ""])
            found[-1][1] += line + "\n"
    return tuple((heading, prose, code) for heading, prose, code in found)


def speaks_of(docname: str, name: str, labels: list[str]) -> list[str]:
    """The headings of the sections that derive a name and that first call it.

    A section derives it where one of its equations stands.  A loss that the chapter only talks
    of is looked for by the name that the map gives it.
    """
    told = [section for section in sections(docname) if section[0]]
    derived = [heading for heading, prose, _ in told if any(f"({one})" in prose for one in labels)]
    calls = [heading for heading, _, code in told if re.search(rf"\b{name}\b", code)]
    # The guess at the start calls much and explains nothing.
    calls = [heading for heading in calls if heading != "Guess first"] or calls
    word = next((loss.name for loss in losses()[1] if loss.function == name), name)
    talks = [heading for heading, prose, _ in told if word in prose or f"`{name}" in prose]
    return list(dict.fromkeys([*derived, *(calls or talks)[:1]]))


# --- Tests -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Test:
    """A test: its file, its name, its lines, what it mentions and which rows it settles."""

    file: str
    name: str
    line: int
    uses: frozenset[str]
    rows: tuple[str, ...]

    @property
    def sentence(self) -> str:
        """The name as it is read."""
        return self.name.removeprefix("test_").replace("_", " ")


@cache
def tests() -> tuple[Test, ...]:
    """Every test of the stems and of the library, from the files in tests/."""
    found = []
    for path in sorted((ROOT / "tests").glob("test_*.py")):
        where = path.relative_to(ROOT).as_posix()
        for node in definitions(path):
            if not (isinstance(node, ast.FunctionDef) and node.name.startswith("test_")):
                continue
            rows = []
            for call in (n for d in node.decorator_list for n in ast.walk(d)):
                is_call = isinstance(call, ast.Call)
                if is_call and ast.unparse(call.func) == "pytest.mark.claim":
                    rows += [ast.literal_eval(argument) for argument in call.args]
            line = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            found.append(Test(where, node.name, line, names_in(node), tuple(rows)))
    return tuple(found)


def tests_of(name: Name) -> list[Test]:
    """The tests of a public name: those of its own file that mention it, else all that do."""
    found = [test for test in tests() if name.name in test.uses]
    own = {f"tests/test_{Path(name.module).stem}.py", f"tests/test_{home(name)}.py"}
    return [test for test in found if test.file in own] or found


# --- The map of the losses -------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """A word of the sentence that a loss can change."""

    key: str
    word: str
    colour: str


@dataclass(frozen=True)
class Loss:
    """A loss on the map: what it is called, what it changes, and in which other loss."""

    function: str
    name: str
    place: str
    changes: str
    parent: str
    also: str = ""  # a second loss that it takes something from


@cache
def losses() -> tuple[tuple[Place, ...], tuple[Loss, ...]]:
    """The places and the losses of book/map.toml."""
    table = tomllib.loads((ROOT / "book/map.toml").read_text(encoding="utf-8"))
    places = tuple(Place(key, **fields) for key, fields in table["places"].items())
    found = tuple(Loss(function, **fields) for function, fields in table["losses"].items())
    return places, found


# --- Symbols ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Symbol:
    """A row of the notation: how it is written, what it means, which chapter brings it."""

    tex: str
    special: str  # "of an angle", where the letter has a plain meaning too
    meaning: str
    chapter: int


def cells_of(line: str) -> list[str]:
    """The cells of a row of a Markdown table."""
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))]


@cache
def symbols() -> tuple[Symbol, ...]:
    """Every symbol of book/notation.md.

    A row may name several, "$n$, $d$", or give a letter a second meaning, "$m$, of an angle".
    """
    found = []
    for line in (ROOT / "book/notation.md").read_text(encoding="utf-8").splitlines():
        if not line.startswith("| $"):
            continue
        written, meaning, _, chapter = cells_of(line)
        for group in written.split(";"):
            special = re.search(r"\$, (of .+)$", group)
            for tex in re.findall(r"\$([^$]+)\$", group):
                found.append(Symbol(tex, special[1] if special else "", meaning, int(chapter)))
    return tuple(found)


def tokens(tex: str) -> tuple[str, ...]:
    """TeX without white space and without words, cut into commands and characters."""
    bare = re.sub(r"\\(?:text|mathrm|label|tag)\s*\{[^}]*\}", " ", tex)
    return tuple(re.findall(r"\\operatorname\*?\{\w+\}|\\[A-Za-z]+|\\.|\S", bare))


def stands_in(symbol: tuple[str, ...], formula: tuple[str, ...]) -> bool:
    """Whether a formula has the symbol as an unbroken run."""
    n = len(symbol)
    return any(formula[i : i + n] == symbol for i in range(len(formula) - n + 1))


def symbols_on(formulas: list[str], number: int) -> list[Symbol]:
    """The symbols that a chapter's formulas use, with the meaning they have there.

    A letter with several meanings has the one that this chapter brings in, else the plain one.
    """
    cut = [tokens(formula) for formula in formulas]
    found: dict[tuple[str, ...], list[Symbol]] = {}
    for symbol in symbols():
        key = tokens(symbol.tex)
        if any(stands_in(key, formula) for formula in cut):
            found.setdefault(key, []).append(symbol)
    chosen = []
    for same in found.values():
        here = [symbol for symbol in same if symbol.chapter == number]
        plain = [symbol for symbol in same if not symbol.special]
        chosen += here or plain or same
    return sorted(chosen, key=lambda symbol: symbols().index(symbol))
