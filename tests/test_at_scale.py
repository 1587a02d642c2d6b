"""Chapter 13: sums over blocks, proved; costs, counted; the record of what they came to."""

import importlib
import json
import math
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median

import pytest
import torch
from sympy import Rational, limit, oo, simplify, symbols
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

import marginlib as ml
from marginlib.lab import evidence
from marginlib.scale import chunked
from marginlib.symbolic import at_scale as paper
from marginlib.symbolic.logits import expectation, logits, mean, softmax
from marginlib.symbolic.logits import lse as lse_of
from marginlib.symbolic.proof import Unproved, prove

F = logits(4)
S, T_1, T_2, T_3 = symbols("s t_1 t_2 t_3", real=True)
NUMBERS = ("mass", "moment", "total")

# --- Claimed and proved ----------------------------------------------------------------------


@pytest.mark.parametrize("cut", [1, 2, 3])
@pytest.mark.parametrize("number", NUMBERS)
def test_two_blocks_merge_into_the_numbers_of_both_from_any_point(cut, number):
    both = paper.merge(paper.read(F[:cut], T_1), paper.read(F[cut:], T_2), S)
    assert prove(getattr(both, number), getattr(paper.read(F, S), number)) == "∎"
    assert both.count == len(F)


@pytest.mark.parametrize("number", NUMBERS)
def test_merging_is_associative_so_blocks_may_come_from_any_tree(number):
    one, two, three = (paper.read(f, t) for f, t in ((F[:1], T_1), (F[1:3], T_2), (F[3:], T_3)))
    left = paper.merge(paper.merge(one, two, T_1), three, S)
    right = paper.merge(one, paper.merge(two, three, T_3), S)
    assert prove(getattr(left, number), getattr(right, number)) == "∎"


def test_what_is_kept_is_the_log_sum_exp_and_the_two_means_of_the_book():
    seen = paper.read(F, S)
    assert prove(paper.lse(seen), lse_of(F)) == "∎"
    assert prove(paper.weighted_mean(seen), expectation(softmax(F), F)) == "∎"
    assert prove(paper.plain_mean(seen), mean(F)) == "∎"


def test_a_rivals_slope_asks_for_its_own_logit_and_for_numbers_of_the_row():
    pairs = paper.slopes(F[:3], S)
    assert len(pairs) == 9
    assert {prove(left, right) for left, right in pairs} == {"∎"}


def test_masses_that_are_added_without_being_measured_anew_are_refuted():
    one, two = paper.read(F[:2], T_1), paper.read(F[2:], T_2)
    with pytest.raises(Unproved):
        prove(one.mass + two.mass, paper.read(F, S).mass)


def test_with_many_classes_the_intensity_of_blocks_knows_no_number_of_features():
    n, d, c = paper.n, paper.d, paper.c
    assert limit(paper.by_blocks().intensity, c, oo) == Rational(2, 3) * n
    assert limit(paper.plain().intensity, c, oo) == 3 * n * d / (6 * d + 14 * n)
    # Without end in the examples too, a plain step is bound by its features.
    assert limit(limit(paper.plain().intensity, c, oo), n, oo) == Rational(3, 14) * d


def test_blocks_move_fewer_bytes_at_every_size():
    gap = paper.plain().numbers - paper.by_blocks().numbers
    # A sum of positive terms alone.
    assert all(term.as_coeff_Mul()[0] > 0 for term in gap.expand().args)


def test_a_slope_is_the_mean_of_the_exponents_weighted_by_their_shares():
    c, a, b = paper.c, *symbols("a b", positive=True)
    assert simplify(paper.slope(a * c**2 + b, c) - 2 * a * c**2 / (a * c**2 + b)) == 0
    assert paper.slope(paper.plain().flops, paper.c) == 1


def test_the_penalty_of_an_ensemble_bends_its_cost_in_the_features_towards_the_square():
    found = paper.slope(paper.ensemble().flops, paper.d)
    assert simplify(limit(found, paper.d, oo)) == 2
    assert limit(found, paper.n, oo) == 1
    assert simplify(paper.ensemble().flops.subs(paper.v, 1) - paper.plain().flops) == 0


def test_groups_of_one_size_and_one_group_cost_what_softmax_costs():
    assert simplify(paper.groups((1,)).numbers - paper.plain().numbers) == 0
    assert paper.groups((1, 2, 4)).flops == paper.plain().flops


@pytest.mark.claim("G31")
def test_what_groups_move_in_excess_has_no_features_in_it_and_fades_only_beside_many():
    extra = (paper.groups((1, 2, 4)).numbers - paper.plain().numbers).expand()
    assert not extra.has(paper.d)
    share = extra / paper.plain().flops
    assert limit(share, paper.d, oo) == 0
    assert limit(share, paper.n, oo) == limit(share, paper.c, oo) == simplify(share)


def test_ranks_that_share_the_classes_send_bytes_that_know_no_class():
    assert not paper.class_parallel().has(paper.c)
    assert not paper.data_parallel().has(paper.n)
    ratio = simplify(paper.data_parallel() / paper.class_parallel(0))
    assert ratio == paper.c / paper.n


# --- Computed and compared: counted products --------------------------------------------------

SIZES = {"n": 6, "d": 8, "c": 20}


def counted(loss, *shapes):
    """The operations in matrix products, forward and backward."""
    leaves = [torch.randn(shape, requires_grad=True) for shape in shapes]
    with FlopCounterMode(display=False) as products:
        loss(*leaves).sum().backward()
    return products.get_total_flops()


def due(cost, **more):
    return cost.flops.subs({getattr(paper, name): size for name, size in (SIZES | more).items()})


n, d, c = SIZES.values()
Y = torch.arange(n)


@pytest.mark.parametrize(
    "loss",
    [
        lambda x, w: cross_entropy(x @ w.mT, Y),
        lambda x, w: ml.softmax_loss(x @ w.mT, Y),
        lambda x, w: ml.large_margin_loss(x @ w.mT, Y),
        lambda x, w: ml.arcface_loss(x, w, Y),
        lambda x, w: ml.gaussian_mixture_loss(x, w, Y),
    ],
)
def test_a_plain_step_is_three_products(loss):
    assert counted(loss, (n, d), (c, d)) == due(paper.plain())


@pytest.mark.parametrize("block", [1, 7, 100])
@pytest.mark.parametrize("loss", [chunked.softmax_loss, chunked.arcface_loss])
def test_a_step_by_blocks_is_four_products(loss, block):
    assert counted(partial(loss, target=Y, block=block), (n, d), (c, d)) == due(paper.by_blocks())


@pytest.mark.parametrize("sizes", [(1, 2), (1, 2, 4), (8,)])
def test_nested_groups_are_three_products(sizes):
    step = partial(ml.group_loss, bias=None, target=Y, groups=sizes)
    assert counted(step, (n, d), (c, d)) == due(paper.groups(sizes))


@pytest.mark.parametrize("members", [1, 2, 5])
def test_an_ensembles_products_are_counted_with_its_penalty(members):
    step = partial(ml.ensemble_loss, target=Y)
    assert counted(step, (n, d), (members, c, d)) == due(paper.ensemble(), v=members)


# --- Told and checked: the record -------------------------------------------------------------

RECORD = json.loads((evidence.folder() / "at_scale.json").read_text(encoding="utf-8"))
PARTS = {"machine", "growth", "blocks", "kept", "million"}


def rows(**wanted):
    return [r for r in RECORD["rows"] if all(r.get(key) == value for key, value in wanted.items())]


def test_the_record_says_where_and_when_and_is_whole():
    assert RECORD["commit"] != "unknown"
    assert set(RECORD["versions"]) == {"python", "torch", "marginlib"}
    assert "thread" in RECORD["device"]
    assert {row["part"] for row in RECORD["rows"]} == PARTS
    for row in RECORD["rows"]:
        assert not row["commit"].endswith("-dirty")
        assert len(row["ms"] if "ms" in row else row["loss"]) >= 3
        # The clock of a process may stand still during a step as small as these.
        assert min(row["ms"] if "ms" in row else row["loss"]) >= 0


def test_every_way_was_measured_at_every_number_of_classes():
    blocks = [row for row in rows(part="blocks") if "blocks of" not in row["case"]]
    every = {row["c"] for row in blocks}
    assert max(every) == 1_000_000
    for case in {row["case"] for row in blocks if "torch" not in row["case"]}:
        assert {row["c"] for row in blocks if row["case"] == case} == every


def test_the_memory_of_blocks_is_what_the_formula_says():
    for row in rows(part="blocks", case="softmax, by blocks"):
        if row["c"] < 10 * chunked.BLOCK:
            continue
        known = {getattr(paper, name): row[name] for name in "ndc"} | {paper.b: chunked.BLOCK}
        # The features, their gradients and the row's numbers are left out.
        foreseen = float(4 * paper.memory_by_blocks().subs(known)) / 2**20
        assert row["mib"] == pytest.approx(foreseen, rel=0.1)


def test_a_head_of_a_million_classes_learnt_its_batch():
    (row,) = rows(part="million")
    assert row["c"] == 1_000_000
    assert row["loss"][-1] < 0.01 * row["loss"][0]


def test_time_grows_with_every_size():
    for case in {row["case"] for row in rows(part="growth")}:
        for what in "ndc":
            taken = [median(row["ms"]) for row in rows(part="growth", case=case, grows=what)]
            # Of the ends: neighbours may change places where a step is a fraction of a millisecond.
            assert taken[-1] > taken[0]
            assert len(taken) >= 4


@pytest.mark.parametrize("part", sorted(PARTS))
def test_every_part_of_the_record_can_be_measured_again(part, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).resolve().parents[1] / "benchmarks")
    measured = importlib.import_module("at_scale")
    monkeypatch.setattr(measured, "SMALL", {"n": (2,), "d": (4,), "c": (8,)})
    found = list(measured.PARTS[part](True, 2))
    kept = {row["case"] for row in rows(part=part)}
    for row in found:
        assert row["part"] == part
        # The clock of a process may stand still during a step as small as these.
        assert min(row["ms"] if "ms" in row else row["loss"]) >= 0
        assert row["case"] in kept or "blocks of" in row["case"] or "torch" in row["case"]
    # A step of descent that changed nothing would be no training.
    if part == "million":
        assert found[0]["loss"][-1] < found[0]["loss"][0]


# --- Refused ----------------------------------------------------------------------------------


def test_a_slope_of_the_weighted_mean_without_its_one_is_refuted():
    seen = paper.read(F[:3], S)
    q = paper.slopes(F[:3], S)[0][1]
    with pytest.raises(Unproved):
        prove(paper.slopes(F[:3], S)[1][0], q * (F[0] - paper.weighted_mean(seen)))


def test_the_wrong_count_of_products_is_told_from_the_right_one():
    assert due(paper.by_blocks()) - due(paper.plain()) == 2 * math.prod(SIZES.values())
    assert [a < b for a, b in pairwise([due(paper.ensemble(), v=v) for v in (1, 2, 3)])] == [
        True
    ] * 2
