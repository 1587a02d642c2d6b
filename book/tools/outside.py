"""The book's text as it is read outside the book, where nobody knows MyST's fences and roles."""

import re
import shutil
from importlib.util import find_spec
from pathlib import Path

LABEL = re.compile(r"^:label: .*\n", re.M)
FENCE = re.compile(r"^:{3,}(?:\{\w+(?::\w+)?\} *(.*))?\n?", re.M)
# A role with words of its own, or a label alone.
ROLE = re.compile(r"\{(eq|numref|prf:ref|ref|doc|cite:[tp])\}`(?:([^`<]*?) *<[^`]*>|([^`]*))`")
NUMBERED = re.compile(r"^\$\$ *\(eq-([\w-]+)\)$", re.M)
SOURCE = re.compile(r"(?:eq-)?(\d{3})-(\w+)")

# The part of MathJax that TeX input and HTML output use.
MATHJAX = ("tex-chtml.js", "input/tex/extensions", "output/chtml/fonts")


def number(label: str) -> str:
    """The number of an equation that keeps its source's, 002.3; else the label in words."""
    found = SOURCE.fullmatch(label)
    return f"{found[1]}.{found[2]}" if found else label.removeprefix("eq-").replace("-", " ")


def spoken(role: re.Match) -> str:
    """What a reader without the book gets for a role."""
    kind, words, label = role.groups()
    if words:
        return words
    if kind == "eq":
        return f"({number(label)})"
    if kind.startswith("cite"):
        return ", ".join(
            re.sub(r"([a-z]+)(\d{4})\w*", lambda hit: f"{hit[1].title()} ({hit[2]})", key.strip())
            for key in label.split(",")
        )
    return f"*{label}*"


def plain(text: str) -> str:
    """Text of a page without labels, fences and roles; equations keep their numbers."""
    text = NUMBERED.sub(lambda hit: rf"\tag{{{number(hit[1])}}}" + "\n$$", text)
    text = FENCE.sub(lambda hit: f"\n**{hit[1]}.** " if hit[1] else "\n", LABEL.sub("", text))
    return re.sub(r"\n{3,}", "\n\n", ROLE.sub(spoken, text)).strip()


def copy_mathjax(folder: Path) -> None:
    """Put the needed part of MathJax into a folder, so that its pages need no network."""
    source = Path(find_spec("sphinx-mathjax-offline").origin).parent / "static" / "mathjax"
    for part in MATHJAX:
        (folder / part).parent.mkdir(parents=True, exist_ok=True)
        if (source / part).is_dir():
            shutil.copytree(source / part, folder / part, dirs_exist_ok=True)
        else:
            shutil.copy2(source / part, folder / part)
