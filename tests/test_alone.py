"""A published notebook runs alone: it installs what it lacks and moves nothing."""

import importlib.util
import json
import re
import sys
from pathlib import Path

import nbformat
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]


def load(path: Path):
    """A module that is no part of a package."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


alone = load(ROOT / "book" / "tools" / "alone.py")
last_run = load(ROOT / "book" / "_ext" / "last_run.py")
chapters = alone.chapters
RAN = json.loads(chapters.RAN.read_text(encoding="utf-8"))
# Of all chapters the one that runs fastest; `make alone` runs every one.
QUICK = "01_softmax"

each_chapter = pytest.mark.parametrize("path", chapters.chosen([]), ids=lambda path: path.stem)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return alone.build_wheels(tmp_path_factory.mktemp("wheels"))


@pytest.fixture
def stranger(tmp_path, wheel):
    return alone.Stranger(tmp_path, wheel)


# --- Claimed: a stranger has torch, and not the book ------------------------------------------


def test_a_fresh_environment_holds_torch_and_nothing_of_the_book(stranger):
    there = stranger.installed()
    assert {"torch", "sympy", "matplotlib"} <= set(there)
    assert not {"marginlib", "jaxtyping", "sphinx", "pytest", "hypothesis"} & set(there)
    assert list(stranger.folder.iterdir()) == []
    with pytest.raises(RuntimeError, match="No module named 'marginlib'"):
        alone.python(stranger.python, "-c", "import marginlib", cwd=stranger.folder, **stranger.env)


def test_installing_the_library_would_move_nothing(stranger, wheel):
    address = wheel.as_uri()
    assert stranger.would_install(f"marginlib @ {address}") == alone.BROUGHT
    # Nor would what the chapters need on a machine of one's own.
    assert stranger.would_install(f"marginlib[lab] @ {address}") == alone.BROUGHT


# --- Computed: a chapter runs -----------------------------------------------------------------


def test_a_chapter_runs_alone_after_its_own_first_cell(tmp_path, wheel):
    (path,) = chapters.chosen([QUICK])
    alone.run_alone(path, wheel, tmp_path)
    ran = nbformat.read(tmp_path / "empty" / path.name, as_version=4)
    code = [cell for cell in ran.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))


# --- Told: every page says when it ran, and it is true ----------------------------------------


@each_chapter
def test_every_page_says_when_it_ran_and_outputs_are_of_this_code(path):
    # Alone a chapter runs every week; its outputs are made anew with every change of its code.
    ran = RAN[path.stem]
    assert ran
    if "stored" in ran:
        now = chapters.fingerprint(nbformat.read(path, as_version=4))
        assert ran["stored"]["code"] == now, f"make chapters NAMES={path.stem}"


def test_the_record_holds_no_chapter_that_is_gone():
    assert sorted(RAN) == [path.stem for path in chapters.chosen([])]


def test_a_page_says_when_where_and_with_what():
    alone_run = {
        "date": "2026-02-13",
        "seconds": 31,
        "system": "Linux x86_64",
        "device": "one CPU thread",
        "versions": {"Python": "3.12.1"},
    }
    told = (
        "This notebook alone, in a fresh environment, last ran on 13 February 2026 in 31 seconds, "
        "with Python 3.12.1, under Linux x86_64 on one CPU thread."
    )
    assert last_run.sentence({"alone": alone_run}) == told
    gpu = {"date": "2026-02-03", "seconds": 150, "device": "NVIDIA T4"}
    versions = {"Python": "3.12.1", "torch": "2.4.0"}
    stored = {**alone_run, **gpu, "versions": versions}
    assert last_run.sentence({"stored": stored, "alone": alone_run}) == (
        "These outputs were made on 3 February 2026 in 2.5 minutes, with Python 3.12.1, "
        f"torch 2.4.0, under Linux x86_64 on NVIDIA T4. {told}"
    )


def test_prose_and_outputs_leave_a_record_as_true_as_it_was():
    (path,) = chapters.chosen([QUICK])
    notebook = nbformat.read(path, as_version=4)
    before = chapters.fingerprint(notebook)
    notebook.cells[0].source += " More words."
    notebook.cells[2].outputs = []
    assert chapters.fingerprint(notebook) == before
    notebook.cells[2].source += "\n1"
    assert chapters.fingerprint(notebook) != before


def test_a_run_is_kept_beside_the_other_kind(tmp_path, monkeypatch):
    monkeypatch.setattr(chapters, "RAN", tmp_path / "ran.json")
    (path,) = chapters.chosen([QUICK])
    chapters.remember(path, "stored", 12.4)
    chapters.remember(path, "alone", 30.0)
    chapters.remember(path, "stored", 13.0)
    kept = json.loads((tmp_path / "ran.json").read_text())[QUICK]
    assert {how: run["seconds"] for how, run in kept.items()} == {"stored": 13, "alone": 30}
    assert kept["stored"]["versions"]["Python"] == ".".join(map(str, sys.version_info[:3]))


# --- Told: Binder gets what the chapters need -------------------------------------------------


def test_binder_installs_what_the_lab_needs():
    about = chapters.project()
    wanted = [*about["dependencies"], *about["optional-dependencies"]["lab"]]
    names = {re.match(r"[\w-]+", line)[0] for line in wanted}
    asked = yaml.safe_load((ROOT / ".binder" / "environment.yml").read_text())["dependencies"]
    # On conda-forge torch is called pytorch, and matplotlib without its windows matplotlib-base.
    known = {"pytorch-cpu": "torch", "matplotlib-base": "matplotlib"}
    given = {re.match(r"[\w-]+", line)[0] for line in asked}
    assert names <= {known.get(name, name) for name in given}
    assert "pip install --no-deps ." in (ROOT / ".binder" / "postBuild").read_text()


# --- Refused ----------------------------------------------------------------------------------


def test_a_notebook_that_fails_alone_is_told(tmp_path, wheel):
    (path,) = chapters.chosen([QUICK])
    notebook = nbformat.read(path, as_version=4)
    notebook.cells = [*notebook.cells[:2], nbformat.v4.new_code_cell("import sphinx")]
    broken = tmp_path / "broken.ipynb"
    nbformat.write(notebook, broken)
    with pytest.raises(RuntimeError, match="No module named 'sphinx'"):
        alone.run_alone(broken, wheel, tmp_path)
