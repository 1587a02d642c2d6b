"""Does the guide say what the record says, and no more?"""

import math
from itertools import combinations

import pytest
import sympy as sp
import torch

from marginlib.lab import choosing as lab
from marginlib.lab.evidence import FINISHED, Record, Run
from marginlib.lab.studies import trials

NOISE = torch.randn(5, 8, generator=torch.manual_seed(0), dtype=torch.float64)


def run(method, regime, seed, error, measure="error"):
    """A run as the study keeps it, with this test and validation error."""
    return Run(
        config={"method": method, "scale": "desk", "regime": regime},
        seed=seed,
        measures={"train": {}, "validation": {"error": [99.0, error]}, "test": {measure: error}},
        ended=FINISHED,
        source="drawn for a test",
        device="none",
        versions={"torch": torch.__version__},
        commit="0",
        seconds=1.0,
        peak_memory=None,
        date="2026-01-01T00:00:00+00:00",
    )


def lost(method, regime, seed):
    """One that diverged."""
    whole = run(method, regime, seed, 0.0)
    whole.measures["test"].clear()
    return Run(**{**vars(whole), "ended": "diverged at epoch 1"})


def record(errors, regime="full", measure="error"):
    """Five seeds of each method, with a little luck that is not the same for two methods."""
    runs = []
    for column, (method, error) in enumerate(errors.items()):
        for seed in range(5):
            luck = 0.1 * NOISE[seed, column].item()
            runs.append(run(method, regime, seed, error + luck, measure))
    return Record("side_by_side", tuple(runs))


def all_trials(errors):
    """Every trial of the study; ``errors(family, number, rate, decay)`` says how it went."""
    runs = []
    for where, setting in trials.SCALES["desk"].items():
        _, rate, decay = where.split("/")
        for method in setting.methods:
            family, _, number = method.partition("/")
            error = errors(family, int(number or 0), float(rate), float(decay))
            runs.append(run(method, where, trials.SEED, error))
    return Record("trials", tuple(runs))


# --- Claimed and proved -------------------------------------------------------------------


def test_no_other_share_of_what_was_seen_predicts_better():
    share, truth, luck = sp.symbols("b tau s", positive=True)
    # The truth d and the luck e have mean 0 and no covariance: E (d - b (d + e))^2.
    error = (1 - share) ** 2 * truth**2 + share**2 * luck**2
    (best,) = sp.solve(sp.diff(error, share), share)
    assert sp.diff(error, share, 2).is_positive
    found = lab.Spread(2.0, 3.0).survives(5)
    assert found == pytest.approx(float(best.subs({truth: 2, luck: 3 / sp.sqrt(5)})), rel=1e-14)


@pytest.mark.parametrize("count", [2, 3, 5, 26, 400])
def test_the_best_of_k_stays_below_the_root_of_two_log_k(count):
    assert 0 < lab.best_of(count) < math.sqrt(2 * math.log(count))


def test_the_truth_is_what_two_halves_of_the_seeds_share_on_average():
    values = torch.arange(8.0, dtype=torch.float64) + NOISE
    shared = []
    for seen in combinations(range(5), 2):
        rest = [seed for seed in range(5) if seed not in seen]
        halves = torch.stack([values[list(seen)].mean(0), values[rest].mean(0)])
        shared.append(torch.cov(halves)[0, 1].item())
    found = lab.spread(values)
    assert found.methods**2 == pytest.approx(sum(shared) / len(shared), rel=1e-12)


# --- Computed and compared ----------------------------------------------------------------


def test_the_spread_is_that_of_an_analysis_of_variance():
    values = 2 * torch.arange(8.0, dtype=torch.float64) + NOISE + torch.arange(5.0)[:, None]
    seeds, methods = values.shape
    centred = values - values.mean(1, keepdim=True)  # a hard seed is hard for everybody
    rest = centred - centred.mean(0)
    within = rest.square().sum().item() / ((seeds - 1) * (methods - 1))
    between = seeds * centred.mean(0).square().sum().item() / (methods - 1)
    found = lab.spread(values)
    assert found.luck**2 == pytest.approx(within, rel=1e-12)
    assert found.methods**2 == pytest.approx((between - within) / seeds, rel=1e-12)


def test_a_share_is_what_new_seeds_show_of_old_differences():
    draw = torch.manual_seed(1)
    truth = 0.7 * torch.randn(20_000, generator=draw, dtype=torch.float64)
    seen = truth + torch.randn(2, 20_000, generator=draw, dtype=torch.float64)
    new = truth + torch.randn(20_000, generator=draw, dtype=torch.float64)
    slope = torch.cov(torch.stack([seen.mean(0), new]))
    # The slope of 20 000 points has a deviation below 0.012; three of them.
    assert lab.spread(seen).survives(2) == pytest.approx(
        (slope[0, 1] / slope[0, 0]).item(), abs=0.035
    )


@pytest.mark.parametrize(
    ("count", "closed"), [(1, 0.0), (2, 1 / math.sqrt(math.pi)), (3, 1.5 / math.sqrt(math.pi))]
)
def test_the_best_of_a_few_has_a_closed_form(count, closed):
    assert lab.best_of(count) == pytest.approx(closed, abs=1e-10)


def test_the_best_of_many_agrees_with_draws():
    draws = torch.randn(200_000, 25, generator=torch.manual_seed(2), dtype=torch.float64)
    # The largest of 25 has a deviation of about 0.5: 0.0012 for the mean of 200 000.
    assert lab.best_of(25) == pytest.approx(draws.amax(1).mean().item(), abs=0.005)


def test_a_difference_is_that_of_the_record_with_a_wider_interval():
    kept = record({"softmax": 10.0, "hinge": 12.0, "lgm": 9.9})
    found = lab.advise(kept, lab.Wish("full"))
    assert {d.first: d for d in found.differences} == {
        name: kept.paired(name, "softmax", share=0.975) for name in ("hinge", "lgm")
    }


def test_of_every_value_the_better_rate_counts():
    def errors(family, number, rate, decay):
        slower_is_better = family == "hinge"
        return 10 * number + (5 if (rate < 0.1) != slower_is_better else 0)

    kept = all_trials(errors)
    assert lab.landscape(kept, "lgm", "few") == {"alpha 0.1": 10, "alpha 0.3": 20, "alpha 1.0": 30}
    assert lab.landscape(kept, "hinge", "few") == {"bias 0.5": 10, "bias 1.0": 20, "bias 4.0": 30}
    decays = lab.landscape(kept, "softmax", "few")
    assert decays == {"decay 0.0001": 0, "decay 0.001": 0, "decay 0.005": 0}


def test_every_candidate_has_the_value_that_the_study_gives_it():
    for family, candidates in trials.CANDIDATES.items():
        told = [lab.value_of(name) for name in trials.names_of(family)]
        assert len(set(told)) == len(candidates)
        for said, candidate in zip(told, candidates, strict=True):
            name, _, value = said.partition(" ")
            assert value == (str(candidate.keywords[name]) if name else "")


# --- Told and checked ---------------------------------------------------------------------


def test_plain_softmax_is_advised_where_nothing_is_better():
    kept = record({"softmax": 10.0, "smoothing": 10.0, "hinge": 14.0})
    found = lab.advise(kept, lab.Wish("full"))
    assert (found.better, [d.first for d in found.worse]) == ((), ["hinge"])
    assert found.use == "plain softmax"
    assert str(found).splitlines()[1:] == [
        "better than softmax: none",
        "worse than softmax: hinge",
    ]
    assert lab.guide(kept, {"a wish": lab.Wish("full")}).rows == (
        ("a wish", "none", "none", "plain softmax"),
    )


def test_of_several_that_are_better_the_largest_difference_is_advised():
    kept = record({"softmax": 20.0, "smoothing": 18.0, "lgm": 15.0, "hinge": 24.0})
    found = lab.advise(kept, lab.Wish("full"))
    assert [d.first for d in found.better] == ["lgm", "smoothing"]
    assert found.use == f"lgm: at least {-found.better[0].high:.2g} points"
    ((_, softmax, smoothing, _),) = lab.guide(kept, {"x": lab.Wish("full")}, shown=1).rows
    assert (softmax, smoothing) == ("lgm and 1 more", "lgm")


def test_more_can_be_better():
    kept = record({"softmax": 50.0, "lgm": 60.0, "hinge": 40.0}, "many", "accepted_cosine")
    found = lab.advise(kept, lab.WISHES["verify classes never seen"])
    assert [d.first for d in found.better] == ["lgm"]
    assert [d.first for d in found.worse] == ["hinge"]


def test_a_method_that_diverged_is_no_candidate_and_counts_as_tried():
    kept = record({"softmax": 10.0, "hinge": 14.0})
    kept = Record("x", kept.runs + tuple(lost("lgm", "full", seed) for seed in range(5)))
    (found,) = lab.advise(kept, lab.Wish("full")).differences
    assert (found.first, found.share) == ("hinge", 0.975)


def test_luck_alone_leaves_nothing():
    apart = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
    assert lab.spread(apart) == lab.Spread(0.0, math.sqrt(2))
    assert lab.spread(apart).survives(1) == 0.0
    sure = lab.spread(torch.tensor([[1.0, 2.0, 4.0]] * 3))
    assert sure.survives(1) == pytest.approx(1, rel=1e-12)


def test_the_race_is_decided_on_validation_images():
    kept = all_trials(
        lambda family, *_: {"softmax": 10.0, "hinge": 15.0, "lgm": 15.1}.get(family, 3)
    )
    names = lab.in_the_race(kept, "noisy")
    assert "hinge" in names
    assert "lgm" not in names
    assert len(names) == len(trials.FAMILIES) - 1


def test_a_seed_in_which_one_method_diverged_is_left_out():
    kept = record({"softmax": 1.0, "hinge": 2.0})
    runs = tuple(r for r in kept.runs if (r.config["method"], r.seed) != ("hinge", 3))
    kept = Record("x", (*runs, lost("hinge", "full", 3)))
    values = lab.by_seed(kept, "full", ("hinge", "softmax"))
    assert values.shape == (4, 2)
    assert torch.allclose(values[:, 1], 1 + 0.1 * NOISE[[0, 1, 2, 4], 0])
    last = lab.by_seed(kept, "full", ("softmax",), split="validation")
    assert torch.equal(last[[0, 1, 2, 4], 0], values[:, 1])
    assert last.shape == (5, 1)


def test_the_value_to_start_with_errs_least_where_it_errs_most():
    """In one regime the first value is best by a point, in another it is last by ten."""

    def kept(where):
        errors = {"full": (0.0, 1.0, 4.0), "few": (10.0, 1.0, 0.0)}
        return errors.get(where, (0.0, 1.0, 2.0))

    runs = [
        run(method, where, trials.SEED, kept(trials.plain_name(where))[int(method[-1]) - 1])
        if method.startswith("lgm/")
        else run(method, where, trials.SEED, 0.0)
        for where, setting in trials.SCALES["desk"].items()
        for method in setting.methods
    ]
    table = lab.starting_values(Record("trials", tuple(runs)))
    rows = {row[0]: dict(zip(table.title, row, strict=True)) for row in table.rows}
    mine = rows["lgm"]
    assert (mine["parameter"], mine["full"], mine["few"]) == ("alpha", "0.1 (4.0)", "1.0 (10.0)")
    assert (mine["start with"], mine["errs more by"]) == ("0.3", "1.0")
    assert rows["softmax"]["parameter"] == "decay"


def test_a_regime_in_which_a_method_failed_says_nothing_about_its_values():
    def errors(family, number, *_):
        return 90.0 + number if family == "lgm" else 10.0

    rows = {row[0]: row for row in lab.starting_values(all_trials(errors)).rows}
    assert rows["lgm"] == ("lgm", "alpha", *["-"] * 6)


# --- Refused ------------------------------------------------------------------------------


@pytest.mark.parametrize("values", [torch.zeros(1, 3), torch.zeros(3, 1), torch.zeros(4)])
def test_a_spread_needs_two_seeds_and_two_methods(values):
    with pytest.raises(ValueError, match="one row for each of two seeds or more, one column"):
        lab.spread(values)


def test_nothing_to_choose_from_is_refused():
    with pytest.raises(ValueError, match="one number or more to choose from; got 0"):
        lab.best_of(0)


@pytest.mark.parametrize(("regime", "baseline"), [("few", "softmax"), ("full", "lgm")])
def test_advice_needs_the_baseline_in_the_regime(regime, baseline):
    with pytest.raises(ValueError, match=f"{baseline!r} has not finished twice in .* {regime!r}"):
        lab.advise(record({"softmax": 1.0, "hinge": 2.0}), lab.Wish(regime), baseline)
