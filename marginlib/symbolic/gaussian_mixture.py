"""Gaussian mixtures, symbol by symbol (chapter 6).

Points are lists of coordinates.  A class is told either by its mean (and variances), or, where
only its distance counts, by a symbol ``d_c`` for it, with ``v_c`` for the determinant of its
covariance and ``pi_c`` for its prior.

Source    W. Wan et al., "Rethinking Feature Distribution for Loss Functions in Image
          Classification", CVPR 2018, as told on K. Kim's slides.  Of their lines only (16) has
          a number.
"""

from sympy import Add, Expr, Integer, Mul, Rational, diff, exp, log, pi, sqrt

from .logits import expectation, lse, rivals, softmax, softplus
from .proof import Equation

SOURCE = "004"
HALF = Rational(1, 2)


def half_square(x: list[Expr], mu: list[Expr], v: list[Expr] | None = None) -> Expr:
    """d, half the squared distance of x from mu, each coordinate divided by its variance."""
    v = v or [Integer(1)] * len(x)
    return HALF * Add(*((a - b) ** 2 / c for a, b, c in zip(x, mu, v, strict=True)))


def density(d: Expr, v: Expr, size: int) -> Expr:
    """The Gaussian density at the distance d, where v is the covariance's determinant."""
    return exp(-d) / sqrt((2 * pi) ** size * v)


def logits(d: list[Expr], v: list[Expr], prior: list[Expr]) -> list[Expr]:
    """Log prior - 1/2 log |Sigma_c| - d_c."""
    return [log(p) - log(v_c) / 2 - d_c for d_c, v_c, p in zip(d, v, prior, strict=True)]


# --- The source's equations ----------------------------------------------------------------


def posterior(d: list[Expr], v: list[Expr], prior: list[Expr], y: int, size: int) -> Equation:
    """Bayes' rule: the posterior of class y is a softmax, and (2 pi)^(d/2) cancels."""
    joint = [density(*of, size) * p for *of, p in zip(d, v, prior, strict=True)]
    return Equation(SOURCE, "posterior", joint[y] / Add(*joint), softmax(logits(d, v, prior))[y])


def margin_loss(d: list[Expr], v: list[Expr], prior: list[Expr], y: int, m: Expr) -> Equation:
    """The loss with the margin as printed, and as marginlib computes it."""
    terms = [p * exp(-d_c) / sqrt(v_c) for d_c, v_c, p in zip(d, v, prior, strict=True)]
    terms[y] = terms[y] * exp(-m)
    f = logits(d, v, prior)
    printed = -log(terms[y] / Add(*terms))
    return Equation(SOURCE, "margin", printed, softplus(lse(rivals(f, y)) - f[y] + m))


def joint_as_printed(of: list[list[Expr]], z: list[int]) -> Expr:
    """The slide's likelihood: prod_i prod_k 1(z_i = k) N p, for a table of densities times priors.

    Row i of the table is example i, column k is class k.
    """
    return Mul(
        *(int(z_i == k) * row[z_i] for row, z_i in zip(of, z, strict=True) for k in range(len(row)))
    )


def joint(of: list[list[Expr]], z: list[int]) -> Expr:
    """The likelihood with the indicator where it belongs: prod_i prod_k (N p)^1(z_i = k)."""
    return Mul(
        *(row[k] ** int(z_i == k) for row, z_i in zip(of, z, strict=True) for k in range(len(row)))
    )


def equation_16(x: list[list[Expr]], mu: list[list[Expr]]) -> Equation:
    """The likelihood term with unit covariances is the centre loss, up to a constant.

    ``mu`` holds the mean of each example's own class.
    """
    size = len(x[0])
    distances = [half_square(*pair) for pair in zip(x, mu, strict=True)]
    likelihood = -Add(*(log(density(d, Integer(1), size)) for d in distances))
    constant = Integer(len(x) * size) / 2 * log(2 * pi)
    return Equation(SOURCE, "16", likelihood, Add(*distances) + constant)


# --- Gaussian is linear --------------------------------------------------------------------


def linear(x: list[Expr], mu: list[Expr]) -> Equation:
    """-d with unit variances: a linear classifier's logit, less what all classes share."""
    right = expectation(mu, x) - HALF * expectation(mu, mu) - HALF * expectation(x, x)
    return Equation(SOURCE, "linear", -half_square(x, mu), right)


def two_products(x: list[Expr], mu: list[Expr], v: list[Expr]) -> Equation:
    """-d with a diagonal covariance: linear in x and in its squares."""
    weight, squares = ([a / c for a, c in zip(b, v, strict=True)] for b in (mu, [1] * len(x)))
    right = expectation(weight, x) - HALF * expectation(squares, [x_j**2 for x_j in x])
    right -= HALF * expectation(weight, mu)
    return Equation(SOURCE, "two products", -half_square(x, mu, v), right)


# --- The geometry of the margins -----------------------------------------------------------
#
# The target's mean lies at the origin and one rival's at distance ``gap`` along the first axis.


def excess(x: list[Expr], gap: Expr, alpha: Expr, m: Expr) -> Expr:
    """d_rival - d_target - (m + alpha d_target): positive where the margin is met."""
    origin = [Integer(0)] * len(x)
    own, rival = half_square(x, origin), half_square(x, [gap, *origin[1:]])
    return rival - own - (m + alpha * own)


def plane(x: list[Expr], gap: Expr, m: Expr) -> Equation:
    """For alpha = 0 the bound is the plane half way to the rival, moved back by m / gap."""
    return Equation(
        SOURCE, "plane", excess(x, gap, Integer(0), m), gap * (gap / 2 - m / gap - x[0])
    )


def ball(x: list[Expr], gap: Expr, alpha: Expr, m: Expr) -> Equation:
    """For alpha > 0 the bound is a sphere around a point behind the target's mean."""
    center = [-gap / alpha, *[Integer(0)] * (len(x) - 1)]
    right = alpha / 2 * (squared_radius(gap, alpha, m) - 2 * half_square(x, center))
    return Equation(SOURCE, "ball", excess(x, gap, alpha, m), right)


def squared_radius(gap: Expr, alpha: Expr, m: Expr) -> Expr:
    """Of the ball; where it is negative no point meets both margins."""
    return gap**2 * (1 + alpha) / alpha**2 - 2 * m / alpha


def reach(gap: Expr, alpha: Expr) -> Equation:
    """How far the ball reaches towards the rival, m = 0."""
    right = gap / (1 + sqrt(1 + alpha))
    return Equation(SOURCE, "reach", gap * sqrt(1 + alpha) / alpha - gap / alpha, right)


# --- What the loss does to a feature and to a variance -------------------------------------


def pull(x: list[Expr], mu: list[list[Expr]], y: int, alpha: Expr, m: Expr) -> list[Equation]:
    """Minus the gradient of the loss in x, as if all distances were symbols p of a softmax.

    alpha (1 - p_y) (mu_y - x) + mu_y - sum_c p_c mu_c, with p after the margin.
    """
    f = [-half_square(x, mu_c) for mu_c in mu]
    f[y] = (1 + alpha) * f[y] - m
    p = softmax(f)
    found = []
    for j, x_j in enumerate(x):
        column = [mu_c[j] for mu_c in mu]
        right = alpha * (1 - p[y]) * (column[y] - x_j) + column[y] - expectation(p, column)
        found.append(Equation(SOURCE, "pull", -diff(lse(f) - f[y], x_j), right))
    return found


def slopes(x: Expr, mu: Expr, s: Expr) -> list[Equation]:
    """The slope in s = log v of the likelihood term, and of the one without 1 / v beside d."""
    whole = half_square([x], [mu], [exp(s)]) + s / 2
    unscaled = half_square([x], [mu]) + s / 2
    return [
        Equation(SOURCE, "likelihood, slope", diff(whole, s), (1 - (x - mu) ** 2 * exp(-s)) / 2),
        Equation(SOURCE, "likelihood without 1/v, slope", diff(unscaled, s), HALF),
    ]


# --- Collapse ------------------------------------------------------------------------------
#
# Near the point where all features and means coincide, the loss is log C and a quadratic form.
# ``lam`` is the weight of the likelihood plus alpha (1 - 1/C).


def near_collapse(between: Expr, mu: Expr, within: Expr, lam: Expr) -> Expr:
    """The quadratic form, one coordinate: class averages at +-between, means at +-mu.

    ``within`` is the variance of the features inside a class.
    """
    return -between * mu + lam / 2 * (within + (between - mu) ** 2)


def collapse(between: Expr, within: Expr, lam: Expr) -> Equation:
    """The same at the best means; where it is positive, one point is a local minimum."""
    best = (1 + 1 / lam) * between
    right = lam / 2 * within - (1 + 1 / (2 * lam)) * between**2
    return Equation(SOURCE, "collapse", near_collapse(between, best, within, lam), right)
