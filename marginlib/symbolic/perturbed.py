"""Perturbed losses, symbol by symbol (chapter 9): what each disturbance does to the odds.

The source compares these methods in its Table 2 and does not print their formulas.  Each
equation has the formula of the method's own paper on its left and what the chapter makes of it
on its right.  ``f`` is the list of all logits, ``y`` the target's place, and ``z`` the list of what
one feature gives to each logit, the ingredient logits of the source's eq. (3).

Source    T. Kobayashi, "Group Softmax Loss with Discriminative Feature Grouping", WACV 2021.
"""

from itertools import product

from sympy import Add, Expr, Integer, Mul, Rational, Symbol, diff, exp, log

from .logits import expectation, lse, mean, rivals, softmax, softplus
from .proof import Equation

SOURCE = "000"


def softmax_loss(f: list[Expr], y: int) -> Expr:
    """The softmax loss, -log p_y."""
    return lse(f) - f[y]


def odds(loss: Expr) -> Expr:
    """The odds against the target, (1 - p_y) / p_y, told by the loss."""
    return exp(loss) - 1


# --- SigSoftmax ----------------------------------------------------------------------------


def sigmoid(x: Expr) -> Expr:
    """1 / (1 + e^-x)."""
    return 1 / (1 + exp(-x))


def sigsoftmax_logits(f: list[Expr]) -> list[Expr]:
    """Logits whose softmax is SigSoftmax: f + log sigmoid(f)."""
    return [f_c - softplus(-f_c) for f_c in f]


def sigsoftmax(f: list[Expr], y: int) -> Equation:
    """The printed loss, and the softmax loss of other logits."""
    scores = [exp(f_c) * sigmoid(f_c) for f_c in f]
    return Equation(
        SOURCE,
        "Table 2, SigSoftmax",
        -log(scores[y] / Add(*scores)),
        softmax_loss(sigsoftmax_logits(f), y),
    )


def sigsoftmax_odds(f: list[Expr], y: int) -> Equation:
    """The odds are multiplied by E_q[sigmoid f] / sigmoid f_y."""
    crowd = rivals(f, y)
    factor = expectation(softmax(crowd), [sigmoid(f_c) for f_c in crowd]) / sigmoid(f[y])
    return Equation(
        SOURCE,
        "Table 2, SigSoftmax, odds",
        odds(softmax_loss(sigsoftmax_logits(f), y)),
        factor * odds(softmax_loss(f, y)),
    )


# --- Virtual Softmax and Noisy Softmax: v = |w_y||x| - w_y.x -------------------------------


def virtual(f: list[Expr], y: int, v: Expr) -> Equation:
    """One more rival, v above the target: the printed loss is log(e^l + e^v)."""
    printed = -log(exp(f[y]) / (Add(*map(exp, f)) + exp(f[y] + v)))
    return Equation(
        SOURCE, "Table 2, Virtual Softmax", printed, log(exp(softmax_loss(f, y)) + exp(v))
    )


def virtual_share(f: list[Expr], y: int, v: Symbol) -> Equation:
    """The virtual rival's probability is the loss's slope in v."""
    loss = virtual(f, y, v).right
    return Equation(
        SOURCE, "Table 2, Virtual Softmax, slope", diff(loss, v), softmax([*f, f[y] + v])[-1]
    )


def noisy(f: list[Expr], y: int, m: Expr) -> Equation:
    """The target's logit is lowered by m = alpha |xi| v: its odds are multiplied by e^m."""
    lowered = [f_c - m if c == y else f_c for c, f_c in enumerate(f)]
    raised = log(1 + exp(m) * odds(softmax_loss(f, y)))
    return Equation(SOURCE, "Table 2, Noisy Softmax", -log(softmax(lowered)[y]), raised)


def noisy_curvature(loss: Symbol, m: Symbol) -> Equation:
    """The raised loss is convex in m: its second derivative is s (1 - s), s = 1 - e^-raised."""
    raised = log(1 + exp(m) * odds(loss))
    s = 1 - exp(-raised)
    return Equation(SOURCE, "Table 2, Noisy Softmax, curvature", diff(raised, m, 2), s * (1 - s))


# --- Label smoothing: the label is disturbed -----------------------------------------------


def smoothing_as_chance(f: list[Expr], y: int, s: Expr) -> Equation:
    """Draw a class at random with chance s: the expected loss is label smoothing's."""
    of_label = [softmax_loss(f, c) for c in range(len(f))]
    label = [s / len(f) + (1 - s if c == y else 0) for c in range(len(f))]
    drawn = (1 - s) * of_label[y] + s * mean(of_label)
    return Equation(
        SOURCE, "Table 2, label smoothing", drawn, -expectation(label, [log(p) for p in softmax(f)])
    )


def smoothing_and_groups(z: list[list[Expr]], y: int, s: Expr) -> Equation:
    """Label smoothing's price is paid on the summed discriminativity of the source's eq. (9)."""
    f = [Add(*column) for column in zip(*z, strict=True)]
    scores = [z_j[y] - mean(rivals(z_j, y)) for z_j in z]
    priced = softmax_loss(f, y) + s * Rational(len(f) - 1, len(f)) * Add(*scores)
    return Equation(SOURCE, "9, label smoothing", smoothing_as_chance(f, y, s).left, priced)


# --- Dropout: the features are disturbed ---------------------------------------------------


def dropout_mean(z: list[Expr], rate: Expr) -> Equation:
    """The mean over all masks of one logit, sum_j z_j, is that logit: the scale sees to it."""
    total = Integer(0)
    for mask in product((0, 1), repeat=len(z)):
        chance = Mul(*(1 - rate if kept else rate for kept in mask))
        total += chance * expectation(list(mask), z) / (1 - rate)
    return Equation(SOURCE, "Table 2, DropOut", total, Add(*z))


def scaled(f: list[Expr], z: list[Expr], k: Expr) -> list[Expr]:
    """The logits when one feature counts k times: k = 1 as it is, k = 0 dropped."""
    return [f_c + (k - 1) * z_c for f_c, z_c in zip(f, z, strict=True)]


def curvature(f: list[Expr], y: int, z: list[Expr]) -> Equation:
    """The loss's second derivative in how much a feature counts is Var_p[z]."""
    k = Symbol("k", real=True)
    bend = diff(softmax_loss(scaled(f, z, k), y), k, 2).subs(k, 1)
    p = softmax(f)
    spread = expectation(p, [z_c**2 for z_c in z]) - expectation(p, z) ** 2
    return Equation(SOURCE, "Table 2, DropOut, curvature", bend, spread)


def missed(f: list[Expr], y: int, z: list[Expr]) -> Equation:
    """What dropping a feature adds to the loss at first order: (1 - p_y)(z_y - E_q[z])."""
    k = Symbol("k", real=True)
    slope = diff(softmax_loss(scaled(f, z, k), y), k).subs(k, 1)
    ahead = z[y] - expectation(softmax(rivals(f, y)), rivals(z, y))
    return Equation(SOURCE, "Table 2, Adv. DropOut", -slope, (1 - softmax(f)[y]) * ahead)
