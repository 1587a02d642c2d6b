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
from marginlib.scale.measure import peak
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


# --- Computed and compared: counted numbers ---------------------------------------------------

# A table is a tuple of its sides; what moves is every table that is read or written.
X, W, Z = (n, d), (c, d), (n, c)


def moved(*tables):
    return sum(math.prod(sides) for sides in tables)


def step_of(logits):
    """The three products of a step whose logits are these tables."""
    return 3 * moved(X, W, *logits)


def loss_on(*tables):
    """A loss reads logits and writes probabilities, reads those and writes the gradient."""
    return 4 * moved(*tables)


def numbers(cost, **more):
    return cost.numbers.subs({getattr(paper, k): size for k, size in (SIZES | more).items()})


def test_a_plain_step_moves_what_three_products_and_two_passes_read_and_write():
    assert numbers(paper.plain()) == step_of([Z]) + loss_on(Z)


def test_by_blocks_only_the_weight_passes_twice():
    features_and_slope, weight_twice_and_slope = moved(X, X), moved(W, W, W)
    assert numbers(paper.by_blocks()) == features_and_slope + weight_twice_and_slope


@pytest.mark.parametrize("sizes", [(1, 2), (1, 2, 4), (4,)])
def test_groups_move_a_table_of_logits_for_every_group(sizes):
    finest = [Z] * max(sizes)
    every = [Z for size in sizes for _ in range(size)]
    assert numbers(paper.groups(sizes)) == step_of(finest) + loss_on(*every)


@pytest.mark.parametrize("members", [1, 2, 3, 5])
def test_an_ensemble_moves_its_members_and_each_ones_meeting_with_all_before_it(members):
    meetings = (moved(W, (before * c, d), (before * d, d)) for before in range(1, members))
    due_to_members = members * (step_of([Z]) + loss_on(Z))
    assert numbers(paper.ensemble(), v=members) == due_to_members + 3 * sum(meetings)


@pytest.mark.parametrize("block", [64, 128])
def test_by_blocks_a_step_holds_the_weights_gradient_and_three_tables_of_a_block(block):
    rows, features, classes = 256, 4, 1024
    x = torch.randn(rows, features, requires_grad=True)
    w = torch.randn(classes, features, requires_grad=True)
    y = torch.arange(rows)

    def step():
        x.grad = w.grad = None
        chunked.softmax_loss(x, w, y, block=block).sum().backward()

    known = {paper.n: rows, paper.d: features, paper.c: classes, paper.b: block}
    # Numbers of each row and the features' gradient are left out: a tenth here.
    assert peak(step, torch.device("cpu")) / 4 == pytest.approx(
        float(paper.memory_by_blocks().subs(known)), rel=0.15
    )


@pytest.mark.parametrize(("speed", "seconds"), [(2, 8), (Rational(1, 2), 12)])
def test_the_roof_is_the_slower_of_operations_and_bytes(speed, seconds):
    # Six operations at this speed, or eight numbers of four bytes at four bytes a second.
    roof = paper.Cost(6 * paper.n, 8 * paper.n).roof().subs({paper.P: speed, paper.B: 4})
    assert roof.subs(paper.n, 1) == seconds


def sent_around(ranks, each):
    """Numbers that rank 0 sends until all hold all: the parts go round, one place a step."""
    held = [{rank} for rank in range(ranks)]
    on_the_way, sent = list(range(ranks)), 0
    while any(len(mine) < ranks for mine in held):
        sent += each
        on_the_way = [on_the_way[rank - 1] for rank in range(ranks)]
        for mine, part in zip(held, on_the_way, strict=True):
            mine.add(part)
    return sent


@pytest.mark.parametrize("ranks", [1, 2, 4, 7])
def test_a_ring_passes_on_every_part_but_one(ranks):
    each = 3
    found = paper.ring(ranks * each).subs(paper.k, ranks)
    assert found == 4 * sent_around(ranks, each)


def test_sharing_sends_features_there_and_back_and_three_numbers_of_a_row_both_ways():
    ranks = {paper.n: 8, paper.d: 5, paper.k: 4}
    features, row = 4 * sent_around(4, 8 * 5 // 4), 4 * sent_around(4, 8 // 4)
    # To add up everywhere is to add up in parts, which are then gathered: two rounds.
    assert paper.class_parallel().subs(ranks) == 2 * features + 3 * 2 * row
    assert paper.data_parallel().subs({paper.c: 12, **ranks}) == 2 * 4 * sent_around(4, 12 * 5 // 4)


def test_sizes_and_speeds_are_positive():
    names = (paper.n, paper.d, paper.c, paper.b, paper.v, paper.k, paper.P, paper.B)
    assert all(name.is_positive for name in names)


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
