"""Pages that show the library and its tests, with a way back from each definition.

The links of the library's page and of the ledger end here, so that reading a proof's test needs
neither a network nor a checkout.
"""

from html import escape
from pathlib import Path

import contents
from book_pages import Linker, rows_of, source_page
from docutils import nodes
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

ROOT = contents.ROOT


def anchors(path: str) -> dict[int, str]:
    """The line on which each definition at the top of a file begins, decorators included."""
    found = {}
    for node in contents.definitions(ROOT / path):
        found[min([node.lineno, *(d.lineno for d in node.decorator_list)])] = node.name
    return found


def links_back(to: Linker, path: str) -> dict[str, list[nodes.reference]]:
    """For each definition of a file, where the book speaks of it."""
    found: dict[str, list[nodes.reference]] = {}
    for name in contents.public().values():
        if name.module == path:
            back = [to.function(name.name)]
            for chapter in contents.chapters():
                if chapter.stem == contents.home(name):
                    back.append(to.to(chapter.docname, "", f"chapter {chapter.number}"))
            back += [to.row(row) for row in rows_of(name, contents.tests_of(name))]
            found[name.name] = back
    for test in contents.tests():
        if test.file == path:
            used = [name for name in contents.public() if name in test.uses]
            back = [to.row(row) for row in test.rows] + [to.function(name) for name in used]
            found[test.name] = back
    return found


def body(to: Linker, path: str) -> str:
    """A file as HTML, with an anchor and the ways back at each definition."""
    text = (ROOT / path).read_text(encoding="utf-8")
    lines = highlight(text, PythonLexer(stripnl=False), HtmlFormatter(nowrap=True)).splitlines()
    back, starts = links_back(to, path), anchors(path)
    # The anchor is not on the pre: the copy buttons' script gives every pre a name of its own.
    parts = ["<div><pre>"]
    for number, line in enumerate(lines, start=1):
        name = starts.get(number)
        if name:
            ways = "".join(
                f'<a href="{escape(link["refuri"])}">{escape(link.astext())}</a>'
                for link in back.get(name, [])
            )
            ways = f'<span class="ways">{ways}</span>' if ways else ""
            parts.append(f'</pre></div><div id="{name}">{ways}<pre>')
        parts.append(line + "\n")
    return (
        f'<h1>{escape(path)}</h1>\n<div class="highlight source">{"".join(parts)}</pre></div></div>'
    )


def files() -> list[str]:
    """The files that a page of the book links to."""
    modules = {name.module for name in contents.public().values()}
    return sorted(modules | {test.file for test in contents.tests()})


def source_pages(app):
    """One page for every file."""
    if app.builder.format != "html":
        return
    for path in files():
        page = source_page(path)
        to = Linker(app, page)
        title = Path(path).name
        yield page, {"title": title, "parents": [], "body": body(to, path)}, "page.html"


def setup(app):
    """Add the pages."""
    app.connect("html-collect-pages", source_pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
