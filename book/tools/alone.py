"""Run chapters as a stranger does: the notebook alone, where torch is and marginlib is not.

    python book/tools/alone.py                   every chapter
    python book/tools/alone.py 01_softmax        one

Each chapter gets an empty folder and a fresh environment.  It is a view of the present one:
torch, what plots and computes, and a kernel, as a hosted notebook has them, and nothing else of
the book.  The notebook's own first cell installs the library.  One thing in it is changed: the
address of the tag, which nobody can fetch before it is published, becomes that of a wheel built
here.  What was installed before must be untouched afterwards.  No index is asked, so the outcome
does not depend on what was published this morning.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
import zipfile
from importlib import metadata
from pathlib import Path

import nbformat
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

spec = importlib.util.spec_from_file_location("chapters", Path(__file__).with_name("chapters.py"))
chapters = importlib.util.module_from_spec(spec)
spec.loader.exec_module(chapters)

# What a hosted notebook brings along, as far as the book uses it.
HOSTED = ("filelock", "ipykernel", "matplotlib", "nbclient", "pip", "scipy", "sympy", "torch")
HOSTED += ("torchvision", "tqdm")
# What the first cell brings.
NEEDS = ("jaxtyping", "wadler-lindig")
BROUGHT = {"marginlib", *NEEDS}

BUILD = "import sys, hatchling.build as b; print(b.build_wheel(sys.argv[1]))"
RUN = """
import sys
import sysconfig
import nbformat
from nbclient import NotebookClient

notebook = nbformat.read(sys.argv[1], as_version=4)
NotebookClient(notebook, timeout=900, kernel_name="python3").execute()
nbformat.write(notebook, sys.argv[1])
"""


def python(executable: Path | str, *words: str, cwd: Path, **env: str) -> str:
    """Run an interpreter and return what it printed; what it complained of is in the error."""
    run = subprocess.run(
        [executable, *words], cwd=cwd, env=env or None, capture_output=True, text=True
    )
    if run.returncode:
        raise RuntimeError(f"{' '.join(map(str, words))[:60]!r} failed:\n{run.stderr[-3000:]}")
    return run.stdout


def closure(names: tuple[str, ...]) -> list[metadata.Distribution]:
    """The distributions of these names and of all that they require here."""
    found, seen, left = {}, set(), [Requirement(name) for name in names]
    while left:
        wanted = left.pop()
        for extra in {"", *wanted.extras}:
            if (wanted.name, extra) in seen:
                continue
            seen.add((wanted.name, extra))
            found[wanted.name] = metadata.distribution(wanted.name)
            asks = map(Requirement, found[wanted.name].requires or [])
            left += [one for one in asks if not one.marker or one.marker.evaluate({"extra": extra})]
    return list(found.values())


def pack(name: str, folder: Path) -> None:
    """Make a wheel again of a distribution that is installed here."""
    about = metadata.distribution(name)
    stem = f"{name.replace('-', '_')}-{about.version}"
    with zipfile.ZipFile(folder / f"{stem}-py3-none-any.whl", "w") as wheel:
        for file in about.files:
            # What an installer adds is left out.
            if file.suffix != ".pyc" and file.name not in {"INSTALLER", "REQUESTED"}:
                wheel.write(file.locate(), file)


def build_wheels(folder: Path) -> Path:
    """Put the library's wheel, and the two that its first cell asks for, into a folder."""
    printed = python(sys.executable, "-c", BUILD, str(folder), cwd=chapters.ROOT)
    for name in NEEDS:
        pack(name, folder)
    return folder / printed.split()[-1]


class Stranger:
    """A fresh environment and an empty folder.

    Attributes:
        python: the environment's interpreter.
        folder: the empty folder.
        env: the variables that are set; none comes from outside.
    """

    def __init__(self, where: Path, wheel: Path):
        venv.EnvBuilder(symlinks=True).create(where / "env")
        self.python = where / "env" / "bin" / "python"
        self.wheel = wheel
        self.folder = where / "empty"
        self.folder.mkdir()
        self.env = {
            "HOME": str(self.folder),
            "MPLCONFIGDIR": str(wheel.parent / "fonts"),  # a second to read, ten to make
            "OMP_NUM_THREADS": "1",
            "PATH": os.environ["PATH"],
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PIP_FIND_LINKS": str(wheel.parent),
            "PIP_NO_INDEX": "1",
            "PYTHONDONTWRITEBYTECODE": "1",  # the view's folders are those of the real one
        }
        base = str(where / "env")
        site = Path(sysconfig.get_path("purelib", "posix_prefix", {"base": base, "platbase": base}))
        for about in closure(HOSTED):
            for top in {Path(file).parts[0] for file in about.files} - {"..", "__pycache__"}:
                if not (site / top).exists():
                    (site / top).symlink_to(about.locate_file(top))

    def installed(self) -> dict[str, str]:
        """What pip finds in the environment: names and versions."""
        listed = python(
            self.python, "-m", "pip", "list", "--format=json", cwd=self.folder, **self.env
        )
        return {canonicalize_name(one["name"]): one["version"] for one in json.loads(listed)}

    def would_install(self, *needs: str) -> set[str]:
        """The names that pip would install, with all that they require, if it were asked."""
        words = ["-m", "pip", "install", "-q", "--dry-run", "--report", "-", *needs]
        report = json.loads(python(self.python, *words, cwd=self.folder, **self.env))
        return {canonicalize_name(one["metadata"]["name"]) for one in report["install"]}

    def run(self, notebook: Path) -> float:
        """Run a notebook from top to bottom in the empty folder; return the seconds it took.

        The copy in the folder holds the outputs.
        """
        stored = nbformat.read(notebook, as_version=4)
        (install,) = (cell for cell in stored.cells if cell.id == "install")
        about = chapters.project()
        published = f"git+{about['urls']['Repository']}@v{about['version']}"
        assert install.source.count(published) == 1, install.source
        install.source = install.source.replace(published, self.wheel.as_uri())
        nbformat.write(stored, self.folder / notebook.name)
        start = time.perf_counter()
        python(self.python, "-c", RUN, notebook.name, cwd=self.folder, **self.env)
        return time.perf_counter() - start


def run_alone(notebook: Path, wheel: Path, where: Path) -> float:
    """Run one chapter alone; raise where it fails or moves what was there.  Return the seconds."""
    stranger = Stranger(where, wheel)
    before = stranger.installed()
    assert "torch" in before
    assert not BROUGHT & set(before), sorted(before)
    needs = [f"marginlib[lab] @ {wheel.as_uri()}", *NEEDS]
    assert stranger.would_install(*needs) == BROUGHT
    seconds = stranger.run(notebook)
    after = stranger.installed()
    assert {name: after.pop(name) for name in before} == before
    assert set(after) == BROUGHT, sorted(after)
    return seconds


def main() -> None:
    """Read the command line, run the chapters, keep the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="04_large_margin, large_margin or 04; all if none")
    options = parser.parse_args()
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        wheel = build_wheels(Path(folder))
        for path in chapters.chosen(options.names):
            where = Path(folder) / path.stem
            where.mkdir()
            try:
                seconds = run_alone(path, wheel, where)
            except (AssertionError, RuntimeError) as error:
                print(f"{path.stem}: {error}")
                failed += 1
            else:
                print(f"{path.stem}: {seconds:.0f} s")
                chapters.remember(path, "alone", seconds)
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
