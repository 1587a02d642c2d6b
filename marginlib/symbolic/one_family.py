"""What ties the losses together, symbol by symbol (chapter 11): theorems, and a table of relations.

The first half states what the chapter proves beyond chapters 1 to 10; what those have proved is
imported from their modules.  The second half is the family as data.  ``LOSSES`` are the losses at
one setting each, as numbers of one feature vector, the class vectors and a target.  ``BOUNDS``
are the proved inequalities between them, ``WITNESSES`` the points that refute all the others, and
``TIES`` say which loss another becomes, or tends to, at which setting.  :func:`verdict` answers
"is this loss never above that one?" for every pair, by a chain of bounds or by a witness; it has
no third answer.

Derived   chapters/11_one_family.ipynb
Source    the five works of the book; equation numbers here begin with the chapter's.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from sympy import (
    Add,
    Expr,
    Integer,
    Max,
    Rational,
    Symbol,
    acos,
    asin,
    cos,
    diff,
    exp,
    floor,
    log,
    pi,
    sqrt,
    symbols,
)

from . import (
    angular,
    ensemble,
    gaussian_mixture,
    group,
    hinge,
    large_margin,
    pairs,
    perturbed,
    soft_margin,
    softmax,
)
from .logits import entropy, expectation, kl, logits, lse, rivals, softplus, uniform
from .logits import softmax as shares
from .proof import Equation

OURS = "11"
HALF = Rational(1, 2)
Vector = list[Expr]


# --- 1. Odds ---------------------------------------------------------------------------------


def affine(loss: Expr, a: Expr, b: Expr) -> Expr:
    """The loss whose odds are a times those of ``loss``, plus b: log(1 + a (e^loss - 1) + b)."""
    return log(1 + a * soft_margin.odds(loss) + b)


def multiplied(loss: Expr, m: Expr) -> Equation:
    """A margin multiplies the odds and adds nothing."""
    return Equation(OURS, "1, margin", soft_margin.raised(loss, m), affine(loss, exp(m), 0))


def added_to(f: Vector, y: int, v: Expr) -> Equation:
    """Virtual Softmax multiplies by one and adds e^v."""
    printed = perturbed.virtual(f, y, v).left
    return Equation(OURS, "1, virtual", printed, affine(softmax.loss(f, y), Integer(1), exp(v)))


def composed(loss: Expr, first: tuple[Expr, Expr], second: tuple[Expr, Expr]) -> Equation:
    """One affine map of the odds after another is an affine map."""
    (a, b), (c, d) = first, second
    right = affine(loss, c * a, c * b + d)
    return Equation(OURS, "1, composed", affine(affine(loss, a, b), c, d), right)


def order_matters(loss: Expr, m: Expr, v: Expr) -> Equation:
    """The odds of Virtual Softmax with a margin, less those with the margin put on first."""
    late = affine(affine(loss, Integer(1), exp(v)), exp(m), Integer(0))
    early = affine(affine(loss, exp(m), Integer(0)), Integer(1), exp(v))
    left = soft_margin.odds(late) - soft_margin.odds(early)
    return Equation(OURS, "1, order", left, (exp(m) - 1) * exp(v))


# --- 2. Three entropies ----------------------------------------------------------------------


def place(f: Vector, y: int, w: Vector) -> Equation:
    """Gather the rivals at their mean under any shares w: the rest is H(w) + D(w || q)."""
    q = shares(rivals(f, y))
    inside = expectation(w, rivals(f, y)) - f[y] + entropy(w) + kl(w, q)
    return Equation(OURS, "2", softmax.loss(f, y), softplus(inside))


def pushes(f: list[Symbol], y: int) -> list[Equation]:
    """The slope on each rival: (1 - p_y) times that of D(u || q), plus u."""
    loss, r = softmax.loss(f, y), Integer(len(f) - 1)
    apart = large_margin.kl_from_uniform(rivals(f, y))
    wrong = 1 - shares(f)[y]
    return [
        Equation(OURS, "2, slope", diff(loss, f_c), wrong * (diff(apart, f_c) + 1 / r))
        for f_c in rivals(f, y)
    ]


def length(f: list[Symbol], y: int) -> Equation:
    """The gradient's squared length, from the derivatives, and by the collision entropy."""
    loss = softmax.loss(f, y)
    squared = Add(*(diff(loss, f_c) ** 2 for f_c in f))
    return Equation(OURS, "2, length", squared, softmax.squared_gradient(f, y))


# --- 3. The flow of the bias -----------------------------------------------------------------


def flow(f: list[Symbol], y: int, strongest: int, g: Vector) -> Equation:
    """The bias's rate while the rivals move at -g: a mean of differences from the strongest's."""
    others = rivals(f, y)
    top = others.index(f[strongest])
    q = shares(others)
    velocity = dict(zip(others, (-g_c for g_c in g), strict=True))
    left = softmax.rate(
        softmax.bias(f, y, strongest), f, [velocity.get(f_c, Integer(0)) for f_c in f]
    )
    return Equation(OURS, "3", left, expectation(q, [g[top] - g_c for g_c in g]))


# --- 4. What the best answer tells -----------------------------------------------------------


def unsmoothed(p: Vector, s: Expr) -> Vector:
    """Label smoothing: the class probabilities whose best answer is p, (p_c - s/C) / (1 - s)."""
    return [(p_c - s / len(p)) / (1 - s) for p_c in p]


def unpressed(p: Vector, strength: Expr) -> Vector:
    """A price on D(u || q): (t p_c - s/(C-1)) / A_c, where t makes them add up to one."""
    each = strength / (len(p) - 1)
    a = [1 - each + strength * p_c / (1 - p_c) for p_c in p]
    t = (1 + each * Add(*(1 / a_c for a_c in a))) / Add(
        *(p_c / a_c for p_c, a_c in zip(p, a, strict=True))
    )
    return [(t * p_c - each) / a_c for p_c, a_c in zip(p, a, strict=True)]


def smoothing_slopes(f: list[Symbol], s: Expr) -> list[Equation]:
    """The slopes of the mean label smoothing loss at f, if ``unsmoothed`` shares are the truth."""
    eta = unsmoothed(shares(f), s)
    places = range(len(f))
    # The truth is a constant to the optimiser: differentiate the losses alone.
    slopes = [
        expectation(eta, [diff(large_margin.label_smoothing_loss(f, y, s), f_c) for y in places])
        for f_c in f
    ]
    return [Equation(OURS, "4, smoothing", slope, Integer(0)) for slope in slopes]


def pressed_slopes(p: Vector, y: int, strength: Expr) -> Vector:
    """The slopes of the softmax loss with a price on D(u || q), told by its probabilities."""
    each = strength / (len(p) - 1)
    return [
        p_c - 1 if c == y else p_c + strength * p_c / (1 - p[y]) - each for c, p_c in enumerate(p)
    ]


def pressed(f: list[Symbol], y: int, strength: Expr) -> list[Equation]:
    """These slopes are the loss's derivatives."""
    loss = softmax.loss(f, y) + strength * large_margin.kl_from_uniform(rivals(f, y))
    told = pressed_slopes(shares(f), y, strength)
    return [
        Equation(OURS, "4, slopes", diff(loss, f_c), slope)
        for f_c, slope in zip(f, told, strict=True)
    ]


def pressed_optimum(p: Vector, strength: Expr) -> list[Equation]:
    """With ``unpressed`` shares for the truth all mean slopes at p vanish, and the truth is one."""
    eta = unpressed(p, strength)
    slopes = [pressed_slopes(p, y, strength) for y in range(len(p))]
    means = [expectation(eta, list(column)) for column in zip(*slopes, strict=True)]
    return [
        *(Equation(OURS, "4, D(u || q)", slope, Integer(0)) for slope in means),
        Equation(OURS, "4, D(u || q), sum", Add(*eta), Integer(1)),
    ]


# --- 5. From type 2 to type 1 ----------------------------------------------------------------


def at_scale(f: Vector, y: int, s: Expr) -> Expr:
    """One group's term at the scale s: its softmax loss at s times its logits, divided by s."""
    return log(Add(*(exp(s * (f_c - f[y])) for f_c in f))) / s


def between_types(f: Vector, y: int, s: Symbol) -> Equation:
    """That term falls with s, at the rate of the entropy of the scaled softmax over s^2."""
    spread = entropy(shares([s * f_c for f_c in f]))
    return Equation(OURS, "5", diff(at_scale(f, y, s), s), -spread / s**2)


# --- 7. One minimiser ------------------------------------------------------------------------


def at_the_simplex(c: int, reach: Expr) -> Vector:
    """The logits of class 0's feature where features and class vectors are one simplex.

    ``reach`` is r sqrt(v), the product of the two lengths.
    """
    gram = large_margin.supersymmetric_gram(c, reach)
    return [gram[k, 0] for k in range(c)]


def least(c: int, reach: Expr, m: Expr) -> Equation:
    """The soft margin there: softplus(log(C - 1) - Lambda + m), Lambda = C/(C-1) reach."""
    lowered = soft_margin.lowered(at_the_simplex(c, reach), 0, m)
    inside = log(Integer(c - 1)) - Rational(c, c - 1) * reach + m
    return Equation(OURS, "7", softmax.loss(lowered, 0), softplus(inside))


# --- 8. The middle of three ------------------------------------------------------------------


def middle_class(a: Expr, below: Expr, above: Expr, x: Expr) -> Equation:
    """One feature, three classes: the middle one's lead over one rival times that over the other.

    The class vectors are a - below, a and a + above.
    """
    f = [x * (a - below), x * a, x * (a + above)]
    return Equation(OURS, "8", (f[1] - f[0]) * (f[1] - f[2]), -below * above * x**2)


# --- 9. psi ----------------------------------------------------------------------------------


def stair(theta: Expr, m: Expr, k: Expr) -> Equation:
    """A step further, pi / m, psi has the same shape and stands lower by 2."""
    left = angular.psi(theta + pi / m, m, k + 1)
    return Equation(OURS, "9", left, angular.psi(theta, m, k) - 2)


def farthest_from_line() -> Expr:
    """How far psi gets from the line 1 - 2 m theta / pi, at m theta = asin(2 / pi)."""
    at = asin(2 / pi)
    return cos(at) - 1 + 2 * at / pi


# --- 10. The chain ---------------------------------------------------------------------------


def pays_more(p: Vector, y: int) -> list[Equation]:
    """The links of the hinge chain: what each opponent is paid more than the one before."""
    one = Integer(1)
    pay = [
        hinge.omega_sparsemax(p),
        hinge.omega(p, y, one, "hinge", "max"),
        hinge.omega(p, y, one, "softplus", "max"),
        hinge.omega(p, y, one, "softplus", "LSE"),
    ]
    against = Add(*rivals(p, y))
    more = [
        hinge.distance(p, y) - (Add(*p) - 1) ** 2 / 2 - (1 - Add(*p)) * (1 - p[y]),
        entropy([p[y], against]),
        against * entropy(hinge.among_rivals(p, y)),
    ]
    links = zip(pay, pay[1:], more, strict=False)
    return [Equation(OURS, "10", after - before, gap) for before, after, gap in links]


def cooled(t: Vector, s: Expr) -> Equation:
    """(1/s) log(1 + sum e^(s t)), less its first term: a logarithm of at most C terms over s."""
    left = softplus(lse([s * t_k for t_k in t])) / s - t[0]
    rest = [exp(s * (t_k - t[0])) for t_k in t[1:]]
    return Equation(OURS, "10, cold", left, log(exp(-s * t[0]) + 1 + Add(*rest)) / s)


# --- 11. Gaussian is linear ------------------------------------------------------------------


def normalised(c: Expr, s: Expr) -> Equation:
    """Unit feature and unit mean at the cosine c, variance 1/s: NormFace's logit, less s."""
    x, mu = [Integer(1), Integer(0)], [c, sqrt(1 - c**2)]
    d = gaussian_mixture.half_square(x, mu, [1 / s, 1 / s])
    return Equation(OURS, "11, unit length", -d, s * c - s)


def tied(x: list[Vector], mu: list[Vector], y: list[int], lam: Expr) -> Equation:
    """L-GM with its likelihood, unit variances: softmax with tied offsets, plus centre loss."""
    size = len(x[0])
    left = right = Integer(0)
    for x_i, y_i in zip(x, y, strict=True):
        d = [gaussian_mixture.half_square(x_i, mu_c) for mu_c in mu]
        density = gaussian_mixture.density(d[y_i], Integer(1), size)
        left += softmax.loss([-d_c for d_c in d], y_i) - lam * log(density)
        f = [expectation(mu_c, x_i) - HALF * expectation(mu_c, mu_c) for mu_c in mu]
        right += softmax.loss(f, y_i) + lam * (d[y_i] + Rational(size, 2) * log(2 * pi))
    return Equation(OURS, "11, tied", left, right)


# --- The family at one setting each ----------------------------------------------------------
#
# The stage: one feature vector x, one class vector per class in w, the target's place y, no
# offsets.  All entries are numbers, so that orders can be decided.


def products(x: Vector, w: list[Vector]) -> Vector:
    """The plain logits w_c . x."""
    return [expectation(w_c, x) for w_c in w]


def norm(x: Vector) -> Expr:
    """|x|."""
    return sqrt(expectation(x, x))


def plain(loss: Callable[[Vector, int], Expr]) -> Callable[[Vector, list[Vector], int], Expr]:
    """A loss of logits, put on the stage."""
    return lambda x, w, y: loss(products(x, w), y)


def cell(row: str, column: str) -> Callable[[Vector, list[Vector], int], Expr]:
    """One of chapter 2's four losses, with the bias 1."""
    return plain(lambda f, y: hinge.table(f, y, Integer(1))[row, column])


def sparsemax(f: Vector, y: int) -> Expr:
    """The sparsemax loss; the support is found by putting the logits in order."""
    order = sorted(range(len(f)), key=lambda c: -f[c])
    support = max(
        (tuple(order[:size]) for size in range(1, len(f) + 1)),
        key=lambda some: len(some) if f[some[-1]] > hinge.threshold(f, some) else 0,
    )
    return hinge.sparsemax_printed(f, y, support)


def margined(f: Vector, y: int, m: Expr) -> Expr:
    """The softmax loss with m taken off the target's logit."""
    return softmax.loss(soft_margin.lowered(f, y, m), y)


def shortfall(x: Vector, w_y: Vector) -> Expr:
    """|w_y| |x| - w_y . x."""
    return norm(x) * norm(w_y) - expectation(x, w_y)


def l_softmax(x: Vector, w: list[Vector], y: int, m: int = 2) -> Expr:
    """L-Softmax: the target's cosine becomes psi."""
    size = norm(x) * norm(w[y])
    theta = acos(expectation(x, w[y]) / size).evalf(30)
    put = size * angular.psi(theta, m, floor(m * theta / pi))
    return margined(products(x, w), y, expectation(x, w[y]) - put)


def on_the_sphere(
    margin: Callable[[Expr], Expr], s: int = 4
) -> Callable[[Vector, list[Vector], int], Expr]:
    """A loss of cosines times s, with a margin that is a function of the target's angle."""

    def of(x: Vector, w: list[Vector], y: int) -> Expr:
        cosines = [expectation(x, w_c) / (norm(x) * norm(w_c)) for w_c in w]
        theta = acos(cosines[y]).evalf(30)
        return margined([s * c for c in cosines], y, s * margin(theta))

    return of


def arc(theta: Expr, m: Expr = HALF) -> Expr:
    """ArcFace's margin, as the library continues it past pi - m."""
    within = theta + m <= pi
    return cos(theta) - (cos(theta + m) if within else angular.arcface_past(theta, m))


def mixture(m: Expr, alpha: Expr) -> Callable[[Vector, list[Vector], int], Expr]:
    """L-GM with unit variances and equal priors; the class vectors are the means."""

    def of(x: Vector, w: list[Vector], y: int) -> Expr:
        d = [gaussian_mixture.half_square(x, mu) for mu in w]
        return margined([-d_c for d_c in d], y, m + alpha * d[y])

    return of


def halves(kind: Callable) -> Callable[[Vector, list[Vector], int], Expr]:
    """Group softmax with two groups: the first half of the features, and the second."""

    def of(x: Vector, w: list[Vector], y: int) -> Expr:
        z = group.ingredients_of(w, x, [Integer(0)] * len(w))
        half = len(x) // 2
        return kind(z, y, [range(half), range(half, len(x))])

    return of


def adversary(x: Vector, w: list[Vector], y: int) -> Expr:
    """Adversarial dropout at rate 1/2: drop the features missed most, double the rest."""
    q = shares(rivals(products(x, w), y))
    others = rivals(w, y)
    missed = [
        x_j * (w[y][j] - expectation(q, [w_c[j] for w_c in others])) for j, x_j in enumerate(x)
    ]
    order = sorted(range(len(x)), key=lambda j: -missed[j].evalf(30))
    gone = set(order[: len(x) // 2])
    return softmax.loss(products([0 if j in gone else 2 * x_j for j, x_j in enumerate(x)], w), y)


def nearest_triplet(x: Vector, w: list[Vector], y: int) -> Expr:
    """Half the triplet loss of margin 2 of x, its own class vector and the nearest rival's."""
    near = [pairs.triplet(x, w[y], w_c, Integer(2)) for w_c in rivals(w, y)]
    return Max(0, *near) / 2


@dataclass(frozen=True)
class Loss:
    """A loss at one setting: where the book has it, the setting, and its value on the stage."""

    chapter: int
    setting: str
    of: Callable[[Vector, list[Vector], int], Expr]


PENALTY = Rational(3, 10)
LOSSES: dict[str, Loss] = {
    "sparsemax": Loss(2, "", plain(sparsemax)),
    "dense hinge": Loss(2, "rho = 1", plain(lambda f, y: hinge.equation_14(f, y).left)),
    "hinge": Loss(2, "rho = 1", cell("hinge", "max")),
    "hard bias": Loss(2, "rho = 1", cell("softplus", "max")),
    "odds hinge": Loss(2, "rho = 1", cell("hinge", "LSE")),
    "softmax": Loss(1, "", plain(softmax.loss)),
    "soft margin": Loss(3, "m = 1", plain(lambda f, y: margined(f, y, Integer(1)))),
    "large margin": Loss(
        4, "strength 0.3", plain(lambda f, y: large_margin.large_margin_loss(f, y, PENALTY))
    ),
    "large margin, D(u||q)": Loss(
        4,
        "strength 0.3",
        plain(
            lambda f, y: softmax.loss(f, y) + PENALTY * large_margin.kl_from_uniform(rivals(f, y))
        ),
    ),
    "label smoothing": Loss(
        4,
        "s = 0.1",
        plain(lambda f, y: large_margin.label_smoothing_loss(f, y, Rational(1, 10))),
    ),
    "SigSoftmax": Loss(9, "", plain(lambda f, y: perturbed.sigsoftmax(f, y).left)),
    "Virtual Softmax": Loss(
        9,
        "",
        lambda x, w, y: perturbed.virtual(products(x, w), y, shortfall(x, w[y])).left,
    ),
    "Noisy Softmax": Loss(
        9,
        "strength 0.1, noise 1",
        lambda x, w, y: margined(products(x, w), y, shortfall(x, w[y]) / 10),
    ),
    "L-Softmax": Loss(5, "m = 2", l_softmax),
    "type I": Loss(7, "2 groups", halves(group.type_1)),
    "type II": Loss(7, "2 groups", halves(group.type_2)),
    "adversarial dropout": Loss(9, "rate 0.5", adversary),
    "NormFace": Loss(5, "s = 4", on_the_sphere(lambda theta: Integer(0))),
    "CosFace": Loss(5, "s = 4, m = 0.35", on_the_sphere(lambda theta: Rational(35, 100))),
    "ArcFace": Loss(5, "s = 4, m = 0.5", on_the_sphere(arc)),
    "L-GM": Loss(6, "m = 0, alpha = 0", mixture(Integer(0), Integer(0))),
    "L-GM, constant": Loss(6, "m = 1", mixture(Integer(1), Integer(0))),
    "L-GM, growing": Loss(6, "alpha = 0.3", mixture(Integer(0), PENALTY)),
    "proxy triplet": Loss(10, "half, margin 2", nearest_triplet),
}


# --- Bounds: never above, at any logits and for any number of classes -------------------------


def more_odds(loss: Expr, m: Expr) -> Equation:
    """What a margin adds to e^loss: (e^m - 1) times the odds, none negative for m >= 0."""
    gap = exp(soft_margin.raised(loss, m)) - exp(loss)
    return Equation(OURS, "bound, margin", gap, (exp(m) - 1) * soft_margin.odds(loss))


def apart(f: Vector) -> list[Equation]:
    """The two divergences as sums of terms that are never negative.

    D(u || q) by t - 1 - log t with t = q_c / u, their mean by (q_c - u)(log q_c - log u).
    """
    q, u = shares(f), uniform(len(f))
    pairs_of = list(zip(q, u, strict=True))
    gibbs = Add(*(u_c * (q_c / u_c - 1 - log(q_c / u_c)) for q_c, u_c in pairs_of))
    both = Add(*((q_c - u_c) * (log(q_c) - log(u_c)) for q_c, u_c in pairs_of)) / 2
    return [
        Equation(OURS, "bound, D(u || q)", large_margin.kl_from_uniform(f), gibbs),
        Equation(OURS, "bound, disagreement", large_margin.disagreement(f), both),
    ]


def some_shares(count: int) -> Vector:
    """Symbols that add up to one."""
    p = list(symbols(f"p_1:{count}", positive=True))
    return [1 - Add(*p), *p]


def corner(x: Expr) -> Equation:
    """Softplus less its argument is softplus of minus the argument, so it lies above its corner."""
    return Equation(OURS, "bound, corner", softplus(x) - x, softplus(-x))


def more_entropy(p: Vector) -> Equation:
    """An entropy less twice what sparsemax pays: terms p (-log p - (1 - p)), none negative."""
    left = entropy(p) - 2 * hinge.omega_sparsemax(p)
    return Equation(OURS, "bound, entropy", left, Add(*(p_c * (-log(p_c) - 1 + p_c) for p_c in p)))


def more_pay(p: Vector, y: int) -> Equation:
    """What sparsemax pays, less p_y (1 - p_y): terms p_c (1 - p_c - p_y) / 2, none negative."""
    left = hinge.omega_sparsemax(p) - p[y] * (1 - p[y])
    return Equation(
        OURS, "bound, pay", left, Add(*(p_c * (1 - p_c - p[y]) for p_c in rivals(p, y))) / 2
    )


def dense_below(top: Expr, each: Vector) -> Equation:
    """The hinge less the mean of hinges of which it is the largest."""
    r = Integer(len(each))
    gap = Add(*(top - one for one in each)) / r
    return Equation(OURS, "bound, dense", top - Add(*each) / r, gap)


def turned_over_noise(c: Expr) -> list[Equation]:
    """L-Softmax's margin at m = 2 less a tenth of the shortfall, per length, c = cos(theta).

    The first is for theta up to a right angle, where c >= 0; the second is for the rest, and
    positive everywhere.
    """
    theta = acos(c)
    noise = (1 - c) / 10
    parts = [
        (1 - c) * (2 * c + Rational(9, 10)),
        2 * (c + Rational(11, 40)) ** 2 + Rational(599, 800),
    ]
    return [
        Equation(
            OURS,
            f"bound, k = {k}",
            c - angular.psi(theta, Integer(2), Integer(k)).expand(trig=True) - noise,
            right,
        )
        for k, right in enumerate(parts)
    ]


def past_the_end(theta: Expr, m: Expr) -> Equation:
    """The library's ArcFace margin past pi - m: two terms that are never negative."""
    left = cos(theta) - angular.arcface_past(theta, m)
    return Equation(OURS, "bound, ArcFace", left, (1 + cos(theta)) + (1 + cos(theta + m)))


@dataclass(frozen=True)
class Bound:
    """``lower`` is never above ``upper``: the theorem that says so, and its sign, told by SymPy."""

    lower: str
    upper: str
    theorem: str
    proof: Callable[[], list[Equation]]


ELL, MARGIN, V = symbols("ell m v", real=True)
_F, _THETA = logits(4), Symbol("theta", real=True)
_T = list(symbols("t_1:4", real=True))
_S = Symbol("s", positive=True)


def _two(name: str) -> Vector:
    return list(symbols(f"{name}_:3", real=True))


BOUNDS: tuple[Bound, ...] = (
    Bound("sparsemax", "hinge", "thm-hinge-chain", lambda: pays_more(some_shares(4), 0)[:1]),
    Bound(
        "dense hinge",
        "hinge",
        "thm-hinge-dense",
        lambda: [dense_below(Symbol("top"), list(symbols("h_1:4")))],
    ),
    Bound("hinge", "hard bias", "thm-hinge-chain", lambda: pays_more(some_shares(4), 0)[1:2]),
    Bound("hard bias", "soft margin", "thm-hinge-chain", lambda: pays_more(some_shares(4), 0)[2:]),
    Bound("hinge", "odds hinge", "thm-hinge-chain", lambda: softmax.equation_4(_F, 0, 1)[:1]),
    Bound("odds hinge", "soft margin", "thm-hinge-chain", lambda: [corner(_T[0])]),
    Bound("sparsemax", "softmax", "thm-hinge-chain", lambda: [more_entropy(some_shares(4))]),
    Bound(
        "sparsemax",
        "SigSoftmax",
        "thm-one-family-asked",
        lambda: [more_entropy(some_shares(4)), more_pay(some_shares(4), 0)],
    ),
    Bound("softmax", "soft margin", "thm-odds", lambda: [more_odds(ELL, MARGIN)]),
    Bound("softmax", "large margin", "thm-one-family-places", lambda: apart(_F[1:])[1:]),
    Bound("softmax", "large margin, D(u||q)", "thm-one-family-places", lambda: apart(_F[1:])[:1]),
    Bound("softmax", "Virtual Softmax", "thm-one-family-odds", lambda: [added_to(_F, 0, V)]),
    Bound("softmax", "Noisy Softmax", "thm-one-family-odds", lambda: [more_odds(ELL, MARGIN)]),
    Bound(
        "Noisy Softmax",
        "L-Softmax",
        "thm-one-family-asked",
        lambda: turned_over_noise(Symbol("c", real=True)),
    ),
    Bound(
        "softmax",
        "type I",
        "thm-group-bounds",
        lambda: [ensemble.jensen_for_two(_two("f"), _two("g"))],
    ),
    Bound("type I", "type II", "thm-one-family-types", lambda: [between_types(_F[:3], 0, _S)]),
    Bound(
        "softmax",
        "adversarial dropout",
        "thm-perturbed-adversary",
        lambda: [perturbed.missed(_two("f"), 0, _two("z"))],
    ),
    Bound("NormFace", "CosFace", "thm-one-family-odds", lambda: [more_odds(ELL, MARGIN)]),
    Bound(
        "NormFace",
        "ArcFace",
        "thm-one-family-odds",
        lambda: [angular.arcface_margin(_THETA, MARGIN), past_the_end(_THETA, MARGIN)],
    ),
    Bound("L-GM", "L-GM, constant", "thm-one-family-odds", lambda: [more_odds(ELL, MARGIN)]),
    Bound("L-GM", "L-GM, growing", "thm-one-family-odds", lambda: [more_odds(ELL, MARGIN)]),
    Bound(
        "proxy triplet",
        "L-GM, constant",
        "thm-gaussian-mixture-triplet",
        lambda: [
            pairs.smooth_triplet(list(symbols("d_:3", positive=True)), 0, MARGIN),
            pairs.above_the_largest(_T),
        ],
    ),
)


# --- Witnesses: a feature vector, the class vectors; the target is class 0 ---------------------
#
# Found by trying random small integers.  How they were found is of no account: each is computed.

WITNESSES: tuple[tuple[tuple[int, ...], tuple[tuple[int, ...], ...]], ...] = (
    ((1, -1), ((2, 2), (2, 0), (-1, 0), (0, -2))),
    ((-1, 1), ((-1, 1), (1, -2), (-2, 2), (2, -1))),
    ((-1, 1), ((-2, 2), (0, 1))),
    ((-1, -1), ((0, 1), (-3, -2))),
    ((3, -3), ((-2, -2), (-2, 3), (2, 3), (-3, -3))),
    ((1, 0), ((1, 0), (1, -1))),
    ((-2, -1), ((-1, -2), (1, 0))),
    ((-1, 1), ((1, 0), (0, 1), (-1, 0), (-1, 0))),
    ((1, 0), ((0, 1), (3, 0), *[(0, 1)] * 8)),
)
CLEARLY = Rational(1, 100)  # by how much a witness has to refute


@cache
def values(place: int) -> dict[str, Expr]:
    """Every loss at one of the witnesses, to 20 digits."""
    x, w = WITNESSES[place]
    x, w = [Integer(v) for v in x], [[Integer(v) for v in row] for row in w]
    return {name: loss.of(x, w, 0).evalf(20) for name, loss in LOSSES.items()}


def chain(lower: str, upper: str) -> tuple[str, ...] | None:
    """A shortest way from one loss up to the other along ``BOUNDS``, if there is one.

    >>> chain("sparsemax", "type II")
    ('sparsemax', 'softmax', 'type I', 'type II')
    """
    ways = [(lower,)]
    while ways:
        ways = [(*way, bound.upper) for way in ways for bound in BOUNDS if bound.lower == way[-1]]
        for way in ways:
            if way[-1] == upper:
                return way
    return None


def refutation(lower: str, upper: str) -> int | None:
    """The first witness at which ``lower`` is clearly above ``upper``, if there is one."""
    places = range(len(WITNESSES))
    return next((k for k in places if values(k)[lower] > values(k)[upper] + CLEARLY), None)


def verdict(lower: str, upper: str) -> tuple[str, ...] | int:
    """Is ``lower`` never above ``upper``?  Yes, by this chain; or no, by the witness of this place.

    Raises:
        LookupError: if the question is open, or answered twice.  Neither happens: the tests ask
            about every pair.

    >>> verdict("hinge", "softmax"), verdict("softmax", "Virtual Softmax")
    (0, ('softmax', 'Virtual Softmax'))
    """
    proved, refuted = chain(lower, upper), refutation(lower, upper)
    if (proved is None) == (refuted is None):
        raise LookupError(f"{lower!r} against {upper!r}: by a chain {proved}, by point {refuted}")
    return refuted if proved is None else proved
