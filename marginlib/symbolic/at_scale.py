"""At scale, symbol by symbol (chapter 13): sums over blocks of classes, and what a step costs.

A block is a list of rivals' logits.  What is kept of it are four numbers, measured from some
point; two blocks' numbers merge into those of both.  A cost is an expression in n, d and C.
"""

from collections.abc import Sequence
from typing import NamedTuple

from sympy import Add, Expr, Integer, Max, Symbol, cancel, diff, exp, log, symbols

n, d, c, b = symbols("n d C b", positive=True)  # examples, features, classes, classes of a block
v, k = symbols("V k", positive=True)  # classifiers of an ensemble, ranks
P, B = symbols("P B", positive=True)  # operations a second, bytes a second
BYTES = Integer(4)  # of a number in float32


# --- Sums over blocks ------------------------------------------------------------------------


class Running(NamedTuple):
    """What a pass keeps of the rivals it has seen, measured from ``top``.

    ``mass`` is the sum of e^(f - top), ``moment`` that of (f - top) e^(f - top), ``total`` that
    of f - top, and ``count`` says how many they were.
    """

    top: Expr
    mass: Expr
    moment: Expr
    total: Expr
    count: Integer


def read(f: Sequence[Expr], top: Expr) -> Running:
    """The numbers of one block, measured from ``top``; for the proofs, from anywhere."""
    near = [f_c - top for f_c in f]
    return Running(
        top,
        Add(*(exp(z) for z in near)),
        Add(*(z * exp(z) for z in near)),
        Add(*near),
        Integer(len(f)),
    )


def merge(first: Running, second: Running, top: Expr) -> Running:
    """The numbers of two blocks together, measured from ``top``."""
    both = (first, second)
    return Running(
        top,
        Add(*(part.mass * exp(part.top - top) for part in both)),
        Add(*((part.moment + part.mass * (part.top - top)) * exp(part.top - top) for part in both)),
        Add(*(part.total + part.count * (part.top - top) for part in both)),
        first.count + second.count,
    )


def lse(seen: Running) -> Expr:
    """LSE of what was seen.

    >>> f, top = symbols("f top", real=True)
    >>> lse(read([f], top)).simplify()
    f
    """
    return seen.top + log(seen.mass)


def weighted_mean(seen: Running) -> Expr:
    """E_q[f], the mean in which the loud count for more."""
    return seen.top + seen.moment / seen.mass


def plain_mean(seen: Running) -> Expr:
    """E_u[f]."""
    return seen.top + seen.total / seen.count


def slopes(f: Sequence[Expr], top: Expr) -> list[tuple[Expr, Expr]]:
    """Pairs to be proved equal: each number differentiated by each logit, and what it comes to.

    With q = e^(f - LSE): q for LSE, q (1 + f - E_q[f]) for E_q[f], one share each for E_u[f].  The
    right sides ask for the one logit and for numbers of the whole row.
    """
    seen = read(f, top)
    pairs = []
    for f_c in f:
        q = exp(f_c - lse(seen))
        pairs += [
            (diff(lse(seen), f_c), q),
            (diff(weighted_mean(seen), f_c), q * (1 + f_c - weighted_mean(seen))),
            (diff(plain_mean(seen), f_c), 1 / seen.count),
        ]
    return pairs


# --- What a step costs -----------------------------------------------------------------------

# A product of (n, d) and (d, c) multiplies and adds n d c times each.
PRODUCT = 2 * n * d * c


class Cost(NamedTuple):
    """Operations in matrix products, and numbers that must be read or written."""

    flops: Expr
    numbers: Expr

    @property
    def intensity(self) -> Expr:
        """Operations for each byte that moves."""
        return cancel(self.flops / (BYTES * self.numbers))

    def roof(self) -> Expr:
        """Seconds that the step takes at least, whatever overlaps with what."""
        return Max(self.flops / P, BYTES * self.numbers / B)


def plain() -> Cost:
    """Logits, a loss that reads them, and the two gradients; nothing stays in a cache.

    Each of the three products reads two matrices and writes the third.  The loss reads the
    logits and writes probabilities; its backward reads these and writes the logits' gradient.
    """
    return Cost(3 * PRODUCT, 3 * (n * d + c * d + n * c) + 4 * n * c)


def by_blocks() -> Cost:
    """A block's logits stay in the cache, and the backward makes them again: four products.

    The class vectors are read twice and their gradient is written once.  The features and
    their gradient stay in the cache too, and cross the bus once each way.
    """
    return Cost(4 * PRODUCT, 3 * c * d + 2 * n * d)


def groups(sizes: Sequence[int]) -> Cost:
    """Groups of features, each number of groups dividing the next: products once, logits often.

    There is a table of logits for every group of every size, and each passes through a softmax.
    """
    tables = sum(sizes)
    return Cost(3 * PRODUCT, 3 * (n * d + c * d) + (3 * max(sizes) + 4 * tables) * n * c)


def ensemble() -> Cost:
    """V classifiers, and the products W' U of every two of them, forward and backward.

    The penalty's products are of (d, c) and (c, d), for 2 c >= (V - 1) d, and know no example.
    Each classifier but the first meets all those before it in one product, and in two more
    backward; each reads two matrices and writes the third.
    """
    pairs = v * (v - 1) / 2
    return Cost(
        3 * v * PRODUCT + 3 * pairs * 2 * c * d**2,
        v * plain().numbers + 3 * ((v - 1) * c * d + pairs * (c * d + d**2)),
    )


def memory_by_blocks() -> Expr:
    """Numbers that a step by blocks holds at its peak, beyond features and weight.

    The weight's gradient, and three tables of one block: its logits, what becomes of them, and
    what the block before it has left.
    """
    return c * d + 3 * n * b


def slope(cost: Expr, of: Symbol) -> Expr:
    """The slope on paper with two logarithmic axes: d log(cost) / d log(of).

    For a sum of terms it is the mean of their exponents, each weighted by its share in the cost.

    >>> slope(3 * c**2, c), slope(c**2 + c, c).subs(c, 1)
    (2, 3/2)
    """
    return cancel(of * diff(cost, of) / cost)


# --- What ranks must send ----------------------------------------------------------------------


def ring(numbers: Expr) -> Expr:
    """Bytes that each of k ranks sends to gather ``numbers``, or to add them up and part them.

    Around a ring: every rank passes on all parts but one.
    """
    return BYTES * numbers * (k - 1) / k


def data_parallel() -> Expr:
    """Bytes a rank sends in a step in which everyone holds all classes: the weight's gradient.

    To add up everywhere is to add up in parts and to gather the parts.
    """
    return 2 * ring(c * d)


def class_parallel(numbers: int = 3) -> Expr:
    """Bytes a rank sends in a step in which everyone holds c / k classes, n examples in all.

    The features are gathered, and their gradients added up and parted again.  ``numbers`` are
    added up for each example: its largest logit, its sum and its target's logit, for the
    losses of a log-sum-exp.
    """
    return 2 * ring(n * d) + 2 * numbers * ring(n)
