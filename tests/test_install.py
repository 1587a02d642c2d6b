"""The library, installed alone: what someone gets who wants the losses and not the book."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# Everything the book uses and the losses must not need.  SymPy is left out of the list
# because torch imports it for itself; test_layout.py reads who imports it in marginlib.
BOOK_ONLY = ["IPython", "hypothesis", "matplotlib", "pytest", "scipy", "torchvision", "tqdm"]

TRAIN_ONE_STEP = """
import sys, warnings
warnings.simplefilter("error")
for name in {absent}:
    sys.modules[name] = None  # to import it is now an error, to look for it is not

import torch
import marginlib
assert marginlib.__file__.startswith({where!r}), marginlib.__file__
torch.manual_seed(0)
head = marginlib.LinearHead(8, 3, loss=marginlib.large_margin_loss)
step = torch.optim.SGD(head.parameters(), lr=0.1)
features, target = torch.randn(16, 8), torch.arange(16) % 3
before = head(features, target)
before.backward()
step.step()
assert head(features, target) < before
assert marginlib.check(marginlib.softmax_loss).ok

from marginlib.scale import chunked
many = torch.randn(1000, 8, requires_grad=True)
chunked.arcface_loss(features, many, target, block=300).sum().backward()
assert many.grad.isfinite().all()
"""


@pytest.fixture(scope="module")
def unpacked_wheel(tmp_path_factory):
    where = tmp_path_factory.mktemp("wheel")
    build = "import sys, hatchling.build as b; print(b.build_wheel(sys.argv[1]))"
    run = subprocess.run(
        [sys.executable, "-c", build, str(where)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    with zipfile.ZipFile(where / run.stdout.split()[-1]) as wheel:
        wheel.extractall(where / "site")
    return where / "site"


def test_a_wheel_trains_a_step_with_nothing_of_the_book_installed(unpacked_wheel):
    code = TRAIN_ONE_STEP.format(absent=set(BOOK_ONLY), where=str(unpacked_wheel))
    subprocess.run(
        [sys.executable, "-c", code],
        cwd=unpacked_wheel,  # -c looks in the working folder first, and the sources may lie there
        check=True,
        env={"PYTHONPATH": str(unpacked_wheel), "PATH": "", "OMP_NUM_THREADS": "1"},
    )


def test_the_wheel_carries_the_embedded_images_and_their_licence(unpacked_wheel):
    lab = unpacked_wheel / "marginlib" / "lab"
    assert (lab / "pocket.npz").stat().st_size < 1.5e6
    assert any("Zalando" in path.read_text() for path in lab.glob("*LICENSE*"))


def test_the_requirements_are_lower_bounds_so_that_an_install_moves_nothing(unpacked_wheel):
    (metadata,) = unpacked_wheel.glob("*.dist-info/METADATA")
    lines = metadata.read_text().splitlines()
    core = [line for line in lines if line.startswith("Requires-Dist") and "extra ==" not in line]
    assert core
    assert not [line for line in core if "<" in line or "==" in line or "~=" in line]
