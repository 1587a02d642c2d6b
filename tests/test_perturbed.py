"""Chapter 9: the disturbed losses, proved, computed and told."""

import math
from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mpmath import mp
from scipy.integrate import quad
from sympy import Integer, Rational, Symbol, diff, lambdify, limit, log, oo, symbols
from torch.nn.functional import cross_entropy, linear, normalize

from marginlib import (
    adversarial_dropout,
    check,
    label_smoothing_loss,
    margin,
    noisy_margin,
    noisy_softmax_loss,
    sigsoftmax_logits,
    sigsoftmax_loss,
    soft_margin_loss,
    softmax_loss,
    virtual_softmax_loss,
)
from marginlib.lab import evidence
from marginlib.perturbed import shortfall
from marginlib.symbolic import perturbed as paper
from marginlib.symbolic.proof import prove

F = list(symbols("f_:4", real=True))
Z = list(symbols("z_:4", real=True))
V, M, S = symbols("v m s", positive=True)
LOSS = Symbol("l", positive=True)
PLACES = [(2, 0), (3, 1), (4, 3)]
mp.dps = 40


def draws(*shape, scale=1.0, seed=0):
    return scale * torch.randn(*shape, dtype=torch.float64, generator=torch.manual_seed(seed))


def batch(n=12, d=5, c=4, scale=1.0, seed=0):
    x, w = draws(n, d, scale=scale, seed=seed), draws(c, d, seed=seed + 1)
    return x, w, torch.arange(n) % c


def log_odds(loss):
    return loss.expm1().log()


# --- Claimed and proved ------------------------------------------------------------------


@pytest.mark.parametrize(("c", "y"), PLACES)
def test_what_each_disturbance_does_to_the_odds(c, y):
    f = F[:c]
    equations = [
        paper.sigsoftmax(f, y),
        paper.sigsoftmax_odds(f, y),
        paper.virtual(f, y, V),
        paper.virtual_share(f, y, V),
        paper.noisy(f, y, M),
        paper.smoothing_as_chance(f, y, S),
    ]
    assert [equation.prove() for equation in equations] == ["∎"] * 6
    assert {equation.source for equation in equations} == {"000"}
    assert all(equation.number.startswith("Table 2, ") for equation in equations)


def test_the_printed_sides_are_the_papers():
    # By hand at f = (log 2, 0, 0), y = 0: sigmoid f = 2/3, 1/2, 1/2.
    f = [log(2), Integer(0), Integer(0)]
    assert prove(paper.sigsoftmax(f, 0).left, log(Rational(7, 4)))
    assert prove(paper.sigsoftmax_odds(f, 0).left, Rational(3, 4))
    assert prove(paper.virtual(f, 0, log(3)).left, log(5))
    assert prove(
        paper.virtual_share(F[:2], 0, V).right.subs({V: log(3), F[0]: 0, F[1]: 0}), Rational(3, 5)
    )
    assert prove(paper.noisy(f, 0, log(2)).left, log(3))
    label = paper.smoothing_as_chance(f, 0, Rational(3, 10)).right
    assert prove(label, Rational(4, 5) * log(2) + Rational(1, 5) * log(4))


@pytest.mark.claim("G12")
def test_label_smoothing_is_priced_by_the_summed_discriminativity():
    z = [list(symbols(f"z_{j}(0:3)", real=True)) for j in (1, 2)]
    equation = paper.smoothing_and_groups(z, 1, S)
    assert equation.prove() == "∎"
    priced = diff(equation.right, S)
    assert prove(priced, sum(z_j[1] - z_j[0] / 3 - z_j[1] / 3 - z_j[2] / 3 for z_j in z))


def test_the_raised_loss_is_convex_in_the_margin():
    equation = paper.noisy_curvature(LOSS, M)
    assert equation.prove() == "∎"
    assert prove(equation.left.subs({LOSS: log(2), M: log(3)}), Rational(3, 16))


@pytest.mark.parametrize(("c", "y"), PLACES)
def test_how_a_feature_that_counts_more_or_less_moves_the_loss(c, y):
    f, z = F[:c], Z[:c]
    bend, gain = paper.curvature(f, y, z), paper.missed(f, y, z)
    assert bend.prove() == gain.prove() == "∎"
    # The same from the whole loss, by differences at a point.
    at = dict(zip([*f, *z], [0.3, -0.5, 1.1, 0.2][:c] + [0.7, -0.4, 0.9, -1.3][:c], strict=True))
    whole = [
        float(paper.softmax_loss(paper.scaled(f, z, k), y).subs(at)) for k in (0.999, 1, 1.001)
    ]
    assert float(gain.right.subs(at)) == pytest.approx((whole[0] - whole[2]) / 2e-3, abs=1e-6)
    bent = (whole[0] - 2 * whole[1] + whole[2]) / 1e-6
    assert float(bend.right.subs(at)) == pytest.approx(bent, abs=1e-5)
    assert paper.scaled(f, z, 1) == f
    assert paper.scaled(f, z, 0) == [f_c - z_c for f_c, z_c in zip(f, z, strict=True)]


def test_the_mean_of_dropouts_logit_is_the_logit():
    equation = paper.dropout_mean(Z[:3], S)
    assert equation.prove() == "∎"
    assert equation.right == Z[0] + Z[1] + Z[2]


# SigSoftmax.


@given(st.lists(st.floats(-30, 30), min_size=3, max_size=5))
def test_sigsoftmax_asks_less_of_a_target_that_leads_and_more_of_one_that_is_last(row):
    f = torch.tensor([row], dtype=torch.float64)
    first, last = f.argmax(1), f.argmin(1)
    assert (sigsoftmax_loss(f, first) <= softmax_loss(f, first) + 1e-12).all()
    assert (sigsoftmax_loss(f, last) >= softmax_loss(f, last) - 1e-12).all()


@given(st.lists(st.floats(-200, 200), min_size=3, max_size=5))
def test_sigsoftmax_keeps_the_order_and_widens_gaps_at_most_twice(row):
    f = torch.tensor([row], dtype=torch.float64).sort().values
    gaps, widened = f.diff(), sigsoftmax_logits(f).diff()
    assert (widened >= gaps - 1e-12).all()
    assert (widened <= 2 * gaps + 1e-12).all()


def test_sigsoftmax_lies_between_the_softmax_losses_of_f_and_of_2f():
    f, y = draws(16, 5), torch.arange(16) % 5
    torch.testing.assert_close(sigsoftmax_loss(f + 60, y), softmax_loss(f, y))
    torch.testing.assert_close(sigsoftmax_loss(f - 60, y), softmax_loss(2 * f, y))
    x = Symbol("x", real=True)
    score = paper.sigsoftmax_logits([x])[0]
    assert (limit(score - x, x, oo), limit(score - 2 * x, x, -oo)) == (0, 0)


def test_sigsoftmax_hears_a_common_shift_and_the_other_losses_do_not():
    report = check(sigsoftmax_loss, compiles=False)
    broken = {finding.law for finding in report.findings if finding.holds is False}
    assert not report.ok
    assert any("shift" in law for law in broken)


# Features on a line, four classes: the logits have rank 1.
LINE = torch.tensor([[-3.0], [-1.0], [1.0], [3.0]], dtype=torch.float64)
SLOPES = torch.tensor([[-1.0], [0.0], [1.0], [2.0]], dtype=torch.float64)


def test_log_softmax_has_one_rank_more_than_the_features_and_sigsoftmax_is_full():
    f = LINE @ SLOPES.T
    plain, sig = f.log_softmax(1), sigsoftmax_logits(f).log_softmax(1)
    assert torch.linalg.matrix_rank(f) == 1
    assert torch.linalg.matrix_rank(plain) == 2
    # A determinant that is no rounding: worked out to 40 digits.
    exactly = mp.matrix(
        [[x * w - mp.log(1 + mp.exp(-x * w)) for w in (-1, 0, 1, 2)] for x in (-3, -1, 1, 3)]
    )
    for i in range(4):
        row = [exactly[i, j] for j in range(4)]
        total = mp.log(sum(mp.exp(value) for value in row))
        for j in range(4):
            exactly[i, j] -= total
    assert abs(mp.det(exactly)) > 1e-3
    assert torch.linalg.det(sig).item() == pytest.approx(float(mp.det(exactly)), rel=1e-9)


def test_yet_sigsoftmax_lets_no_other_class_win():
    f = draws(200, 6, scale=5.0)
    assert torch.equal(sigsoftmax_logits(f).argmax(1), f.argmax(1))
    # A class vector amid the others never wins, however long the features are.
    x = draws(500, 1, scale=50.0)
    logits = sigsoftmax_logits(x @ SLOPES.T)
    assert set(logits.argmax(1).tolist()) == {0, 3}


@pytest.mark.claim("G32")
def test_with_sigsoftmax_for_its_base_type_1_does_not_bound_it():
    first, second = torch.tensor([[[-4.0, -4.0]], [[-4.0, 4.0]]], dtype=torch.float64)
    y = torch.tensor([0])
    whole = sigsoftmax_loss(first + second, y).item()
    type_1 = (sigsoftmax_loss(2 * first, y) + sigsoftmax_loss(2 * second, y)).item() / 2
    type_2 = (sigsoftmax_loss(first, y) + sigsoftmax_loss(second, y)).item()
    assert [whole, type_1, type_2] == pytest.approx([15.307188, 12.346573, 12.693153], abs=1e-6)
    # With the softmax loss, Proposition 1 holds on the same logits.
    plain = softmax_loss(first + second, y)
    assert plain <= (softmax_loss(2 * first, y) + softmax_loss(2 * second, y)) / 2


# Virtual Softmax.


def test_virtual_softmax_stays_above_log_2_and_comes_as_near_as_one_likes():
    x, w, y = batch(200, scale=3.0)
    assert (virtual_softmax_loss(x, w, y) > math.log(2)).all()
    # An orthogonal classifier and features along it: e^l + e^0 = 2 + (c - 1) e^(-t).
    for t in (1.0, 5.0, 20.0):
        eye = torch.eye(4, dtype=torch.float64)
        loss = virtual_softmax_loss(t * eye, eye, torch.arange(4))
        torch.testing.assert_close(loss, loss.new_full((4,), math.log(2 + 3 * math.exp(-t))))


def test_a_long_feature_off_its_class_vector_pays_for_its_length():
    w = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
    aslant = torch.tensor([[0.8, 0.6]], dtype=torch.float64)
    y = torch.tensor([0])
    losses = [virtual_softmax_loss(t * aslant, w, y).item() for t in (1, 10, 100)]
    assert losses[0] < losses[1] < losses[2]
    assert losses[2] == pytest.approx(20.0)
    assert softmax_loss(100 * aslant @ w.T, y).item() < 1e-60


def test_virtual_softmax_is_a_soft_margin_that_grows_as_the_example_gets_better():
    x, w, y = batch()
    plain, v = softmax_loss(x @ w.T, y), shortfall(x, w, y)
    m = torch.log1p(torch.exp(v - log_odds(plain)))
    torch.testing.assert_close(virtual_softmax_loss(x, w, y), soft_margin_loss(x @ w.T, y, m))


def test_a_random_feature_falls_short_by_the_root_of_its_length():
    # The reason for a first loss far above log c: v is about |w||x|, which is sqrt(d / 3).
    for d in (64, 1024):
        bound = d**-0.5
        w = torch.empty(50, d).uniform_(-bound, bound, generator=torch.manual_seed(d))
        x, y = torch.randn(200, d, generator=torch.manual_seed(1)), torch.arange(200) % 50
        assert shortfall(x, w, y).mean().item() == pytest.approx((d / 3) ** 0.5, rel=0.03)
        assert virtual_softmax_loss(x, w, y).mean() > softmax_loss(x @ w.T, y).mean()


# Noisy Softmax.


@pytest.mark.parametrize("strength", [0.1, 1.0])
def test_the_expected_noisy_loss_lies_between_two_bounds(strength):
    x, w, y = (part[:3] for part in batch(scale=2.0))
    plain, v = softmax_loss(x @ w.T, y), shortfall(x, w, y)
    mean_margin = strength * v * math.sqrt(2 / math.pi)
    jensen = soft_margin_loss(x @ w.T, y, mean_margin)
    for i in range(3):

        def at(xi, i=i):
            noise = torch.tensor([xi], dtype=torch.float64)
            loss = noisy_softmax_loss(x[i : i + 1], w, y[i : i + 1], noise, strength)
            return 2 * loss.item() * math.exp(-xi * xi / 2) / math.sqrt(2 * math.pi)

        expected = quad(at, 0, 12, epsabs=1e-10)[0]
        assert plain[i] < jensen[i] < expected < plain[i] + mean_margin[i]


# Label smoothing, dropout and the adversary.


def test_label_smoothing_is_the_mean_over_labels_drawn_at_random():
    f, y = draws(8, 4), torch.arange(8) % 4
    each = torch.stack([softmax_loss(f, torch.full((8,), c)) for c in range(4)])
    drawn = 0.9 * softmax_loss(f, y) + 0.1 * each.mean(0)
    torch.testing.assert_close(label_smoothing_loss(f, y, 0.1), drawn)


def halves(d):
    return [torch.tensor(kept) for kept in combinations(range(d), d // 2)]


def kept_only(x, w, b, y, kept):
    """The softmax loss when these features alone are kept and scaled up."""
    mask = torch.zeros(x.shape[1], dtype=x.dtype).index_fill(0, kept, x.shape[1] / len(kept))
    return cross_entropy(linear(x * mask, w, b), y, reduction="none")


def test_dropout_raises_the_loss_on_average_and_by_half_the_variance_at_first():
    x, w, y = batch(6, d=6)
    b = draws(4, seed=5)
    plain = softmax_loss(linear(x, w, b), y)
    every = torch.stack([kept_only(x, w, b, y, kept) for kept in halves(6)])
    assert (every.mean(0) >= plain).all()
    # For short features the rise is half the variance of the logits, as the softmax weights them.
    # Exactly half are kept, so two features' masks are not independent: covariance -1 / (d - 1).
    x = x / 100
    small, p = softmax_loss(linear(x, w, b), y), linear(x, w, b).softmax(1)
    rise = torch.stack([kept_only(x, w, b, y, kept) for kept in halves(6)]).mean(0) - small

    def variance(z):
        return (p * z**2).sum(1) - (p * z).sum(1) ** 2

    single = sum(variance(x[:, j : j + 1] * w[:, j]) for j in range(6))
    expected = (6 / 5 * single - variance(x @ w.T) / 5) / 2
    torch.testing.assert_close(rise, expected, rtol=0.05, atol=1e-9)


def test_independent_masks_raise_the_loss_by_the_rate_times_half_the_variance():
    x, w, y = batch(6, d=6)
    x, rate, total = x / 30, 0.2, 0.0
    for number in range(2**6):
        kept = torch.tensor([number >> j & 1 for j in range(6)], dtype=torch.float64)
        chance = ((1 - rate) ** kept.sum() * rate ** (6 - kept.sum())).item()
        total = total + chance * softmax_loss(linear(x * kept / (1 - rate), w), y)
    p = linear(x, w).softmax(1)
    z = x[:, :, None] * w.T  # (n, d, c)
    spread = (p[:, None] * z**2).sum(2) - (p[:, None] * z).sum(2) ** 2
    rise = rate / (1 - rate) / 2 * spread.sum(1)
    torch.testing.assert_close(total - softmax_loss(linear(x, w), y), rise, rtol=0.05, atol=1e-9)


@pytest.mark.claim("G11", "G30")
def test_the_mean_over_all_dropped_halves_is_the_mean_of_type_1_over_all_partitions():
    x, w, y = batch(5, d=4)
    b = draws(4, seed=5)
    every = {tuple(kept.tolist()): kept_only(x, w, b, y, kept) for kept in halves(4)}
    pairs = []
    for first, loss in every.items():
        other = tuple(j for j in range(4) if j not in first)
        # Type I, Eq. (7): group logits doubled, each with half of the offset.
        groups = [2 * linear(x[:, list(part)], w[:, list(part)], b / 2) for part in (first, other)]
        type_1 = sum(cross_entropy(z, y, reduction="none") for z in groups) / 2
        torch.testing.assert_close((loss + every[other]) / 2, type_1)
        pairs.append(type_1)
    torch.testing.assert_close(torch.stack(pairs).mean(0), torch.stack([*every.values()]).mean(0))


def adversarial_loss(x, w, b, y, rate=0.5):
    return softmax_loss(linear(adversarial_dropout(x, w, b, y, rate), w, b), y)


def test_the_adversary_drops_what_a_gradient_says_is_missed_most():
    x, w, y = batch(20, d=8)
    b = draws(4, seed=5)
    x.requires_grad_()
    (slope,) = torch.autograd.grad(cross_entropy(linear(x, w, b), y, reduction="sum"), x)
    missed = -(x * slope)
    for rate, count in ((0.5, 4), (0.3, 2), (0.1, 1)):
        gone = adversarial_dropout(x, w, b, y, rate) == 0
        assert torch.equal(gone.sum(1), torch.full((20,), count))
        least_gone = torch.where(gone, missed, math.inf).amin(1)
        most_kept = torch.where(gone, -math.inf, missed).amax(1)
        assert (least_gone > most_kept).all()


@settings(max_examples=50)
@given(st.integers(0, 10**6), st.sampled_from([0.2, 0.4, 0.6, 0.8]))
def test_the_adversary_never_lowers_the_loss(seed, rate):
    x, w, y = batch(8, d=5, scale=3.0, seed=seed)
    b = draws(4, seed=seed + 2)
    plain = softmax_loss(linear(x, w, b), y)
    assert (adversarial_loss(x, w, b, y, rate) >= plain - 1e-12).all()


@pytest.mark.claim("G21")
def test_with_two_classes_the_adversary_finds_the_worst_half_and_it_is_a_group_of_type_1():
    x, w, y = batch(10, d=6, c=2)
    b = draws(2, seed=5)
    ours = adversarial_loss(x, w, b, y)
    every = torch.stack([kept_only(x, w, b, y, kept) for kept in halves(6)])
    torch.testing.assert_close(ours, every.amax(0))
    # The discriminative grouping of Eq. (9) and (10), example by example.
    for i in range(10):
        row, target = x[i : i + 1], y[i : i + 1]
        score = x[i] * (w[target.item()] - w[1 - target.item()])
        least, most = score.argsort().chunk(2)
        torch.testing.assert_close(ours[i : i + 1], kept_only(row, w, b, target, least))
        type_1 = (ours[i] + kept_only(row, w, b, target, most)[0]) / 2
        assert softmax_loss(linear(row, w, b), target)[0] <= type_1 <= ours[i]


def test_with_more_classes_the_adversary_is_near_the_worst_half_and_not_always_there():
    x, w, y = batch(200, d=6, c=5)
    ours = adversarial_loss(x, w, None, y)
    worst = torch.stack([kept_only(x, w, None, y, kept) for kept in halves(6)]).amax(0)
    assert (ours <= worst + 1e-12).all()
    found = (ours > worst - 1e-12).double().mean().item()
    assert 0.3 < found < 0.95


# The source's tables.

TABLE_2 = {
    "softmax": (19.67, 12.55, 17.86, 13.09),
    "l-softmax": (18.81, 12.48, 17.14, 12.01),
    "sigsoftmax": (21.12, 13.09, 18.15, 13.78),
    "noisy": (18.64, 12.61, 17.49, 12.96),
    "virtual": (18.25, 15.49, 20.78, 16.80),
    "center": (17.98, 12.95, 16.26, 13.35),
    "dropout-0.2": (18.77, 12.49, 17.84, 13.28),
    "dropout-0.5": (18.96, 12.53, 19.15, 12.92),
    "adversarial": (19.31, 12.30, 18.39, 12.41),
    "type-1": (18.23, 12.28, 16.62, 12.16),
    "type-2": (16.10, 11.88, 15.33, 11.78),
}
TABLE_4 = {
    "softmax": (48.4, 51.3, 55.7, 58.8),
    "l-softmax": (43.0, 44.5, 56.3, 53.1),
    "sigsoftmax": (48.2, 54.6, 56.9, 59.6),
    "noisy": (43.2, 51.2, 56.0, 57.5),
    "virtual": (46.9, 54.5, 56.9, 56.4),
    "center": (53.5, 44.6, 60.6, 52.9),
    "dropout-0.2": (44.9, 50.5, 56.5, 57.2),
    "dropout-0.5": (44.7, 47.1, 54.8, 55.5),
    "adversarial": (43.8, 45.4, 53.4, 54.0),
}


@pytest.mark.claim("G38")
def test_in_table_2_type_2_is_the_best_of_every_column_and_type_1_of_one():
    columns = [dict(zip(TABLE_2, errors, strict=True)) for errors in zip(*TABLE_2.values())]
    assert [min(column, key=column.get) for column in columns] == ["type-2"] * 4
    rest = [{k: e for k, e in column.items() if k != "type-2"} for column in columns]
    assert [min(column, key=column.get) for column in rest] == [
        "center", "type-1", "center", "l-softmax",
    ]  # fmt: skip


@pytest.mark.claim("G40")
def test_in_table_4_ten_of_32_comparisons_go_against_the_other_method():
    worse = {
        method: sum(e > plain for e, plain in zip(errors, TABLE_4["softmax"], strict=True))
        for method, errors in TABLE_4.items()
        if method != "softmax"
    }
    assert worse == {
        "l-softmax": 1, "sigsoftmax": 3, "noisy": 1, "virtual": 2, "center": 2,
        "dropout-0.2": 1, "dropout-0.5": 0, "adversarial": 0,
    }  # fmt: skip
    assert sum(worse.values()) == 10


def test_sigsoftmax_is_behind_softmax_in_every_column_of_table_2():
    columns = zip(TABLE_2["sigsoftmax"], TABLE_2["softmax"], strict=True)
    assert all(sig > plain for sig, plain in columns)


# --- Computed and compared ---------------------------------------------------------------

PRINTED = lambdify([F[:3]], paper.sigsoftmax(F[:3], 1).left, "mpmath")
SLOPE = lambdify([F[:3]], [diff(paper.sigsoftmax(F[:3], 1).left, f) for f in F[:3]], "mpmath")


@given(st.lists(st.floats(-200, 200), min_size=3, max_size=3))
def test_sigsoftmax_and_its_gradient_are_the_papers(row):
    f = torch.tensor([row], dtype=torch.float64, requires_grad=True)
    loss = sigsoftmax_loss(f, torch.tensor([1]))
    exactly = [mp.mpf(value) for value in row]
    assert loss.item() == pytest.approx(float(PRINTED(exactly)), abs=1e-9)
    (slope,) = torch.autograd.grad(loss.sum(), f)
    assert slope[0].tolist() == pytest.approx([float(s) for s in SLOPE(exactly)], abs=1e-9)


def by_hand(x, w, y, alpha_xi=None):
    """Virtual Softmax, or Noisy Softmax, of one example as its paper prints it; 40 digits."""
    x, w = [mp.mpf(v) for v in x], [[mp.mpf(v) for v in row] for row in w]
    f = [mp.fdot(w_c, x) for w_c in w]
    length = mp.sqrt(mp.fdot(w[y], w[y])) * mp.sqrt(mp.fdot(x, x))
    if alpha_xi is None:
        return -f[y] + mp.log(mp.fsum(map(mp.exp, f)) + mp.exp(length))
    f[y] -= alpha_xi * length * (1 - f[y] / length)
    return -f[y] + mp.log(mp.fsum(map(mp.exp, f)))


@settings(max_examples=40)
@given(st.integers(0, 10**6), st.sampled_from([1e-3, 1.0, 30.0]))
def test_virtual_and_noisy_softmax_are_the_papers(seed, scale):
    x, w, y = batch(3, scale=scale, seed=seed)
    xi = draws(3, seed=seed + 7)
    virtual, noisy = virtual_softmax_loss(x, w, y), noisy_softmax_loss(x, w, y, xi, 0.3)
    for i in range(3):
        row, table, noise = x[i].tolist(), w.tolist(), mp.mpf(0.3) * abs(mp.mpf(xi[i].item()))
        assert virtual[i].item() == pytest.approx(float(by_hand(row, table, i)), abs=1e-9)
        assert noisy[i].item() == pytest.approx(float(by_hand(row, table, i, noise)), abs=1e-9)


def test_the_shortfall_is_what_the_angle_says():
    x, w, y = batch(50)
    cosine = (normalize(x) * normalize(w[y])).sum(1)
    torch.testing.assert_close(shortfall(x, w, y), x.norm(dim=1) * w[y].norm(dim=1) * (1 - cosine))
    # Along the class vector no rounding makes it negative.
    for scale in (0.1, 1 / 3, 7.7):
        along = shortfall((scale * w).float()[y], w.float(), y)
        assert (along >= 0).all()
        assert along.max() < 1e-5


def test_noisy_softmax_is_the_soft_margin_loss_with_its_margin():
    x, w, y = batch()
    xi = draws(12, seed=9)
    m = noisy_margin(x, w, y, xi, 0.4)
    torch.testing.assert_close(m, 0.4 * xi.abs() * shortfall(x, w, y))
    torch.testing.assert_close(
        noisy_softmax_loss(x, w, y, xi, 0.4), soft_margin_loss(x @ w.T, y, m)
    )
    assert torch.equal(noisy_margin(x, w, y, -xi, 0.4), m)


def test_virtual_softmax_is_a_softmax_with_one_more_class():
    x, w, y = batch()
    extra = (x.norm(dim=1) * w[y].norm(dim=1))[:, None]
    logits = torch.cat([x @ w.T, extra], dim=1)
    torch.testing.assert_close(
        virtual_softmax_loss(x, w, y), cross_entropy(logits, y, reduction="none")
    )


# What the record holds.


def desk(regime):
    return evidence.recall("perturbed").select(scale="desk", regime=regime)


@pytest.mark.claim("G39")
@pytest.mark.parametrize(
    ("regime", "rate", "chance"), [("cifar", "0.05", 95.0), ("fashion", "0.5", 90.0)]
)
def test_on_record_a_strong_adversary_leaves_no_feature_and_chance(regime, rate, chance):
    lost = desk(regime).select(method=f"adversarial-{rate}")
    assert len(lost) >= 3
    assert all(abs(error - chance) < 2 for error in lost.values("error"))
    assert all(share > 99 for share in lost.values("silent"))


@pytest.mark.claim("G39")
def test_on_record_a_weak_adversary_spreads_the_work_and_a_less_weak_one_errs_more():
    runs = desk("fashion")
    spread = runs.paired("adversarial-0.02", "softmax", "error_without_best")
    assert spread.n >= 3
    assert spread.high < -10
    more = runs.paired("adversarial-0.05", "adversarial-0.02", "error")
    assert more.mean > 0


XI = draws(6, seed=3)
OF_FEATURES = {
    "virtual": virtual_softmax_loss,
    "noisy": lambda x, w, y: noisy_softmax_loss(x, w, y, XI[: len(y)].to(x.device), 0.5),
    "adversarial": lambda x, w, y: adversarial_loss(x, w, None, y, 0.4),
    "sigsoftmax": lambda x, w, y: sigsoftmax_loss(linear(x, w), y),
}
each_loss = pytest.mark.parametrize("loss", OF_FEATURES.values(), ids=OF_FEATURES)


@each_loss
def test_the_gradients_are_right_twice(loss):
    x, w, y = batch(6)
    inputs = (x.requires_grad_(), w.requires_grad_())
    assert torch.autograd.gradcheck(lambda x, w: loss(x, w, y), inputs)
    assert torch.autograd.gradgradcheck(lambda x, w: loss(x, w, y), inputs)


# --- Told and checked --------------------------------------------------------------------


@each_loss
@pytest.mark.parametrize("scales", [(0, 1), (1, 0), (0, 0), (1e4, 1), (1e-30, 1e-30), (1, 1e4)])
def test_zero_and_extreme_vectors_have_finite_losses_and_gradients(loss, scales):
    x, w, y = batch(6)
    x, w = ((s * t).float().requires_grad_() for s, t in zip(scales, (x, w), strict=True))
    value = loss(x, w, y)
    assert value.isfinite().all()
    slopes = torch.autograd.grad(value.sum(), (x, w), create_graph=True)
    assert all(slope.isfinite().all() for slope in slopes)
    again = torch.autograd.grad(sum(s.square().sum() for s in slopes), (x, w), allow_unused=True)
    assert all(slope.isfinite().all() for slope in again if slope is not None)


def test_zero_vectors_have_the_answers_that_are_told():
    x, w, y = torch.zeros(3, 4), torch.ones(5, 4), torch.arange(3)
    assert shortfall(x, w, y).tolist() == shortfall(w[:3], 0 * w, y).tolist() == [0, 0, 0]
    assert shortfall(x, 0 * w, y).tolist() == [0, 0, 0]
    torch.testing.assert_close(virtual_softmax_loss(x, w, y), torch.full((3,), math.log(6)))
    torch.testing.assert_close(
        noisy_softmax_loss(x, w, y, torch.ones(3)), torch.full((3,), math.log(5))
    )
    x.requires_grad_()
    (slope,) = torch.autograd.grad(shortfall(x, w, y).sum(), x)
    assert torch.equal(slope, torch.zeros(3, 4))


def test_lengths_neither_overflow_nor_vanish():
    x = torch.tensor([[3e-30, 4e-30], [3e30, 4e30], [3.0, 4.0]])
    w, y = torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.tensor([0, 0, 0])
    expected = torch.tensor([1e-30, 1e30, 1.0])
    torch.testing.assert_close(shortfall(x, w, y), expected, rtol=1e-5, atol=0)
    x.requires_grad_()
    (slope,) = torch.autograd.grad(shortfall(x, w, y).sum(), x)
    torch.testing.assert_close(slope, torch.tensor([[0.6, -0.2]] * 3))


def test_sigsoftmax_survives_where_the_logarithm_of_a_sigmoid_does_not():
    f, y = torch.tensor([[-200.0, -199.0, 0.0]], requires_grad=True), torch.tensor([0])
    assert f.sigmoid().log().isinf().any()
    loss = sigsoftmax_loss(f, y)
    assert loss.item() == pytest.approx(400 - math.log(2), abs=1e-4)
    assert torch.autograd.grad(loss.sum(), f)[0].isfinite().all()
    for kind in (torch.float16, torch.bfloat16, torch.float32):
        far = torch.tensor([[3e4, -3e4], [-3e4, 3e4]], dtype=kind, requires_grad=True)
        loss = sigsoftmax_loss(far, torch.tensor([0, 0]))
        assert loss.dtype == torch.float32
        assert loss.isfinite().all()
        assert torch.autograd.grad(loss.sum(), far)[0].isfinite().all()


@each_loss
@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(loss, kind):
    x, w, y = batch(6)
    x, w = x.to(kind), w.to(kind)
    if loss is OF_FEATURES["sigsoftmax"]:
        f = linear(x, w)
        assert torch.equal(sigsoftmax_loss(f, y), sigsoftmax_loss(f.float(), y))
    elif loss is not OF_FEATURES["adversarial"]:
        assert torch.equal(loss(x, w, y), loss(x.float(), w.float(), y))
    else:
        dropped = adversarial_dropout(x, w, w[:, 0], y)
        assert dropped.dtype == kind
        wide = adversarial_dropout(x.float(), w.float(), w[:, 0].float(), y)
        assert torch.equal(dropped, wide.to(kind))


@each_loss
@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_under_autocast_the_losses_keep_their_digits(loss, kind):
    x, w, y = batch(6)
    x, w = x.float(), w.float()
    plain = loss(x, w, y)
    with torch.autocast("cpu", kind):
        half = loss(x, w, y)
    assert half.dtype == torch.float32
    # Only a product that the user takes is rounded: logits of about 5 to 1/64.
    own = loss in (OF_FEATURES["virtual"], OF_FEATURES["noisy"])
    torch.testing.assert_close(half, plain, rtol=0, atol=1e-6 if own else 0.1)


def test_the_adversary_chooses_in_float32_under_autocast():
    x, w, y = batch(200, d=16)
    x, w = x.float(), w.float()
    plain = adversarial_dropout(x, w, None, y)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(adversarial_dropout(x, w, None, y), plain)


@each_loss
def test_the_losses_compile_whole(loss):
    x, w, y = batch(6)
    compiled = torch.compile(lambda x, w: loss(x, w, y), fullgraph=True, backend="aot_eager")
    x, w = x.requires_grad_(), w.requires_grad_()
    plain, fused = loss(x, w, y), compiled(x, w)
    torch.testing.assert_close(fused, plain)
    for a, b in zip(
        torch.autograd.grad(plain.sum(), (x, w)),
        torch.autograd.grad(fused.sum(), (x, w)),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


def test_the_defaults_are_those_that_are_told():
    x, w, y = batch()
    xi = draws(12, seed=9)
    assert torch.equal(noisy_softmax_loss(x, w, y, xi), noisy_softmax_loss(x, w, y, xi, 0.1))
    assert torch.equal(noisy_margin(x, w, y, xi), noisy_margin(x, w, y, xi, 0.1))
    assert torch.equal(
        adversarial_dropout(x, w, None, y), adversarial_dropout(x, w, None, y, rate=0.5)
    )


def test_noise_is_drawn_from_the_standard_normal_for_each_example():
    x, w = torch.tensor([[0.0, 1.0]]).expand(20000, 2), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    y = torch.zeros(20000, dtype=torch.long)
    torch.manual_seed(0)
    drawn = noisy_margin(x, w, y, strength=1.0)
    # The shortfall is 1.  Four standard errors of 20,000 draws.
    assert drawn.mean().item() == pytest.approx(math.sqrt(2 / math.pi), abs=0.02)
    assert drawn.square().mean().item() == pytest.approx(1, abs=0.04)
    torch.manual_seed(0)
    assert torch.equal(noisy_softmax_loss(x, w, y, strength=1.0)[:5], noisy_softmax_loss(
        x, w, y, drawn, strength=1.0)[:5])  # fmt: skip


def test_strength_zero_is_the_softmax_loss():
    x, w, y = batch()
    torch.testing.assert_close(noisy_softmax_loss(x, w, y, strength=0), softmax_loss(x @ w.T, y))


def test_the_rest_is_scaled_up_and_the_first_of_equals_goes():
    x, w, y = torch.ones(2, 5), torch.zeros(3, 5), torch.tensor([0, 2])
    for rate, count in ((0.0, 0), (0.2, 1), (0.5, 2), (0.8, 4)):
        expected = torch.full((2, 5), 5 / (5 - count))
        expected[:, :count] = 0
        torch.testing.assert_close(adversarial_dropout(x, w, None, y, rate), expected)


def test_an_example_beyond_doubt_has_an_adversary_too():
    # p_y is 1 to the last digit, and p_y - 1 is 0: the common factor is left out.
    w = torch.tensor([[900.0, 300.0, 600.0, 0.0], [0.0, 0.0, 0.0, 10.0]])
    x, y = torch.ones(1, 4), torch.tensor([0])
    assert torch.softmax(x @ w.T, 1)[0, 0] == 1
    assert adversarial_dropout(x, w, None, y).tolist() == [[0, 2, 0, 2]]


def test_offsets_tell_which_rivals_count():
    x, y = torch.ones(1, 2), torch.tensor([0])
    w = torch.tensor([[1.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    for bias, gone in (([0.0, 9.0, 0.0], 1), ([0.0, 0.0, 9.0], 0)):
        dropped = adversarial_dropout(x, w, torch.tensor(bias), y)
        assert dropped[0, gone] == 0
        assert dropped[0, 1 - gone] == 2


def test_the_mask_counts_as_a_constant():
    x, w, y = batch(4)
    x.requires_grad_()
    w.requires_grad_()
    dropped = adversarial_dropout(x, w, None, y, 0.4)
    (slope,) = torch.autograd.grad(dropped.sum(), x)
    assert torch.equal(slope, (dropped != 0).double() * 5 / 3)
    assert torch.autograd.grad(adversarial_dropout(x, w, None, y).sum(), w, allow_unused=True) == (
        None,
    )


@each_loss
def test_one_example_and_two_classes_will_do(loss):
    x, w, y = batch(1, c=2)
    assert loss(x, w, y).shape == (1,)


def test_labels_may_be_of_any_integer_kind():
    x, w, y = batch()
    for loss in (virtual_softmax_loss, lambda *a: adversarial_dropout(a[0], a[1], None, a[2])):
        assert torch.equal(loss(x, w, y.to(torch.uint8)), loss(x, w, y))


def test_sigsoftmax_makes_a_loss_of_the_same_margin_sign():
    f, y = draws(50, 4), torch.arange(50) % 4
    assert torch.equal(margin(f, y) > 0, margin(sigsoftmax_logits(f), y) > 0)


# --- Refused -----------------------------------------------------------------------------

X, W, Y = torch.zeros(2, 3), torch.zeros(4, 3), torch.zeros(2, dtype=torch.long)
REFUSED = {
    "virtual": virtual_softmax_loss,
    "noisy": noisy_softmax_loss,
    "noisy margin": noisy_margin,
    "shortfall": shortfall,
    "adversarial": lambda x, w, y: adversarial_dropout(x, w, None, y),
}


@pytest.mark.parametrize("loss", REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize(
    ("x", "w", "y", "error", "says"),
    [
        (X[:, :2], W, Y, ValueError, r"features \(2, 2\) and weight \(4, 3\)"),
        (X, W, Y[:1], ValueError, r"features \(2, 3\) and target \(1,\)"),
        (X, W[:1], Y, ValueError, "needs a rival"),
        (X, W, Y + 4, ValueError, "labels from 0 to 3, as there are 4 classes; got 4 in row 0"),
        (X, W, Y - 1, ValueError, "got -1 in row 0"),
        (X.long(), W, Y, TypeError, "features must be floating point"),
        (X, W, Y.float(), TypeError, "class indices"),
    ],
)
def test_bad_batches_are_refused(loss, x, w, y, error, says):
    with pytest.raises(error, match=says):
        loss(x, w, y)


def test_sigsoftmax_refuses_bad_batches():
    with pytest.raises(ValueError, match=r"logits \(2, 3\) and target \(1,\)"):
        sigsoftmax_loss(X, Y[:1])
    with pytest.raises(TypeError, match="logits must be floating point"):
        sigsoftmax_loss(X.long(), Y)


def test_bad_noise_is_refused():
    with pytest.raises(ValueError, match=r"one noise per example \(2,\); got noise \(3,\)"):
        noisy_softmax_loss(X, W, Y, torch.zeros(3))
    with pytest.raises(TypeError, match=r"noise must be a tensor \(n,\); got float"):
        noisy_softmax_loss(X, W, Y, 1.0)
    with pytest.raises(ValueError, match="strength must be non-negative"):
        noisy_softmax_loss(X, W, Y, strength=-0.1)


def test_a_bad_rate_or_offset_is_refused():
    with pytest.raises(ValueError, match=r"one feature must stay: rate 0\.9 drops 3 of 3"):
        adversarial_dropout(X, W, None, Y, 0.9)
    with pytest.raises(ValueError, match=r"rate must be between 0 and 1; got 1\.5"):
        adversarial_dropout(X, W, None, Y, 1.5)
    with pytest.raises(TypeError, match="rate must be a number"):
        adversarial_dropout(X, W, None, Y, "half")
    with pytest.raises(TypeError, match="rate must be a number, as it sets how many"):
        adversarial_dropout(X, W, None, Y, torch.tensor(0.5))
    with pytest.raises(ValueError, match=r"expected bias \(4,\) or None; got \(3,\)"):
        adversarial_dropout(X, W, torch.zeros(3), Y)
