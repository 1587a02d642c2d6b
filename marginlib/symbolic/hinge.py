"""The hinge, its neighbours, and the one maximum that they all are (chapter 2).

Every loss here lets an opponent bet on the classes with probabilities ``p`` of its choice:

    loss = max over p of  sum_c p_c f_c + Omega(p) - f_y

and only ``Omega``, what the opponent is paid for its bet, differs.  The hinge pays
``rho (1 - p_y)``.  Softplus adds the entropy of the coin *target or rival*, LSE adds the
entropy among the rivals, and the two together are the entropy of p: the softmax loss.

Derived   chapters/02_hinge.ipynb
Source    T. Kobayashi, "Large Margin In Softmax Cross-Entropy Loss", BMVC 2019 (numbers);
          K. Crammer and Y. Singer, JMLR 2001; A. Martins and R. Astudillo, ICML 2016.
"""

from itertools import combinations, permutations

from sympy import Add, Expr, Integer, Max, Symbol

from .logits import entropy, expectation, hinge, lse, rivals, softplus
from .proof import Equation

# --- Maxima, and how SymPy is told which argument wins ---------------------------------------


def largest(f: list[Expr]) -> Expr:
    """The strongest of some logits, max f_c."""
    return Max(*f)


def orders(f: list[Symbol], y: int, rho: Expr) -> list[dict[Symbol, Expr]]:
    """Every order in which the target and the rivals, raised by rho, can stand.

    A formula with ``max`` is as many formulas without it as there are orders.  Each order is
    a substitution in which the gaps between neighbours are symbols that are not negative.

    >>> from marginlib.symbolic.logits import logits
    >>> f = logits(2)
    >>> [largest([f[0], f[1] + 1]).subs(order) for order in orders(f, y=0, rho=1)]
    [top, top]
    """
    top = Symbol("top", real=True)
    found = []
    for order in permutations(range(len(f))):
        place, level = {}, top
        for rank, c in enumerate(order):
            if rank:
                level = level - Symbol(f"gap_{rank}", nonnegative=True)
            place[f[c]] = level if c == y else level - rho
        found.append(place)
    return found


# --- The source's equations ------------------------------------------------------------------


def equation_1(f: list[Expr], y: int, rho: Expr) -> Equation:
    """The margin-based loss with the hinge for L; on the right, the best of the corners.

    A corner is: leave the target alone (0), or put all the weight on one rival.
    """
    excess = [f_c - f[y] + rho for f_c in rivals(f, y)]
    return Equation("002", "1", hinge(largest(rivals(f, y)) - f[y] + rho), Max(0, *excess))


def equation_14(f: list[Expr], y: int) -> Equation:
    """The dense hinge; on the right, the best corner of a box.

    A corner of the box gives each of the r rivals the weight 0 or 1/r, whatever the others get.
    """
    excess = [f_c - f[y] + 1 for f_c in rivals(f, y)]
    share = Integer(1) / len(excess)
    chosen = (some for size in range(len(excess) + 1) for some in combinations(excess, size))
    printed = share * Add(*(hinge(x) for x in excess))
    return Equation("002", "14", printed, share * Max(*(Add(*some) for some in chosen)))


def crammer_singer(f: list[Expr], y: int, rho: Expr) -> Expr:
    """Eq. (1) as Crammer and Singer print it: raise every rival by rho, take the maximum."""
    return Max(f[y], *(f_c + rho for f_c in rivals(f, y))) - f[y]


# --- The frame: two choices, four losses -----------------------------------------------------


def table(f: list[Expr], y: int, rho: Expr) -> dict[tuple[str, str], Expr]:
    """L(A(rivals) - f_y + rho) for two choices of L, the row, and two of A, the column."""
    return {
        (row, column): outer(inner(rivals(f, y)) - f[y] + rho)
        for row, outer in (("hinge", hinge), ("softplus", softplus))
        for column, inner in (("max", largest), ("LSE", lse))
    }


def among_rivals(p: list[Expr], y: int) -> list[Expr]:
    """What is left of p once the target is set aside: p_c / sum of the rivals' p."""
    against = Add(*rivals(p, y))
    return [p_c / against for p_c in rivals(p, y)]


def omega(p: list[Expr], y: int, rho: Expr, row: str, column: str) -> Expr:
    """Omega(p) of one cell of :func:`table`: the hinge's pay, and an entropy for each change."""
    against = Add(*rivals(p, y))
    pay = rho * against
    if row == "softplus":
        pay += entropy([p[y], against])
    if column == "LSE":
        pay += against * entropy(among_rivals(p, y))
    return pay


# --- Sparsemax -------------------------------------------------------------------------------


def omega_sparsemax(p: list[Expr]) -> Expr:
    """(1 - |p|^2) / 2, what the sparsemax loss pays."""
    return (1 - Add(*(p_c**2 for p_c in p))) / 2


def distance(p: list[Expr], y: int) -> Expr:
    """Half the squared distance of p from the target's corner, |p - e_y|^2 / 2."""
    return ((1 - p[y]) ** 2 + Add(*(p_c**2 for p_c in rivals(p, y)))) / 2


def threshold(f: list[Expr], support: tuple[int, ...]) -> Expr:
    """tau, with which the f_c - tau of the support add up to one."""
    return (Add(*(f[c] for c in support)) - 1) / len(support)


def sparsemax(f: list[Expr], support: tuple[int, ...]) -> list[Expr]:
    """The projection of the logits onto the simplex, if these classes share the probability.

    >>> from marginlib.symbolic.logits import logits
    >>> sparsemax(logits(3), support=(0, 2))
    [f_0/2 - f_2/2 + 1/2, 0, -f_0/2 + f_2/2 + 1/2]
    """
    tau = threshold(f, support)
    return [f_c - tau if c in support else Integer(0) for c, f_c in enumerate(f)]


def sparsemax_maximum(f: list[Expr], y: int, support: tuple[int, ...]) -> Expr:
    """The sparsemax loss as a maximum, worked out at the projection."""
    p = sparsemax(f, support)
    return expectation(p, f) + omega_sparsemax(p) - f[y]


def sparsemax_printed(f: list[Expr], y: int, support: tuple[int, ...]) -> Expr:
    """The sparsemax loss as Martins and Astudillo print it, with the threshold tau."""
    tau = threshold(f, support)
    return (Add(*(f[c] ** 2 - tau**2 for c in support)) + 1) / 2 - f[y]
