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
    Matrix,
    Max,
    Rational,
    Symbol,
    acos,
    asin,
    cancel,
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
    eta = [cancel(share) for share in unpressed(p, strength)]
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


# --- Ties: what another setting makes of a loss ------------------------------------------------

# Names on the map that are no loss of one feature vector, with their chapters.
BESIDE = {
    "A-Softmax": 5,
    "likelihood": 6,
    "centre loss": 6,
    "complementary dropout": 7,
    "ensemble": 8,
    "contrastive pairs": 10,
    "N-pair": 10,
}
EQUALS, TENDS = "equals", "tends to"


@dataclass(frozen=True)
class Tie:
    """``first`` equals ``second``, or tends to it, at the setting; the theorem, and its proof."""

    first: str
    second: str
    kind: str
    setting: str
    theorem: str
    proof: Callable[[], list[Equation]]

    def __str__(self) -> str:
        return f"{self.first} {self.kind} {self.second}: {self.setting}"


def no_margin() -> list[Equation]:
    """A margin of 0 leaves the loss."""
    return [Equation(OURS, "tie, m = 0", soft_margin.raised(ELL, Integer(0)), ELL)]


def one_rival() -> list[Equation]:
    """One rival has nobody to disagree with."""
    return [Equation(OURS, "tie, C = 2", large_margin.disagreement(_F[:1]), Integer(0))]


def no_crowd() -> list[Equation]:
    """The log-sum-exp of one rival is the rival."""
    return [Equation(OURS, "tie, one rival", lse(_F[:1]), _F[0])]


def one_group() -> list[Equation]:
    """With one group both types are the softmax loss."""
    z = group.ingredients(2, 3)
    whole = softmax.loss(group.logits_of(z), 0)
    return [
        Equation(OURS, "tie, one group", kind(z, 0, [range(2)]), whole)
        for kind in (group.type_1, group.type_2)
    ]


def types_by_scale() -> list[Equation]:
    """The groups' terms at the scale 1 add up to type II, at the scale G to type I."""
    z, parts = group.ingredients(2, 3), [[0], [1]]
    each = [group.group_logits(z, part) for part in parts]
    return [
        Equation(
            OURS, "tie, scale", kind(z, 0, parts), Add(*(at_scale(f, 0, Integer(s)) for f in each))
        )
        for kind, s in ((group.type_2, 1), (group.type_1, 2))
    ]


def alike(count: int) -> list[Equation]:
    """Members that are one classifier: the loss is that classifier's, so many times."""
    w, x = ensemble.classifier("w", 3, 2), Matrix(symbols("x_:2", real=True))
    loss = ensemble.ensemble_loss(x, [w] * count, 0, Integer(0), Integer(0))
    return [Equation(OURS, "tie, members", loss, count * softmax.loss(list(w * x), 0))]


def members() -> list[Equation]:
    """Type I is the mean loss of masked members."""
    x = Matrix(symbols("x_:3", real=True))
    return [ensemble.groups_are_members(x, ensemble.classifier("w", 2, 3), 1, [[0, 1], [2]])]


def masks() -> list[Equation]:
    """Type I is the mean loss over complementary masks."""
    x, b = (list(symbols(f"{name}_:2", real=True)) for name in "xb")
    w = [list(symbols(f"w_{c}_:2", real=True)) for c in range(2)]
    return [group.as_dropout(w, x, b, 0, [[0], [1]])]


def weaker_half() -> list[Equation]:
    """Two classes: what a missing feature costs at first order is 1 - p_y times its score."""
    f, z = _F[:2], list(symbols("z_:2", real=True))
    left = perturbed.missed(f, 0, z).left
    return [
        Equation(OURS, "tie, weaker half", left, (1 - shares(f)[0]) * group.score(z, 0)),
    ]


def gaussian_as_linear() -> list[Equation]:
    """Unit variances: minus the distance is a linear logit, but for what all classes share."""
    x, mu = (list(symbols(f"{name}_1:3", real=True)) for name in ("x", "mu"))
    return [gaussian_mixture.linear(x, mu)]


def tied_offsets() -> list[Equation]:
    """L-GM with its likelihood is the softmax with tied offsets plus centre loss."""
    x = list(symbols("x_1:3", real=True))
    mu = [list(symbols(f"mu_{c}_1:3", real=True)) for c in range(2)]
    return [tied([x], mu, [0], _S)]


def likelihood() -> list[Equation]:
    """With unit variances the likelihood is centre loss plus a constant."""
    x, mu = (list(symbols(f"{name}_1:3", real=True)) for name in ("x", "mu"))
    return [gaussian_mixture.equation_16([x], [mu])]


def batch_as_classes() -> list[Equation]:
    """A batch of others under softmax."""
    a = list(symbols("a_:2", real=True))
    return [pairs.against_a_batch(a, [list(symbols(f"b_{k}_:2", real=True)) for k in "012"], 0)]


def envelope() -> list[Equation]:
    """Sparsemax's opponent is paid what the hinge's is, less half the squared way it travels."""
    return pays_more(some_shares(4), 0)[:1]


def far_from_zero() -> list[Equation]:
    """SigSoftmax's logit is f, or 2 f, less a softplus that vanishes far above 0, or below."""
    f = _F[0]
    (logit,) = perturbed.sigsoftmax_logits([f])
    return [
        Equation(OURS, "tie, far above", logit, f - softplus(-f)),
        Equation(OURS, "tie, far below", logit, 2 * f - softplus(f)),
    ]


COLD = "s -> oo, logits and margin times s, loss over s"
TIES: tuple[Tie, ...] = (
    Tie("soft margin", "softmax", EQUALS, "m = 0", "thm-odds", no_margin),
    Tie("Noisy Softmax", "softmax", EQUALS, "strength 0", "thm-one-family-odds", no_margin),
    Tie(
        "Noisy Softmax",
        "soft margin",
        EQUALS,
        "m = strength |noise| v",
        "thm-one-family-odds",
        lambda: [perturbed.noisy(_F, 0, MARGIN)],
    ),
    Tie(
        "L-Softmax",
        "soft margin",
        EQUALS,
        "m = |w_y||x| (cos - psi)",
        "thm-one-family-odds",
        lambda: [angular.loss(_F, 0, MARGIN)],
    ),
    Tie(
        "L-Softmax",
        "softmax",
        EQUALS,
        "m = 1",
        "thm-one-family-psi",
        lambda: [
            Equation(OURS, "tie, psi", angular.psi(_THETA, Integer(1), Integer(0)), cos(_THETA))
        ],
    ),
    Tie(
        "L-Softmax",
        "softmax",
        TENDS,
        "annealing -> oo",
        "thm-one-family-odds",
        lambda: [angular.mixture(_S, _THETA, MARGIN, V)],
    ),
    Tie(
        "A-Softmax",
        "L-Softmax",
        EQUALS,
        "class vectors of length 1",
        "thm-one-family-psi",
        lambda: [angular.loss(_F, 0, MARGIN)],
    ),
    Tie("CosFace", "NormFace", EQUALS, "m = 0", "thm-one-family-odds", no_margin),
    Tie(
        "CosFace",
        "soft margin",
        EQUALS,
        "logits s cos, margin s m",
        "thm-one-family-odds",
        lambda: [soft_margin.equation_4(_F, 0, MARGIN)],
    ),
    Tie(
        "ArcFace",
        "NormFace",
        EQUALS,
        "m = 0",
        "thm-one-family-odds",
        lambda: [
            Equation(
                OURS,
                "tie, ArcFace",
                angular.arcface_margin(_THETA, Integer(0)).left,
                Integer(0),
            )
        ],
    ),
    Tie(
        "NormFace",
        "L-GM",
        EQUALS,
        "unit vectors, variances 1/s",
        "thm-one-family-gaussian",
        lambda: [normalised(Symbol("c", real=True), _S)],
    ),
    Tie(
        "L-GM, constant",
        "soft margin",
        EQUALS,
        "offsets -|w_c|^2 / 2",
        "thm-one-family-gaussian",
        gaussian_as_linear,
    ),
    Tie("L-GM, constant", "L-GM", EQUALS, "m = 0", "thm-one-family-odds", no_margin),
    Tie("L-GM, growing", "L-GM", EQUALS, "alpha = 0", "thm-one-family-odds", no_margin),
    Tie(
        "L-GM",
        "centre loss",
        EQUALS,
        "likelihood added, less softmax with tied offsets",
        "thm-one-family-gaussian",
        tied_offsets,
    ),
    Tie(
        "likelihood",
        "centre loss",
        EQUALS,
        "unit variances, less a constant",
        "lem-gaussian-mixture-center",
        likelihood,
    ),
    Tie(
        "contrastive pairs",
        "centre loss",
        EQUALS,
        "all pairs of a class, over its size",
        "thm-one-family-gaussian",
        lambda: [pairs.pairs_from_centre(list(symbols("x_:3", real=True)))],
    ),
    Tie(
        "N-pair", "softmax", EQUALS, "the batch for classes", "thm-pairs-skeleton", batch_as_classes
    ),
    Tie("large margin", "softmax", EQUALS, "strength 0, or C = 2", "thm-odds", one_rival),
    Tie("large margin, D(u||q)", "softmax", EQUALS, "strength 0, or C = 2", "thm-odds", one_rival),
    Tie(
        "label smoothing",
        "softmax",
        EQUALS,
        "s = 0",
        "thm-one-family-smoothing",
        lambda: [large_margin.smoothing_as_price(_F, 0, Integer(0))],
    ),
    Tie(
        "label smoothing",
        "large margin, D(u||q)",
        EQUALS,
        "its two-class part swapped for softmax, less a constant",
        "thm-one-family-smoothing",
        lambda: [large_margin.smoothing_in_parts(_F, 0, _S)],
    ),
    Tie("type I", "softmax", EQUALS, "1 group", "thm-group-bounds", one_group),
    Tie("type II", "softmax", EQUALS, "1 group", "thm-group-bounds", one_group),
    Tie("type II", "type I", EQUALS, "scale G for 1", "thm-one-family-types", types_by_scale),
    Tie("type I", "ensemble", EQUALS, "masked members", "thm-one-family-three", members),
    Tie("type I", "complementary dropout", EQUALS, "rate 1 - 1/G", "thm-one-family-three", masks),
    Tie("ensemble", "softmax", EQUALS, "equal members", "thm-ensemble-jensen", lambda: alike(2)),
    Tie(
        "adversarial dropout",
        "type I",
        EQUALS,
        "C = 2, its larger term",
        "thm-perturbed-halves",
        weaker_half,
    ),
    Tie(
        "Virtual Softmax",
        "softmax",
        EQUALS,
        "a rival more, at f_y + v",
        "thm-one-family-odds",
        lambda: [perturbed.virtual(_F, 0, V)],
    ),
    Tie(
        "SigSoftmax",
        "softmax",
        TENDS,
        "t -> oo, logits f + t",
        "thm-perturbed-sig",
        far_from_zero,
    ),
    Tie("hard bias", "soft margin", EQUALS, "C = 2", "thm-hinge-chain", no_crowd),
    Tie("odds hinge", "hinge", EQUALS, "C = 2", "thm-hinge-chain", no_crowd),
    Tie(
        "dense hinge",
        "hinge",
        EQUALS,
        "C = 2",
        "thm-hinge-dense",
        lambda: [dense_below(_T[0], _T[:1])],
    ),
    Tie(
        "sparsemax",
        "hinge",
        EQUALS,
        "least of hinge(g) + |f - g|^2 / 2",
        "thm-hinge-sparsemax",
        envelope,
    ),
    Tie("soft margin", "hinge", TENDS, COLD, "thm-one-family-chain", lambda: [cooled(_T, _S)]),
    Tie("hard bias", "hinge", TENDS, COLD, "thm-one-family-chain", lambda: [cooled(_T[:1], _S)]),
    Tie("odds hinge", "hinge", TENDS, COLD, "thm-one-family-chain", lambda: [cooled(_T, _S)]),
    Tie(
        "L-GM, constant",
        "proxy triplet",
        TENDS,
        COLD,
        "thm-one-family-chain",
        lambda: [cooled(_T, _S)],
    ),
)


def heights() -> dict[str, int]:
    """How many bounds stand below each loss: the length of the longest chain up to it.

    >>> heights()["type II"]
    3
    """
    up = dict.fromkeys(LOSSES, 0)
    for _ in LOSSES:
        for bound in BOUNDS:
            up[bound.upper] = max(up[bound.upper], up[bound.lower] + 1)
    return up
