"""Make slides of the chapters: what a room should see, and the prose as the speaker's notes.

    python book/tools/slides.py                  every chapter, into _build/slides
    python book/tools/slides.py 04_large_margin  one

The notebooks carry no marks for slides.  A slide shows headings, formulas with the sentence that
leads to them, statements, tables, lists, short code, and what it printed; a figure has a slide to
itself.  The text of the page is in the notes: press S.  reveal.js and MathJax lie beside the pages,
so a lecture room needs no network.
"""

import argparse
import re
import shutil
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import nbformat
from nbformat.v4 import new_markdown_cell, new_notebook

sys.path.insert(0, str(Path(__file__).parent))

import outside

import chapters

FOLDER = chapters.ROOT / "_build" / "slides"
TEMPLATES = Path(__file__).parent / "templates"
LINES = 19  # of text at the slides' size
WIDE = 78  # characters
FIGURE = 14  # lines that a figure takes
# A figure that moves on the book's page stands still on a slide.
MOVING = re.compile(r'<div class="explore" data-explore="(\w+)".*?alt="([^"]*)".*?</div>', re.S)
LEFT_OUT = {"Exercises", "What the source got wrong"}


# --- What a slide shows ---------------------------------------------------------------------


def paragraphs(text: str) -> list[str]:
    """Text by blank lines; a formula, and what a fence holds, stays in one piece."""
    pieces = re.split(r"(^\$\$\n.*?^\$\$$)", text, flags=re.M | re.S)
    found = []
    for piece in pieces:
        found += [piece] if piece.startswith("$$\n") else re.split(r"\n\s*\n", piece)
    return [piece.strip() for piece in found if piece.strip()]


def sentences(text: str) -> list[str]:
    """A paragraph, parted after full stops that end a sentence."""
    return re.split(r"(?<=[.?!:]) +(?=[A-Z$*{])", " ".join(text.split()))


def visible(source: str) -> list[str]:
    """The parts of a text that a room should see: what it leads to, or what it says first."""
    # A proof is read, not projected; so is a hint.
    source = re.sub(r"^(:{3,})\{(?:prf:proof|dropdown)\}.*?^\1$", "", source, flags=re.M | re.S)
    shown, told = [], []

    def lead() -> None:
        """Show what the prose before this place says in a line or two."""
        if told:
            first, last = sentences(told[0])[0], sentences(told[-1])[-1]
            shown.append(first if first == last or not last.endswith(":") else f"{first} {last}")
            told.clear()

    for piece in re.split(r"(^(?::{3,})\{prf:\w+\}.*?^:{3,}$)", source, flags=re.M | re.S):
        if re.match(r":{3,}\{prf:", piece):
            told.clear()  # the statement speaks for itself
            shown.append("> " + outside.plain(piece).replace("\n", "\n> "))
            continue
        for text in paragraphs(outside.plain(piece)):
            if text.startswith("$$"):
                told[:] = [sentences(told[-1])[-1]] if told else []
                lead()
                shown.append(text)
            elif re.match(r"#{1,4} |\||- |\d\. |!\[", text):
                lead()
                shown.append(text)
            else:
                told.append(text)
    said = any(not text.startswith("#") for text in shown)
    if not said or (told and told[-1].endswith(":")):
        lead()
    return shown


def height(text: str) -> float:
    """How many lines of a slide a text takes, roughly."""
    if text.startswith("$$"):
        return 3 + 1.5 * text.count(r"\\")
    if text.startswith("#"):
        return 2.5
    if text.startswith("!["):
        return FIGURE
    return 0.6 + sum(1 + len(line) // WIDE for line in text.splitlines())


def printed(cell: nbformat.NotebookNode) -> float:
    """The lines that a code cell and its outputs take."""
    code = 0 if "hide-input" in cell.metadata.get("tags", []) else cell.source.count("\n") + 2
    return code + sum(
        output.get("text", output.get("data", {}).get("text/plain", "")).count("\n") + 1.5
        for output in cell.outputs
    )


# --- A deck ---------------------------------------------------------------------------------


def parts(notebook: nbformat.NotebookNode) -> Iterator[nbformat.NotebookNode]:
    """The cells of a chapter, parted at its sections, without what is not for a lecture."""
    skip = False
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            still = MOVING.sub(r"![\2](explore/\1.svg)", cell.source)
            for text in re.split(r"\n(?=## )", still):
                if heading := re.match(r"## (.+)", text):
                    skip = heading[1].strip() in LEFT_OUT
                if not skip:
                    yield new_markdown_cell(text.strip())
        elif not skip and cell.id != "install":
            yield cell


def units(notebook: nbformat.NotebookNode) -> Iterator[tuple[list[nbformat.NotebookNode], float]]:
    """What belongs on one slide, with its height: a text and the code that it leads to."""
    waiting, lines, opening = [], 0.0, True
    for cell in parts(notebook):
        if cell.cell_type == "markdown":
            if waiting:
                yield waiting, lines
            shown = visible(cell.source)
            opening = cell.source.startswith("# ")
            if opening:  # the title and the question, not what one needs and how long it takes
                shown = paragraphs(outside.plain(cell.source))[:2]
            waiting, lines = [], 0.0
            for text in shown:
                # A long list goes over two slides; a statement or a table does not.
                for piece in re.split(r"\n(?=- )", text) if height(text) > LINES / 2 else [text]:
                    if waiting and lines + height(piece) > LINES:
                        yield waiting, lines
                        waiting, lines = [], 0.0
                    waiting.append(new_markdown_cell(piece))
                    lines += height(piece)
            waiting.append(new_markdown_cell(outside.plain(cell.source)))
            waiting[-1].metadata["notes"] = True
        elif not opening:
            figure, tags = bool(chapters.figures(cell)), cell.metadata.get("tags", [])
            copy = nbformat.from_dict(cell)
            copy.metadata["tags"] = ["remove-input"] if "hide-input" in tags else []
            size = FIGURE if figure else printed(cell)
            if waiting and lines + size > LINES:
                yield waiting, lines
                waiting, lines = [], 0.0
            if cell.outputs or "hide-input" not in tags:
                yield [*waiting, copy], lines + size
                waiting, lines = [], 0.0
    if waiting:
        yield waiting, lines


def deck(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The chapter as a notebook of slides; kinds of slides as nbconvert reads them."""
    cells, used = [], 0.0
    for unit, lines in units(notebook):
        kind = "slide" if re.match(r"#{1,2} ", unit[0].source) else "-"
        if kind == "-" and used + lines > LINES:
            kind = "subslide"
        used = lines if kind != "-" else used + lines
        for cell in unit:
            notes = cell.metadata.pop("notes", False)
            cell.metadata["slideshow"] = {"slide_type": "notes" if notes else kind}
            kind = kind if notes else "-"
        cells += unit
    made = new_notebook(cells=cells, metadata=notebook.metadata)
    made.metadata["title"] = re.match(r"# (.+)", notebook.cells[0].source)[1]
    return made


def html(notebook: nbformat.NotebookNode) -> str:
    """The deck as one page."""
    from nbconvert import SlidesExporter
    from traitlets.config import Config

    exporter = SlidesExporter(
        template_name="margins",
        extra_template_basedirs=[str(TEMPLATES)],
        config=Config({"TagRemovePreprocessor": {"remove_input_tags": ["remove-input"]}}),
        exclude_input_prompt=True,
        exclude_output_prompt=True,
        reveal_url_prefix="reveal",
        reveal_theme="white",
        reveal_number="c/t",
        reveal_transition="none",
    )
    exporter.register_preprocessor("nbconvert.preprocessors.TagRemovePreprocessor", enabled=True)
    page, _ = exporter.from_notebook_node(notebook)
    return page


def main() -> None:
    """Write the decks, and what they need, into one folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="01_softmax, softmax or 01; all if none")
    options = parser.parse_args()
    reveal = Path(find_spec("sphinx_revealjs").origin).parent / "_static" / "revealjs"
    for part in ("dist", "plugin/notes"):
        shutil.copytree(reveal / part, FOLDER / "reveal" / part, dirs_exist_ok=True)
    outside.copy_mathjax(FOLDER / "mathjax")
    pictures = chapters.ROOT / "book" / "static" / "explore"
    for picture in pictures.glob("*.svg"):
        (FOLDER / "explore").mkdir(exist_ok=True)
        shutil.copy2(picture, FOLDER / "explore")
    for path in chapters.chosen(options.names):
        made = deck(nbformat.read(path, as_version=4))
        kinds = [cell.metadata.slideshow.slide_type for cell in made.cells]
        (FOLDER / f"{path.stem}.html").write_text(html(made), encoding="utf-8")
        print(f"{path.stem}: {sum(kind.endswith('slide') for kind in kinds)} slides")


if __name__ == "__main__":
    main()
