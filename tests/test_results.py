"""Is every number that the book prints on record, whole, and fit to be compared?

And does every verdict that the book prints agree with the interval it stands beside?
"""

import copy
import json
import re
from collections import Counter, defaultdict

import pytest

from marginlib.lab import evidence, studies
from marginlib.lab.studies import side_by_side

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


# What a chapter's own words say came out, word for word, and the comparisons that it rests on:
# study, regime, method, what it does to a measure, and of which other.  LESS, MORE and UNDECIDED
# are what the paired 95 % interval shows.
LESS, MORE, UNDECIDED = "less", "more", "undecided"
SAID = {
    ("side_by_side", "*Hypothesis 2 holds for five of the seven and is undecided for two.*"): [
        *(
            ("few", method, LESS, "softmax", "error")
            for method in ("large-margin", "l-softmax", "lgm", "group-1", "group-2")
        ),
        *(
            ("few", method, UNDECIDED, "softmax", "error")
            for method in ("soft-margin", "em-softmax")
        ),
    ],
    (
        "side_by_side",
        "*Hypothesis 3 is refuted for the hinge and undecided for the large margin.*",
    ): [
        ("noisy", "hinge", MORE, "softmax", "error"),
        ("noisy", "large-margin", UNDECIDED, "softmax", "error"),
    ],
    ("side_by_side", "*Hypothesis 4 is refuted.*"): [
        ("many", method, LESS, "softmax", measure)
        for method in ("normface", "cosface", "arcface")
        for measure in ("accepted_cosine", "accepted_distance")
    ],
    (
        "side_by_side",
        "*Hypothesis 5 is refuted in three regimes and undecided with wrong labels.*",
    ): [
        ("noisy", "lgm", UNDECIDED, "softmax", "error_0.1"),
        *((regime, "lgm", MORE, "softmax", "error_0.1") for regime in ("full", "few", "many")),
    ],
    ("side_by_side", "Against label smoothing, which is a baseline as cheap as the softmax loss"): [
        ("few", method, LESS, "smoothing", "error")
        for method in ("large-margin", "center", "group-2")
    ],
    ("large_margin", "*Hypothesis 1 holds.*"): [
        (regime, method, MORE, "softmax", "bias")
        for regime in ("clean", "fashion", "fashion-noisy", "fashion-fewer")
        for method in ("disagreement-0.3", "disagreement-1.0")
    ],
    ("large_margin", "On CIFAR-100 none of the three divergences at 0.3 changes the error"): [
        ("clean", f"{method}-0.3", UNDECIDED, "softmax", "error")
        for method in ("disagreement", "kl-to-uniform", "kl-from-uniform")
    ],
    (
        "large_margin",
        "On a quarter of Fashion-MNIST the disagreement at 0.3 makes fewer mistakes; at 1 no "
        "effect is detectable.",
    ): [
        ("fashion", "disagreement-0.3", LESS, "softmax", "error"),
        ("fashion", "disagreement-1.0", UNDECIDED, "softmax", "error"),
    ],
    (
        "large_margin",
        "*Hypothesis 3 holds for few images and is undecided for wrong labels.*",
    ): [
        ("fashion-fewer", "disagreement-1.0", LESS, "softmax", "error"),
        ("fashion-noisy", "disagreement-1.0", UNDECIDED, "softmax", "error"),
    ],
    ("large_margin", "*Hypothesis 4 is undecided.*"): [
        ("clean", "disagreement-0.3", UNDECIDED, "smoothing-0.1", "error")
    ],
    ("large_margin", "it makes fewer mistakes than the softmax loss, where the source's"): [
        ("fashion", "super-symmetry", LESS, "softmax", "error"),
        ("fashion", "l-softmax", UNDECIDED, "softmax", "error"),
        ("fashion", "lgm-0.3", UNDECIDED, "softmax", "error"),
    ],
    ("angular", "*Hypothesis 2 holds.*"): [
        (regime, "m-4", LESS, "m-1", "error") for regime in ("mnist", "few")
    ],
    ("angular", "*Hypothesis 4 holds, by far.*"): [
        ("few", method, MORE, "m-4", "error") for method in ("m-4-cold", "m-4-slide")
    ],
    (
        "group",
        "*Hypothesis 2 is refuted for the fixed grouping and undecided for the random one.*",
    ): [
        ("characters-100", method, side, f"{method}-{grouping}", "error")
        for grouping, side in (("fixed", MORE), ("random", UNDECIDED))
        for method in ("type1-12", "type2-124")
    ],
    (
        "group",
        "*Hypothesis 3 is undecided for clothes and characters and refuted for the photographs.*",
    ): [
        (regime, "type2-124", side, "softmax", "error")
        for regime, side in (
            ("fashion-10", UNDECIDED),
            ("fashion-30", UNDECIDED),
            ("fashion-100", UNDECIDED),
            ("omniglot-15", UNDECIDED),
            ("cifar", MORE),
        )
    ],
    ("group", "*Hypothesis 5 is undecided on CIFAR-100, which it is about.*"): [
        ("cifar", "type2-124", UNDECIDED, "softmax", "fisher_mean")
    ],
    ("ensemble", "*Hypothesis 1 holds on MNIST*"): [
        ("mnist", "em-softmax", LESS, "softmax", "error")
    ]
    + [
        (regime, "em-softmax", UNDECIDED, "softmax", "error")
        for regime in ("twenty", "twenty+", "hundred")
    ],
    ("ensemble", "*Hypothesis 2 holds*"): [
        (regime, "em-softmax", LESS, "em-0", "resemblance") for regime in ("twenty", "hundred")
    ],
    ("ensemble", "*Hypothesis 3 is undecided with 20 classes and refuted with 100*"): [
        ("twenty", "em-softmax", UNDECIDED, "em-0", "error"),
        ("hundred", "em-softmax", MORE, "em-0", "error"),
    ],
    ("ensemble", "*Hypothesis 5 is undecided*"): [
        ("twenty", "em-softmax", UNDECIDED, "networks", "error")
    ],
    ("ensemble", "*Hypothesis 6 is refuted here*"): [
        ("twenty", "em-dropout", MORE, "em-softmax", "error")
    ],
    ("perturbed", "*Hypothesis 1 is refuted.*"): [
        ("fashion", "dropout-0.5", MORE, "softmax", "error")
    ],
    (
        "perturbed",
        "*Hypothesis 2 holds against dropout, is refuted against the softmax loss, and undecided "
        "against the adversary.*",
    ): [
        ("fashion", "group-2", LESS, "dropout-0.5", "error"),
        ("fashion", "group-2", MORE, "softmax", "error"),
        ("fashion", "group-2", UNDECIDED, "adversarial-0.02", "error"),
    ],
    ("perturbed", "*Hypothesis 3 is undecided*"): [
        ("fashion", "sigsoftmax", UNDECIDED, "softmax", "error")
    ],
    ("perturbed", "*Hypothesis 4 is undecided for Noisy Softmax and for Virtual Softmax*"): [
        ("fashion", method, UNDECIDED, "softmax", "error") for method in ("noisy-0.1", "virtual")
    ],
    ("perturbed", "*Hypothesis 5 holds.*"): [
        ("fashion", "adversarial-0.05", MORE, "adversarial-0.02", "error")
    ],
    ("perturbed", "*Hypothesis 6 holds.*"): [
        ("fashion", method, LESS, "softmax", "error_without_best")
        for method in ("dropout-0.5", "adversarial-0.02", "group-2")
    ],
    ("pairs", "*Hypothesis 3 is refuted.*"): [("clean", "triplet-hard", MORE, "triplet", "error")],
    ("pairs", "*Hypothesis 4 holds.*"): [
        ("clean", "proxies", LESS, "triplet", "error"),
        ("clean", "proxies", UNDECIDED, "softmax", "error"),
    ],
}
# Statements that rest on something else than such a comparison: on both sides of one, on every
# run, on a trend over epochs, on a gap, or on a line each for many.
OTHERWISE = {
    ("side_by_side", "*Hypothesis 1 holds.*"),
    ("side_by_side", "*Hypothesis 6 holds.*"),
    ("one_family", "*Hypotheses 1 and 2 hold.*"),  # of calibration, before and after
    ("one_family", "*Hypothesis 3 holds.*"),
    ("one_family", "*Hypothesis 4 holds.*"),
    # Of shares and ranks; tests/test_choosing.py computes them again.
    (
        "choosing",
        "*Hypothesis 1 is refuted with few images and stands in the other three regimes.*",
    ),
    ("choosing", "*Hypothesis 2 holds under attack and is refuted for calibration.*"),
    ("choosing", "*Hypothesis 3 is undecided, narrowly.*"),
    (
        "choosing",
        "*Hypothesis 4 is undecided, and refuted for many classes where it is asked of steady "
        "methods.*",
    ),
    ("choosing", "*Hypothesis 5 is undecided in all four regimes.*"),
    # Of times, which stand in another record.
    ("at_scale", "*Hypothesis 1 is refuted for the ensemble as the classes grow.*"),
    ("at_scale", "*Hypothesis 2 holds*"),
    ("at_scale", "*Hypothesis 3 holds.*"),
    ("at_scale", "*Hypothesis 4 is refuted.*"),
    (
        "at_scale",
        "*Hypothesis 5 holds for the ensemble, and for softmax it misses by a hundredth.*",
    ),
    ("large_margin", "*Hypothesis 2 depends on the data.*"),
    ("large_margin", "*Hypothesis 5 holds in part for the softmax loss, and not for the other.*"),
    (
        "angular",
        "*Hypothesis 1 holds with few images, and on all of MNIST is refuted as stated.*",
    ),
    ("angular", "*Hypothesis 3 holds with few images and is undecided on all of MNIST.*"),
    ("group", "*Hypothesis 1 is undecided for the softmax loss, with one line refuted.*"),
    ("group", "*Hypotheses 4 and 6 are undecided.*"),
    ("ensemble", "*Hypothesis 4 is not refuted*"),
    (
        "pairs",
        "*Hypothesis 1 is refuted in one half and holds in the other, and the judge decides.*",
    ),
    ("pairs", "*Hypothesis 2 is refuted in all five runs.*"),
    ("pairs", "*Hypothesis 5 is refuted.*"),
}
OUTCOME = re.compile(r"\*Hypothes[ie]s \d[^*]*?(?:hold|refute|undecided|depend)[^*]*\*")


def prose_of(path):
    """The text of a chapter, every run of white space as one space."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    texts = ("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    return " ".join(" ".join(texts).split())


def shown(stem, regime, first, second, measure):
    """What the record shows of a comparison."""
    record = evidence.recall(stem).select(scale="desk")
    if stem == "side_by_side":
        record = side_by_side.gathered(record)
    found = record.select(regime=regime).paired(first, second, measure)
    return UNDECIDED if not found.detectable else LESS if found.mean < 0 else MORE


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
    if stem == "trials":
        return  # they choose, one network each, and what they chose is trained again
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


@pytest.mark.parametrize(("stem", "words"), SAID, ids=lambda said: said[:40])
def test_what_a_chapter_says_came_out_is_what_the_record_shows(stem, words):
    (path,) = [path for path in CHAPTERS if path.stem[3:] == stem]
    assert words in prose_of(path)
    for regime, first, side, second, measure in SAID[stem, words]:
        assert shown(stem, regime, first, second, measure) == side, (regime, first, second)


def test_every_outcome_that_a_chapter_states_is_looked_up():
    stated = {
        (path.stem[3:], words) for path in CHAPTERS for words in OUTCOME.findall(prose_of(path))
    }
    assert stated == {said for said in SAID if OUTCOME.fullmatch(said[1])} | OTHERWISE


def test_the_page_of_tables_says_of_each_interval_what_it_shows():
    sides = Counter()
    for line in (BOOK / "tables.md").read_text(encoding="utf-8").replace("−", "-").splitlines():
        found = re.search(rf"\[{NUMBER},\s{NUMBER}\] \|", line)
        printed = re.search(rf"\| {NUMBER}(?: †)? \|", line)
        if not found or not printed:
            continue
        low, high, theirs = (float(x) for x in (*found.groups(), printed.group(1)))
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
