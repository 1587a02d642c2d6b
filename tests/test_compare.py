"""A reader's own images in, a table out: is the comparison fair, in time and honest?"""

import json
from dataclasses import replace
from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image

from marginlib import CosFaceHead, large_margin_loss, softmax_loss
from marginlib.lab import compare as lab
from marginlib.lab import data, evidence
from marginlib.lab.evidence import Record, interval


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Forty real pictures in the layout that a reader has: one folder a class."""
    root = tmp_path_factory.mktemp("pictures")
    pocket = data.load("pocket")
    for label in range(4):
        (root / pocket.label_names[label].replace("/", "-")).mkdir()
    for label in range(4):
        name = pocket.label_names[label].replace("/", "-")
        for k, picture in enumerate(pocket.train_images[pocket.train_labels == label][:30]):
            Image.fromarray(np.asarray(picture[0])).save(root / name / f"{k}.png")
    return root


@pytest.fixture(scope="module")
def found(folder):
    return lab.compare(
        folder, ("smoothing", "softmax"), minutes=0.15, size=28, augment=False, progress=False
    )


# --- Claimed and proved -------------------------------------------------------------------


def test_the_intervals_of_k_comparisons_hold_together():
    # With no true difference at all, the share of comparisons of which at least one of five looks
    # clear must stay near one in twenty.  2000 trials have a deviation of half a percent point.
    draw = np.random.default_rng(0)
    fooled = 0
    for _ in range(2000):
        gaps = draw.normal(size=(5, 4))
        fooled += any(
            low > 0 or high < 0 for _, low, high in (interval(list(g), 0.99) for g in gaps)
        )
    assert fooled / 2000 < 0.065


# --- Computed and compared ----------------------------------------------------------------


def test_every_method_gets_the_same_chances(found):
    counted = {}
    for run in found.record.runs:
        counted.setdefault(run.config["method"], []).append((run.config["regime"], run.seed))
    assert sorted(counted) == ["smoothing", "softmax"]
    assert sorted(counted["smoothing"]) == sorted(counted["softmax"])
    assert {run.config["epochs"] for run in found.record.runs} == {
        found.record.runs[0].config["epochs"]
    }
    assert {run.config["images"] for run in found.record.runs} == {
        found.record.runs[0].config["images"]
    }


def test_the_rate_that_is_tested_is_the_one_with_the_lowest_validation_error(found):
    for method in found.methods:
        tried = {
            run.config["rate"]: run.measures["validation"]["error"][-1]
            for run in found.record.select(method=method).runs
            if run.config["regime"] != lab.TESTED
        }
        tested = {run.config["rate"] for run in found.tested.select(method=method).runs}
        assert len(tried) == len(lab.RATES)
        assert tested == {min(tried, key=tried.get)}


def test_the_differences_are_those_of_the_kept_runs_seed_by_seed(found):
    (difference,) = found.differences()
    errors = [found.tested.select(method=m).values() for m in ("smoothing", "softmax")]
    mean, low, high = interval([a - b for a, b in zip(*errors)], 0.95)
    assert (difference.mean, difference.low, difference.high) == (mean, low, high)


def test_the_epochs_fill_the_time_and_no_more(monkeypatch):
    images = data.load("pocket")

    class Timed:
        def __init__(self, seconds):
            self.seconds = seconds

    def once(name, method, seed, rate, epochs, regime, *, images):
        share = len(images.train_images) / 2500
        return Timed(0.5 + epochs * 2.0 * share)

    monkeypatch.setattr(lab.time, "perf_counter", lambda: 0.0)
    named = {"a": softmax_loss, "b": softmax_loss}
    # Ten runs of half a second and two seconds an epoch: 65 seconds are three epochs each.
    assert lab.epochs_that_fit(once, named, images, 10, 65.0) == 3
    assert lab.epochs_that_fit(once, named, images, 10, 64.9) == 2
    assert lab.epochs_that_fit(once, named, images, 10, 1e6) == lab.MOST_EPOCHS
    with pytest.raises(ValueError, match=r"10 runs of one epoch need about 0[.]4 minutes here"):
        lab.epochs_that_fit(once, named, images, 10, 24.9)


# --- Told and checked ---------------------------------------------------------------------


def test_a_folder_becomes_a_table_a_figure_and_a_file(found, tmp_path):
    assert found.methods == ("softmax", "smoothing"), "the baseline comes first"
    told = str(found)
    assert told.splitlines()[2].startswith("softmax")
    assert "baseline" in told
    assert "<table>" in found._repr_html_()
    figure = found.plot()
    left, right = figure.axes
    assert [tick.get_text() for tick in left.get_yticklabels()] == list(found.methods)
    assert "difference to softmax" in right.get_xlabel()
    assert plt.get_fignums() == [], "a notebook would show it twice"
    found.save(tmp_path / "runs.json")
    runs = json.loads((tmp_path / "runs.json").read_text())["runs"]
    assert len(runs) == len(found.record)
    for run in runs:
        evidence.check(run)


def test_a_loss_and_a_head_of_ones_own_can_be_compared():
    mine = {
        "softmax": softmax_loss,
        "strong": partial(large_margin_loss, strength=1.0),
        "cosines": partial(CosFaceHead, scale=8.0),
    }
    few = data.load("pocket").fewer(20)
    found = lab.compare(few, mine, minutes=0.2, seeds=(0, 1), rates=(0.1,), progress=False)
    assert found.methods == tuple(mine)
    assert found.tested.select(method="strong").runs[0].config["strength"] == 1.0
    # Two comparisons: each interval is wider than one for itself would be.
    assert {d.share for d in found.differences()} == {0.975}


def test_a_method_that_diverged_is_said_to_have(found):
    lost = [
        replace(run, measures=run.measures | {"test": {}}, ended="diverged at epoch 1")
        if run.config["method"] == "smoothing"
        else run
        for run in found.record.runs
    ]
    table = lab.Comparison(Record("compare", tuple(lost)), "softmax", found.methods).table()
    assert table.rows[1][1].startswith("diverged")
    assert [row[-1] for row in table.rows] == ["baseline", "too few runs finished"]


def test_the_command_prints_the_table(folder, tmp_path, capsys):
    words = [str(folder), "--methods", "softmax", "smoothing", "--minutes", "0.15", "--size", "28"]
    words += ["--seeds", "0", "1", "--plain", "--device", "cpu", "--save", str(tmp_path / "x.json")]
    assert lab.main(words) == 0
    assert "error, beside softmax" in capsys.readouterr().out
    assert (tmp_path / "x.json").exists()


# --- Refused ------------------------------------------------------------------------------

FEW = {"methods": ("softmax", "smoothing")}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"methods": ("softmax", "hardmax")}, "there is no method hardmax; there are softmax,"),
        ({"methods": "softmax"}, "expected several methods; got the one name 'softmax'"),
        ({"methods": ("softmax",)}, "a comparison needs two methods; got softmax alone"),
        ({"methods": ("cosface", "group")}, "the baseline 'softmax' is not among cosface, group"),
        (FEW | {"seeds": (1,)}, r"two different seeds or more; got \(1,\)"),
        (FEW | {"seeds": (1, 1)}, r"two different seeds or more; got \(1, 1\)"),
        (FEW | {"seeds": (0, lab.CHOOSING)}, "seed 1000 is kept for choosing"),
        (FEW | {"rates": ()}, "one learning rate or more; got none"),
        (FEW | {"minutes": 0}, "minutes must be positive; got 0"),
        (FEW | {"minutes": 1e-4}, "need about .* minutes here; give more minutes"),
        (FEW | {"net": "nosuch"}, "unknown network 'nosuch'"),
    ],
)
def test_what_cannot_be_compared_is_refused(given, said):
    few = data.load("pocket").fewer(10)
    with pytest.raises(ValueError, match=said):
        lab.compare(few, **given, progress=False)


def test_a_method_that_cannot_be_called_is_refused():
    few = data.load("pocket").fewer(10)
    with pytest.raises(TypeError, match=r"a loss or a head's class for 'mine'; got 0[.]3"):
        lab.compare(few, {"softmax": softmax_loss, "mine": 0.3}, progress=False)


def test_a_folder_that_is_not_there_is_refused_by_the_command(capsys):
    with pytest.raises(SystemExit):
        lab.main(["no/such/folder"])
    assert "is neither a folder, here or in" in capsys.readouterr().err


def test_torch_is_left_as_it_was(found):
    before = torch.get_rng_state()
    few = data.load("pocket").fewer(10)
    lab.compare(few, ("softmax", "smoothing"), minutes=0.1, seeds=(0, 1), progress=False)
    assert torch.equal(before, torch.get_rng_state())
