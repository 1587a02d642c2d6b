"""What runs in a reader's browser: the derivations, where there is SymPy and no torch."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

ROOT = Path(__file__).resolve().parents[1]

spec = importlib.util.spec_from_file_location("live", ROOT / "book" / "tools" / "live.py")
live = importlib.util.module_from_spec(spec)
spec.loader.exec_module(live)

PAGES = {
    path.stem: live.live_cells(nbformat.read(path, as_version=4))
    for path in live.chapters.chosen([])
}

# What the thread in the browser does, with torch out of reach as it is there.
RUN = """
import ast, json, sys
for name in ("torch", "numpy", "matplotlib", "jaxtyping"):
    sys.modules[name] = None
sys.path.insert(0, sys.argv[1])
for cell in json.loads(sys.stdin.read()):
    space = {}
    exec(cell["before"], space)
    exec(cell["source"], space)
import marginlib
assert marginlib.__file__.startswith(sys.argv[1])
"""


def test_most_derivations_of_the_book_can_be_run_in_a_browser():
    proofs = [
        cell.source
        for path in live.chapters.chosen([])
        for cell in nbformat.read(path, as_version=4).cells
        if cell.cell_type == "code" and "prove(" in cell.source and "def " not in cell.source
    ]
    offered = {cell["source"] for cells in PAGES.values() for cell in cells}
    assert len([source for source in proofs if source in offered]) > 0.8 * len(proofs)


@pytest.mark.parametrize("name", [name for name, cells in PAGES.items() if cells])
def test_the_derivations_of_a_chapter_run_without_torch(name, tmp_path):
    live.derivations(tmp_path / "derivations.zip")
    subprocess.run(
        [sys.executable, "-c", RUN, str(tmp_path / "derivations.zip")],
        input=json.dumps(PAGES[name]),
        text=True,
        check=True,
        cwd=tmp_path,
        env={"PYTHONPATH": "", "PATH": ""},
    )


def output():
    return new_output("execute_result", data={"text/plain": "1"})


@pytest.mark.parametrize(
    ("code", "runs"),
    [
        ("from marginlib.symbolic import softmax\nsoftmax", True),
        ("import sympy\nfrom math import pi\nsympy.sin(pi)", True),
        ("import sympy\nimport torch\ntorch.tensor(sympy.pi)", False),
        ("from marginlib import softmax_loss\nsoftmax_loss", False),
        ("import sympy, subprocess\nsubprocess", False),
        ("1 + 1", False),
    ],
)
def test_a_cell_is_offered_if_it_derives_and_all_that_it_needs_is_there(code, runs):
    cell = new_code_cell(code, id="one", outputs=[output()])
    assert bool(live.live_cells(new_notebook(cells=[cell]))) is runs


def test_a_cell_takes_from_the_page_the_imports_and_what_it_needs():
    cells = [
        new_code_cell("import torch\nfrom sympy import cos, pi, sin", id="imports"),
        new_code_cell("x = torch.ones(2)\nz = pi", id="torch"),
        new_code_cell("y = 2 * pi", id="name"),
        new_code_cell("sin(y)", id="derives", outputs=[output()]),
    ]
    (cell,) = live.live_cells(new_notebook(cells=cells))
    assert cell["before"].splitlines() == [
        "from sympy import cos",
        "from sympy import pi",
        "from sympy import sin",
        "y = 2 * pi",
    ]
