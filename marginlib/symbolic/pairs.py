"""Pairs and triplets, symbol by symbol (chapter 10).

A vector is a list of coordinates.  The loss of a pair (004) and of a triplet is taken where
its hinge is open; what the hinge makes of it is argued in the chapter.  The functions that
return an :class:`Equation` state what the chapter proves about them; ``left`` is as printed or
from first principles, ``right`` what it is shown to be.
"""

from sympy import Add, Expr, Integer, Mul, Rational, cos, diff, exp, log, sin, sqrt

from .logits import expectation, lse, mean, rivals, softmax, softplus
from .proof import Equation

SOURCE = "004"
HALF = Rational(1, 2)
Vector = list[Expr]


def squared(x: Vector, y: Vector) -> Expr:
    """|x - y|^2."""
    return Add(*((x_i - y_i) ** 2 for x_i, y_i in zip(x, y, strict=True)))


# --- The losses, where their hinges are open -------------------------------------------------


def same_pair(first: Vector, second: Vector) -> Expr:
    """Contrastive loss of two examples of one class."""
    return squared(first, second) / 2


def different_pair(first: Vector, second: Vector, m: Expr) -> Expr:
    """Contrastive loss of two examples of two classes, closer than m."""
    return (m - sqrt(squared(first, second))) ** 2 / 2


def triplet(anchor: Vector, positive: Vector, negative: Vector, m: Expr) -> Expr:
    """What stands in the triplet loss's hinge."""
    return squared(anchor, positive) - squared(anchor, negative) + m


def pull(first: Vector, second: Vector) -> list[Equation]:
    """The slope of a pair of one class, in each coordinate of the first."""
    loss = same_pair(first, second)
    sides = zip(first, second, strict=True)
    return [Equation(SOURCE, "same", diff(loss, x), x - y) for x, y in sides]


def push(first: Vector, second: Vector, m: Expr) -> list[Equation]:
    """The slope of a pair of two classes: of length m - d, along the line that joins them."""
    loss, d = different_pair(first, second, m), sqrt(squared(first, second))
    sides = zip(first, second, strict=True)
    return [Equation(SOURCE, "different", diff(loss, x), -(m - d) * (x - y) / d) for x, y in sides]


def linear_in_anchor(anchor: Vector, positive: Vector, negative: Vector, m: Expr) -> Equation:
    """The squares of the anchor cancel: the hinge is linear in it.  What the library computes."""
    across = [n - p for n, p in zip(negative, positive, strict=True)]
    twice = [2 * a - p - n for a, p, n in zip(anchor, positive, negative, strict=True)]
    left = triplet(anchor, positive, negative, m)
    return Equation(SOURCE, "triplet, linear", left, expectation(across, twice) + m)


def triplet_from_pairs(anchor: Vector, positive: Vector, negative: Vector, m: Expr) -> Equation:
    """A triplet of margin m^2 from the two pairs in it, at margin m, with d_n <= m."""
    same, gap = same_pair(anchor, positive), m - sqrt(squared(anchor, negative))
    left = triplet(anchor, positive, negative, m**2)
    return Equation(SOURCE, "triplet, from pairs", left, 2 * same + 2 * m * gap - gap**2)


# --- Scale -----------------------------------------------------------------------------------


def scaled(x: Vector, t: Expr) -> Vector:
    """Return t x."""
    return [t * x_i for x_i in x]


def larger_features(
    anchor: Vector, positive: Vector, negative: Vector, m: Expr, t: Expr
) -> list[Equation]:
    """Features t times as large: squared distances t^2 times; a margin t^2 times as small."""
    a, p, n = (scaled(x, t) for x in (anchor, positive, negative))
    smaller = triplet(anchor, positive, negative, m / t**2)
    return [
        Equation(SOURCE, "distance, scaled", squared(a, p), t**2 * squared(anchor, positive)),
        Equation(SOURCE, "triplet, scaled", triplet(a, p, n, m), t**2 * smaller),
    ]


def on_the_circle(alpha: Expr, beta: Expr) -> Equation:
    """Unit features: a squared distance is 2 - 2 cos of the angle between them."""
    first, second = ([cos(angle), sin(angle)] for angle in (alpha, beta))
    return Equation(SOURCE, "unit length", squared(first, second), 2 - 2 * cos(alpha - beta))


# --- Softmax ---------------------------------------------------------------------------------


def smooth_triplet(d: list[Expr], y: int, m: Expr) -> Equation:
    """Softmax over proxies, with a margin m: the log-sum-exp of halved triplets of margin 2m.

    ``d`` holds the squared distance of the features to the proxy of each class.
    """
    f = [-d_c / 2 - (m if c == y else 0) for c, d_c in enumerate(d)]
    halved = [(d[y] - d_c + 2 * m) / 2 for d_c in rivals(d, y)]
    return Equation(SOURCE, "softmax, triplets", -log(softmax(f)[y]), softplus(lse(halved)))


def above_the_largest(t: Vector) -> Equation:
    """log(1 + sum e^t) less its first term t_1: the slack of the hinge skeleton."""
    rest = [exp(t_k - t[0]) for t_k in t[1:]]
    slack = log(exp(-t[0]) + 1 + Add(*rest))
    return Equation(SOURCE, "skeleton", softplus(lse(t)) - t[0], slack)


def sum_above_softmax(t: Vector) -> Equation:
    """Rivals asked one by one cost more than rivals asked at once: the slack."""
    alone = Add(*(softplus(t_k) for t_k in t))
    odds = [exp(t_k) for t_k in t]
    more = Mul(*(1 + o for o in odds)) / (1 + Add(*odds))
    return Equation(SOURCE, "one by one", alone - softplus(lse(t)), log(more))


def against_a_batch(anchor: Vector, others: list[Vector], y: int) -> Equation:
    """Inner products with a batch under softmax: N-pair, or InfoNCE, is the softmax loss."""
    f = [expectation(anchor, other) for other in others]
    gaps = [f_c - f[y] for f_c in rivals(f, y)]
    return Equation(SOURCE, "batch", lse(f) - f[y], softplus(lse(gaps)))


# --- Counting --------------------------------------------------------------------------------


def same_pairs(counts: list[Expr]) -> Expr:
    """How many pairs of one class, from the number of examples of each class."""
    return Add(*(HALF * n * (n - 1) for n in counts))


def different_pairs(counts: list[Expr]) -> Expr:
    """How many pairs of two classes."""
    total = Add(*counts)
    return HALF * total * (total - 1) - same_pairs(counts)


def triplets(counts: list[Expr]) -> Expr:
    """How many triplets: an anchor, another of its class, one of any other class."""
    total = Add(*counts)
    return Add(*(n * (n - 1) * (total - n) for n in counts))


def balanced(c: Expr, n: Expr) -> list[Expr]:
    """C classes of n examples: pairs of one class, of two classes, triplets, proxy triplets."""
    return [
        HALF * c * n * (n - 1),
        HALF * c * (c - 1) * n**2,
        c * (c - 1) * n**2 * (n - 1),
        c * (c - 1) * n,
    ]


def counted(c: int, n: Expr) -> list[Equation]:
    """The counts of C equal classes, from those of any classes."""
    counts = [n] * c
    pairs = (same_pairs(counts), different_pairs(counts), triplets(counts))
    sides = zip(("same", "different", "triplets"), pairs, balanced(Integer(c), n), strict=False)
    return [Equation(SOURCE, f"count, {name}", left, right) for name, left, right in sides]


def share_of_an_epoch(batch: Expr, total: Expr, together: int) -> Expr:
    """The chance that 2 or 3 given examples meet when all are dealt into batches at random.

    The first lies somewhere; each of the others must fall on one of the places left beside it.
    So it is also the share of all pairs, or of all triplets, that one epoch can look at.
    """
    return Mul(*((batch - k) / (total - k) for k in range(1, together)))


def pairs_from_centre(x: list[Expr]) -> Equation:
    """All pairs of n numbers of one class: n times the squares about their mean."""
    n = len(x)
    every = Add(*(same_pair([x[i]], [x[j]]) for i in range(n) for j in range(i)))
    about = Add(*(same_pair([x_i], [mean(x)]) for x_i in x))
    return Equation(SOURCE, "centre", every, n * about)


def about_the_mean(a: Expr, x: list[Expr]) -> Equation:
    """The mean square from a to some numbers: the square to their mean, plus their spread."""
    every = mean([squared([a], [x_i]) for x_i in x])
    spread = mean([squared([x_i], [mean(x)]) for x_i in x])
    return Equation(SOURCE, "mean", every, squared([a], [mean(x)]) + spread)
