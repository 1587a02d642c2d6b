"""Ensembles, symbol by symbol (chapter 8).  SymPy only: no tensor enters here.

``equation_5`` to ``equation_9`` are the source's, each as printed on its right side (but for
what the docstring says) and as first principles have it on its left.  A classifier is a
matrix with one class vector per row, (c, d); the source has them in columns.  ``weights`` is
a list of classifiers, ``x`` a column of features and ``y`` the target's place.

Source    X. Wang et al., "Ensemble Soft-Margin Softmax Loss for Image Classification",
          IJCAI 2018, section 3.2.
"""

from itertools import combinations

from sympy import Add, Expr, Integer, Matrix, Rational, diff, exp, eye, log, ones, sqrt, symbols

from .logits import lse, mean, rivals
from .proof import Equation

SOURCE = "001"


def classifier(name: str, c: int, d: int) -> Matrix:
    """One real symbol per class and feature.

    >>> classifier("w", 2, 2)
    Matrix([
    [w_00, w_01],
    [w_10, w_11]])
    """
    return Matrix(c, d, lambda k, j: symbols(f"{name}_{k}{j}", real=True))


def squares(matrix: Matrix) -> Expr:
    """The squared Frobenius norm."""
    return Add(*(entry**2 for entry in matrix))


# --- The source's equations ----------------------------------------------------------------


def gram(w: Matrix) -> Matrix:
    """The inner-product kernel between classes; in the source's columns, W' W."""
    return w * w.T


def centring(c: int) -> Matrix:
    """H = I - 11'/c."""
    return eye(c) - ones(c) / c


def hsic(w: Matrix, u: Matrix) -> Expr:
    """tr(K H K' H), without the factor (c - 1)^-2."""
    h = centring(w.rows)
    return (gram(w) * h * gram(u) * h).trace()


def covariance(a: Matrix, b: Matrix) -> Expr:
    """The sample covariance of two columns over the classes, with c - 1."""
    middle_a, middle_b = mean(list(a)), mean(list(b))
    products = ((p - middle_a) * (q - middle_b) for p, q in zip(a, b, strict=True))
    return Add(*products) / (len(a) - 1)


def equation_5(w: Matrix, u: Matrix) -> Equation:
    """With the inner-product kernel HSIC adds the squared covariances of all columns."""
    squared = (covariance(w[:, i], u[:, j]) ** 2 for i in range(w.cols) for j in range(u.cols))
    return Equation(SOURCE, "5", Add(*squared), hsic(w, u) / Integer(w.rows - 1) ** 2)


def others(weights: list[Matrix], v: int) -> Matrix:
    """K^v: the sum of H W_u W_u' H over u != v, in the source's columns sum H W_u' W_u H."""
    h = centring(weights[v].rows)
    return sum((h * gram(u) * h for u in rivals(weights, v)), start=h * 0)


def equation_6(weights: list[Matrix], v: int) -> list[Equation]:
    """One classifier's dependence on the others, in the three printed forms."""
    h, w = centring(weights[v].rows), weights[v]
    squared = Add(*(squares(w.T * h * u) for u in rivals(weights, v)))
    first = Add(*(hsic(w, u) for u in rivals(weights, v)))
    second = Add(*((w.T * h * u * u.T * h * w).trace() for u in rivals(weights, v)))
    third = (w.T * others(weights, v) * w).trace()
    printed = {"left": first, "middle": second, "right": third}
    return [Equation(SOURCE, f"6, {place}", squared, form) for place, form in printed.items()]


def penalty(weights: list[Matrix]) -> Expr:
    """Sum over v of tr(W_v K^v W_v'): every pair is counted twice."""
    places = range(len(weights))
    return Add(*((weights[v].T * others(weights, v) * weights[v]).trace() for v in places))


def ensemble_loss(x: Matrix, weights: list[Matrix], y: int, margin: Expr, diversity: Expr) -> Expr:
    """Each classifier's softmax loss with its target lowered, and two for every pair."""
    total = Integer(0)
    for w in weights:
        f = list(w * x)
        f[y] -= margin
        total += lse(f) - f[y]
    pairs = (squares(w.T * centring(w.rows) * u) for w, u in combinations(weights, 2))
    return total + 2 * diversity * Add(*pairs)


def equation_7(x: Matrix, weights: list[Matrix], y: int, diversity: Expr) -> Equation:
    """E-Softmax.  The numerator's w_v^v, so printed, can only be w_y^v."""
    printed = Integer(0)
    for v, w in enumerate(weights):
        f = list(w * x)
        printed -= log(exp(f[y]) / Add(*map(exp, f)))
        printed += diversity * (w.T * others(weights, v) * w).trace()
    loss = ensemble_loss(x, weights, y, Integer(0), diversity)
    return Equation(SOURCE, "7", loss, printed)


def equation_8(x: Matrix, weights: list[Matrix], y: int, margin: Expr, diversity: Expr) -> Equation:
    """EM-Softmax."""
    printed = Integer(0)
    for v, w in enumerate(weights):
        f = list(w * x)
        lowered = exp(f[y] - margin)
        printed -= log(lowered / (lowered + Add(*map(exp, rivals(f, y)))))
        printed += diversity * (w.T * others(weights, v) * w).trace()
    return Equation(SOURCE, "8", ensemble_loss(x, weights, y, margin, diversity), printed)


def slope(loss: Expr, of: Matrix) -> Matrix:
    """The derivative of a scalar by each entry of a matrix."""
    return of.applyfunc(lambda entry: diff(loss, entry))


def printed_slope(weights: list[Matrix], v: int) -> Matrix:
    """W_v K^v, which the source prints as the derivative of the penalty (times lambda)."""
    return others(weights, v) * weights[v]


def equation_9(weights: list[Matrix], v: int) -> list[Equation]:
    """The penalty's derivative.  Printed without the 4, which is put right here."""
    left, right = slope(penalty(weights), weights[v]), 4 * printed_slope(weights, v)
    return [Equation(SOURCE, "9, left", a, b) for a, b in zip(left, right, strict=True)]


# --- Class vectors of unit length ----------------------------------------------------------


def projection(d: int) -> list[Equation]:
    """How the unit vector e = w / |w| moves with w: across w alone, by (I - e e') / |w|.

    By the chain rule the penalty on unit vectors has the derivative of equation (9) at these,
    times this matrix.
    """
    w = classifier("w", 1, d)
    length = sqrt(squares(w))
    e = w / length
    across = (eye(d) - e.T * e) / length
    places = [(i, j) for i in range(d) for j in range(d)]
    return [Equation(SOURCE, "9, unit", diff(e[j], w[i]), across[i, j]) for i, j in places]


# --- What the linear kernel does not see ---------------------------------------------------


def turned(w: Matrix, u: Matrix, turn: Matrix) -> Equation:
    """A rotation of one classifier's feature space leaves HSIC as it is."""
    return Equation(SOURCE, "5, turned", hsic(w, u * turn), hsic(w, u))


def scaled(w: Matrix, u: Matrix, a: Expr, b: Expr) -> Equation:
    """HSIC is quadratic in each classifier's size."""
    return Equation(SOURCE, "5, scaled", hsic(a * w, b * u), a**2 * b**2 * hsic(w, u))


def beside_a_simplex(u: Matrix, length: Expr) -> Equation:
    """Next to a super-symmetric classifier HSIC is the partner's spread, whatever its pattern.

    The classifier has the class vectors of ``supersymmetric_gram`` (chapter 4) with the
    squared length given.
    """
    c = u.rows
    simplex = sqrt(length * Rational(c, c - 1)) * centring(c)
    right = length * Rational(c, c - 1) * squares(centring(c) * u)
    return Equation(SOURCE, "5, simplex", hsic(simplex, u), right)


# --- The average, and the groups of chapter 7 ----------------------------------------------


def jensen_for_two(first: list[Expr], second: list[Expr]) -> Equation:
    """Two members' losses against twice their average's: a sum of squares is left.

    The left side is e^(l_1 + l_2) - e^(2 l), with both multiplied by e^(f_y + g_y).
    """
    middle = [(f + g) / 2 for f, g in zip(first, second, strict=True)]
    left = Add(*map(exp, first)) * Add(*map(exp, second)) - Add(*map(exp, middle)) ** 2
    squared = (
        (exp((first[i] + second[j]) / 2) - exp((first[j] + second[i]) / 2)) ** 2
        for i, j in combinations(range(len(first)), 2)
    )
    return Equation(SOURCE, "jensen", left, Add(*squared))


def masked(w: Matrix, group: list[int], groups: int) -> Matrix:
    """The classifier of one group of features: the others' columns zero, its own times G."""
    return Matrix(w.rows, w.cols, lambda k, j: groups * w[k, j] if j in group else 0)


def groups_are_members(x: Matrix, w: Matrix, y: int, groups: list[list[int]]) -> Equation:
    """Group softmax of type I is the mean loss of masked classifiers, without a penalty."""
    count = len(groups)
    total = Integer(0)
    for group in groups:
        own = [count * Add(*(w[k, j] * x[j] for j in group)) for k in range(w.rows)]
        total += lse(own) - own[y]
    members = [masked(w, group, count) for group in groups]
    loss = ensemble_loss(x, members, y, Integer(0), Integer(0))
    return Equation(SOURCE, "type I", total / count, loss / count)


def resemblance_of_groups(w: Matrix, groups: list[list[int]]) -> Equation:
    """HSIC of two groups' members is G^4 times an off-diagonal block of W' H W, squared."""
    count = len(groups)
    first, second = (masked(w, group, count) for group in groups[:2])
    spread = w.T * centring(w.rows) * w
    block = Add(*(spread[i, j] ** 2 for i in groups[0] for j in groups[1]))
    return Equation(SOURCE, "groups", hsic(first, second), count**4 * block)
