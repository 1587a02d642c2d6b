"""The shape of the project: five places for each stem, and imports that only point down."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = ROOT / "marginlib"
CHAPTERS = sorted((ROOT / "chapters").glob("[0-9][0-9]_*.ipynb"))
SHARED_SYMBOLS = {"__init__", "proof", "logits"}  # what the stems' symbolic modules have in common

# Floors 0, 1, 3 and 4 are named; every other module of the library is a loss's own, on floor 2.
FLOOR = {"rivals": 0, "softmax": 1, "soft_margin": 1, "heads": 3, "check": 3, "scale": 4}
LOSS_FLOOR = 2

# What Python brings along, as far as the library uses it.
STANDARD = {
    "abc", "argparse", "collections", "contextlib", "copy", "dataclasses", "datetime", "enum",
    "functools", "inspect", "itertools", "math", "operator", "os", "pathlib", "random",
    "shutil", "sys", "textwrap", "time", "types", "typing", "warnings",
}  # fmt: skip

# The chapters that by design have no module, derivation or record of their own.
FIVE = {"chapter", "module", "symbolic", "tests", "results"}
EXCEPT = {
    "one_family": {"module", "results"},
    "side_by_side": {"module", "symbolic", "tests"},
    "at_scale": {"module", "symbolic"},
    "choosing": {"module", "symbolic", "tests", "results"},
}


def stems() -> list[str]:
    """Every stem that stands in a chapter, in a derivation or on the losses' floors."""
    symbolic = {path.stem for path in (LIBRARY / "symbolic").glob("*.py")} - SHARED_SYMBOLS
    losses = {path.stem for path in LIBRARY.glob("*.py")} - {"__init__"}
    losses -= {name for name, floor in FLOOR.items() if floor in (0, 3)}
    return sorted(symbolic | losses | {path.stem[3:] for path in CHAPTERS})


def imported(path: Path) -> set[str]:
    """The full names of all modules that a file imports, wherever in the file."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join([*above, *([node.module] if node.module else [])])
            # `from marginlib import lab` names the module lab, `from .softmax import margin` a
            # function of a module: both parts are kept and a test looks at what it knows.
            names |= {base} | {f"{base}.{alias.name}" for alias in node.names}
    return names


def homes() -> dict[str, str]:
    """The module that each public name of the package comes from."""
    tree = ast.parse((LIBRARY / "__init__.py").read_text(encoding="utf-8"))
    froms = (node for node in tree.body if isinstance(node, ast.ImportFrom))
    return {alias.asname or alias.name: node.module for node in froms for alias in node.names}


def inside(path: Path) -> set[str]:
    """The parts of the library that a file imports, by their first name below marginlib.

    A public name counts as the module it comes from: going through the front door does not
    change the floor.
    """
    parts = (name.split(".") for name in imported(path))
    first = {name[1] for name in parts if name[0] == "marginlib" and len(name) > 1}
    return {homes().get(name, name) for name in first}


def floor(name: str) -> int | None:
    """The floor of a module of the library; None for a name that is no module."""
    if (LIBRARY / f"{name}.py").exists() or (LIBRARY / name).is_dir():
        return FLOOR.get(name, LOSS_FLOOR)
    return None


def python_files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.py"))


def short(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


LOSS_MODULES = [path for path in sorted(LIBRARY.glob("*.py")) if path.stem != "__init__"]
LOSS_MODULES += python_files(LIBRARY / "scale")
LAB = python_files(LIBRARY / "lab")


# --- Five places -------------------------------------------------------------------------


@pytest.mark.parametrize("stem", stems())
def test_a_stem_stands_in_its_five_places(stem):
    places = {
        "chapter": len([path for path in CHAPTERS if path.stem[3:] == stem]) == 1,
        "module": (LIBRARY / f"{stem}.py").exists(),
        "symbolic": (LIBRARY / "symbolic" / f"{stem}.py").exists(),
        "tests": (ROOT / "tests" / f"test_{stem}.py").exists(),
        "results": (ROOT / "book" / "results" / f"{stem}.json").exists(),
    }
    missing = {place for place, there in places.items() if not there}
    assert not missing - EXCEPT.get(stem, set()), f"{stem} lacks {sorted(missing)}"


def test_the_chapters_are_numbered_from_one_without_a_gap():
    assert [int(path.stem[:2]) for path in CHAPTERS] == list(range(1, len(CHAPTERS) + 1))


# --- Floors ------------------------------------------------------------------------------


@pytest.mark.parametrize("path", LOSS_MODULES, ids=short)
def test_imports_point_down(path):
    part = path.relative_to(LIBRARY).with_suffix("").parts[0]
    here = floor(part)
    for name in inside(path) - {part}:
        there = floor(name)
        assert there is None or there < here, (
            f"{part} is on floor {here} and imports {name} from floor {there}"
        )


@pytest.mark.parametrize("path", LOSS_MODULES, ids=short)
def test_a_loss_knows_no_derivation_and_no_experiment(path):
    assert not inside(path) & {"symbolic", "lab"}


@pytest.mark.parametrize("path", LOSS_MODULES, ids=short)
def test_the_library_needs_torch_and_jaxtyping_alone(path):
    allowed = {"torch", "jaxtyping", "marginlib", *STANDARD}
    assert {name.split(".")[0] for name in imported(path)} <= allowed


@pytest.mark.parametrize("path", python_files(LIBRARY / "symbolic"), ids=short)
def test_no_tensor_enters_a_derivation(path):
    outside = {name.split(".")[0] for name in imported(path)} - {"marginlib"}
    assert outside <= {"sympy", "mpmath", *STANDARD}
    assert inside(path) <= {"symbolic"}


@pytest.mark.parametrize("path", LAB, ids=short)
def test_the_lab_takes_its_losses_as_arguments(path):
    if path.is_relative_to(LIBRARY / "lab" / "studies") or path.stem == "compare":
        return  # the losses of a stem, and those that a reader compares, are named there
    high = {name for name in inside(path) - {"lab"} if (floor(name) or 0) > 1}
    assert not high, f"{short(path)} imports {sorted(high)}"


@pytest.mark.parametrize("path", python_files(LIBRARY), ids=short)
def test_annotations_stay_objects(path):
    # Postponed annotations are strings, and the shape checker would see nothing.
    assert "__future__.annotations" not in imported(path)


def test_the_package_itself_holds_names_and_no_logic():
    tree = ast.parse((LIBRARY / "__init__.py").read_text(encoding="utf-8"))
    docstring, *body = tree.body
    assert isinstance(docstring, ast.Expr)
    for node in body:
        name = node.targets[0].id if isinstance(node, ast.Assign) else "import"
        assert isinstance(node, ast.ImportFrom | ast.Assign)
        assert name in {"import", "__version__", "__all__"}


def test_a_public_name_counts_as_the_module_it_comes_from(tmp_path, monkeypatch):
    path = tmp_path / "marginlib" / "some.py"
    path.parent.mkdir()
    path.write_text("from marginlib import large_margin_loss, check")
    monkeypatch.setattr("test_layout.ROOT", tmp_path)
    assert inside(path) == {"large_margin", "check"}


def test_nothing_imports_a_chapter():
    for path in [*python_files(LIBRARY), *python_files(ROOT / "tests")]:
        assert not re.search(r"^(?:from|import) chapters\b", path.read_text(), re.MULTILINE)


# --- How imports are read ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("from .rivals import split", {"marginlib.rivals", "marginlib.rivals.split"}),
        ("from . import rivals", {"marginlib", "marginlib.rivals"}),
        ("import torch.nn as nn", {"torch.nn"}),
        ("def f():\n    import numpy", {"numpy"}),
    ],
)
def test_an_import_is_seen_however_it_is_written(tmp_path, monkeypatch, line, names):
    monkeypatch.setattr("test_layout.ROOT", tmp_path)
    path = tmp_path / "marginlib" / "some.py"
    path.parent.mkdir()
    path.write_text(line)
    assert imported(path) == names
