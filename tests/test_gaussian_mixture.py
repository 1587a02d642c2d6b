"""Chapter 6: distances as logits, the margins' geometry and the likelihood: proved and tried."""

import math
from functools import partial
from statistics import NormalDist

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mpmath import mp
from sympy import Integer, Rational, Symbol, lambdify, limit, log, oo, pi, solve, symbols
from torch import distributions
from torch.nn.functional import cross_entropy, linear, one_hot
from torch.utils._python_dispatch import TorchDispatchMode

from marginlib import (
    CenterHead,
    center_loss,
    gaussian_logits,
    gaussian_margin,
    gaussian_mixture_loss,
    gaussian_nll,
    soft_margin_loss,
    softmax_loss,
    triplet_loss,
)
from marginlib.lab import evidence
from marginlib.lab.studies import gaussian_mixture as study
from marginlib.symbolic import gaussian_mixture as paper
from marginlib.symbolic.proof import Unproved, prove
from marginlib.symbolic.soft_margin import recalibrated

D = list(symbols("d_:4", real=True))
V = list(symbols("v_:4", positive=True))
PI = list(symbols("pi_:4", positive=True))
X = list(symbols("x_:2", real=True))
MU = [list(symbols(f"mu_{c}:2", real=True)) for c in "abc"]
M, ALPHA, GAP = symbols("m alpha Delta", positive=True)
PLACES = [(2, 1), (3, 0), (4, 2)]
mp.dps = 30


def draws(*shape, seed=0, scale=1.0):
    return scale * torch.randn(*shape, dtype=torch.float64, generator=torch.manual_seed(seed))


def mixture(n=12, c=5, d=3, seed=0):
    """Features, means, labels, variances, priors."""
    made = draws(n + 2 * c, d, seed=seed).split([n, c, c])
    priors = torch.linspace(0.5, 2.0, c, dtype=torch.float64)
    return made[0], made[1], torch.arange(n) % c, made[2].exp(), priors


KINDS = [(False, False), (True, False), (False, True), (True, True)]
kinds = pytest.mark.parametrize(("varied", "weighted"), KINDS)


def chosen(varied, weighted, **sizes):
    x, mu, y, v, p = mixture(**sizes)
    return x, mu, y, v if varied else None, p if weighted else None


def normals(mu, v=None):
    """The classes' densities, by torch's own."""
    deviation = torch.ones_like(mu) if v is None else v.sqrt()
    return distributions.Independent(distributions.Normal(mu, deviation), 1)


# --- Claimed and proved ------------------------------------------------------------------


@pytest.mark.claim("W5")
@pytest.mark.parametrize(("k", "y"), PLACES)
def test_bayes_rule_is_a_softmax_and_the_constant_cancels(k, y):
    equation = paper.posterior(D[:k], V[:k], PI[:k], y, 3)
    assert equation.prove() == "∎"
    assert (equation.source, equation.number) == ("004", "posterior")
    total = sum(paper.posterior(D[:k], V[:k], PI[:k], z, 3).left for z in range(k))
    assert prove(total, Integer(1))


@pytest.mark.claim("W7", "W8")
@pytest.mark.parametrize(("k", "y"), PLACES)
def test_the_printed_loss_is_a_soft_margin_on_logits_that_are_distances(k, y):
    equation = paper.margin_loss(D[:k], V[:k], PI[:k], y, M)
    assert equation.prove() == "∎"
    plain = -log(paper.posterior(D[:k], V[:k], PI[:k], y, 2).left)
    assert prove(paper.margin_loss(D[:k], V[:k], PI[:k], y, Integer(0)).left, plain)
    # The margin is taken from the target and from nobody else.
    assert all(equation.left.diff(d).subs(M, 0) != 0 for d in D[:k])


def test_the_logits_and_the_density_are_what_they_are_called():
    f = paper.logits([Integer(2)], [Integer(9)], [Integer(5)])
    assert float(f[0]) == pytest.approx(math.log(5 / 3) - 2)
    density = float(paper.density(Rational(25, 8), Integer(4), 1))
    assert density == pytest.approx(NormalDist(0, 2).pdf(5))
    assert paper.half_square([3, 4], [0, 0]) == Rational(25, 2)
    assert paper.half_square([3, 4], [1, 2], list(map(Integer, [2, 8]))) == Rational(5, 4)


@pytest.mark.claim("W11")
def test_the_printed_likelihood_is_zero_and_the_mended_one_is_not():
    table = [list(symbols("a b c")), list(symbols("p q r"))]
    assert paper.joint_as_printed(table, [0, 2]) == 0
    assert paper.joint(table, [0, 2]) == table[0][0] * table[1][2]
    # With one class there is nothing to go wrong.
    assert paper.joint_as_printed([[table[0][0]]], [0]) == table[0][0]


@pytest.mark.claim("W12")
def test_the_logarithm_of_the_likelihood_is_plus_the_sum():
    a, b, p, q = symbols("a b p q", positive=True)
    joint = paper.joint([[a * p, b * q], [b * p, a * q]], [0, 1])
    told = sum(map(log, (a, p, a, q)))
    assert prove(log(joint), told)
    with pytest.raises(Unproved):
        prove(log(joint), -told)


@pytest.mark.claim("W14", "W15")
def test_eq_16_the_likelihood_term_is_the_centre_loss_and_a_constant():
    x = [list(symbols(f"{i}_:2", real=True)) for i in "xyz"]
    equation = paper.equation_16(x, [MU[0], MU[1], MU[0]])
    assert equation.prove() == "∎"
    assert equation.number == "16"
    assert prove(equation.right.diff(x[0][0]), x[0][0] - MU[0][0])
    constant = equation.right.subs(dict.fromkeys(equation.right.free_symbols, 0))
    assert constant == 3 * log(2 * pi)  # three examples in two dimensions


def test_minus_the_distance_is_linear_but_for_what_all_classes_share():
    equation = paper.linear(X, MU[0])
    assert equation.prove() == "∎"
    other = paper.linear(X, MU[1]).right - equation.right
    assert prove(other.diff(X[0]), MU[1][0] - MU[0][0])  # no x left in the slope
    assert paper.two_products(X, MU[0], V[:2]).prove() == "∎"


@pytest.mark.claim("W9")
def test_a_constant_margin_moves_the_plane_by_m_over_the_gap():
    assert paper.plane(X, GAP, M).prove() == "∎"
    (x,) = solve(paper.excess([X[0], 7], Integer(4), Integer(0), Integer(2)), X[0])
    assert x == Rational(3, 2)
    # So the two distances, 3/2 and 5/2, differ by 1 and not by 2; half their squares by 2.
    assert (4 - x) - x == 1
    assert ((4 - x) ** 2 - x**2) / 2 == 2


@pytest.mark.claim("W10")
def test_alpha_bounds_the_region_by_a_ball():
    assert paper.ball(X, GAP, ALPHA, M).prove() == "∎"
    assert paper.reach(GAP, ALPHA).prove() == "∎"
    told = [float(paper.reach(Integer(4), a).right) for a in (Rational(1, 10), Integer(1))]
    assert told == pytest.approx([1.9523, 1.6569], abs=1e-4)
    # Towards alpha = 0 the ball becomes the half-space.
    assert limit(paper.reach(GAP, ALPHA).left, ALPHA, 0) == GAP / 2
    assert limit(paper.squared_radius(GAP, ALPHA, M) * ALPHA**2, ALPHA, 0) == GAP**2
    # With both margins the ball shrinks, and vanishes at m = gap^2 (1 + alpha) / (2 alpha).
    (most,) = solve(paper.squared_radius(GAP, ALPHA, M), M)
    assert prove(most, GAP**2 * (1 + ALPHA) / (2 * ALPHA))
    assert limit(most, ALPHA, oo) == GAP**2 / 2


@pytest.mark.parametrize(("alpha", "margin"), [(0.0, 1.5), (0.5, 0.0), (0.7, 1.0)])
def test_the_library_asks_for_that_region(alpha, margin):
    gap = 3.0
    means = torch.tensor([[0.0, 0.0], [gap, 0.0]], dtype=torch.float64)
    x = draws(2000, 2, scale=3.0)
    y = torch.zeros(2000, dtype=torch.long)
    f = gaussian_logits(x, means)
    met = f[:, 0] - f[:, 1] > gaussian_margin(x, means, y, alpha=alpha, margin=margin)
    if alpha:
        square = float(paper.squared_radius(Rational(3), Rational(alpha), Rational(margin)))
        inside = (x - torch.tensor([-gap / alpha, 0.0])).square().sum(1) < square
    else:
        inside = x[:, 0] < gap / 2 - margin / gap
    assert torch.equal(met, inside)
    assert 0 < met.sum() < 2000


def test_the_pull_on_a_feature_is_minus_the_gradient():
    assert [e.prove() for e in paper.pull(X, MU[:2], 0, ALPHA, M)] == ["∎"] * 2
    # Without alpha it depends on the feature through the probabilities alone.
    (first, _) = paper.pull(X, MU, 1, Integer(0), Integer(0))
    p = symbols("p_:3")
    held = first.right.subs(dict(zip(paper.softmax([-paper.half_square(X, m) for m in MU]), p)))
    assert not held.free_symbols & set(X)


def test_without_its_variance_the_likelihood_has_no_restoring_force():
    x, mu, s = X[0], MU[0][0], Symbol("s", real=True)
    whole, unscaled = paper.slopes(x, mu, s)
    assert whole.prove() == unscaled.prove() == "∎"
    assert unscaled.right == Rational(1, 2)
    assert whole.right.subs({x: 3, mu: 1, s: log(4)}) == 0  # v = (x - mu)^2
    assert whole.right.subs({x: 3, mu: 1, s: log(8)}) > 0 > whole.right.subs({x: 3, mu: 1, s: 0})


def test_the_loss_near_one_point_at_the_best_means():
    b, mu, w, lam = symbols("b mu w lambda", positive=True)
    equation = paper.collapse(b, w, lam)
    assert equation.prove() == "∎"
    (best,) = solve(paper.near_collapse(b, mu, w, lam).diff(mu), mu)
    assert prove(paper.near_collapse(b, best, w, lam), equation.right)
    (ratio,) = solve(equation.right.subs(b, 1).subs(w, 1 / mu), mu)  # mu: between over within
    assert prove(ratio, lam**2 / (1 + 2 * lam))


@pytest.mark.parametrize(("factor", "falls"), [(0.8, True), (1.25, False)])
@pytest.mark.parametrize(("likelihood", "alpha"), [(0.1, 0.0), (0.3, 0.0), (0.1, 0.5)])
def test_below_that_ratio_one_point_is_a_local_minimum(factor, falls, likelihood, alpha):
    c, n = 5, 400
    lam = likelihood + alpha * (1 - 1 / c)
    y = torch.arange(n) % c
    middles = draws(c, 3)
    middles = middles - middles.mean(0)
    noise = draws(n, 3, seed=1).view(n // c, c, 3)
    noise = (noise - noise.mean(0)).reshape(n, 3)
    between, within = middles.square().sum(1).mean(), noise.square().sum(1).mean()
    z = middles[y] + noise * (between / within * (1 + 2 * lam) / lam**2 / factor).sqrt()

    def total(scale):
        x, mu = scale * z, scale * (1 + 1 / lam) * middles
        loss = gaussian_mixture_loss(x, mu, y, alpha=alpha) + likelihood * center_loss(x, mu, y)
        return loss.mean().item()

    assert total(0.0) == pytest.approx(math.log(c))
    assert (total(1e-3) > total(0.0)) == falls


@pytest.mark.claim("W3")
def test_the_centre_loss_is_half_the_squares_and_grows_with_the_square_of_the_scale():
    x, mu, y, *_ = mixture()
    torch.testing.assert_close(
        center_loss(x, mu, y), torch.cdist(x, mu).gather(1, y[:, None])[:, 0].square() / 2
    )
    torch.testing.assert_close(center_loss(3 * x, 3 * mu, y), 9 * center_loss(x, mu, y))
    assert center_loss(mu[:1].expand(4, 3), mu[:1].expand(5, 3), y[:4]).tolist() == [0.0] * 4


@pytest.mark.claim("W6")
@kinds
def test_the_mean_is_the_cross_entropy_with_the_indicator(varied, weighted):
    x, mu, y, v, p = chosen(varied, weighted)
    mass = normals(mu, v).log_prob(x[:, None]).exp() * (1 if p is None else p)
    posterior = mass / mass.sum(1, keepdim=True)
    printed = -(one_hot(y, 5) * posterior.log()).sum() / len(x)
    torch.testing.assert_close(gaussian_mixture_loss(x, mu, y, v, p).mean(), printed)


@pytest.mark.claim("W13")
def test_twice_the_batch_has_the_same_mean_and_twice_the_sum():
    x, mu, y, *_ = mixture()
    once, twice = (gaussian_nll(x.repeat(k, 1), mu, y.repeat(k)).sum() for k in (1, 2))
    torch.testing.assert_close(twice, 2 * once)
    once, twice = (gaussian_mixture_loss(x.repeat(k, 1), mu, y.repeat(k)).mean() for k in (1, 2))
    torch.testing.assert_close(twice, once)


@pytest.mark.claim("W15", "W16")
def test_the_centre_loss_is_the_likelihood_less_a_constant():
    x, mu, y, *_ = mixture()
    gap = gaussian_nll(x, mu, y) - center_loss(x, mu, y)
    torch.testing.assert_close(gap, torch.full_like(gap, 1.5 * math.log(2 * math.pi)))
    # The source's score exp(-|x - mu|^2 / 2) ranks as the likelihood does; a product does not.
    score = (-(x - mu[y]).square().sum(1) / 2).exp()
    assert torch.equal(score.argsort(), gaussian_nll(x, mu, y).argsort(descending=True))
    product = (-(x * mu[y]).square().sum(1) / 2).exp()
    assert not torch.equal(score.argsort(), product.argsort())


@pytest.mark.claim("W8")
def test_with_unit_variances_it_is_the_soft_margin_loss_of_a_linear_layer():
    x, mu, y, _, p = mixture()
    f = linear(x, mu, p.log() - mu.square().sum(1) / 2)
    for m in (0.0, 1.0, 2.5):
        ours = gaussian_mixture_loss(x, mu, y, None, p, margin=m)
        torch.testing.assert_close(ours, soft_margin_loss(f, y, m))


@pytest.mark.parametrize("m", [0.0, 0.7])
def test_the_triplet_loss_is_its_hinge_skeleton(m):
    x, mu, y, *_ = mixture(n=200)
    loss = gaussian_mixture_loss(x, mu, y, margin=m)
    rivals = [(y + k) % 5 for k in range(1, 5)]
    hinge = torch.stack([triplet_loss(x, mu[y], mu[z], margin=2 * m) for z in rivals]).amax(0)
    assert (loss >= hinge / 2).all()
    assert (loss <= hinge / 2 + math.log(5)).all()
    # Both ends are approached: by a feature alone with one rival, and where all are equally far.
    tie = gaussian_mixture_loss(torch.zeros(1, 3), torch.eye(3), torch.tensor([0]))
    assert tie.item() == pytest.approx(math.log(3))


@pytest.mark.parametrize("m", [0.0, 0.7])
def test_the_simplex_has_the_least_mean_loss_here_too(m):
    c, v, r = 4, 2.0, 1.5
    y = torch.arange(c)
    corners = torch.eye(c, dtype=torch.float64) - 1 / c
    corners = corners / corners.norm(dim=1, keepdim=True)
    bound = math.log1p((c - 1) * math.exp(m - c / (c - 1) * r * v**0.5))

    def mean_loss(mu, x):
        return gaussian_mixture_loss(x, mu, y, margin=m).mean().item()

    assert mean_loss(v**0.5 * corners, r * corners) == pytest.approx(bound, abs=1e-14)
    for seed in range(200):
        mu, x = draws(2, c, 3, seed=seed)
        mu, x = mu * (v * c / mu.square().sum()).sqrt(), x * (r * r * c / x.square().sum()).sqrt()
        assert mean_loss(mu, x) > bound + 0.01


@pytest.mark.claim("W17")
def test_a_constant_margin_makes_the_posterior_over_confident():
    says = [Rational(9, 10), Rational(1, 10)]
    truth = recalibrated(says, [Integer(1)] * 2)
    assert float(truth[0]) == pytest.approx(0.8055, abs=1e-4)
    eta = torch.tensor([[float(t) for t in truth]], dtype=torch.float64)
    # Two means at -g/2 and g/2; an image that is class 0 with probability eta may lie anywhere.
    means = torch.tensor([[0.0], [2.0]], dtype=torch.float64)
    x = torch.linspace(-5, 5, 100001, dtype=torch.float64)[:, None]
    for m, best in ((0.0, eta[0, 0].item()), (1.0, 0.9)):
        losses = [
            gaussian_mixture_loss(x, means, torch.full((len(x),), y), margin=m) for y in (0, 1)
        ]
        place = (eta @ torch.stack(losses)).argmin()
        posterior = gaussian_logits(x[place : place + 1], means).softmax(1)[0, 0].item()
        assert posterior == pytest.approx(best, abs=1e-4)  # the grid's step is 1e-4


# --- Computed and compared ---------------------------------------------------------------

COORDINATES = [
    *X,
    *(at for mu in MU for at in mu),
    *symbols("v_:6", positive=True),
    *PI[:3],
    ALPHA,
    M,
]
_v = [COORDINATES[8 + 2 * c : 10 + 2 * c] for c in range(3)]
_d = [paper.half_square(X, MU[c], _v[c]) for c in range(3)]
_printed = paper.margin_loss(_d, [a * b for a, b in _v], PI[:3], 1, M + ALPHA * _d[1]).left
PRINTED = lambdify(COORDINATES, _printed, "mpmath")
SLOPES = lambdify(COORDINATES, [_printed.diff(s) for s in COORDINATES[:14]], "mpmath")
near = st.floats(-4, 4)


@pytest.mark.claim("W7", "W8")
@settings(max_examples=40)
@given(
    st.lists(near, min_size=8, max_size=8),
    st.lists(st.floats(0.2, 5), min_size=9, max_size=9),
    st.floats(0, 2),
    st.floats(0, 2),
)
def test_the_loss_is_the_printed_one_and_so_is_its_gradient(points, positive, alpha, m):
    values = [*points, *positive, alpha, m]
    leaf = torch.tensor(values, dtype=torch.float64, requires_grad=True)
    x, mu, v, p = leaf[:2][None], leaf[2:8].view(3, 2), leaf[8:14].view(3, 2), leaf[14:17]
    loss = gaussian_mixture_loss(x, mu, torch.tensor([1]), v, p, leaf[17], leaf[18])
    exactly = [mp.mpf(value) for value in values]
    # Distances up to 320 and their slopes up to 1600, in float64.
    assert loss.item() == pytest.approx(float(PRINTED(*exactly)), rel=1e-12, abs=1e-11)
    (slopes,) = torch.autograd.grad(loss.sum(), leaf)
    printed = [float(s) for s in SLOPES(*exactly)]
    assert slopes[:14].tolist() == pytest.approx(printed, rel=1e-11, abs=1e-10)


@pytest.mark.claim("W5")
@kinds
def test_logits_and_likelihood_are_those_of_torchs_distributions(varied, weighted):
    x, mu, y, v, p = chosen(varied, weighted)
    log_n = normals(mu, v).log_prob(x[:, None])
    torch.testing.assert_close(
        gaussian_nll(x, mu, y, v), -log_n.gather(1, y[:, None])[:, 0], rtol=0, atol=1e-12
    )
    f = log_n + 1.5 * math.log(2 * math.pi) + (0 if p is None else p.log())
    torch.testing.assert_close(gaussian_logits(x, mu, v, p), f, rtol=0, atol=1e-12)
    torch.testing.assert_close(
        gaussian_mixture_loss(x, mu, y, v, p), cross_entropy(f, y, reduction="none")
    )


@kinds
@pytest.mark.parametrize(("alpha", "margin"), [(0.0, 0.0), (0.4, 0.0), (0.4, 1.5)])
def test_value_and_gradient_are_those_of_the_formula_written_out(varied, weighted, alpha, margin):
    x, mu, y, v, p = chosen(varied, weighted)
    leaves = [t.requires_grad_() for t in (x, mu, v, p) if t is not None]
    d = (x[:, None] - mu).square().div(1 if v is None else v).sum(2) / 2
    f = -d - (0 if v is None else v.log().sum(1) / 2) + (0 if p is None else p.log())
    asked = (margin + alpha * d) * one_hot(y, 5)
    written = cross_entropy(f - asked, y, reduction="none")
    ours = gaussian_mixture_loss(x, mu, y, v, p, alpha, margin)
    torch.testing.assert_close(ours, written, rtol=0, atol=1e-12)
    weights = torch.linspace(-1, 2, len(x), dtype=torch.float64)
    got, told = (torch.autograd.grad((weights * loss).sum(), leaves) for loss in (ours, written))
    for a, b in zip(got, told):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


@kinds
def test_gradients_pass_the_finite_differences_twice(varied, weighted):
    x, mu, y, v, p = chosen(varied, weighted, n=4, c=3, d=2)
    x[1], x[2] = mu[1], 0.0  # on its own mean; a zero vector
    mu[2] = mu[0]  # a tie
    leaves = tuple(t.clone().requires_grad_() for t in (x, mu, v, p) if t is not None)

    def call(function, *tensors):
        rest = iter(tensors[2:])
        given = [next(rest) if t is not None else None for t in (v, p)]
        return function(*tensors[:2], *given)

    def loss(x, mu, v, p):
        return gaussian_mixture_loss(x, mu, y, v, p, alpha=0.4, margin=0.5)

    for function in (loss, gaussian_logits, lambda x, mu, v, p: gaussian_nll(x, mu, y, v)):
        assert torch.autograd.gradcheck(partial(call, function), leaves)
        assert torch.autograd.gradgradcheck(partial(call, function), leaves)


def test_torch_func_differentiates_it_as_autograd_does():
    x, mu, y, *_ = mixture(n=4)

    def total(mu):
        return gaussian_mixture_loss(x, mu, y, alpha=0.3).sum()

    leaf = mu.clone().requires_grad_()
    (slope,) = torch.autograd.grad(total(leaf), leaf)
    torch.testing.assert_close(torch.func.grad(total)(mu), slope)
    twice = torch.func.jacrev(torch.func.grad(total))(mu)
    torch.testing.assert_close(twice, torch.autograd.functional.hessian(total, mu))
    torch.testing.assert_close(
        torch.func.vmap(lambda x: gaussian_logits(x[None], mu)[0])(x), gaussian_logits(x, mu)
    )


class Watch(TorchDispatchMode):
    """Counts the products and notes the largest tensor."""

    def __init__(self):
        super().__init__()
        self.products, self.largest = 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.products += func.overloadpacket in {torch.ops.aten.addmm, torch.ops.aten.mm}
        for part in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(part, torch.Tensor):
                self.largest = max(self.largest, part.numel())
        return out


@pytest.mark.parametrize(("varied", "products"), [(False, 1), (True, 2)])
def test_the_logits_cost_one_product_or_two_and_no_cube(varied, products):
    x, mu, y, v, _ = chosen(varied, False, n=16, c=20, d=8)
    x.requires_grad_()
    mu.requires_grad_()
    with Watch() as forward:
        loss = gaussian_mixture_loss(x, mu, y, v, alpha=0.1).sum() + gaussian_nll(x, mu, y, v).sum()
    with Watch() as backward:
        loss.backward()
    assert (forward.products, backward.products) == (products, 2 * products - varied)
    assert max(forward.largest, backward.largest) == 16 * 20


@pytest.mark.parametrize("varied", [False, True])
def test_it_compiles_whole(varied):
    x, mu, y, v, p = chosen(varied, True)
    x.requires_grad_()

    def loss(x):
        return gaussian_mixture_loss(x, mu, y, v, p, 0.3, 1.0) + gaussian_nll(x, mu, y, v)

    # aot_eager traces forward and backward as any compiler must, and needs no C++ compiler.
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), loss(x))
    slopes = [torch.autograd.grad(f(x).sum(), x)[0] for f in (compiled, loss)]
    torch.testing.assert_close(*slopes)


# --- Told and checked --------------------------------------------------------------------


def test_by_default_there_is_no_margin_and_all_priors_are_equal():
    x, mu, y, v, p = mixture()
    assert torch.equal(gaussian_mixture_loss(x, mu, y), softmax_loss(linear_scores(x, mu), y))
    plain = gaussian_mixture_loss(x, mu, y, v)
    torch.testing.assert_close(plain, softmax_loss(gaussian_logits(x, mu, v), y))
    torch.testing.assert_close(plain, gaussian_mixture_loss(x, mu, y, v, torch.full_like(p, 7.0)))
    torch.testing.assert_close(plain, gaussian_mixture_loss(x, mu, y, torch.ones_like(v) * v))
    assert gaussian_margin(x, mu, y).tolist() == [0.0] * len(x)


def linear_scores(x, mu):
    origin = mu.mean(0)
    mu = mu - origin
    # The same roundings as the library's: a norm, then its square.
    offset = 0.5 * torch.linalg.vector_norm(mu, dim=1).square()
    return torch.addmm(offset, x - origin, mu.mT, beta=-1)


def test_only_the_ratio_of_the_priors_counts_in_the_loss():
    x, mu, y, v, p = mixture()
    one, three = (gaussian_mixture_loss(x, mu, y, v, k * p) for k in (1, 3))
    torch.testing.assert_close(one, three)
    shift = gaussian_logits(x, mu, v, 3 * p) - gaussian_logits(x, mu, v, p)
    torch.testing.assert_close(shift, torch.full_like(shift, math.log(3)))


def test_unit_variances_may_be_told_or_left_out():
    x, mu, y, v, p = mixture()
    ones = torch.ones_like(v)
    for function in (gaussian_mixture_loss, gaussian_nll, gaussian_margin):
        torch.testing.assert_close(function(x, mu, y, ones), function(x, mu, y))
    torch.testing.assert_close(gaussian_logits(x, mu, ones, p), gaussian_logits(x, mu, None, p))


def test_both_margins_add_and_multiply_the_odds():
    x, mu, y, v, p = mixture()
    d = gaussian_nll(x, mu, y, v) - v.log().sum(1)[y] / 2 - 1.5 * math.log(2 * math.pi)
    asked = gaussian_margin(x, mu, y, v, alpha=0.3, margin=1.5)
    torch.testing.assert_close(asked, 1.5 + 0.3 * d)
    odds, plain = (
        gaussian_mixture_loss(x, mu, y, v, p, *m).expm1() for m in ((0.3, 1.5), (0.0, 0.0))
    )
    torch.testing.assert_close(odds, asked.exp() * plain)


def test_a_margin_may_be_a_tensor_or_one_for_each_example():
    x, mu, y, *_ = mixture()
    m = torch.linspace(0, 2, len(x), dtype=torch.float64)
    each = gaussian_mixture_loss(x, mu, y, alpha=torch.tensor(0.2), margin=m)
    for i in range(len(x)):
        alone = gaussian_mixture_loss(x[i : i + 1], mu, y[i : i + 1], alpha=0.2, margin=m[i].item())
        torch.testing.assert_close(each[i : i + 1], alone)
    torch.testing.assert_close(
        gaussian_mixture_loss(x, mu, y, margin=m[3]),
        gaussian_mixture_loss(x, mu, y, margin=m[3].item()),
    )
    # A tensor of zero is a margin of zero, and can be learnt.
    alpha = torch.zeros((), dtype=torch.float64, requires_grad=True)
    gaussian_mixture_loss(x, mu, y, alpha=alpha).sum().backward()
    assert alpha.grad > 0


def test_the_margin_is_not_asked_at_inference():
    x, mu, y, v, p = mixture()
    raised = gaussian_mixture_loss(x, mu, y, v, p, alpha=0.5, margin=1.0)
    assert (raised > gaussian_mixture_loss(x, mu, y, v, p)).all()
    torch.testing.assert_close(
        gaussian_mixture_loss(x, mu, y, v, p), softmax_loss(gaussian_logits(x, mu, v, p), y)
    )


@pytest.mark.parametrize("varied", [False, True])
def test_far_from_the_origin_no_digit_is_lost(varied):
    x, mu, y, v, _ = chosen(varied, False, n=64, c=10, d=32)
    far = [(t.float() + 4096).double() for t in (x, mu)]  # what float32 can hold
    v = None if v is None else v.float().double()
    exact = gaussian_mixture_loss(*far, y, v, alpha=0.1)
    single = [t.float() for t in far]
    ours = gaussian_mixture_loss(*single, y, None if v is None else v.float(), alpha=0.1)
    # Distances of up to a few hundred, some of them summed of 32 products: 1e-4 at most.
    torch.testing.assert_close(ours.double(), exact, rtol=0, atol=3e-4)
    naive = linear(single[0], single[1], -single[1].square().sum(1) / 2)
    assert (softmax_loss(naive, y) - gaussian_mixture_loss(*far, y)).abs().max() > 1


def test_the_targets_distance_is_exact_where_the_expanded_one_is_below_zero():
    # The means' lengths are 2300 in 512 dimensions, and a feature lies 0.3 from its own.
    mu = draws(20, 512, scale=100.0).float()
    y = torch.arange(200) % 20
    x = mu[y] + 0.014 * draws(200, 512, seed=1).float()
    exact = (x.double() - mu[y].double()).square().sum(1) / 2
    torch.testing.assert_close(center_loss(x, mu, y).double(), exact, rtol=1e-5, atol=0)
    expanded = x.square().sum(1) / 2 - (x * mu[y]).sum(1) + mu[y].square().sum(1) / 2
    assert (expanded < 0).any()
    asked = gaussian_margin(x, mu, y, alpha=1.0).double()
    torch.testing.assert_close(asked, exact, rtol=1e-5, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    x, mu, y, v, p = (t.to(dtype) if t.is_floating_point() else t for t in mixture())
    wide = [t.float() if t.is_floating_point() else t for t in (x, mu, y, v, p)]
    for count in (3, 4, 5):
        half = gaussian_mixture_loss(x, mu, y, *(v, p)[: count - 3], alpha=0.3)
        assert half.dtype == torch.float32
        told = gaussian_mixture_loss(*wide[:3], *wide[3:count], alpha=0.3)
        torch.testing.assert_close(half, told)
    assert gaussian_nll(x, mu, y, v).dtype == torch.float32
    assert gaussian_logits(x, mu, v).dtype == torch.float32
    far = torch.full((1, 3), 3e4, dtype=dtype, requires_grad=True)
    loss = gaussian_mixture_loss(far, mu, y[:1], alpha=0.1)
    assert loss.isfinite().all()
    assert torch.autograd.grad(loss.sum(), far)[0].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("varied", [False, True])
def test_autocast_does_not_touch_the_distances(dtype, varied):
    x, mu, y, v, _ = (t if t is None else t.float() if t.is_floating_point() else t
                      for t in chosen(varied, False, d=64))  # fmt: skip
    x.requires_grad_()
    plain = gaussian_mixture_loss(x, mu, y, v, alpha=0.2)
    (slope,) = torch.autograd.grad(plain.sum(), x)
    with torch.autocast("cpu", dtype):
        cast = gaussian_mixture_loss(x, mu, y, v, alpha=0.2)
        (cast_slope,) = torch.autograd.grad(cast.sum(), x)
    assert torch.equal(cast, plain)
    # Autograd's own backward of the two products runs as the caller has set it: 8 bits.
    torch.testing.assert_close(cast_slope, slope, rtol=0.02 * varied, atol=0.2 * varied)


def test_the_dtype_is_kept_and_so_is_the_count():
    x, mu, y, *_ = mixture()
    for n in (1, len(x)):
        for dtype in (torch.float32, torch.float64):
            given = x[:n].to(dtype), mu.to(dtype), y[:n]
            for loss in (gaussian_mixture_loss, gaussian_nll, center_loss, gaussian_margin):
                out = loss(*given)
                assert (out.dtype, out.shape) == (dtype, (n,))
    assert gaussian_mixture_loss(x, mu, y.to(torch.uint8)).shape == (12,)
    assert gaussian_mixture_loss(x[:2], mu[:2], y[:2]).shape == (2,)  # two classes


# What the study does.


def test_the_detection_area_is_the_chance_of_the_right_order():
    clean, attacked = draws(40, seed=1).round(decimals=1), draws(50).round(decimals=1) - 0.5
    gap = clean[:, None] - attacked
    chance = ((gap > 0).double() + (gap == 0).double() / 2).mean().item()
    assert study.detection(clean, attacked) == pytest.approx(chance)
    assert study.detection(torch.ones(3), torch.ones(5)) == 0.5


def test_alpha_rises_over_the_first_half_and_lambda_falls():
    class Head:
        alpha = likelihood = annealing = None

    told = []
    for share in (0.0, 0.25, 0.5, 1.0):
        study.SCHEDULES["lgm-0.3"](Head, share)
        told.append(Head.alpha)
    assert told == pytest.approx([0.0, 0.15, 0.3, 0.3])
    assert Head.likelihood is None
    study.SCHEDULES["lgm-0.1-late"](Head, 0.25)
    assert (Head.alpha, Head.likelihood) == pytest.approx((0.05, 0.05))
    study.SCHEDULES["lgm-0.1-late"](Head, 0.75)
    assert (Head.alpha, Head.likelihood) == pytest.approx((0.1, 0.1))
    for share, least, most in ((0.0, 1000, 1000), (1.0, 0, 0.001)):
        study.SCHEDULES["l-softmax"](Head, share)
        assert least <= Head.annealing <= most


def test_centres_move_as_if_their_loss_had_weight_one():
    head = CenterHead(2, 3, strength=0.01)
    x, y = torch.randn(4, 2), torch.tensor([0, 0, 1, 0])
    head(x, y).backward()
    plain = head.centers.grad
    study.SCHEDULES["center"](head, 0.0)
    study.SCHEDULES["center"](head, 0.5)  # once is enough
    head.zero_grad()
    head(x, y).backward()
    torch.testing.assert_close(head.centers.grad, 100 * plain)


def test_an_attack_moves_pixels_by_epsilon_and_stays_in_range():
    images = torch.tensor([[0, 100, 250]], dtype=torch.uint8)
    moved = study.attack(images, torch.tensor([[-1.0, 1.0, 1.0]]), 0.1)
    assert moved.tolist() == [[0.0, 125.5, 255.0]]


# What the record holds.


def desk(regime):
    return evidence.recall("gaussian_mixture").select(scale="desk", regime=regime)


@pytest.mark.claim("W19")
def test_on_record_the_mixture_errs_less_on_mnist_and_collapses_on_cifar100():
    assert desk("attacked").paired("lgm-1", "softmax", "error").verdict == "improves"
    for alpha in ("0.1", "0.2", "0.3"):
        part = desk("cifar100").select(method=["softmax", f"lgm-{alpha}"])
        assert part.paired(f"lgm-{alpha}", "softmax", "error").verdict == "worsens"
        lengths = [run.measures["train"]["feature_norm"] for run in part.select(
            method=f"lgm-{alpha}").runs]  # fmt: skip
        assert all(min(length) < 0.2 for length in lengths)


@pytest.mark.claim("W20")
@pytest.mark.parametrize("epsilon", study.EPSILONS)
def test_on_record_fewer_errors_under_attack_are_not_detectable(epsilon):
    assert not desk("attacked").paired("lgm-1", "softmax", f"error_{epsilon}").detectable


@pytest.mark.claim("W21")
def test_on_record_the_likelihood_tells_no_better_than_a_logit():
    gaps = [desk("attacked").paired("lgm-1", "softmax", f"detection_{e}") for e in study.EPSILONS]
    assert all(gap.mean < 0 for gap in gaps)
    assert gaps[0].verdict == "lower"
    in_the_plane = desk("plane").select(method="lgm-1").values("detection_0.3")
    assert max(in_the_plane) < 0.6


@pytest.mark.claim("W17")
@pytest.mark.parametrize("regime", ["plane", "attacked"])
def test_on_record_the_mixture_is_worse_calibrated_than_the_softmax(regime):
    assert desk(regime).paired("lgm-1", "softmax", "ece").verdict == "worsens"


@pytest.mark.claim("W22")
def test_on_record_the_clouds_of_the_mixture_lie_closer_than_the_rays_of_the_softmax():
    kept = evidence.recall_arrays("gaussian_mixture")
    spread = {name: kept[f"{name}_points"].astype(float).std() for name in ("softmax", "lgm-1")}
    assert 4 * spread["lgm-1"] < spread["softmax"]


# --- Refused -----------------------------------------------------------------------------

LABELS = torch.zeros(2, dtype=torch.long)
GOOD = (torch.zeros(2, 3), torch.zeros(4, 3), LABELS)


@pytest.mark.parametrize(
    "loss", [gaussian_mixture_loss, gaussian_nll, center_loss, gaussian_margin]
)
@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        ((torch.zeros(2, 3), torch.zeros(4, 2), LABELS), ValueError, r"\(2, 3\).*\(4, 2\)"),
        ((torch.zeros(2, 3), torch.zeros(4, 3), LABELS[:1]), ValueError, r"\(n, d\) and target"),
        ((torch.zeros(2, 3), torch.zeros(1, 3), LABELS), ValueError, "needs a rival"),
        ((torch.zeros(2, 3), torch.zeros(4, 3), LABELS + 4), ValueError, "labels from 0 to 3"),
        ((torch.zeros(2, 3), torch.zeros(4, 3), LABELS - 1), ValueError, "got -1 in row 0"),
        ((torch.zeros(2, 3), torch.zeros(4, 3), torch.zeros(2)), TypeError, "class indices"),
        ((torch.zeros(2, 3).long(), torch.zeros(4, 3), LABELS), TypeError, "floating point"),
    ],
)
def test_what_does_not_fit_is_refused(loss, given, error, says):
    with pytest.raises(error, match=says):
        loss(*given)


@pytest.mark.parametrize(
    ("value", "error", "says"),
    [
        (torch.ones(3), ValueError, r"expected variances \(4, 3\); got \(3,\)"),
        (
            torch.ones(4, 3).long(),
            TypeError,
            "variances must be a floating-point tensor; got torch",
        ),
        (1.0, TypeError, "variances must be a floating-point tensor; got float"),
        (torch.zeros(4, 3), ValueError, "variances must be positive; the least is 0"),
        (torch.full((4, 3), math.nan), ValueError, "variances must be positive; the least is nan"),
    ],
)
def test_variances_that_are_none_are_refused(value, error, says):
    calls = [partial(f, *GOOD) for f in (gaussian_mixture_loss, gaussian_nll, gaussian_margin)]
    for call in [*calls, partial(gaussian_logits, *GOOD[:2])]:
        with pytest.raises(error, match=says):
            call(variances=value)


def test_priors_that_are_none_are_refused():
    for call in (partial(gaussian_mixture_loss, *GOOD), partial(gaussian_logits, *GOOD[:2])):
        with pytest.raises(ValueError, match=r"expected priors \(4,\); got \(2,\)"):
            call(priors=torch.ones(2))
        with pytest.raises(ValueError, match="priors must be positive; the least is -1"):
            call(priors=torch.tensor([1.0, 1.0, -1.0, 1.0]))
        with pytest.raises(TypeError, match="priors must be a floating-point tensor; got list"):
            call(priors=[1.0] * 4)


@pytest.mark.parametrize("function", [gaussian_mixture_loss, gaussian_margin])
def test_a_margin_that_pushes_features_away_is_refused(function):
    with pytest.raises(ValueError, match=r"alpha must be non-negative and finite; got -0\.1"):
        function(*GOOD, alpha=-0.1)
    with pytest.raises(TypeError, match="alpha must be a number; got str"):
        function(*GOOD, alpha="1")


def test_a_margin_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match="margin must be finite; got nan"):
        gaussian_mixture_loss(*GOOD, margin=math.nan)
    with pytest.raises(ValueError, match=r"one per example \(2,\); got margin \(3,\)"):
        gaussian_mixture_loss(*GOOD, margin=torch.zeros(3))
    with pytest.raises(TypeError, match="margin must be a number or a tensor; got str"):
        gaussian_mixture_loss(*GOOD, margin="1")


def test_logits_of_what_does_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"features \(2, 3\) and weight \(4, 2\)"):
        gaussian_logits(torch.zeros(2, 3), torch.zeros(4, 2))
    with pytest.raises(ValueError, match="needs a rival"):
        gaussian_logits(torch.zeros(2, 3), torch.zeros(1, 3))
    with pytest.raises(TypeError, match="features must be floating point"):
        gaussian_logits(torch.zeros(2, 3).long(), torch.zeros(4, 3))
