"""Is every number that the book prints on record, whole, and fit to be compared?

And does every verdict that the book prints agree with the interval it stands beside?
"""

import copy
import json
import re
from collections import Counter, defaultdict

import pytest

from marginlib.lab import evidence, studies

RECORDS = sorted((evidence.PACKAGE.parent / "book" / "results").glob("*.json"))
STEMS = [path.stem for path in RECORDS if path.stem in studies.names()]
SETTINGS = ("data", "net", "width", "epochs", "batch", "rate", "decay", "augment", "validation")
SETTINGS += ("per_class", "fraction", "noise", "half")

pytestmark = pytest.mark.skipif(not STEMS, reason="no study has been recorded yet")
each_record = pytest.mark.parametrize("stem", STEMS)


BOOK = evidence.PACKAGE.parent / "book"
CHAPTERS = sorted((BOOK.parent / "chapters").glob("*.ipynb"))

# A verdict is a word that code prints behind an interval: "-0.55 to -0.05  n = 5: improves".
# What the interval must be like for the word to be right; a printed 0.00 may stand for either side.
NUMBER = r"([+\-−]\d+\.\d+)"
MEANS = {
    "improves": lambda low, high: high <= 0,
    "worsens": lambda low, high: low >= 0,
    "lower": lambda low, high: high <= 0,
    "higher": lambda low, high: low >= 0,
    "holds": lambda low, high: low >= 0 or high <= 0,
    "refuted": lambda low, high: low >= 0 or high <= 0,
    "undecided": lambda low, high: low <= 0 <= high,
    "no detectable effect": lambda low, high: low <= 0 <= high,
}
JUDGED = re.compile(
    rf"{NUMBER}\s*(?:to|,)\s*{NUMBER}\]?,?\s*(?:n = \d+)?[,:]?\s*({'|'.join(MEANS)})\b"
)


def wrong(text):
    """The judged intervals of a text, and those whose word says what the interval does not."""
    found = JUDGED.findall(text.replace("−", "-"))
    return found, [(a, b, word) for a, b, word in found if not MEANS[word](float(a), float(b))]


def outputs_of(path):
    """The text that each cell of a chapter printed or showed."""
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        printed = "".join("".join(out.get("text", ())) for out in cell.get("outputs", ()))
        shown = [out.get("data", {}).get("text/plain", ()) for out in cell.get("outputs", ())]
        yield printed + "".join("".join(text) for text in shown)


def runs_of(stem):
    path = evidence.PACKAGE.parent / "book" / "results" / f"{stem}.json"
    return json.loads(path.read_text())["runs"]


# --- Claimed and proved -------------------------------------------------------------------


@each_record
def test_every_run_is_whole_and_tells_where_it_comes_from(stem):
    for run in runs_of(stem):
        evidence.check(run)
        assert run["commit"] != "unknown"
        assert not run["commit"].endswith("-dirty"), "the code of this run is in no commit"


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


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_a_chapter_calls_nothing_an_effect_whose_interval_holds_none(path):
    for text in outputs_of(path):
        assert not wrong(text)[1]


def test_the_chapters_print_their_verdicts_where_this_file_finds_them():
    judged = Counter(
        path.stem for path in CHAPTERS for text in outputs_of(path) for _ in wrong(text)[0]
    )
    # Were their format to change, the test above would pass without looking at one of them.
    assert sum(judged.values()) > 200
    assert len(judged) >= 9


def test_the_page_of_tables_says_of_each_interval_what_it_shows():
    sides = Counter()
    for line in (BOOK / "tables.md").read_text(encoding="utf-8").replace("−", "-").splitlines():
        found = re.search(rf"\[{NUMBER}, {NUMBER}\] \|.* (.*?) \|$", line)
        printed = re.search(rf"\| {NUMBER}(?: †)? \|", line)
        if not found or not printed:
            continue
        low, high, theirs = (float(x) for x in (*found.groups()[:2], printed.group(1)))
        verdict = line.rstrip(" |").rpartition("| ")[2]
        if verdict == "not reproduced (undecided)":
            assert low <= 0 <= high, line
        else:
            same = high <= 0 if theirs < 0 else low >= 0
            assert same == (verdict in ("direction only", "reproduced")), line
            assert low >= 0 or high <= 0, line
        sides[verdict] += 1
    assert sum(sides.values()) > 80
    assert len(sides) >= 3


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


# --- Refused ------------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["seed", "device", "versions", "commit", "source", "date"])
@pytest.mark.parametrize("how", ["left out", "empty"])
def test_a_run_that_does_not_tell_where_it_comes_from_is_refused(field, how):
    run = copy.deepcopy(runs_of(STEMS[0])[0])
    evidence.check(run)
    if how == "left out":
        del run[field]
    else:
        run[field] = {} if field == "versions" else ""
    with pytest.raises(ValueError, match=field):
        evidence.check(run)


@pytest.mark.parametrize(
    ("line", "right"),
    [
        ("new - old: -0.30  -0.55 to -0.05  n = 5: improves", True),
        ("new - old: -0.30  -0.65 to +0.05  n = 5: improves", False),
        ("new - old: +0.30 [+0.05, +0.55] improves", False),
        ("new - old: +0.30 [+0.05, +0.55], n = 3: worsens", True),
        ("new - old: +0.30 [−0.05, +0.65], n = 3:\n    higher", False),
        ("new - old: +0.30 [+0.00, +0.65], n = 3: higher", True),
        ("new - old: +0.30 [+0.05, +0.65], n = 3: no detectable effect", False),
        ("new - old  +0.30  +0.05 to +0.65  n = 3: undecided", False),
        ("new - old  +0.30  -0.05 to +0.65  n = 3: holds", False),
    ],
)
def test_a_word_that_claims_more_than_its_interval_is_caught(line, right):
    found, caught = wrong(line)
    assert len(found) == 1
    assert (not caught) == right
