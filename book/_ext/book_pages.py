"""What the pages show beyond what their authors wrote: contents, terms, symbols, links back.

* ``@chapters@``, ``@part@`` and ``@map@`` in a page of the book become the table of chapters, the
  chapters of a part, the map of the losses.
* A chapter's opening paragraph "You need ... You will be able to ..." becomes a card, with the
  part, the difficulty, the minutes, and a table of the symbols that the chapter uses.
* The first mention of a term of the glossary in a chapter becomes a link and an index entry.
* A source's equation is linked to the rows of the ledger and to the functions that compute it;
  an entry of the library to equation, section, rows, tests and source.

All of it is read from the files by ``contents.py``, so a new chapter needs nothing here.
"""

import importlib.util
import re
from collections import Counter
from functools import cache

import contents
import drawing
from docutils import nodes
from sphinx import addnodes
from sphinx.transforms import SphinxTransform

ROOT = contents.ROOT
TOKEN = re.compile(r"^@(chapters|part|map)@$", re.MULTILINE)
SOURCE_EQUATION = re.compile(r"eq-(\d{3})-(\w+)")
MARKUP = re.compile(r"\$(?P<math>[^$]+)\$|`(?P<code>[^`]+)`")

spec = importlib.util.spec_from_file_location("ledger_tool", ROOT / "book/tools/ledger.py")
ledger = importlib.util.module_from_spec(spec)
spec.loader.exec_module(ledger)


# --- Generated parts of pages ----------------------------------------------------------------


def dots(chapter: contents.Chapter) -> str:
    """The difficulty as three dots, and in words for who does not see them."""
    level = contents.difficulty(chapter)
    name = contents.DIFFICULTY[level - 1]
    drawn = "●" * level + "○" * (len(contents.DIFFICULTY) - level)
    return f'<span class="dots" role="img" aria-label="{name}" title="{name}">{drawn}</span>'


def link(chapter: contents.Chapter, text: str) -> str:
    """A link to a chapter from a page in book/."""
    return f"[{text}](../{chapter.docname}.ipynb)"


def needed(chapter: contents.Chapter) -> str:
    """The chapters that a chapter needs, as links."""
    known = {other.number: other for other in contents.chapters()}
    return ", ".join(link(known[n], str(n)) for n in chapter.needs if n in known)


def chapters_table() -> str:
    """Every chapter with what it needs, how hard it is and how long it takes."""
    rows = []
    for part in contents.parts():
        page = (
            f"[{part.caption}]({part.page.removeprefix('book/')}.md)" if part.page else part.caption
        )
        total = contents.duration(part.minutes) if part.chapters else ""
        rows.append(f"| **{page}** | | | {total} |")
        for chapter in part.chapters:
            title = link(chapter, f"{chapter.number}. {chapter.title}")
            rows.append(
                f"| {title} | {needed(chapter)} | {dots(chapter)} | {chapter.minutes} min |"
            )
    head = "| chapter | needs | difficulty | to read |\n|---|---|---|---|"
    return "\n".join([head, *rows])


def part_list(docname: str) -> str:
    """The chapters of the part that a page introduces."""
    part = next(part for part in contents.parts() if part.page == docname)
    if not part.chapters:
        return "Its chapters are being written."
    entries = []
    for chapter in part.chapters:
        needs = f" Needs {needed(chapter)}." if chapter.needs else ""
        entries.append(
            f"{link(chapter, f'{chapter.number}. {chapter.title}')}\n"
            f": {chapter.question}\n\n"
            f"  {dots(chapter)} {chapter.minutes} minutes to read, {chapter.run} to run.{needs}"
        )
    count = f"{len(part.chapters)} chapters" if len(part.chapters) > 1 else "One chapter"
    total = f"{count}, {contents.duration(part.minutes)} of reading."
    return "\n\n".join([total, *entries])


def chapter_of(function: str) -> contents.Chapter | None:
    """The chapter that derives a public name."""
    stem = contents.home(contents.public()[function])
    return next((chapter for chapter in contents.chapters() if chapter.stem == stem), None)


def map_page() -> str:
    """The map of the losses: two drawings, of which a screen shows one, and the list."""
    places, losses = contents.losses()

    def address(loss: contents.Loss) -> str:
        return f"../{chapter_of(loss.function).docname}.html"

    def number(loss: contents.Loss) -> str:
        return str(chapter_of(loss.function).number)

    drawn = [drawing.svg(places, losses, size, address, number) for size in drawing.SIZES]
    names = {loss.function: loss.name for loss in losses}
    listed = []
    for place in places:
        listed.append(f"{place.word}")
        for i, loss in enumerate(loss for loss in losses if loss.place == place.key):
            root = not next(o for o in losses if o.function == loss.parent).parent
            kin = "" if root else f", from {names[loss.parent]}"
            kin += f", with {names[loss.also]}" if loss.also else ""
            chapter = chapter_of(loss.function)
            listed.append(
                f"{':' if not i else ' '} - {link(chapter, loss.name)}: {loss.changes}{kin}. "
                f"Chapter {chapter.number}, {{py:func}}`~marginlib.{loss.function}`"
            )
        listed.append("")
    figure = "\n".join(["```{raw} html", '<div class="losses">', *drawn, "</div>", "```"])
    rest = [
        c for c in contents.chapters() if c not in [chapter_of(loss.function) for loss in losses]
    ]
    return "\n".join([figure, "", "## The same as a list", "", *listed, beyond(rest)])


def beyond(rest: list[contents.Chapter]) -> str:
    """The chapters that no loss stands for."""
    if not rest:
        return ""
    lines = [f"- {link(chapter, f'{chapter.number}. {chapter.title}')}" for chapter in rest]
    return "\n".join(["## Chapters about all of them", "", *lines])


def fill_in_pages(app, docname, source):
    """Write the generated parts where a page of the book asks for them."""
    made = {"chapters": chapters_table, "part": lambda: part_list(docname), "map": map_page}
    if docname.startswith("book/"):
        source[0] = TOKEN.sub(lambda match: made[match[1]](), source[0])


# --- The opening of a chapter ----------------------------------------------------------------


def marked_up(text: str) -> list[nodes.Node]:
    """Text with formulas between dollar signs and code between backticks."""
    found, start = [], 0
    for match in MARKUP.finditer(text):
        found.append(nodes.Text(text[start : match.start()]))
        kind = nodes.math if match["math"] else nodes.literal
        found.append(kind("", match["math"] or match["code"]))
        start = match.end()
    return [*found, nodes.Text(text[start:])]


def split_opening(paragraph: nodes.paragraph) -> dict[str, list[nodes.Node]]:
    """The nodes behind "You need" and behind "You will be able to"."""
    found: dict[str, list[nodes.Node]] = {}
    current: list[nodes.Node] = []
    for child in paragraph.children:
        if isinstance(child, nodes.emphasis):
            current = found.setdefault(child.astext(), [])
        else:
            current.append(child)
    for part in found.values():
        if part and isinstance(part[0], nodes.Text):
            part[0] = nodes.Text(part[0].lstrip(": \n"))
    return found


def items(part: list[nodes.Node]) -> list[list[nodes.Node]]:
    """A sentence of parts between semicolons, as those parts."""
    found: list[list[nodes.Node]] = [[]]
    for node in part:
        if not isinstance(node, nodes.Text):
            found[-1].append(node)
            continue
        first, *others = re.split(r";\s+", node.astext())
        found[-1].append(nodes.Text(first))
        found += [[nodes.Text(re.sub(r"^and\s+", "", other))] for other in others]
    return found


def html(text: str) -> nodes.raw:
    """A piece of HTML."""
    return nodes.raw("", text, format="html")


def part_of(chapter: contents.Chapter) -> contents.Part:
    """The part that a chapter belongs to."""
    return next(part for part in contents.parts() if chapter in part.chapters)


def symbol_table(document: nodes.document, chapter: contents.Chapter) -> list[nodes.Node]:
    """A closed table of the symbols that the chapter's formulas use."""
    formulas = [n.astext() for n in document.findall(lambda n: isinstance(n, MATH))]
    symbols = contents.symbols_on(formulas, chapter.number)
    if not symbols:
        return []
    rows = []
    for symbol in symbols:
        named = nodes.paragraph("", "", nodes.math("", symbol.tex))
        meaning = nodes.paragraph("", "", *marked_up(symbol.meaning))
        if symbol.special:
            meaning.insert(0, nodes.emphasis("", f"{symbol.special}: "))
        rows.append(nodes.row("", nodes.entry("", named), nodes.entry("", meaning)))
    group = nodes.tgroup(
        "",
        nodes.colspec(colwidth=20),
        nodes.colspec(colwidth=80),
        nodes.tbody("", *rows),
        cols=2,
    )
    more = nodes.paragraph("", "All of them stand in the ")
    more += addnodes.pending_xref(
        "", nodes.inline("", "notation"), refdomain="std", reftype="doc", refexplicit=True,
        reftarget="/book/notation", refdoc=chapter.docname, refwarn=True,
    )  # fmt: skip
    more += nodes.Text(".")
    summary = f"<summary>The symbols of this chapter ({len(symbols)})</summary>"
    opened = html(f'<details class="symbols">{summary}')
    return [opened, nodes.table("", group, classes=["symbols"]), more, html("</details>")]


MATH = (nodes.math, nodes.math_block)


class Opening(SphinxTransform):
    """Make a card of the paragraph that says what a chapter needs and gives."""

    default_priority = 700

    def apply(self, **kwargs):
        """Replace the paragraph."""
        if not self.env.docname.startswith("chapters/"):
            return
        chapter = contents.read_chapter(self.env.docname)
        for paragraph in self.document.findall(nodes.paragraph):
            first = paragraph.next_node(nodes.emphasis)
            if first is not None and first.astext() == contents.NEED:
                paragraph.replace_self(self.card(paragraph, chapter))
                return

    def card(self, paragraph: nodes.paragraph, chapter: contents.Chapter) -> nodes.container:
        """The card itself."""
        told = split_opening(paragraph)
        need, able = told[contents.NEED], items(told[contents.ABLE])
        part = part_of(chapter)
        facts = nodes.paragraph("", classes=["facts"])
        if part.page:
            facts += addnodes.pending_xref(
                "", nodes.inline("", part.caption), refdomain="std", reftype="doc",
                reftarget=f"/{part.page}", refdoc=chapter.docname, refexplicit=True, refwarn=True,
            )  # fmt: skip
        else:
            facts += nodes.inline("", part.caption)
        level = contents.DIFFICULTY[contents.difficulty(chapter) - 1]
        facts += html(f"<span>{dots(chapter)} <span aria-hidden='true'>{level}</span></span>")
        facts += nodes.inline("", f"{chapter.minutes} minutes to read")
        facts += nodes.inline("", f"{chapter.run} to run")
        card = nodes.container("", facts, classes=["opening"])
        card += nodes.paragraph("", "", nodes.strong("", f"{contents.NEED} "), *need)
        lead = nodes.paragraph("", "", nodes.strong("", f"{contents.ABLE} "))
        card += lead
        if len(able) > 1:
            listed = (nodes.list_item("", nodes.paragraph("", "", *item)) for item in able)
            card += nodes.bullet_list("", *listed)
        else:
            lead += able[0]
        card += symbol_table(self.document, chapter)
        return card


# --- Terms -----------------------------------------------------------------------------------


@cache
def glossary() -> dict[str, str]:
    """The terms of book/glossary.md, each with its definition as plain text."""
    text = (ROOT / "book/glossary.md").read_text(encoding="utf-8")
    found: dict[str, list[str]] = {}
    for block in re.findall(r":::\{glossary\}\n(.*?)\n:::", text, re.DOTALL):
        for line in block.splitlines():
            if line and not line.startswith((" ", ":")):
                found[line.strip()] = []
            elif line.strip():
                found[list(found)[-1]].append(line.strip())
    return {term: plain(" ".join(lines)) for term, lines in found.items()}


def brought_in(definition: str) -> int:
    """The chapter that brings a term in, named at the end of its definition; 0 for none."""
    found = re.search(r"Chapter (\d+)$", definition)
    return int(found[1]) if found else 0


def plain(markdown: str) -> str:
    """Markdown as words."""
    text = re.sub(r"\{[\w:]+\}`~?([^`<]*?)(?: *<[^>]*>)?`", r"\1", markdown)
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)
    return re.sub(r"[`*$]", "", text)


def as_written(term: str) -> str:
    """A pattern for a term in running text: any line break, singular or plural."""
    *front, last = term.split()
    stem, ending = (last[:-1], "(?:y|ies)") if last.endswith("y") else (last, "(?:e?s)?")
    text = r"\s+".join([*map(re.escape, front), re.escape(stem) + ending])
    first = re.escape(term[0])
    return rf"(?<![\w-])(?i:{first}){text[len(first) :]}(?![\w-])"


NOT_IN = (
    nodes.reference, nodes.literal, nodes.title, nodes.raw, nodes.caption, nodes.footnote,
    nodes.literal_block, addnodes.pending_xref, nodes.term, *MATH,
)  # fmt: skip


def within(node: nodes.Node, kinds: tuple) -> bool:
    """Whether a node stands inside one of these kinds."""
    while node is not None:
        if isinstance(node, kinds):
            return True
        node = node.parent
    return False


class Terms(SphinxTransform):
    """Link the first mention of each term of the glossary, and list it in the index."""

    default_priority = 710  # after the opening, whose text it leaves alone

    def apply(self, **kwargs):
        """Go through the text of a chapter once for every term, longest terms first."""
        if not self.env.docname.startswith("chapters/"):
            return
        top = next(self.document.findall(nodes.section))
        body = [node for node in top.children if isinstance(node, nodes.section)]
        chapter = contents.read_chapter(self.env.docname).number
        known = [term for term, says in glossary().items() if brought_in(says) <= chapter]
        for term in sorted(known, key=len, reverse=True):
            self.link_first(body, term, re.compile(as_written(term)))

    def link_first(self, body, term, pattern):
        """Link the first place where the pattern stands in readable text."""
        for section in body:
            for text in section.findall(nodes.Text):
                if not isinstance(text.parent, nodes.TextElement):
                    continue
                found = pattern.search(text.astext())
                if found and within(text, (nodes.paragraph,)) and not within(text, NOT_IN):
                    text.parent.replace(text, self.linked(text.astext(), found, term))
                    return

    def linked(self, text: str, found: re.Match, term: str) -> list[nodes.Node]:
        """The text with its term as a link, and an entry of the index."""
        name = f"term-here-{nodes.make_id(term)}"
        entry = addnodes.index(entries=[("single", term, name, "", None)])
        anchor = nodes.target("", "", ids=[name])
        shown = nodes.inline("", found[0], classes=["xref", "std", "std-term"])
        xref = addnodes.pending_xref(
            "", shown, refdomain="std", reftype="term", reftarget=term, refexplicit=True,
            refdoc=self.env.docname, refwarn=True,
        )  # fmt: skip
        before, after = text[: found.start()], text[found.end() :]
        return [nodes.Text(before), entry, anchor, xref, nodes.Text(after)]


def explain_terms(app, doctree, docname):
    """Give each link to a term its definition."""
    for reference in doctree.findall(nodes.reference):
        shown = reference.next_node(nodes.inline)
        if shown is not None and "std-term" in shown["classes"]:
            anchor = reference.get("refuri", reference.get("refid", "")).partition("#")[2]
            known = {f"term-{nodes.make_id(term)}": text for term, text in glossary().items()}
            if anchor in known:
                reference["reftitle"] = known[anchor]


# --- Equation, section, row, test, source ----------------------------------------------------


@cache
def rows() -> tuple:
    """Every row of the ledger."""
    return tuple(ledger.read_rows(ROOT))


@cache
def main_source(stem: str) -> str:
    """The source that most rows of a chapter come from: its equations have bare numbers."""
    count = Counter(row.source for row in rows() if row.chapter == stem)
    return count.most_common(1)[0][0] if count else ""


def equations_in(text: str) -> list[str]:
    """The numbers of the equations that a docstring or a row's place names."""
    named = re.findall(r"[Ee]q\.\s+((?:\(\w+\)(?:,\s*|\s+and\s+)?)+)", text)
    return [number for run in named for number in re.findall(r"\((\w+)\)", run)]


def labels_of(name: contents.Name) -> list[str]:
    """The labels of the source equations that a public name computes."""
    source = main_source(contents.home(name))
    return [f"eq-{source}-{number}" for number in equations_in(name.doc)]


class Linker:
    """Makes references from one page to anything in the book."""

    def __init__(self, app, docname):
        self.builder, self.env, self.docname = app.builder, app.env, docname

    def to(self, target: str, anchor: str, *shown: nodes.Node | str) -> nodes.reference:
        """A reference to a place on a page."""
        uri = self.builder.get_relative_uri(self.docname, target) + (f"#{anchor}" if anchor else "")
        inside = [nodes.Text(one) if isinstance(one, str) else one for one in shown]
        return nodes.reference("", "", *inside, internal=True, refuri=uri)

    def row(self, name: str) -> nodes.reference:
        """A reference to a row of the ledger."""
        docname, anchor, _ = self.env.get_domain("std").labels[f"claim-{name.lower()}"]
        return self.to(docname, anchor, name)

    def equation(self, label: str) -> nodes.reference | None:
        """A reference to an equation, if the book prints it."""
        if label not in self.env.get_domain("math").equations:
            return None
        docname = self.env.get_domain("math").equations[label][0]
        _, source, number = label.split("-", 2)
        return self.to(docname, f"equation-{label}", f"({source}.{number})")

    def function(self, name: str) -> nodes.reference:
        """A reference to an entry of the library."""
        return self.to("book/api", f"marginlib.{name}", nodes.literal("", name))

    def section(self, docname: str, heading: str) -> nodes.reference:
        """A reference to a section of a chapter."""
        doctree = self.env.get_doctree(docname)
        top = next(doctree.findall(nodes.section))
        ids = [n["ids"][0] for n in top.children if isinstance(n, nodes.section)]
        headings = [heading for heading, _, _ in contents.sections(docname) if heading]
        title = re.sub(r"\$([^$]+)\$", r"\1", heading)
        return self.to(docname, ids[headings.index(heading)], title)

    def test(self, test: contents.Test) -> nodes.reference:
        """A reference to a test's source."""
        return self.to(source_page(test.file), test.name, test.sentence)


def source_page(path: str) -> str:
    """The page that shows a file of the repository."""
    return f"source/{path.removesuffix('.py')}"


def joined(found: list[nodes.Node], between: str = ", ") -> list[nodes.Node]:
    """Nodes with a separator between them."""
    parts: list[nodes.Node] = []
    for node in found:
        parts += [nodes.Text(between), node] if parts else [node]
    return parts


def note_equations(app, doctree, docname):
    """Beside a source's equation, the rows of the ledger and the functions that it concerns."""
    if not docname.startswith("chapters/"):
        return
    stem = contents.read_chapter(docname).stem
    here = [name for name in contents.public().values() if contents.home(name) == stem]
    to = Linker(app, docname)
    for block in list(doctree.findall(nodes.math_block)):
        label = SOURCE_EQUATION.fullmatch(block.get("label") or "")
        if not label:
            continue
        about = [
            row for row in rows() if row.source == label[1] and label[2] in equations_in(row.place)
        ]
        computed = [name.name for name in here if label[0] in labels_of(name)]
        paragraph = nodes.paragraph()
        if about:
            links = [[to.row(row.id), nodes.Text(f" {row.kind}")] for row in about]
            paragraph += nodes.Text("Ledger: ")
            for i, pair in enumerate(links):
                paragraph += [nodes.Text(", "), *pair] if i else pair
            paragraph += nodes.Text(". ")
        if computed:
            paragraph += [nodes.Text("In code: "), *joined([to.function(n) for n in computed])]
            paragraph += nodes.Text(".")
        if paragraph.children:
            place = block.parent
            note = nodes.container("", paragraph, classes=["margin", "equation-note"])
            place.insert(place.index(block) + 1, note)


def rows_of(name: contents.Name, tests: list[contents.Test]) -> list[str]:
    """The rows of the ledger about a name: about its equations, or settled by its own tests."""
    stem = contents.home(name)
    numbers = set(equations_in(name.doc))
    own = {row for test in tests if test.file == f"tests/test_{stem}.py" for row in test.rows}
    found = []
    for row in rows():
        printed = row.source == main_source(stem) and numbers & set(equations_in(row.place))
        if row.chapter == stem and (printed or row.id in own):
            found.append(row.id)
    return found


def field_row(label: str, body: list[nodes.Node]) -> list[nodes.Node]:
    """One line of an entry's links."""
    return [nodes.term("", label), nodes.definition("", nodes.paragraph("", "", *body))]


def link_entries(app, doctree, docname):
    """Under each entry of the library: section, equations, rows, tests and source."""
    if docname != "book/api":
        return
    to = Linker(app, docname)
    for entry in list(doctree.findall(addnodes.desc)):
        name = contents.public().get(entry[0].get("fullname", ""))
        # Another module may have a function of the same name.
        if name is None or entry[0]["module"] != "marginlib":
            continue
        entry[-1].append(where(to, name))


def where(to: Linker, name: contents.Name) -> nodes.container:
    """Where else the book speaks of a public name."""
    lines = []
    stem, tests = contents.home(name), contents.tests_of(name)
    if stem:
        chapter = next(c for c in contents.chapters() if c.stem == stem)
        first = [to.to(chapter.docname, "", f"chapter {chapter.number}")]
        headings = contents.speaks_of(chapter.docname, name.name, labels_of(name))
        first += [to.section(chapter.docname, heading) for heading in headings]
        lines += field_row("Derived", joined(first))
    equations = [to.equation(label) for label in labels_of(name)]
    if any(equations):
        lines += field_row("Equation", joined([link for link in equations if link]))
    found = rows_of(name, tests)
    if found:
        lines += field_row("Ledger", joined([to.row(row) for row in found], " "))
    source = to.to(source_page(name.module), name.name, f"{name.module}, line {name.line}")
    lines += field_row("Source", [source])
    box = nodes.container("", classes=["where"])
    pairs = zip(lines[::2], lines[1::2], strict=True)
    box += nodes.definition_list(
        "", *(nodes.definition_list_item("", term, body) for term, body in pairs)
    )
    if tests:
        count = f"{len(tests)} tests" if len(tests) > 1 else "One test"
        box += html(f"<details><summary>{count}</summary>")
        links = (nodes.paragraph("", "", to.test(test)) for test in tests)
        box += nodes.bullet_list("", *(nodes.list_item("", one) for one in links))
        box += html("</details>")
    return box


def link_tests(app, doctree, docname):
    """Make links of the tests that the ledger names by their sentence."""
    if docname not in {"book/ledger", "book/misprints"}:
        return
    to = Linker(app, docname)
    known = {(test.file, test.sentence): test for test in contents.tests()}
    for listed in doctree.findall(nodes.bullet_list):
        place = listed.parent
        before = place[place.index(listed) - 1] if place.index(listed) else None
        file = before.next_node(nodes.literal) if isinstance(before, nodes.paragraph) else None
        if file is None:
            continue
        for item in listed.children:
            test = known.get((file.astext(), item.astext()))
            if test:
                item[0].clear()
                item[0] += to.test(test)


def setup(app):
    """Connect what reads, what changes and what links."""
    app.connect("source-read", fill_in_pages, priority=400)  # before the tokens of book_html
    app.add_transform(Opening)
    app.add_transform(Terms)
    for handler in (explain_terms, note_equations, link_entries, link_tests):
        app.connect("doctree-resolved", handler)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
