"""Break the library on purpose, one small change at a time, and count what the tests catch.

    make mutants                             the modules that changed since they were last run
    make mutants MODULES=--all               every module
    make mutants MODULES='hinge proof'       these, in marginlib and marginlib/symbolic
    make mutants MODULES='--list hinge'      show what would be changed, and run nothing

A mutant is the library with one operator, number, comparison or condition changed.  If every
test still passes, the tests do not see that place; so a mutant that survives is a test to
write, or does what the original does.  In that case the reason is written, by hand, beside it in
``book/results/mutants.json``; a later run keeps the reasons whose lines are still the same.

The changes are made by the operators of cosmic-ray, and the running is done here.
Cosmic-ray's own runner starts Python for each mutant and would import torch a thousand times.
Mutmut starts once and forks, as this does; but it hides each function behind a switch that
reads a context variable, and ``torch.compile(fullgraph=True)`` refuses that, so the tests fail
before anything is broken; and its changes cannot be limited to signs, numbers and comparisons.

All work is done on a copy of the repository, one process at a time.
"""

import argparse
import ast
import gc
import hashlib
import importlib
import json
import os
import platform
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from importlib.metadata import entry_points, version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RECORD = ROOT / "book/results/mutants.json"
# The losses by blocks; of what else is in that folder, ranks and clocks, no fork is a fair judge.
CHUNKED = ROOT / "marginlib/scale/chunked.py"

BINARY = ["Add_Sub", "Add_Mul", "Sub_Add", "Mul_Div", "Mul_Add", "Div_Mul", "Pow_Mul"]
BINARY += ["Mod_Mul", "FloorDiv_Mul", "BitOr_BitAnd", "BitAnd_BitOr"]
COMPARISON = ["Eq_NotEq", "NotEq_Eq", "Is_IsNot", "IsNot_Is", "Lt_LtE", "Lt_GtE", "LtE_Lt"]
COMPARISON += ["LtE_Gt", "Gt_GtE", "Gt_LtE", "GtE_Gt", "GtE_Lt"]
OPERATORS = [
    *(f"ReplaceBinaryOperator_{name}" for name in BINARY),
    *(f"ReplaceComparisonOperator_{name}" for name in COMPARISON),
    *(f"ReplaceUnaryOperator_Delete_{name}" for name in ("USub", "Not", "Invert")),
    "NumberReplacer",  # one more and one less
    "ReplaceTrueWithFalse",
    "ReplaceFalseWithTrue",
    "ReplaceAndWithOr",
    "ReplaceOrWithAnd",
    "AddNot",
    "ExceptionReplacer",
    "RemoveDecorator",
    "ReplaceBreakWithContinue",
    "ReplaceContinueWithBreak",
    "ZeroIterationForLoop",
]

# Floor 0 on either side has no chapter of its own: all chapters' tests speak of it.
SHARED = {"rivals", "logits", "proof"}
# Losses on which others stand.
BELOW = {"softmax", "soft_margin"}
SEEN = ("torch", "sympy", "pytest", "hypothesis", "cosmic-ray")


@dataclass(frozen=True)
class Mutant:
    """One change: where, the line as it is, the line as it would be, the module's whole text."""

    line: int
    before: str
    after: str
    source: str


def modules() -> list[str]:
    """The loss and symbolic modules, from the root of the repository."""
    folders = [ROOT / "marginlib", ROOT / "marginlib/symbolic"]
    paths = [*(path for folder in folders for path in folder.glob("*.py")), CHUNKED]
    names = sorted(path.relative_to(ROOT).as_posix() for path in paths)
    # check.py judges losses and is itself judged by wrong ones, in tests/test_check.py.
    return [name for name in names if Path(name).stem not in ("__init__", "check")]


def digest(module: str, root: Path = ROOT) -> str:
    """What tells one version of a module from another."""
    return hashlib.sha256((root / module).read_bytes()).hexdigest()[:16]


def tests_of(module: str) -> list[list[str]]:
    """The tests that speak of a module, in groups: one is run if those before it all passed.

    First its doctests with its stem's tests; then, of what all chapters share, each chapter's;
    then, of a loss, the laws of every loss.
    """
    stem = Path(module).stem
    others = []
    if stem in SHARED:
        chapters = {path.stem for path in (ROOT / "marginlib/symbolic").glob("*.py")}
        others += sorted(chapters - SHARED - {"__init__"})
    # The folder's name is its tests' stem.
    home = Path(module).parent.name if stem == CHUNKED.stem else stem
    own, *rest = (ROOT / f"tests/test_{name}.py" for name in [home, *others])
    first = [module, own.relative_to(ROOT).as_posix()] if own.exists() else [module]
    groups = [first, *([path.relative_to(ROOT).as_posix()] for path in rest if path.exists())]
    laws = ["tests/test_every_loss.py"]
    if "symbolic" in module or stem in ("heads", CHUNKED.stem):
        return groups
    if stem in (*SHARED, *BELOW):
        return [*groups, laws]
    # A loss on which no other stands: only the laws that name one of its functions can see it.
    tree = ast.parse((ROOT / module).read_text(encoding="utf-8"))
    names = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
    return [*groups, [*laws, "-k", " or ".join(n for n in names if not n.startswith("_"))]]


def annotations(tree: ast.AST) -> set[tuple[int, int]]:
    """The places, line and column, of all that stands in annotations: nobody computes there."""
    roots = [getattr(node, "annotation", None) for node in ast.walk(tree)]
    roots += [getattr(node, "returns", None) for node in ast.walk(tree)]
    places = set()
    for root in filter(None, roots):
        for line in range(root.lineno, root.end_lineno + 1):
            start = root.col_offset if line == root.lineno else 0
            end = root.end_col_offset if line == root.end_lineno else 1000
            places |= {(line, column) for column in range(start, end)}
    return places


def mutants_of(source: str) -> list[Mutant]:
    """Every mutant of a module's text, in the order of its lines, each text once."""
    from cosmic_ray.ast import Visitor, ast_nodes, get_ast
    from cosmic_ray.operators.provider import OperatorProvider

    class Change(Visitor):
        """Apply ``operator`` at its ``skip``-th place."""

        def __init__(self, operator, skip: int):
            self.operator, self.skip = operator, skip

        def visit(self, node):
            for index, _ in enumerate(list(self.operator.mutation_positions(node))):
                self.skip -= 1
                if self.skip == -1:
                    return self.operator.mutate(node, index)
            return node

    original = ast.parse(source)
    idle, lines = annotations(original), source.splitlines()
    found, texts = [], {source}
    for name in OPERATORS:
        operator = OperatorProvider()[name]()
        nodes = ast_nodes(get_ast(source))
        places = [place for node in nodes for place in operator.mutation_positions(node)]
        for skip, ((line, column), _) in enumerate(places):
            text = Change(operator, skip).walk(get_ast(source)).get_code()
            if (line, column) in idle or text in texts or not changes(original, text):
                continue
            texts.add(text)
            after = text.splitlines()[line - 1].strip()
            found.append(Mutant(line, lines[line - 1].strip(), after, text))
    return sorted(found, key=lambda mutant: mutant.line)


def changes(original: ast.AST, text: str) -> bool:
    """Whether ``text`` is Python, and another program than the original."""
    try:
        return ast.dump(ast.parse(text)) != ast.dump(original)
    except SyntaxError:
        return False


class Hasty:
    """A pytest plugin for runs that end at the first failure and of which nobody reads it."""

    def __init__(self, kills: Counter):
        self.kills = kills

    def pytest_collection(self):
        """A property that fails need not look for its least example."""
        from hypothesis import Phase, settings

        phases = [Phase.explicit, Phase.generate]
        settings.register_profile("mutants", parent=settings(), phases=phases)
        settings.load_profile("mutants")

    def pytest_collection_modifyitems(self, items):
        """The tests that caught most of the module's mutants so far go first."""
        items.sort(key=lambda item: -self.kills[item.nodeid])


def in_child(tests: list[str], seconds: int, log: Path, kills: Counter) -> int:
    """Limit this process, send what it says to ``log``, and run pytest in it."""
    output = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, resource.RLIM_INFINITY))
    signal.alarm(20 * seconds)
    importlib.invalidate_caches()
    import pytest

    # Assertions are not rewritten to explain themselves: that is a second for each mutant.
    options = ["-x", "-q", "-rfE", "--no-header", "--tb=short", "--assert=plain"]
    options += ["-p", "no:cacheprovider", "-o", "addopts=", "--doctest-modules"]
    return pytest.main([*options, *tests], plugins=[Hasty(kills)])


def run_tests(tests: list[str], seconds: float, log: Path, kills: Counter) -> int:
    """Fork, run pytest there until the first failure, and return its exit code.

    The limit is of processor time, so that a busy machine kills no mutant; a child that waits
    for ever ends by the alarm.  Either end is reported as a negative number, the signal's.
    """
    pid = os.fork()
    if pid == 0:
        code = 4
        try:
            code = in_child(tests, int(seconds), log, kills)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    kills.update(re.findall(r"^(?:FAILED|ERROR) (.+?)(?: - |$)", log.read_text(), re.MULTILINE))
    return os.waitstatus_to_exitcode(status)


def survives(groups: list[list[str]], seconds: float, log: Path, kills: Counter) -> bool:
    """Whether all tests pass.  A run that tested nothing at all is an error of this tool."""
    for tests in groups:
        code = run_tests(tests, seconds, log, kills)
        if code in (4, 5):
            raise SystemExit(f"pytest could not run {' '.join(tests)}\n{log.read_text()[-3000:]}")
        if code != 0:
            return False
    return True


def try_module(module: str, copy: Path) -> Iterator[tuple[Mutant, bool]]:
    """Each mutant of a module with whether it survived.  ``copy`` is the current folder."""
    path, log, tests = copy / module, copy / "log.txt", tests_of(module)
    source, kills = path.read_text(encoding="utf-8"), Counter()
    start = os.times().children_user
    # This first run also leaves the compiled tests behind for those after it.
    if not survives(tests, 3600, log, kills):
        raise SystemExit(f"the tests of {module} fail as it is\n{log.read_text()[-3000:]}")
    limit = 20 + 4 * (os.times().children_user - start)
    # A compiled module is told from another by its size and the second it was written in, and
    # two mutants can agree in both.
    sys.dont_write_bytecode = True
    for folder in (copy / "marginlib").rglob("__pycache__"):
        shutil.rmtree(folder)
    try:
        path.write_text("raise ImportError\n", encoding="utf-8")
        if survives(tests, limit, log, kills):
            raise SystemExit(f"the tests of {module} do not import the copy of it")
        for mutant in mutants_of(source):
            path.write_text(mutant.source, encoding="utf-8")
            yield mutant, survives(tests, limit, log, kills)
    finally:
        path.write_text(source, encoding="utf-8")
        sys.dont_write_bytecode = False


def entry(module: str, copy: Path, old: dict) -> dict:
    """The record of one module, with the reasons that were given before."""
    start, survivors, count = time.perf_counter(), [], 0
    reasons = {(s["before"], s["after"]): s["reason"] for s in old.get("survivors", [])}
    for mutant, alive in try_module(module, copy):
        count += 1
        if alive:
            reason = reasons.get((mutant.before, mutant.after), "")
            shown = {"line": mutant.line, "before": mutant.before, "after": mutant.after}
            survivors.append({**shown, "reason": reason})
            print("  {line}: {before}\n    -> {after}".format(**shown), flush=True)
    return {
        "sha256": digest(module, copy),  # the repository's own may have moved on
        "mutants": count,
        "killed": count - len(survivors),
        "survivors": survivors,
        "date": date.today().isoformat(),
        "seconds": round(time.perf_counter() - start),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in SEEN}},
    }


def read_record() -> dict:
    """The record, by module; empty before the first run."""
    return json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.exists() else {}


def keep(record: dict) -> None:
    """Write the record, without modules that are no more."""
    known = {module: record[module] for module in modules() if module in record}
    RECORD.parent.mkdir(exist_ok=True)
    text = json.dumps(known, indent=1, ensure_ascii=False)
    RECORD.write_text(text + "\n", encoding="utf-8")


def chosen(names: list[str], every: bool, record: dict) -> list[str]:
    """The modules to run: those named, or all, or those whose record is not of today's text."""
    if unknown := set(names) - {Path(module).stem for module in modules()}:
        raise SystemExit(f"there is no module {', '.join(sorted(unknown))}")
    if names:
        return [module for module in modules() if Path(module).stem in names]
    old = {module for module in modules() if record.get(module, {}).get("sha256") == digest(module)}
    return [module for module in modules() if every or module not in old]


def prepare(folder: str) -> Path:
    """Make the copy, stand in it, and import once what every run imports."""
    copy = Path(folder) / "copy"
    idle = shutil.ignore_patterns(".*", "_build", "__pycache__", "build", "dist", "shared")
    shutil.copytree(ROOT, copy, ignore=idle)
    os.chdir(copy)
    os.environ["OMP_NUM_THREADS"] = "1"
    sys.path.insert(0, str(copy))
    for name in ("torch._dynamo", "sympy", "hypothesis", "beartype", "jaxtyping", "pytest"):
        importlib.import_module(name)
    for plugin in entry_points(group="pytest11"):
        plugin.load()
    assert "marginlib" not in sys.modules
    # What is there now is never garbage: without this each child spends a second on finding out.
    gc.collect()
    gc.freeze()
    return copy


def main() -> None:
    """Read the command line, run, keep each module's result as soon as it is there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("modules", nargs="*", help="stems, such as hinge; none: what changed")
    parser.add_argument("--all", action="store_true", help="also what has not changed")
    parser.add_argument("--list", action="store_true", help="show the mutants and run nothing")
    options = parser.parse_args()
    record = read_record()
    todo = chosen(options.modules, options.all, record)
    if options.list:
        for module in todo:
            for mutant in mutants_of((ROOT / module).read_text(encoding="utf-8")):
                print(f"{module}:{mutant.line}: {mutant.before}  ->  {mutant.after}")
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = prepare(folder)
        try:
            for module in todo:
                print(module, flush=True)
                record[module] = entry(module, copy, record.get(module, {}))
                keep(record)
                print("  {killed} of {mutants} killed, {seconds} s".format(**record[module]))
        finally:
            gc.unfreeze()


if __name__ == "__main__":
    main()
