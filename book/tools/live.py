"""Collect what the derivations need to run in a reader's browser, without any server.

    python book/tools/live.py    write _build/live; `make book` then puts it into the site

Pyodide, which is Python for browsers, comes from the npm registry, SymPy and mpmath as wheels, and
our own derivations as an archive.  The reader loads them by pressing a button, about 13 MB, and not
before.  Cells that use torch cannot run there: which can is read from the names that they use.
"""

import ast
import json
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib import metadata
from pathlib import Path

import nbformat

sys.path.insert(0, str(Path(__file__).parent))

import exercises

import chapters

FOLDER = chapters.ROOT / "_build" / "live"
PYODIDE = "314.0.7"
PARTS = (
    "pyodide.mjs",
    "pyodide.asm.mjs",
    "pyodide.asm.wasm",
    "pyodide-lock.json",
    "python_stdlib.zip",
)
THERE = {"sympy", "mpmath", *sys.stdlib_module_names}
# A figure would need more than its numbers, and a shell more than a browser.
NOT_THERE = {"subprocess", "sys"}


def imports(code: str) -> set[str]:
    """The modules that a piece of code imports."""
    found = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            # `from marginlib.symbolic import softmax` and `from marginlib import symbolic` alike.
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def runs_in_a_browser(code: str) -> bool:
    """Whether all that the code imports is there."""
    return all(
        name.startswith("marginlib.symbolic.")
        or name == "marginlib.symbolic"
        or (name.split(".")[0] in THERE and name.split(".")[0] not in NOT_THERE)
        for name in imports(code)
    )


def one_by_one(statement: str) -> list[str]:
    """An import of several names as several imports: a page may need one of them only."""
    node = ast.parse(statement).body[0]
    if isinstance(node, ast.ImportFrom | ast.Import):
        parts = []
        for alias in node.names:
            node_of_one = ast.Import([alias])
            if isinstance(node, ast.ImportFrom):
                node_of_one = ast.ImportFrom(node.module, [alias], node.level)
            parts.append(ast.unparse(node_of_one))
        return parts
    return [statement]


def live_cells(notebook: nbformat.NotebookNode) -> list[dict[str, str]]:
    """The cells that derive something, each with what has to run before it."""
    before, found = [], []
    for cell in notebook.cells:
        if cell.cell_type != "code" or cell.id == "install":
            continue
        pieces = [part for text in exercises.statements(cell.source) for part in one_by_one(text)]
        wanted = exercises.needed(tuple(before), cell.source)
        # The imports besides, as far as they can: a reader who changes the code may want them.
        first = "\n".join(
            text for text in before if text in wanted or (imports(text) and runs_in_a_browser(text))
        )
        whole = f"{first}\n{cell.source}"
        symbolic = any(name.startswith(("marginlib.symbolic", "sympy")) for name in imports(whole))
        if symbolic and cell.outputs and runs_in_a_browser(whole):
            found.append({"source": cell.source, "before": first})
        before += pieces
    return found


def derivations(target: Path) -> None:
    """Pack the symbolic side, under a package whose front door does not open torch."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("marginlib/__init__.py", "")
        for path in sorted((chapters.ROOT / "marginlib" / "symbolic").glob("*.py")):
            archive.write(path, f"marginlib/symbolic/{path.name}")


def main() -> None:
    """Fetch, pack and list."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    fetch = ["npm", "pack", "--silent", f"pyodide@{PYODIDE}"]
    name = subprocess.run(fetch, cwd=FOLDER, check=True, capture_output=True, text=True).stdout
    with tarfile.open(FOLDER / name.strip()) as archive:
        for part in PARTS:
            (FOLDER / part).write_bytes(archive.extractfile(f"package/{part}").read())
    (FOLDER / name.strip()).unlink()
    wheels = [f"{one}=={metadata.version(one)}" for one in ("sympy", "mpmath")]
    pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(FOLDER), *wheels]
    subprocess.run(pip, check=True)
    derivations(FOLDER / "derivations.zip")
    archives = [path.name for path in sorted(FOLDER.glob("*.whl"))] + ["derivations.zip"]
    count = 0
    for path in chapters.chosen([]):
        cells = live_cells(nbformat.read(path, as_version=4))
        count += len(cells)
        listed = json.dumps({"archives": archives, "cells": cells})
        (FOLDER / f"{path.stem}.json").write_text(listed, encoding="utf-8")
    size = sum(path.stat().st_size for path in FOLDER.iterdir())
    print(f"{count} cells, {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
