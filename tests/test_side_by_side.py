"""The comparison of all methods: is it fair, and is what it measures what it says?"""

from collections import Counter
from dataclasses import replace

import pytest
import torch

from marginlib import soft_margin_loss, softmax_loss
from marginlib.heads import LinearHead
from marginlib.lab import data, evidence, measures
from marginlib.lab.evidence import Record
from marginlib.lab.studies import side_by_side as lab
from marginlib.lab.studies import trials
from marginlib.lab.train import Model

REGIMES = list(trials.BASES["desk"])


@pytest.fixture(scope="module")
def record():
    return lab.gathered(evidence.recall("side_by_side").select(scale="desk"))


@pytest.fixture(scope="module")
def tried():
    return evidence.recall("trials").select(scale="desk")


class Flat(torch.nn.Module):
    """A network that passes the pixels on."""

    def forward(self, images):
        return images.flatten(1)


@pytest.fixture
def model():
    """A linear classifier of four pixels in four classes: each pixel speaks for one."""
    head = LinearHead(4, 4)
    head.weight.data = torch.eye(4)
    head.bias.data = torch.zeros(4)
    pixels = torch.zeros(1, 1, 1), torch.full((1, 1, 1), 255.0)
    return Model(Flat(), head, pixels, False, torch.contiguous_format)


# --- Claimed and proved -------------------------------------------------------------------


@pytest.mark.parametrize("scale", trials.BASES)
def test_every_method_has_six_trials_in_every_regime(scale):
    counted = Counter(
        (trials.family_of(method), trials.plain_name(regime))
        for regime, setting in trials.SCALES[scale].items()
        for method in setting.methods
    )
    assert set(counted.values()) == {6}
    assert len(counted) == len(trials.FAMILIES) * len(trials.BASES[scale])


def test_the_seed_of_the_trials_is_used_for_nothing_else(record, tried):
    assert {run.seed for run in tried.runs} == {trials.SEED}
    assert {run.seed for run in record.runs} == set(lab.SEEDS)
    assert trials.SEED not in lab.SEEDS


def test_no_method_beats_label_smoothing_in_all_regimes_nor_in_two(record):
    # Hypothesis 1 of chapter 12, and the sentence behind it.
    found = lab.versus(record, "smoothing")
    better = Counter(
        name for part in found.values() for name, d in part.items() if d.verdict == "improves"
    )
    assert sorted(found) == sorted(REGIMES)
    assert better == {"large-margin": 1, "center": 1, "group-2": 1}


def test_no_method_has_a_lower_likelihood_loss_in_all_regimes(record):
    # Hypothesis 6, and the three that have one in two regimes.
    found = lab.versus(record, "softmax", "nll_scaled")
    better = Counter(
        name for part in found.values() for name, d in part.items() if d.verdict == "improves"
    )
    assert {name for name, count in better.items() if count > 1} == {"center", "lgm", "group-2"}
    assert max(better.values()) == 2


def test_one_improvement_survives_the_wide_intervals_and_nineteen_losses(record):
    share = 1 - 0.05 / (len(trials.FAMILIES) - 1)
    found = lab.versus(record, "softmax", share=share)
    words = Counter(d.verdict for part in found.values() for d in part.values())
    assert (words["improves"], words["worsens"]) == (1, 19)
    assert found["few"]["l-softmax"].verdict == "improves"


# --- Computed and compared ----------------------------------------------------------------


def test_the_trial_with_the_lowest_validation_error_is_chosen(tried):
    won = trials.chosen("desk", tried)
    assert len(won) == len(trials.FAMILIES) * len(REGIMES)
    for (family, plain), (method, regime) in won.items():
        errors = {
            (run.config["method"], run.config["regime"]): trials.last_error(run)
            for run in tried.runs
            if trials.family_of(run.config["method"]) == family
            and trials.plain_name(run.config["regime"]) == plain
            and run.ended == evidence.FINISHED
        }
        assert errors[method, regime] == min(errors.values())


def test_a_method_that_lacks_a_trial_is_not_chosen_for(tried):
    missing = Record("trials", tuple(r for r in tried.runs if r.config["method"] != "lgm/2"))
    found = trials.chosen("desk", missing)
    assert not {key for key in found if key[0] == "lgm"}
    assert ("softmax", "few") in found


def test_what_was_chosen_is_what_was_run(record, tried):
    won = trials.chosen("desk", tried)
    for run in record.runs:
        method, regime = won[run.config["method"], run.config["regime"]]
        assert run.config["candidate"] == method
        _, rate, decay = regime.split("/")
        assert run.config["rate"] == [float(rate), float(rate) / 50]
        assert run.config["decay"] == float(decay)


def test_mean_ranks_add_up_whoever_ties(record):
    ranks = lab.mean_ranks(record)
    n = len(ranks)
    assert n == len(trials.FAMILIES)
    assert sum(mean for mean, _, _ in ranks.values()) == pytest.approx(n * (n + 1) / 2)


def test_ties_share_their_places():
    run = evidence.recall("side_by_side").runs[0]

    def made(method, seed, error):
        config = run.config | {"method": method, "regime": "few"}
        return replace(run, config=config, seed=seed, measures={"test": {"error": error}})

    rows = [made(m, s, e) for s in (0, 1) for m, e in (("a", 1.0), ("b", 1.0), ("c", 2.0))]
    ranks = lab.mean_ranks(Record("side_by_side", tuple(rows)))
    assert [ranks[m][0] for m in "abc"] == [1.5, 1.5, 3.0]


@pytest.mark.parametrize("factor", [0.02, 1.0, 50.0])
def test_a_common_factor_of_the_logits_does_not_change_what_is_scaled(factor):
    draw = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(400, 5, generator=draw).double()
    target = (logits + 2 * torch.randn(400, 5, generator=draw)).argmax(1)
    plain, other = lab.scaled(logits, target), lab.scaled(factor * logits, target)
    # The search for the temperature ends within 1e-5 of its logarithm.
    assert other["nll_scaled"] == pytest.approx(plain["nll_scaled"], abs=1e-6)
    assert plain["nll_scaled"] < softmax_loss(logits, target).mean().item()


def test_relative_margins_do_not_see_scale_or_shift():
    logits = torch.randn(300, 6, generator=torch.Generator().manual_seed(1)).double()
    target = torch.arange(300) % 6
    plain = lab.relative_margins(logits, target)
    assert lab.relative_margins(40 * logits - 7, target) == pytest.approx(plain, rel=1e-12)
    assert plain == sorted(plain)


def test_the_attack_takes_from_the_target_and_gives_to_the_rivals(model):
    images = torch.full((3, 1, 2, 2), 100, dtype=torch.uint8)
    labels = torch.tensor([0, 2, 3])
    signs = lab.uphill(model, images, labels).flatten(1)
    for row, label in zip(signs, labels, strict=True):
        assert row[label] == -1
        assert (row.sum() + 1) == 3


def test_the_attack_has_a_direction_where_the_softmax_loss_has_none_left(model):
    # Logits of thousands: the probability of the target is 1 to the last bit.
    model.head.weight.data *= 1e4
    images = torch.zeros(1, 1, 2, 2, dtype=torch.uint8)
    images[0, 0, 0, 0] = 255
    assert lab.uphill(model, images, torch.tensor([0])).abs().sum() > 0


def test_accepted_counts_the_true_pairs_above_the_false_ones():
    draw = torch.Generator().manual_seed(0)
    similarity, same = torch.rand(4000, generator=draw), torch.arange(4000) % 2 == 0
    # Nothing known: as many true pairs pass as false ones, up to four deviations of a share.
    assert lab.accepted(similarity, same) == pytest.approx(1.0, abs=4 * 100 * (0.01 / 2000) ** 0.5)
    assert lab.accepted(similarity + same, same) == 100.0
    assert lab.accepted(similarity - 2 * same.float(), same) == 0.0


# --- Told and checked ---------------------------------------------------------------------


def test_verification_sees_only_classes_that_were_left_out(model, monkeypatch):
    pocket = data.load("pocket").fewer(10)
    seen = pocket.only(7, seed=5)
    looked = {}

    def outputs(images, labels):
        looked["images"] = images
        return None, labels, images.flatten(1).float()

    monkeypatch.setattr(data, "load", lambda name: pocket)
    fake = type("Fake", (), {"outputs": staticmethod(outputs), "pixels": model.pixels})
    found = lab.verified(fake, "pocket", 7, seed=5)
    left = {bytes(i.numpy()) for i in looked["images"]}
    known = {bytes(i.numpy()) for i in torch.cat([seen.train_images, seen.test_images])}
    assert not left & known
    assert set(found) == {"accepted_cosine", "accepted_distance"}


def test_a_trial_is_kept_with_what_a_table_shows():
    logits, target = torch.eye(3), torch.arange(3)
    found = trials.brief(logits, target, torch.ones(3, 2))
    whole = measures.default(logits, target, torch.ones(3, 2))
    assert found == {name: whole[name] for name in ("error", "nll", "ece", "bias")}


def test_the_candidates_of_a_method_have_their_numbers_and_the_others_none():
    assert trials.names_of("softmax") == ("softmax",)
    assert trials.names_of("soft-margin") == tuple(f"soft-margin/{k}" for k in (1, 2, 3))
    assert trials.METHODS["soft-margin/2"].func is soft_margin_loss
    assert trials.METHODS["soft-margin/2"].keywords == {"margin": 1.0}
    assert trials.family_of("soft-margin/2") == "soft-margin"


def test_the_pocket_run_measures_everything_but_unseen_classes():
    run = lab.study("softmax", 0)
    assert run.ended == evidence.FINISHED
    assert {"nll_scaled", "ece_scaled", "relative_margins", "error_0.05", "error_0.1"} <= set(
        run.test
    )
    assert "accepted_cosine" not in run.test
    assert set(run.measures["validation"]) == {"error", "nll"}
    assert set(run.measures["train"]) == {"error", "nll", "loss"}
