"""Run the chapters and store them in one normal form.

    python book/tools/chapters.py                   run, normalise and write every chapter
    python book/tools/chapters.py 04_large_margin   run, normalise and write one
    python book/tools/chapters.py --check           run and write nothing; tell what is amiss

A stored notebook is source and evidence at once, so it holds what a reader or a test can use
and nothing of the machine that ran it: no clock times, no folders, no kernel's version, ids
that say where a cell stands, figures small enough to keep under version control.  When and where
a chapter ran is kept beside them, in ``book/ran.json``; its page says so.
"""

import argparse
import base64
import copy
import hashlib
import io
import json
import os
import platform
import re
import subprocess
import sys
import time
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from PIL import Image

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
CHAPTERS = ROOT / "chapters"
RAN = ROOT / "book" / "ran.json"
KEPT = {"tags", "mystnb", "reason"}  # the cell metadata that the book and the tests read
DPI = (110, 144)

# A path from the root of a file system with two folders or more; not the tail of an address.
ABSOLUTE = re.compile(r"(?<![\w:/.<\\])/(?:[\w.+-]+/){2,}|\b[A-Z]:\\\w|site-" + "packages")
TRAINS = re.compile(r"marginlib\.lab\b[^\n]*\b(?:train|studies)\b")
# Where the explorables stand.  A page of the book moves them; elsewhere their pictures are still.
EXPLORABLES = {
    "logits": "01_softmax",
    "smoothing": "04_large_margin",
    "angles": "05_angular",
    "mixture": "06_gaussian_mixture",
    "groups": "07_group",
}
READABLE = re.compile(r"(?![0-9a-f]{8}$)[a-z][a-z0-9]*(?:-[a-z0-9]+)*")


def project() -> dict:
    """The [project] table of pyproject.toml: the one home of version and address."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def install_source() -> str:
    """What the first code cell says: install the library, where it is missing."""
    about = project()
    address = f"git+{about['urls']['Repository']}@v{about['version']}"
    return f'''\
# Colab only: fetch the book's library. Does nothing where it is installed.
import subprocess
import sys
from importlib.util import find_spec

if find_spec("marginlib") is None:
    source = "{address}"
    needs = ["jaxtyping", "wadler-lindig", f"marginlib @ {{source}}"]
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps"]
    subprocess.run([*pip, *needs], check=True)'''


def explorable_source(name: str) -> str:
    """What the cell of an explorable says: its still picture, and where it can be moved.

    Colab shows no picture that lies beside the notebook, only one with an address.
    """
    owner, project_name = project()["urls"]["Repository"].rstrip("/").split("/")[-2:]
    site = f"https://{owner}.github.io/{project_name}"
    picture = (ROOT / "book" / "static" / "explore" / f"{name}.svg").read_text(encoding="utf-8")
    alt = re.search(r"<desc>(.*?)</desc>", picture)[1]
    page = f"{site}/chapters/{EXPLORABLES[name]}.html#explore-{name}"
    return f'''\
<div class="explore" data-explore="{name}" id="explore-{name}">
<p><img src="{site}/_static/explore/{name}.svg" width="640" alt="{alt}"></p>
<p>A still picture. On <a href="{page}">the book's page</a> you can move it.</p>
</div>'''


def notebook_metadata(notebook: nbformat.NotebookNode) -> dict:
    """Metadata for Jupyter and Colab; a GPU is asked for only where something is trained."""
    code = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    trains = TRAINS.search(code) is not None
    return {
        **({"accelerator": "GPU"} if trains else {}),
        "colab": {**({"gpuType": "T4"} if trains else {}), "provenance": []},
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }


def slug(text: str) -> str:
    """A heading as an id: lower case, digits, dashes."""
    words = re.findall(r"[a-z0-9]+", re.sub(r"\$[^$]*\$", " ", text.lower()))
    name = "-".join(words)[:40].rstrip("-")
    return name if re.match("[a-z]", name) else f"part-{name}".rstrip("-")


def name_cells(cells: list) -> None:
    """Keep every readable id; name the others after their section and place in it."""
    kept = [cell.id for cell in cells if READABLE.fullmatch(cell.id)]
    taken = {name for name in kept if kept.count(name) == 1}
    section, place = "start", 0
    for cell in cells:
        heading = re.match(r"\s*(?:\([\w-]+\)=\s*)?#{1,4} +(.+)", cell.source)
        if cell.cell_type == "markdown" and heading:
            section, place = slug(heading[1]), 0
        if cell.id != "install":
            place += 1
        if cell.id in taken:
            continue
        name = section if place == 1 else f"{section}-{place}"
        while name in taken:
            place += 1
            name = f"{section}-{place}"
        cell.id = name
        taken.add(name)


def shrink(png: str) -> str:
    """The same picture with a palette: a third of the bytes, and the resolution kept."""
    image = Image.open(io.BytesIO(base64.b64decode(png)))
    if image.mode == "P":
        return png
    # Every figure of the book is opaque, and no palette entry is spent on transparency.
    flat = Image.new("RGB", image.size, "white")
    flat.paste(image, mask=image.getchannel("A") if image.mode == "RGBA" else None)
    small = flat.quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    buffer = io.BytesIO()
    small.save(buffer, "PNG", optimize=True, dpi=image.info.get("dpi", (100, 100)))
    return base64.b64encode(buffer.getvalue()).decode()


def normal_outputs(cell: nbformat.NotebookNode) -> list:
    """The cell's outputs without what a machine or a clock put there."""
    outputs = []
    for output in cell.outputs:
        hidden = "remove-stderr" in cell.metadata.get("tags", [])
        if hidden and output.get("name") == "stderr":
            continue
        if output.output_type == "error":
            # A traceback names folders; what it says is said in its last line.
            output.traceback = [f"{output.ename}: {output.evalue}"]
        if "metadata" in output:
            output.metadata = {}
        if "image/png" in output.get("data", {}):
            output.data["image/png"] = shrink(output.data["image/png"])
        if outputs and "text" in output and outputs[-1].get("name") == output.name:
            outputs[-1].text += output.text  # a busy kernel sends one print in several pieces
            continue
        outputs.append(output)
    return outputs


def install_first(cells: list) -> list:
    """Put the install cell, as it must be today, behind the title."""
    others = [cell for cell in cells if cell.id != "install"]
    cell = nbformat.v4.new_code_cell(install_source(), id="install")
    cell.metadata["tags"] = ["remove-cell"]
    old = next((c for c in cells if c.id == "install" and c.source == cell.source), None)
    if old is not None:
        cell.execution_count = old.execution_count
    at = 1 if others and others[0].cell_type == "markdown" else 0
    return [*others[:at], cell, *others[at:]]


def normalise(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """A copy of the notebook in normal form."""
    notebook = copy.deepcopy(notebook)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    for cell in notebook.cells:
        cell.setdefault("id", "")
    notebook.cells = install_first(notebook.cells)
    for cell in notebook.cells:
        cell.source = cell.source.rstrip()
        if cell.id.removeprefix("explore-") in EXPLORABLES:
            cell.source = explorable_source(cell.id.removeprefix("explore-"))
        cell.metadata = {key: cell.metadata[key] for key in sorted(KEPT & set(cell.metadata))}
        if cell.cell_type == "code":
            cell.outputs = normal_outputs(cell)
    notebook.cells = [cell for cell in notebook.cells if cell.source]
    name_cells(notebook.cells)
    notebook.metadata = notebook_metadata(notebook)
    return notebook


def figures(cell: nbformat.NotebookNode) -> list[str]:
    """The PNG pictures that a code cell shows, as base64."""
    found = (output.get("data", {}).get("image/png") for output in cell.get("outputs", []))
    return [png for png in found if png]


def words(cell: nbformat.NotebookNode) -> str:
    """Everything that a reader could read in a cell: its source and the text it printed."""
    parts = [cell.source]
    for output in cell.get("outputs", []):
        data = output.get("data", {})
        parts += [output.get("text", ""), output.get("evalue", "")]
        parts += [str(text) for kind, text in data.items() if not kind.startswith("image/")]
    return "\n".join(parts)


def faults(notebook: nbformat.NotebookNode) -> list[str]:
    """What only the author can mend, each with the cell's id."""
    found = []
    for cell in notebook.cells:
        path = ABSOLUTE.search(words(cell))
        if path:
            found.append(f"{cell.id}: an absolute path, {path[0]!r}")
        for output in cell.get("outputs", []):
            if output.get("name") == "stderr":
                found.append(f"{cell.id}: something on stderr: {output.text.strip()[:200]!r}")
            if "image/svg+xml" in output.get("data", {}):
                found.append(f"{cell.id}: an SVG figure; its bytes differ from machine to machine")
        for png in figures(cell):
            image = Image.open(io.BytesIO(base64.b64decode(png)))
            dpi = image.info.get("dpi", (0, 0))[0]
            if not DPI[0] - 1 <= dpi <= DPI[1] + 1:
                found.append(f"{cell.id}: a figure at {dpi:.0f} dpi, not {DPI[0]} to {DPI[1]}")
    return found


def execute(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Run all cells in a fresh kernel, one thread, in the chapters' folder."""
    notebook = copy.deepcopy(notebook)
    client = NotebookClient(
        notebook,
        timeout=900,
        kernel_name="python3",
        record_timing=False,
        extra_arguments=["--IPKernelApp.log_level=ERROR"],
        resources={"metadata": {"path": str(CHAPTERS)}},
    )
    client.execute(env={**os.environ, "OMP_NUM_THREADS": "1"})
    return notebook


def chosen(names: list[str]) -> list[Path]:
    """The notebooks that the names mean: a stem, a file's name, a path; all for none."""
    every = sorted(CHAPTERS.glob("[0-9][0-9]_*.ipynb"))
    if not names:
        return every
    paths = []
    for name in names:
        stem = Path(name).stem
        hits = [path for path in every if stem in (path.stem, path.stem[3:], path.stem[:2])]
        if not hits:
            known = ", ".join(path.stem for path in every) or "none yet"
            raise SystemExit(f"There is no chapter {name!r}. There are: {known}.")
        paths += hits
    return paths


def text(notebook: nbformat.NotebookNode) -> str:
    """The notebook as it is written to disk."""
    return nbformat.writes(notebook, version=4) + "\n"


def check(path: Path) -> list[str]:
    """What keeps a stored chapter from being in normal form."""
    stored = path.read_text(encoding="utf-8")
    notebook = nbformat.reads(stored, as_version=4)
    found = faults(notebook)
    if stored != text(normalise(notebook)):
        found.append(f"not in normal form; run: python book/tools/chapters.py {path.stem}")
    return found


def fingerprint(notebook: nbformat.NotebookNode) -> str:
    """What tells one state of a chapter's code from another; prose and outputs do not count."""
    code = "\0".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    return hashlib.sha256(code.encode()).hexdigest()[:16]


def remember(path: Path, how: str, seconds: float) -> None:
    """Keep when and where a chapter ran: ``"stored"``, as it lies here, or ``"alone"``."""
    import torch  # a run knows its device; no other use of this tool should wait for torch

    gpu = torch.cuda.is_available()
    ran = json.loads(RAN.read_text()) if RAN.exists() else {}
    code = fingerprint(nbformat.read(path, as_version=4))
    kept = ran.get(path.stem, {})
    ran[path.stem] = {
        **{name: kept[name] for name in ("stored", "alone") if name in kept},
        how: {
            "code": code,
            "date": datetime.now(timezone.utc).date().isoformat(),
            "seconds": round(seconds),
            "system": f"{platform.system()} {platform.machine()}",
            "device": torch.cuda.get_device_name() if gpu else "one CPU thread",
            "versions": {
                "Python": platform.python_version(),
                **{name: metadata.version(name) for name in ("torch", "sympy", "matplotlib")},
                "marginlib": project()["version"],
            },
        },
    }
    RAN.write_text(json.dumps(dict(sorted(ran.items())), indent=1) + "\n")


def run(path: Path) -> list[str]:
    """Format, execute, normalise and write one chapter; return what its author must mend."""
    subprocess.run([sys.executable, "-m", "ruff", "format", "-q", str(path)], check=True)
    notebook = normalise(nbformat.read(path, as_version=4))
    start = time.perf_counter()
    try:
        notebook = normalise(execute(notebook))
    except CellExecutionError as error:
        return [f"a cell failed; nothing was written\n{error}"]
    nbformat.validate(notebook)
    path.write_text(text(notebook), encoding="utf-8")
    remember(path, "stored", time.perf_counter() - start)
    return faults(notebook)


def main() -> None:
    """Read the command line, work through the chapters, say what is amiss."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="04_large_margin, large_margin or 04; all if none")
    parser.add_argument("--check", action="store_true", help="run and write nothing")
    options = parser.parse_args()
    amiss = 0
    for path in chosen(options.names):
        start = time.perf_counter()
        found = check(path) if options.check else run(path)
        seconds = time.perf_counter() - start
        print(f"{path.stem}: {seconds:.0f} s, {len(found) or 'nothing'} to mend")
        for line in found:
            print(f"  {line}")
        amiss += len(found)
    raise SystemExit(1 if amiss else 0)


if __name__ == "__main__":
    main()
