"""Is every number that the book prints on record, whole, and fit to be compared?"""

import json
from collections import Counter, defaultdict

import pytest

from marginlib.lab import evidence, studies

RECORDS = sorted((evidence.PACKAGE.parent / "book" / "results").glob("*.json"))
STEMS = [path.stem for path in RECORDS if path.stem in studies.names()]
SETTINGS = ("data", "net", "width", "epochs", "batch", "rate", "decay", "augment", "validation")
SETTINGS += ("per_class", "fraction", "noise", "half")

pytestmark = pytest.mark.skipif(not STEMS, reason="no study has been recorded yet")
each_record = pytest.mark.parametrize("stem", STEMS)


def runs_of(stem):
    path = evidence.PACKAGE.parent / "book" / "results" / f"{stem}.json"
    return json.loads(path.read_text())["runs"]


# --- Claimed and proved -------------------------------------------------------------------


@each_record
def test_every_run_is_whole_and_tells_where_it_comes_from(stem):
    for run in runs_of(stem):
        evidence.check(run)
        assert run["commit"] != "unknown"


@each_record
def test_a_number_that_is_shown_rests_on_three_seeds_at_least(stem):
    seeds = defaultdict(set)
    for run in runs_of(stem):
        if run["config"]["scale"] != "pocket":
            seeds[tuple(run["config"][key] for key in evidence.IDENTITY)].add(run["seed"])
    assert not {key: found for key, found in seeds.items() if len(found) < 3}


# --- Computed and compared ----------------------------------------------------------------


@each_record
def test_the_runs_of_a_regime_differ_in_method_and_seed_alone(stem):
    shared = defaultdict(set)
    for run in runs_of(stem):
        config = run["config"]
        settings = json.dumps([run["source"], *(config.get(key) for key in SETTINGS)])
        shared[config["scale"], config["regime"]].add(settings)
        # A share of each class is held out and rounded, and wrong labels, drawn by the seed,
        # move an image from class to class: how many are left hangs on the seed, not the method.
        shared[config["scale"], config["regime"], run["seed"]].add(config["images"])
    assert not {key: found for key, found in shared.items() if len(found) > 1}


@each_record
def test_no_row_mixes_devices(stem):
    devices = defaultdict(set)
    for run in runs_of(stem):
        devices[run["config"]["scale"], run["config"]["regime"]].add(run["device"])
    assert not {key: found for key, found in devices.items() if len(found) > 1}


@each_record
def test_no_run_is_counted_twice(stem):
    assert set(Counter(map(evidence.identity, runs_of(stem))).values()) == {1}


@each_record
def test_each_epoch_has_its_measures(stem):
    for run in runs_of(stem):
        if run["ended"] == evidence.FINISHED:
            for split in ("train", "validation"):
                for per_epoch in run["measures"][split].values():
                    assert len(per_epoch) == run["config"]["epochs"]


# --- Told and checked ---------------------------------------------------------------------


@each_record
def test_what_the_record_calls_a_method_is_what_the_study_runs(stem):
    study = studies.find(stem)
    for run in runs_of(stem):
        config = run["config"]
        loss = studies.parameters(study.METHODS[config["method"]])
        assert evidence.plain(loss).items() <= config.items()
        setting = study.SCALES[config["scale"]][config["regime"]]
        assert setting.config().items() <= config.items()


@each_record
def test_a_record_is_small_and_one_line_a_run(stem):
    path = evidence.PACKAGE.parent / "book" / "results" / f"{stem}.json"
    assert path.stat().st_size < 1e6
    assert len(path.read_text().splitlines()) == len(runs_of(stem)) + 2


@each_record
def test_a_record_names_no_place_on_the_machine_that_made_it(stem):
    assert "/" not in "".join(run["device"] + run["source"] for run in runs_of(stem))
