"""Groups of features, symbol by symbol (chapter 7): the source's lines, and theorems about them.

``z[j][c]`` is the ingredient of feature j in the logit of class c; a grouping is a list of lists
of places j.  ``y`` is the target's place.
"""

from collections.abc import Sequence

from sympy import Add, Expr, Integer, Mul, Rational, diff, exp, log, symbols

from .logits import kl, lse, mean, rivals, softmax, softplus, uniform
from .proof import Equation

SOURCE = "000"
Ingredients = list[list[Expr]]
Grouping = Sequence[Sequence[int]]


# --- Ingredients and groups ----------------------------------------------------------------


def ingredients(d: int, c: int) -> Ingredients:
    """One real symbol for each feature and class.

    >>> ingredients(2, 2)
    [[z_0_0, z_0_1], [z_1_0, z_1_1]]
    """
    return [list(symbols(f"z_{j}_:{c}", real=True)) for j in range(d)]


def group_logits(z: Ingredients, members: Sequence[int]) -> list[Expr]:
    """The logits from these features alone: their ingredients, added up.  Eq. (5), right."""
    return [Add(*column) for column in zip(*(z[j] for j in members), strict=True)]


def logits_of(z: Ingredients) -> list[Expr]:
    """The whole logits.  Eq. (4)."""
    return group_logits(z, range(len(z)))


def ingredients_of(w: Ingredients, x: list[Expr], b: list[Expr]) -> Ingredients:
    """What feature j adds to logit c, with an equal share of the offset.  Eq. (3).

    ``w`` has one class vector per entry.
    """
    share = Rational(1, len(x))
    return [
        [w_c[j] * x_j + share * b_c for w_c, b_c in zip(w, b, strict=True)]
        for j, x_j in enumerate(x)
    ]


def equation_5(
    w: Ingredients, x: list[Expr], b: list[Expr], members: Sequence[int]
) -> list[Equation]:
    """A group's logits from weights and offset.  With all features it is Eq. (1) and (4)."""
    summed = group_logits(ingredients_of(w, x, b), members)
    share = Rational(len(members), len(x))
    printed = [
        Add(*(w_c[j] * x[j] for j in members)) + share * b_c for w_c, b_c in zip(w, b, strict=True)
    ]
    return [Equation(SOURCE, "5", left, right) for left, right in zip(printed, summed, strict=True)]


def equation_6(z: Ingredients, y: int, grouping: Grouping) -> Equation:
    """The softmax as a ratio of products over the groups."""
    products = [
        Mul(*(exp(f_c) for f_c in column))
        for column in zip(*(group_logits(z, members) for members in grouping), strict=True)
    ]
    return Equation(SOURCE, "6", softmax(logits_of(z))[y], products[y] / Add(*products))


# --- The two losses ------------------------------------------------------------------------


def type_1(z: Ingredients, y: int, grouping: Grouping) -> Expr:
    """The mean softmax loss of the groups' logits, scaled by the number of groups.  Eq. (7)."""
    count = len(grouping)
    scaled = [[count * f_c for f_c in group_logits(z, members)] for members in grouping]
    return -Rational(1, count) * Add(*(log(softmax(f)[y]) for f in scaled))


def type_2(z: Ingredients, y: int, grouping: Grouping) -> Expr:
    """The sum of the groups' softmax losses.  Eq. (8)."""
    return -Add(*(log(softmax(group_logits(z, members))[y]) for members in grouping))


def equation_16(z: Ingredients, y: int) -> list[Equation]:
    """The softmax loss differentiated in every ingredient, feature by feature."""
    f = logits_of(z)
    loss, p = -log(softmax(f)[y]), softmax(f)
    return [
        Equation(SOURCE, "16", diff(loss, z_jc), p_c - int(c == y))
        for row in z
        for c, (z_jc, p_c) in enumerate(zip(row, p, strict=True))
    ]


def equation_17(z: Ingredients, y: int, grouping: Grouping, kind: int) -> list[Equation]:
    """The group losses differentiated in every ingredient, the grouping held fixed."""
    loss = {1: type_1, 2: type_2}[kind](z, y, grouping)
    scale = len(grouping) if kind == 1 else 1
    equations = []
    for members in grouping:
        p = softmax([scale * f_c for f_c in group_logits(z, members)])
        equations += [
            Equation(SOURCE, "17", diff(loss, z[j][c]), p[c] - int(c == y))
            for j in members
            for c in range(len(p))
        ]
    return equations


def as_dropout(
    w: Ingredients, x: list[Expr], b: list[Expr], y: int, grouping: Grouping
) -> Equation:
    """Type 1 against the mean softmax loss over complementary dropout masks.

    Each mask keeps one group and scales it by the number of groups; the offset is not dropped.
    """
    count = len(grouping)
    losses = []
    for members in grouping:
        kept = [count * x_j if j in members else 0 for j, x_j in enumerate(x)]
        f = [
            Add(*(w_j * x_j for w_j, x_j in zip(w_c, kept, strict=True))) + b_c
            for w_c, b_c in zip(w, b, strict=True)
        ]
        losses.append(-log(softmax(f)[y]))
    ours = type_1(ingredients_of(w, x, b), y, grouping)
    return Equation(SOURCE, "7, dropout", ours, Rational(1, count) * Add(*losses))


# --- Discriminativity ----------------------------------------------------------------------


def score(row: list[Expr], y: int) -> Expr:
    """How far one feature lifts the target above its rivals' mean.  Eq. (9), left."""
    return row[y] - mean(rivals(row, y))


def equation_9(row: list[Expr], y: int) -> Equation:
    """The score in its two printed forms."""
    c = Integer(len(row))
    return Equation(SOURCE, "9", score(row, y), c / (c - 1) * (row[y] - mean(row)))


def step_2(row: list[Expr], y: int) -> Equation:
    """What Algorithm 1 computes in its second step, and how much of Eq. (9) it is."""
    c = Integer(len(row))
    printed = Add(*(z_c * (int(k == y) - 1 / c) for k, z_c in enumerate(row)))
    return Equation(SOURCE, "Algorithm 1, step 2", printed, (c - 1) / c * score(row, y))


def scores_add_up(z: Ingredients, y: int) -> Equation:
    """The features' scores add up to the mean margin."""
    whole = Add(*(score(row, y) for row in z))
    return Equation(SOURCE, "9, sum", whole, score(logits_of(z), y))


# --- What sorting maximises ----------------------------------------------------------------


def surrogate(margins: Sequence[Expr], c: int) -> Expr:
    """Type 2 of groups with these mean margins, if the rivals of each group agreed."""
    return Add(*(softplus(log(Integer(c - 1)) - margin) for margin in margins))


def type_2_from_margins(z: Ingredients, y: int, grouping: Grouping) -> Equation:
    """Type 2 by its groups' mean margins and divergences D(u || q)."""
    terms = []
    for members in grouping:
        f = group_logits(z, members)
        f_r = rivals(f, y)
        divergence = kl(uniform(len(f_r)), softmax(f_r))
        terms.append(softplus(log(Integer(len(f_r))) - score(f, y) + divergence))
    return Equation(SOURCE, "8, mean margins", type_2(z, y, grouping), Add(*terms))


# --- Bounds --------------------------------------------------------------------------------


def odds_multiply(z: Ingredients, y: int, grouping: Grouping) -> Equation:
    """e^loss of type 2, minus that of softmax: only products of positive terms are left.

    For two groups; ``v`` and ``w`` are the rivals' e^(f_c - f_y) in the one and in the other.
    """
    v, w = (
        [exp(f_c - f[y]) for f_c in rivals(f, y)]
        for f in (group_logits(z, members) for members in grouping)
    )
    gap = exp(type_2(z, y, grouping)) - exp(lse(logits_of(z)) - logits_of(z)[y])
    mixed = Add(*(v_c * w_k for c, v_c in enumerate(v) for k, w_k in enumerate(w) if c != k))
    return Equation(SOURCE, "14, gap", gap, Add(*v) + Add(*w) + mixed)


def widest_gap(groups: int, c: int) -> Equation:
    """Type 2 minus type 1 where every group's logits are uniform: the largest there is."""
    flat: Ingredients = [[Integer(0)] * c for _ in range(groups)]
    grouping = [[j] for j in range(groups)]
    gap = type_2(flat, 0, grouping) - type_1(flat, 0, grouping)
    return Equation(SOURCE, "14, right", gap, (groups - 1) * log(Integer(c)))
