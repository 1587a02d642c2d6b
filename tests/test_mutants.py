"""The tests are tested: the library was broken on purpose, and they noticed.

Breaking it takes half an hour, so `make mutants` does it and keeps a record; here the record
is held against the library of today.
"""

import ast
import importlib.util
import json
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

spec = importlib.util.spec_from_file_location("mutants", ROOT / "book/tools/mutants.py")
mutants = importlib.util.module_from_spec(spec)
spec.loader.exec_module(mutants)

RECORD = mutants.read_record()
# New, or changed since they were broken last, which takes an hour: `make mutants` is due for them.
UNTRIED = {
    "marginlib/rivals.py",
    "marginlib/symbolic/one_family.py",
}
MODULES = [module for module in mutants.modules() if module not in UNTRIED]
CORE = ["rivals", "softmax", "soft_margin", "hinge", "large_margin", "heads"]

# --- Claimed and proved: the record of this library ----------------------------------------


@pytest.mark.parametrize("module", MODULES)
def test_the_record_is_of_the_module_as_it_is_or_make_mutants_was_forgotten(module):
    assert module in RECORD
    assert RECORD[module]["sha256"] == mutants.digest(module)


def test_at_least_95_of_100_mutants_die():
    made = sum(RECORD[module]["mutants"] for module in MODULES)
    killed = sum(RECORD[module]["killed"] for module in MODULES)
    assert made > 500
    assert killed >= 0.95 * made


@pytest.mark.parametrize("module", MODULES)
def test_every_survivor_is_accounted_for_and_has_a_reason(module):
    record, lines = RECORD[module], (ROOT / module).read_text(encoding="utf-8").splitlines()
    assert record["killed"] + len(record["survivors"]) == record["mutants"] > 0
    for survivor in record["survivors"]:
        assert lines[survivor["line"] - 1].strip() == survivor["before"] != survivor["after"]
        assert len(survivor["reason"].split()) > 3, survivor


def test_the_record_speaks_of_no_module_that_is_gone():
    assert set(RECORD) == set(MODULES)


# --- Computed and compared: what is broken, and who is asked ---------------------------------


def test_every_loss_and_every_derivation_is_broken():
    every = set(mutants.modules())
    assert every >= UNTRIED
    assert {f"marginlib/{stem}.py" for stem in CORE} <= every
    symbolic = {path.stem for path in (ROOT / "marginlib/symbolic").glob("*.py")}
    assert {f"marginlib/symbolic/{stem}.py" for stem in symbolic - {"__init__"}} <= every


@pytest.mark.parametrize("module", MODULES)
def test_the_tests_that_are_asked_include_a_file_and_the_doctests(module):
    first, *files = [path for group in mutants.tests_of(module) for path in group]
    assert first == module
    assert files
    if "-k" in files:
        *files, option, names = files
        assert (files[-1], option) == ("tests/test_every_loss.py", "-k")
        assert all(name in (ROOT / module).read_text() for name in names.split(" or "))
    assert all((ROOT / path).exists() for path in files)


def test_what_others_stand_on_is_asked_every_law():
    for stem in ("rivals", "softmax", "soft_margin"):
        assert mutants.tests_of(f"marginlib/{stem}.py")[-1] == ["tests/test_every_loss.py"]


def test_nothing_is_changed_in_an_annotation():
    tree = ast.parse("def f(a: int | None = 1) -> int | str:\n    b: int = a + 1\n    return b")
    places = mutants.annotations(tree)
    assert {(1, 13), (1, 34), (2, 7)} <= places  # the two bars, and the type of b
    assert not {(1, 22), (2, 15)} & places  # the default, and the sum


def test_a_change_that_is_not_python_or_makes_no_difference_is_no_mutant():
    original = ast.parse("x = 1")
    assert mutants.changes(original, "x = 2")
    assert not mutants.changes(original, "x  =  1  # the same")
    assert not mutants.changes(original, "x = = 1")


# --- Told and checked: what the tool writes down ---------------------------------------------


def test_a_reason_is_kept_while_its_line_is_the_same(monkeypatch):
    runs = [
        (mutants.Mutant(3, "a + b", "a - b", "..."), True),
        (mutants.Mutant(5, "a < b", "a <= b", "..."), True),
        (mutants.Mutant(7, "a * b", "a / b", "..."), False),
    ]
    monkeypatch.setattr(mutants, "try_module", lambda module, copy: runs)
    monkeypatch.setattr(mutants, "version", lambda name: "1.0")
    old = {"survivors": [{"line": 1, "before": "a + b", "after": "a - b", "reason": "b is 0"}]}
    record = mutants.entry("marginlib/hinge.py", ROOT, old)
    assert (record["mutants"], record["killed"]) == (3, 1)
    assert record["survivors"] == [
        {"line": 3, "before": "a + b", "after": "a - b", "reason": "b is 0"},
        {"line": 5, "before": "a < b", "after": "a <= b", "reason": ""},
    ]
    assert record["sha256"] == mutants.digest("marginlib/hinge.py")


def test_only_what_changed_is_run_unless_all_is_asked_for():
    every = mutants.modules()
    fresh = {module: {"sha256": mutants.digest(module)} for module in every}
    assert mutants.chosen([], False, fresh) == []
    assert mutants.chosen([], True, fresh) == every
    stale = json.loads(json.dumps(fresh))
    stale["marginlib/hinge.py"]["sha256"] = "another"
    assert mutants.chosen([], False, stale) == ["marginlib/hinge.py"]
    both = ["marginlib/hinge.py", "marginlib/symbolic/hinge.py"]
    assert mutants.chosen(["hinge"], False, fresh) == both


# --- Refused -------------------------------------------------------------------------------


def test_a_module_that_does_not_exist_is_refused():
    with pytest.raises(SystemExit, match="there is no module hunge"):
        mutants.chosen(["hunge"], False, {})


@pytest.mark.parametrize("code", [4, 5])
def test_a_run_that_tests_nothing_is_no_verdict(monkeypatch, tmp_path, code):
    (tmp_path / "log.txt").write_text("no tests ran")
    monkeypatch.setattr(mutants, "run_tests", lambda *anything: code)
    with pytest.raises(SystemExit, match="pytest could not run a b\nno tests ran"):
        mutants.survives([["a", "b"]], 1, tmp_path / "log.txt", Counter())
