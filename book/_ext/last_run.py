"""Say on every chapter's page when and where it last ran, from the record book/ran.json.

The record is written by ``book/tools/chapters.py``, which runs the chapters and stores their
outputs, and by ``book/tools/alone.py``, which runs them as a stranger does.
"""

import json
from datetime import date
from pathlib import Path
from typing import Any

from docutils import nodes

RAN = Path(__file__).resolve().parents[1] / "ran.json"


def day(text: str) -> str:
    """The date as the book writes it: 21 November 2026."""
    when = date.fromisoformat(text)
    return f"{when.day} {when:%B %Y}"


def duration(seconds: float) -> str:
    """Seconds, or minutes where they are easier to read."""
    return f"{seconds} seconds" if seconds < 100 else f"{seconds / 60:.1f} minutes"


def place(run: dict[str, Any]) -> str:
    """When, how long, with what and where."""
    versions = ", ".join(f"{name} {number}" for name, number in run["versions"].items())
    return (
        f"on {day(run['date'])} in {duration(run['seconds'])}, with {versions}, "
        f"under {run['system']} on {run['device']}"
    )


def sentence(ran: dict[str, Any]) -> str:
    """What a page says about its runs."""
    said = []
    if "stored" in ran:
        said.append(f"These outputs were made {place(ran['stored'])}.")
    if "alone" in ran:
        alone = "This notebook alone, in a fresh environment, last ran"
        said.append(f"{alone} {place(ran['alone'])}.")
    return " ".join(said)


def say_when(app, doctree):
    """Put the sentence behind the chapter's opening."""
    known = json.loads(RAN.read_text(encoding="utf-8"))
    app.env.note_dependency(str(RAN))
    stem = app.env.docname.removeprefix("chapters/")
    chapter = doctree.next_node(nodes.section)
    if stem in known and chapter is not None:
        below = chapter.first_child_matching_class(nodes.section)
        said = sentence(known[stem])
        line = nodes.paragraph(said, said, classes=["last-run"])
        chapter.insert(len(chapter) if below is None else below, line)


def setup(app):
    """Listen for pages."""
    app.connect("doctree-read", say_when)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
