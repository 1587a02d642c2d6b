"""Draw the chapters' figures again as SVG, for slides and papers of your own.

    python book/tools/figures.py                  every chapter, into _build/figures
    python book/tools/figures.py 04_large_margin  one

A notebook stores its figures as PNG, whose size is bounded.  This runs the notebook and keeps
every captioned figure as a drawing that scales.  Each file carries its caption, its words for those
who do not see it, its source and its licence, and so may travel alone; an index lists them all.
"""

import argparse
import html
import re
import shutil
import sys
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell

sys.path.insert(0, str(Path(__file__).parent))

import outside

import chapters

FOLDER = chapters.ROOT / "_build" / "figures"
LICENCE = "https://creativecommons.org/licenses/by/4.0/"

STYLE = """
body { font: 16px/1.5 sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em }
img { width: 100%; max-width: 36em }
"""

# Names and dates out, so that the same figure is the same file.
DRAW = """
from matplotlib_inline.backend_inline import set_matplotlib_formats
import matplotlib
matplotlib.rcParams["svg.hashsalt"] = "margins"
set_matplotlib_formats("svg", metadata={"Date": None, "Creator": None}, bbox_inches="tight")
"""


def credit() -> str:
    """Whose figures these are, and under which terms."""
    about = chapters.project()
    return (
        f"{about['authors'][0]['name']}, Margins, version {about['version']}, "
        f"{about['urls']['Repository']}. Licensed under CC BY 4.0, {LICENCE}"
    )


def signed(svg: str, title: str, words: str) -> str:
    """A drawing with its caption, its description and its licence inside."""
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    said = (
        f"<title>{html.escape(title)}</title>\n<desc>{html.escape(words)}</desc>\n"
        '<metadata><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" '
        'xmlns:cc="http://creativecommons.org/ns#" xmlns:dc="http://purl.org/dc/elements/1.1/">'
        f'<cc:Work rdf:about=""><dc:rights>{html.escape(credit())}</dc:rights>'
        f'<cc:license rdf:resource="{LICENCE}"/></cc:Work></rdf:RDF></metadata>'
    )
    return re.sub(r"(<svg\b[^>]*>)", lambda opening: f"{opening[1]}\n{said}", svg, count=1)


def drawings(notebook: nbformat.NotebookNode) -> dict[str, tuple[str, str, str]]:
    """Run a chapter; its figures by name, each with the caption and the words for it."""
    copy = nbformat.from_dict(notebook)
    copy.cells.insert(0, new_code_cell(DRAW))
    # The style sheet of the book is set by the chapter; the formats stay.
    found = {}
    for cell in chapters.execute(copy).cells:
        about = cell.metadata.get("mystnb", {})
        for output in cell.get("outputs", []):
            svg = output.get("data", {}).get("image/svg+xml")
            if svg and "figure" in about:
                caption = outside.plain(about["figure"]["caption"])
                found[about["figure"]["name"]] = (svg, caption, about["image"]["alt"])
    return found


def index(listed: dict[str, dict[str, tuple[str, str, str]]]) -> str:
    """A page that shows all figures with their captions."""
    rows = [
        f"<h2>{html.escape(chapter)}</h2>\n"
        + "\n".join(
            f'<figure><a href="{chapter}/{name}.svg"><img src="{chapter}/{name}.svg" '
            f'alt="{html.escape(words)}" loading="lazy"></a>'
            f"<figcaption><code>{name}</code> {html.escape(caption)}</figcaption></figure>"
            for name, (_, caption, words) in figures.items()
        )
        for chapter, figures in listed.items()
    ]
    return (
        f'<!DOCTYPE html>\n<html lang="en"><meta charset="utf-8"><title>Margins: figures</title>'
        f"<style>{STYLE}</style>\n<h1>Figures</h1>\n<p>{html.escape(credit())}.</p>\n"
        + "\n".join(rows)
        + "\n</html>\n"
    )


def main() -> None:
    """Draw, sign and list the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="01_softmax, softmax or 01; all if none")
    options = parser.parse_args()
    listed = {}
    for path in chapters.chosen(options.names):
        notebook = nbformat.read(path, as_version=4)
        listed[path.stem] = drawings(notebook)
        shutil.rmtree(FOLDER / path.stem, ignore_errors=True)
        (FOLDER / path.stem).mkdir(parents=True)
        for name, (svg, caption, words) in listed[path.stem].items():
            (FOLDER / path.stem / f"{name}.svg").write_text(signed(svg, caption, words))
        asked = sum(bool(chapters.figures(cell)) for cell in notebook.cells)
        print(f"{path.stem}: {len(listed[path.stem])} of {asked} figures")
        assert len(listed[path.stem]) == asked
    (FOLDER / "index.html").write_text(index(listed), encoding="utf-8")
    shutil.copy2(chapters.ROOT / "LICENSE-text", FOLDER)


if __name__ == "__main__":
    main()
