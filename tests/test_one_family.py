"""Chapter 11: the theorems that tie the losses together, and every cell of the table of relations.

The table is data in ``marginlib.symbolic.one_family``.  Here each of its entries meets the
library: a loss, bound, tie or witness without its counterpart below fails a test by name.
"""

import math
from functools import partial
from itertools import combinations

import pytest
import torch
from sympy import Integer, N, Rational, Symbol, simplify, symbols
from torch import Tensor

import marginlib as ml
from marginlib.lab import evidence
from marginlib.lab.studies import one_family as study
from marginlib.lab.studies.soft_margin import recalibrated
from marginlib.symbolic import one_family as family
from marginlib.symbolic.logits import logits
from marginlib.symbolic.proof import prove

# --- The library's side of the table ------------------------------------------------------


def of_logits(loss):
    return lambda x, w, y: loss(x @ w.T, y)


def odds_hinge(f, y, bias=1.0):
    f_y, others = ml.split(f, y)
    return (others.logsumexp(1) - f_y + bias).relu()


def nearest_triplet(x, w, y):
    each = [
        ml.triplet_loss(x, w[y], w[(y + k) % len(w)].expand(len(x), -1), margin=2.0)
        for k in range(1, len(w))
    ]
    return torch.stack(each).amax(0) / 2


def dropped(x, w, y):
    return ml.softmax_loss(ml.adversarial_dropout(x, w, None, y, 0.5) @ w.T, y)


def grouped(kind, groups=2):
    def loss(x, w, y):
        return ml.group_loss(x, w, None, y, (groups,), kind, grouping=ml.fixed_groups)

    return loss


IN_TORCH = {
    "sparsemax": of_logits(ml.sparsemax_loss),
    "dense hinge": of_logits(ml.dense_hinge_loss),
    "hinge": of_logits(ml.hinge_loss),
    "hard bias": of_logits(ml.hard_bias_loss),
    "odds hinge": of_logits(odds_hinge),
    "softmax": of_logits(ml.softmax_loss),
    "soft margin": of_logits(ml.soft_margin_loss),
    "large margin": of_logits(ml.large_margin_loss),
    "large margin, D(u||q)": of_logits(
        partial(ml.large_margin_loss, divergence=ml.kl_from_uniform)
    ),
    "label smoothing": of_logits(ml.label_smoothing_loss),
    "SigSoftmax": of_logits(ml.sigsoftmax_loss),
    "Virtual Softmax": ml.virtual_softmax_loss,
    "Noisy Softmax": lambda x, w, y: ml.noisy_softmax_loss(x, w, y, torch.ones_like(x[:, 0])),
    "L-Softmax": partial(ml.l_softmax_loss, margin=2),
    "type I": grouped(1),
    "type II": grouped(2),
    "adversarial dropout": dropped,
    "NormFace": partial(ml.normface_loss, scale=4.0),
    "CosFace": partial(ml.cosface_loss, scale=4.0, margin=0.35),
    "ArcFace": partial(ml.arcface_loss, scale=4.0, margin=0.5),
    "L-GM": ml.gaussian_mixture_loss,
    "L-GM, constant": partial(ml.gaussian_mixture_loss, margin=1.0),
    "L-GM, growing": partial(ml.gaussian_mixture_loss, alpha=0.3),
    "proxy triplet": nearest_triplet,
}
each_loss = pytest.mark.parametrize("name", family.LOSSES)


def stages(count=24, n=64):
    """Random stages of every size: near the target and far, few classes and many, ties too."""
    draw = torch.Generator().manual_seed(11)
    for k in range(count):
        c, d = 2 + k % 5, 2 * (1 + k % 2)
        size = 10 ** torch.empty(2).uniform_(-1.0, 1.0, generator=draw)
        w = size[0] * torch.randn(c, d, generator=draw, dtype=torch.float64)
        if k % 6 == 4:
            w[1:] = w[1:2].clone()  # rivals that tie
        y = torch.arange(n) % c
        x = size[1] * torch.randn(n, d, generator=draw, dtype=torch.float64)
        if k % 4 == 1:
            x = x / 5 + w[y]  # most are right
        yield x, w, y


@pytest.fixture(scope="module")
def everywhere():
    """Every loss at all the stages, in one row each."""
    found = [[loss(*stage) for loss in IN_TORCH.values()] for stage in stages()]
    columns = [torch.cat(column) for column in zip(*found, strict=True)]
    return dict(zip(IN_TORCH, columns, strict=True))


# What a tie says, computed by the library: pairs that must agree, or (for a limit) a function of
# the scale whose value must fall below the bound beside it.


def unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=1, keepdim=True)


def equal_margin(x, w, y, m, logits=None):
    return ml.soft_margin_loss(x @ w.T if logits is None else logits, y, m)


def with_offsets(x, w):
    return x @ w.T - w.square().sum(1) / 2


def two(x, w, y):
    """The same stage with its first two classes only."""
    return x, w[:2], y % 2


def moreau(x, w, y):
    """Hinge + half the squared way, at the point that the best bet leads to."""
    f = (x @ w.T).requires_grad_()
    (bet,) = torch.autograd.grad(ml.sparsemax_loss(f, y).sum(), f)
    g = f.detach() - bet
    return ml.hinge_loss(g, y) + bet.square().sum(1) / 2


def two_classes(f, y, s):
    c = f.shape[1]
    share = s * (c - 1) / c
    p = f.softmax(1).gather(1, y[:, None]).squeeze(1)
    return -(1 - share) * p.log() - share * torch.log1p(-p) + share * math.log(c - 1)


def masked(w, groups=2):
    parts = torch.arange(w.shape[1]).tensor_split(groups)
    empty = torch.zeros_like(w)
    return torch.stack([empty.index_copy(1, part, groups * w[:, part]) for part in parts])


def halves_kept(x, w, y):
    half = x.shape[1] // 2
    left = torch.cat([2 * x[:, :half], 0 * x[:, half:]], 1)
    return torch.stack([ml.softmax_loss(part @ w.T, y) for part in (left, 2 * x - left)])


def sorted_terms(x, w, y):
    """Two classes: the two terms of type I under each example's own discriminative grouping."""
    terms = []
    for k in range(len(x)):
        score = ml.discriminativity(x[k : k + 1], w, None, y[k : k + 1])
        parts = ml.discriminative_groups(score, 2)
        each = [2 * x[k : k + 1, part] @ w[:, part].T for part in parts]
        terms.append(torch.stack([ml.softmax_loss(f, y[k : k + 1])[0] for f in each]))
    return torch.stack(terms).amax(1)


def pairs_of_a_class(x, w, y):
    own = x[y == 0]
    first, second = zip(*combinations(range(len(own)), 2), strict=True)
    same = torch.ones(len(first), dtype=torch.bool)
    return ml.contrastive_loss(own[list(first)], own[list(second)], same).sum() / len(own)


def centres_of_a_class(x, w, y):
    own = x[y == 0]
    return ml.center_loss(own, own.mean(0).expand(2, -1), torch.zeros(len(own)).long()).sum()


COMPUTED = {
    "soft margin equals softmax: m = 0": lambda x, w, y: (
        equal_margin(x, w, y, 0.0),
        ml.softmax_loss(x @ w.T, y),
    ),
    "Noisy Softmax equals softmax: strength 0": lambda x, w, y: (
        ml.noisy_softmax_loss(x, w, y, strength=0.0),
        ml.softmax_loss(x @ w.T, y),
    ),
    "Noisy Softmax equals soft margin: m = strength |noise| v": lambda x, w, y: (
        ml.noisy_softmax_loss(x, w, y, x[:, 0], strength=0.3),
        equal_margin(x, w, y, 0.3 * x[:, 0].abs() * shortfall(x, w, y)),
    ),
    "L-Softmax equals soft margin: m = |w_y||x| (cos - psi)": lambda x, w, y: (
        ml.l_softmax_loss(x, w, y, margin=3),
        equal_margin(x, w, y, size(x, w, y) * (cosine(x, w, y) - ml.psi(cosine(x, w, y), 3))),
    ),
    "L-Softmax equals softmax: m = 1": lambda x, w, y: (
        ml.l_softmax_loss(x, w, y, margin=1),
        ml.softmax_loss(x @ w.T, y),
    ),
    "A-Softmax equals L-Softmax: class vectors of length 1": lambda x, w, y: (
        ml.a_softmax_loss(x, w, y, margin=3),
        ml.l_softmax_loss(x, unit(w), y, margin=3),
    ),
    "CosFace equals NormFace: m = 0": lambda x, w, y: (
        ml.cosface_loss(x, w, y, scale=5.0, margin=0.0),
        ml.normface_loss(x, w, y, scale=5.0),
    ),
    "CosFace equals soft margin: logits s cos, margin s m": lambda x, w, y: (
        ml.cosface_loss(x, w, y, scale=5.0, margin=0.2),
        equal_margin(x, w, y, 1.0, 5 * unit(x) @ unit(w).T),
    ),
    "ArcFace equals NormFace: m = 0": lambda x, w, y: (
        ml.arcface_loss(x, w, y, scale=5.0, margin=0.0),
        ml.normface_loss(x, w, y, scale=5.0),
    ),
    "NormFace equals L-GM: unit vectors, variances 1/s": lambda x, w, y: (
        ml.normface_loss(x, w, y, scale=5.0),
        ml.gaussian_mixture_loss(unit(x), unit(w), y, torch.full_like(w, 1 / 5)),
    ),
    "L-GM, constant equals soft margin: offsets -|w_c|^2 / 2": lambda x, w, y: (
        ml.gaussian_mixture_loss(x, w, y, margin=1.5),
        equal_margin(x, w, y, 1.5, with_offsets(x, w)),
    ),
    "L-GM, constant equals L-GM: m = 0": lambda x, w, y: (
        ml.gaussian_mixture_loss(x, w, y, margin=0.0),
        ml.gaussian_mixture_loss(x, w, y),
    ),
    "L-GM, growing equals L-GM: alpha = 0": lambda x, w, y: (
        ml.gaussian_mixture_loss(x, w, y, alpha=0.0),
        ml.softmax_loss(-(x[:, None] - w).square().sum(2) / 2, y),
    ),
    "L-GM equals centre loss: likelihood added, less softmax with tied offsets": (
        lambda x, w, y: (
            ml.gaussian_mixture_loss(x, w, y)
            + 0.2 * ml.gaussian_nll(x, w, y)
            - ml.softmax_loss(with_offsets(x, w), y),
            0.2 * (ml.center_loss(x, w, y) + x.shape[1] / 2 * math.log(2 * math.pi)),
        )
    ),
    "likelihood equals centre loss: unit variances, less a constant": lambda x, w, y: (
        ml.gaussian_nll(x, w, y) - x.shape[1] / 2 * math.log(2 * math.pi),
        ml.center_loss(x, w, y),
    ),
    "contrastive pairs equals centre loss: all pairs of a class, over its size": lambda *at: (
        pairs_of_a_class(*at),
        centres_of_a_class(*at),
    ),
    "N-pair equals softmax: the batch for classes": lambda x, w, y: (
        torch.log1p((x @ w.T - (x * w[y]).sum(1, keepdim=True)).exp().sum(1) - 1),
        ml.softmax_loss(x @ w.T, y),
    ),
    "large margin equals softmax: strength 0, or C = 2": lambda x, w, y: (
        torch.cat(
            [
                ml.large_margin_loss(x @ w.T, y, 0.0),
                ml.large_margin_loss(x @ w[:2].T, y % 2, 7.0),
            ]
        ),
        torch.cat([ml.softmax_loss(x @ w.T, y), ml.softmax_loss(x @ w[:2].T, y % 2)]),
    ),
    "large margin, D(u||q) equals softmax: strength 0, or C = 2": lambda x, w, y: (
        torch.cat(
            [
                ml.large_margin_loss(x @ w.T, y, 0.0, divergence=ml.kl_from_uniform),
                ml.large_margin_loss(x @ w[:2].T, y % 2, 7.0, divergence=ml.kl_from_uniform),
            ]
        ),
        torch.cat([ml.softmax_loss(x @ w.T, y), ml.softmax_loss(x @ w[:2].T, y % 2)]),
    ),
    "label smoothing equals softmax: s = 0": lambda x, w, y: (
        ml.label_smoothing_loss(x @ w.T, y, 0.0),
        ml.softmax_loss(x @ w.T, y),
    ),
    "label smoothing equals large margin, D(u||q): "
    "its two-class part swapped for softmax, less a constant": lambda x, w, y: (
        # Logits small enough for log(1 - p_y), which this side computes from the page.
        ml.label_smoothing_loss(small(x @ w.T), y, 0.2)
        - two_classes(small(x @ w.T), y, 0.2)
        + ml.softmax_loss(small(x @ w.T), y),
        ml.large_margin_loss(
            small(x @ w.T), y, 0.2 * (len(w) - 1) / len(w), divergence=ml.kl_from_uniform
        ),
    ),
    "type I equals softmax: 1 group": lambda x, w, y: (
        grouped(1, 1)(x, w, y),
        ml.softmax_loss(x @ w.T, y),
    ),
    "type II equals softmax: 1 group": lambda x, w, y: (
        grouped(2, 1)(x, w, y),
        ml.softmax_loss(x @ w.T, y),
    ),
    "type II equals type I: scale G for 1": lambda x, w, y: (
        ml.group_loss(2 * x, w, None, y, (2,), 2, grouping=ml.fixed_groups) / 2,
        grouped(1)(x, w, y),
    ),
    "type I equals ensemble: masked members": lambda x, w, y: (
        grouped(1)(x, w, y),
        ml.ensemble_loss(x, masked(w), y, diversity=0.0) / 2,
    ),
    "type I equals complementary dropout: rate 1 - 1/G": lambda x, w, y: (
        grouped(1)(x, w, y),
        halves_kept(x, w, y).mean(0),
    ),
    "ensemble equals softmax: equal members": lambda x, w, y: (
        ml.ensemble_loss(x, w.expand(3, -1, -1), y, diversity=0.0) / 3,
        ml.softmax_loss(x @ w.T, y),
    ),
    "adversarial dropout equals type I: C = 2, its larger term": lambda x, w, y: (
        dropped(*two(x, w, y)),
        sorted_terms(*two(x, w, y)),
    ),
    "Virtual Softmax equals softmax: a rival more, at f_y + v": lambda x, w, y: (
        ml.virtual_softmax_loss(x, w, y),
        ml.softmax_loss(torch.cat([x @ w.T, size(x, w, y)[:, None]], 1), y),
    ),
    "hard bias equals soft margin: C = 2": lambda x, w, y: (
        IN_TORCH["hard bias"](*two(x, w, y)),
        IN_TORCH["soft margin"](*two(x, w, y)),
    ),
    "odds hinge equals hinge: C = 2": lambda x, w, y: (
        IN_TORCH["odds hinge"](*two(x, w, y)),
        IN_TORCH["hinge"](*two(x, w, y)),
    ),
    "dense hinge equals hinge: C = 2": lambda x, w, y: (
        IN_TORCH["dense hinge"](*two(x, w, y)),
        IN_TORCH["hinge"](*two(x, w, y)),
    ),
    "sparsemax equals hinge: least of hinge(g) + |f - g|^2 / 2": lambda x, w, y: (
        ml.sparsemax_loss(x @ w.T, y),
        moreau(x, w, y),
    ),
}
LIMITS = {
    "L-Softmax tends to softmax: annealing -> oo": lambda s, x, w, y: (
        ml.l_softmax_loss(x, w, y, margin=2, annealing=s) - ml.softmax_loss(x @ w.T, y),
        2 * size(x, w, y) / (1 + s),
    ),
    "SigSoftmax tends to softmax: t -> oo, logits f + t": lambda s, x, w, y: (
        ml.sigsoftmax_loss(x @ w.T + math.log(s), y) - ml.softmax_loss(x @ w.T, y),
        2 * torch.nn.functional.softplus((-(x @ w.T)).amax(1) - math.log(s)),
    ),
    f"soft margin tends to hinge: {family.COLD}": lambda s, x, w, y: (
        ml.soft_margin_loss(s * x @ w.T, y, s) / s - ml.hinge_loss(x @ w.T, y),
        torch.full_like(x[:, 0], math.log(len(w)) / s),
    ),
    f"hard bias tends to hinge: {family.COLD}": lambda s, x, w, y: (
        ml.hard_bias_loss(s * x @ w.T, y, s) / s - ml.hinge_loss(x @ w.T, y),
        torch.full_like(x[:, 0], math.log(2) / s),
    ),
    f"odds hinge tends to hinge: {family.COLD}": lambda s, x, w, y: (
        odds_hinge(s * x @ w.T, y, s) / s - ml.hinge_loss(x @ w.T, y),
        torch.full_like(x[:, 0], math.log(len(w)) / s),
    ),
    f"L-GM, constant tends to proxy triplet: {family.COLD}": lambda s, x, w, y: (
        ml.gaussian_mixture_loss(x, w, y, torch.full_like(w, 1 / s), margin=s) / s
        - nearest_triplet(x, w, y),
        torch.full_like(x[:, 0], math.log(len(w)) / s),
    ),
}


def size(x, w, y):
    return x.norm(dim=1) * w[y].norm(dim=1)


def cosine(x, w, y):
    return (x * w[y]).sum(1) / size(x, w, y)


def shortfall(x, w, y):
    return size(x, w, y) - (x * w[y]).sum(1)


def small(f):
    return 4 * torch.tanh(f / 4)


# --- Claimed and proved -------------------------------------------------------------------

F3, F4 = logits(3), logits(4)
M, V, ELL = family.MARGIN, family.V, family.ELL
S = Symbol("s", positive=True)
THETA = Symbol("theta", real=True)
POSITIVE = symbols("a b c d", positive=True)
STATED = {
    "a margin multiplies the odds": lambda: [family.multiplied(ELL, M)],
    "Virtual Softmax adds to them": lambda: [family.added_to(F4, 0, V)],
    "affine maps compose": lambda: [family.composed(ELL, POSITIVE[:2], POSITIVE[2:])],
    "their order matters": lambda: [family.order_matters(ELL, M, V)],
    "any place will do": lambda: [
        family.place(F3, 0, [a / sum(POSITIVE[:2]) for a in POSITIVE[:2]])
    ],
    "the slopes hold D(u||q)'s": lambda: family.pushes(F4, 0),
    "the gradient's length is a collision entropy": lambda: [family.length(F4, 0)],
    "the bias flows by differences": lambda: [family.flow(F4, 0, 1, symbols("g_1:4", real=True))],
    "label smoothing's best answer": lambda: family.smoothing_slopes(F3, S),
    "the price's slopes": lambda: family.pressed(F3, 0, S),
    "the price's best answer": lambda: family.pressed_optimum(
        [Rational(1, 2), Rational(1, 4), Rational(3, 20), Rational(1, 10)], S
    ),
    "between the types lies an entropy": lambda: [family.between_types(F3, 0, S)],
    "the least mean loss, with a margin": lambda: [family.least(4, S, M)],
    "the middle class": lambda: [family.middle_class(*POSITIVE[:3], ELL)],
    "the hinge chain": lambda: family.pays_more(family.some_shares(4), 0),
    "cooling": lambda: [family.cooled(list(symbols("t_1:4", real=True)), S)],
    "unit vectors": lambda: [family.normalised(Symbol("c", real=True), S)],
    "tied offsets": family.tied_offsets,
}


@pytest.mark.parametrize("what", STATED)
def test_what_the_chapter_states_is_proved(what):
    assert {equation.prove() for equation in STATED[what]()} == {"∎"}


def test_one_step_further_psi_has_the_same_shape_and_stands_two_lower():
    k = Symbol("k", integer=True)
    stair = family.stair(THETA, S, k)
    assert simplify(stair.left - stair.right) == 0


@pytest.mark.parametrize("bound", family.BOUNDS, ids=lambda b: f"{b.lower} <= {b.upper}")
def test_a_bound_has_a_sign_that_sympy_proves(bound):
    equations = bound.proof()
    assert equations
    assert {equation.prove() for equation in equations} == {"∎"}


@pytest.mark.parametrize("tie", family.TIES, ids=str)
def test_a_tie_is_proved(tie):
    equations = tie.proof()
    assert equations
    assert {equation.prove() for equation in equations} == {"∎"}


@each_loss
def test_every_pair_of_losses_is_decided_once(name):
    for other in set(family.LOSSES) - {name}:
        # LookupError if a chain and a witness contradict each other, or if neither is there.
        assert family.verdict(name, other) is not None


def test_no_bound_follows_from_the_others_and_no_witness_is_idle():
    for bound in family.BOUNDS:
        assert family.chain(bound.lower, bound.upper) == (bound.lower, bound.upper)
    every = [(a, b) for a in family.LOSSES for b in family.LOSSES if a != b]
    needed = {family.verdict(a, b) for a, b in every}
    assert {k for k in needed if isinstance(k, int)} == set(range(len(family.WITNESSES)))


# --- Computed and compared ----------------------------------------------------------------


def test_every_entry_of_the_table_has_its_counterpart_in_the_library():
    assert list(IN_TORCH) == list(family.LOSSES)
    ties = {str(tie): tie.kind for tie in family.TIES}
    assert len(ties) == len(family.TIES)
    assert {name for name, kind in ties.items() if kind == family.EQUALS} == set(COMPUTED)
    assert {name for name, kind in ties.items() if kind == family.TENDS} == set(LIMITS)


@each_loss
def test_at_the_witnesses_the_symbols_are_the_library(name):
    for place, (x, w) in enumerate(family.WITNESSES):
        x, w = (torch.tensor(v, dtype=torch.float64) for v in (x, w))
        theirs = IN_TORCH[name](x[None], w, torch.tensor([0])).item()
        # Two roundings of float64 at values of order 10.
        assert float(family.values(place)[name]) == pytest.approx(theirs, rel=1e-12, abs=1e-12)


@each_loss
def test_the_library_agrees_with_every_verdict(name, everywhere):
    for other in set(family.LOSSES) - {name}:
        decided = family.verdict(name, other)
        if isinstance(decided, tuple):
            gap = everywhere[name] - everywhere[other]
            # Rounding at values of up to 1e3.
            assert (gap / (1 + everywhere[other].abs())).max() < 1e-12, other
        else:
            x, w = (torch.tensor(v, dtype=torch.float64) for v in family.WITNESSES[decided])
            below, above = (IN_TORCH[of](x[None], w, torch.tensor([0])) for of in (name, other))
            assert below.item() > above.item() + float(family.CLEARLY) / 2, other


@pytest.mark.parametrize("name", COMPUTED)
def test_an_equality_of_the_table_holds_in_the_library(name):
    for stage in stages():
        ours, theirs = COMPUTED[name](*stage)
        # float64 at values of up to 1e3, and sums of a few hundred terms.
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", LIMITS)
def test_a_limit_of_the_table_is_approached_at_the_stated_rate(name):
    for stage in stages():
        for s in (1.0, 10.0, 1e3):
            gap, bound = LIMITS[name](s, *stage)
            assert (gap.abs() <= bound + 1e-9).all()


# What is convex, and symmetric in the rivals, and deaf to a common shift.
CLOSE = (
    "sparsemax",
    "dense hinge",
    "hinge",
    "hard bias",
    "odds hinge",
    "softmax",
    "soft margin",
    "large margin, D(u||q)",
    "label smoothing",
)
ALONE = {
    "large margin": ml.large_margin_loss,
    "SigSoftmax": ml.sigsoftmax_loss,
    **{name: partial(lambda of, f, y: of(f, eye(f), y), IN_TORCH[name]) for name in CLOSE},
}


def eye(f):
    return torch.eye(f.shape[1], dtype=f.dtype)


@pytest.mark.parametrize("name", ALONE)
def test_descent_on_free_logits_never_lowers_the_bias(name):
    draw = torch.Generator().manual_seed(2)
    f = (3 * torch.randn(400, 5, generator=draw, dtype=torch.float64)).requires_grad_()
    y = torch.arange(400) % 5
    (g,) = torch.autograd.grad(ALONE[name](f, y).sum(), f)
    _, others = ml.split(f.detach(), y)
    _, slopes = ml.split(g, y)
    top = slopes.gather(1, others.argmax(1, keepdim=True))
    assert (others.softmax(1) * (top - slopes)).sum(1).min() > -1e-12


@pytest.mark.parametrize("name", CLOSE)
@pytest.mark.parametrize("c", [2, 3, 5])
@pytest.mark.parametrize("reach", [0.4, 1.2])  # the hinges still open; most of them closed
def test_no_features_and_class_vectors_of_this_size_beat_the_simplex(name, c, reach):
    y = torch.arange(c)
    loss = ALONE[name]
    simplex = reach * (eye(torch.zeros(1, c).double()) * c - 1) / (c - 1)
    floor = loss(simplex, y).mean()
    draw = torch.Generator().manual_seed(c)
    for _ in range(100):
        w, x = torch.randn(2, c, 4, generator=draw, dtype=torch.float64)
        w, x = (part * (c * reach / part.square().sum()).sqrt() for part in (w, x))
        assert loss(x @ w.T, y).mean() >= floor - 1e-12
        # Around the minimiser itself too.
        near = simplex + 0.1 * torch.randn(c, c, generator=draw, dtype=torch.float64)
        u, s, v = torch.linalg.svd(near)
        w, x = u * s.sqrt(), v.T * s.sqrt()
        w, x = (part * (c * reach / part.square().sum()).sqrt() for part in (w, x))
        assert loss(w @ x.T, y).mean() >= floor - 1e-12


BEST = {
    "margin-5": (partial(ml.soft_margin_loss, margin=5.0), partial(recalibrated, margin=5.0)),
    "smoothing-0.1": (ml.label_smoothing_loss, partial(study.unsmoothed, smoothing=0.1)),
    "from-uniform-1": (
        partial(ml.large_margin_loss, strength=1.0, divergence=ml.kl_from_uniform),
        partial(study.unpressed, strength=1.0),
    ),
}


@pytest.mark.parametrize("name", BEST)
@pytest.mark.parametrize("truth", [(0.6, 0.3, 0.1), (0.4, 0.3, 0.2, 0.05, 0.05), (0.9, 0.1)])
def test_the_best_answer_found_by_descent_is_mended_to_the_truth(name, truth):
    loss, mend = BEST[name]
    eta = torch.tensor(truth, dtype=torch.float64)
    y = torch.arange(len(eta))

    def risk(f):
        return (eta * loss(f.expand(len(eta), -1), y)).sum()

    f = torch.zeros_like(eta)
    for _ in range(60):  # Newton's method, a step halved until the risk falls
        slope, bend = torch.func.grad(risk)(f), torch.autograd.functional.hessian(risk, f)
        step = torch.linalg.pinv(bend, hermitian=True) @ slope
        while risk(f - step) > risk(f) and step.abs().max() > 1e-12:
            step = step / 2
        f = f - step
    # The slope vanishes to 1e-12 there, and the mended shares change no faster than e^5 with it.
    torch.testing.assert_close(mend(f[None]).softmax(1)[0], eta, rtol=0, atol=1e-9)


def test_the_studys_closed_forms_are_the_chapters():
    p = [Rational(1, 2), Rational(3, 10), Rational(1, 5)]
    told = torch.tensor([[float(share) for share in p]], dtype=torch.float64).log()
    for ours, theirs in (
        (study.unsmoothed(told, 0.25), family.unsmoothed(p, Rational(1, 4))),
        (study.unpressed(told, 0.75), family.unpressed(p, Rational(3, 4))),
    ):
        assert ours.softmax(1)[0].tolist() == pytest.approx([float(x) for x in theirs])


@pytest.mark.parametrize("groups", [1, 2, 5])
def test_groups_that_have_each_learnt_the_truth_are_mended_to_it(groups):
    eta = torch.tensor([[0.6, 0.3, 0.1]], dtype=torch.float64)
    learnt = groups * eta.log() + 7.0  # the sum of the groups' logits, up to a shift
    torch.testing.assert_close(study.undivided(learnt, groups).softmax(1), eta)


def test_from_type_two_to_type_one_the_loss_falls_by_an_integral_of_entropies():
    draw = torch.Generator().manual_seed(0)
    f = torch.randn(3, 4, generator=draw, dtype=torch.float64)  # three groups
    s = torch.linspace(1, 3, 2001, dtype=torch.float64)[:, None, None]
    terms = ((s * f).logsumexp(2) - s[..., 0] * f[:, 0]) / s[..., 0]
    p = (s * f).softmax(2)
    spread = -(p * p.log()).sum(2) / s[..., 0] ** 2
    area = torch.trapezoid(spread.sum(1), s[:, 0, 0])
    falls = terms.sum(1)
    assert (falls.diff() < 0).all()
    # The trapezium rule errs by h^2 / 12 times a second derivative of order one.
    assert (falls[0] - falls[-1]).item() == pytest.approx(area.item(), abs=1e-6)
    assert area <= 2 * math.log(4)


def test_the_sorted_grouping_of_a_batch_maximises_the_bound_by_the_mean_scores():
    draw = torch.Generator().manual_seed(5)
    scores = torch.randn(16, 6, generator=draw, dtype=torch.float64)

    def bound(first, scores):
        first = list(first)
        rest = [j for j in range(6) if j not in first]
        margins = torch.stack([scores[..., part].sum(-1) for part in (first, rest)])
        return torch.nn.functional.softplus(math.log(4) - margins).sum(0)

    mean = scores.mean(0)
    parts = list(combinations(range(6), 3))
    best = max(parts, key=lambda part: bound(part, mean).item())
    low, high = (set(part.tolist()) for part in ml.discriminative_groups(mean, 2))
    assert set(best) in (low, high)
    for part in parts:
        assert bound(part, scores).mean() >= bound(part, mean)


def test_psi_stays_this_near_to_its_line_and_no_nearer():
    t = torch.linspace(0, 12, 200_001, dtype=torch.float64)
    k = (t / math.pi).floor()
    gap = (-1) ** k * t.cos() - 2 * k - (1 - 2 * t / math.pi)
    assert gap.abs().max().item() == pytest.approx(float(N(family.farthest_from_line())), abs=1e-8)


@pytest.mark.parametrize(("m", "smooth"), [(1, True), (2, True), (3, True), (1.5, False)])
def test_the_new_logit_has_no_kink_behind_the_class_vector_just_for_whole_m(m, smooth):
    def logit(angle):
        at = torch.tensor([math.pi - angle, math.pi - 2 * angle], dtype=torch.float64)
        return ml.psi(at.cos(), m)

    near, far = logit(1e-4)
    # Across theta = pi the logit is even: without a kink it starts off like a square.
    assert bool((far - near).abs() < 1e-5) == smooth


def test_l_softmax_grows_with_m():
    x, w, y = next(iter(stages(1)))
    for m in (1, 1.5, 2, 3, 4):
        less, more = (ml.l_softmax_loss(x, w, y, margin=k) for k in (m, m + 0.5))
        assert (more >= less - 1e-12).all()
        assert (more > less)[less > 1e-6].all()


# --- Told and checked ---------------------------------------------------------------------


def test_the_temperature_is_the_best_of_a_fine_grid():
    draw = torch.Generator().manual_seed(1)
    f = 4 * torch.randn(200, 5, generator=draw)
    y = torch.randint(5, (200,), generator=draw)
    grid = torch.logspace(-1, 1.3, 500)
    losses = torch.stack([ml.softmax_loss(f / t, y).mean() for t in grid])
    ours = study.best_temperature(f, y)
    assert ml.softmax_loss(f / ours, y).mean() <= losses.min() + 1e-6


def test_what_is_held_out_is_what_the_run_holds_out():
    held = study.validation_images(study.SCALES["pocket"]["plain"], 3)
    assert len(held.test_images) > 0
    other = study.validation_images(study.SCALES["pocket"]["plain"], 4)
    assert not torch.equal(held.test_images, other.test_images)


def test_every_method_is_read_in_three_ways():
    record = evidence.recall("one_family")
    assert {run.config["method"] for run in record.runs} == set(study.METHODS)
    for run in record.runs:
        for way in ("told", "recalibrated", "tempered"):
            assert len(run.test[f"sure_{way}"]) == len(run.test[f"right_{way}"]) == 10
        assert run.test["nll_told"] == pytest.approx(run.test["nll"], rel=1e-5)


def within(method, first, second, measure):
    """The 95 % interval of a difference of two readings of the same runs."""
    part = evidence.recall("one_family").select(scale="desk", method=method)
    sides = (part.values(f"{measure}_{way}") for way in (first, second))
    _, low, high = evidence.interval([a - b for a, b in zip(*sides, strict=True)])
    return low, high


def test_the_record_says_of_the_hypotheses_what_the_chapter_does():
    record = evidence.recall("one_family").select(scale="desk")
    for measure in ("nll", "ece"):
        for method in ("margin-5", "type2-2"):  # 1: worse as told; 2: better when mended
            assert record.paired(method, "softmax", measure).verdict == "worsens"
            assert within(method, "recalibrated", "told", measure)[1] < 0
        assert within("smoothing-0.1", "recalibrated", "told", measure)[1] < 0
    told, mended, best = (
        sum(record.select(method="from-uniform-1").values(f"nll_{way}"))
        for way in ("told", "recalibrated", "tempered")
    )
    assert 0.2 < (told - mended) / (told - best) < 0.3  # 3: "about a quarter"
    low, high = within("from-uniform-1", "recalibrated", "told", "ece")
    assert low < 0 < high  # "nothing detectable"
    assert within("margin-5", "tempered", "recalibrated", "nll")[1] < 0  # 4
    low, high = within("type2-2", "tempered", "recalibrated", "nll")
    assert -0.01 < low < high < 0.01
    for method in study.METHODS:  # "at least as good in every row"
        for measure in ("nll", "ece"):
            assert within(method, "tempered", "recalibrated", measure)[0] < 0


def test_the_softmax_loss_has_nothing_to_be_mended():
    told = torch.tensor([[1.0, 2.0, 3.0]])
    assert torch.equal(study.MENDED["softmax"](told), told)


# --- Refused ------------------------------------------------------------------------------


def test_a_pair_that_is_not_decided_is_refused(monkeypatch):
    monkeypatch.setattr(family, "WITNESSES", ())
    with pytest.raises(LookupError, match="'hinge' against 'softmax'"):
        family.verdict("hinge", "softmax")


def test_a_pair_that_is_decided_twice_is_refused(monkeypatch):
    wrong = family.Bound("hinge", "softmax", "none", list)
    monkeypatch.setattr(family, "BOUNDS", (*family.BOUNDS, wrong))
    with pytest.raises(LookupError, match="by a chain"):
        family.verdict("hinge", "softmax")


def test_a_false_bound_is_refuted_by_a_number():
    with pytest.raises(AssertionError, match="left is"):
        prove(family.more_odds(ELL, M).left, (1 - M) * Integer(1))
