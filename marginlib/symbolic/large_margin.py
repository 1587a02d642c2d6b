"""Large margin in softmax, symbol by symbol (chapter 4).  SymPy only: no tensor enters here.

``equation_8`` to ``equation_13`` are the source's, each as printed on its right side and as
first principles have it on its left.  The functions after them state what the chapter proves
beyond the source.  Throughout, ``f`` is the list of all logits and ``y`` the target's place.

Source    T. Kobayashi, "Large Margin In Softmax Cross-Entropy Loss", BMVC 2019.
"""

from sympy import (
    Add,
    Expr,
    Integer,
    Matrix,
    Rational,
    Symbol,
    cosh,
    diff,
    exp,
    log,
    sqrt,
    tanh,
)

from .logits import expectation, kl, lse, mean, rivals, softmax, softplus, uniform
from .proof import Equation

SOURCE = "002"
HALF = Rational(1, 2)


# --- The source's equations ----------------------------------------------------------------


def kl_to_uniform(f: list[Expr]) -> Expr:
    """D(q || u) of rivals' logits, from the definition of the divergence."""
    return kl(softmax(f), uniform(len(f)))


def kl_from_uniform(f: list[Expr]) -> Expr:
    """D(u || q) of rivals' logits, from the definition of the divergence."""
    return kl(uniform(len(f)), softmax(f))


def disagreement(f: list[Expr]) -> Expr:
    """The mean of the two."""
    return (kl_to_uniform(f) + kl_from_uniform(f)) / 2


def large_margin_loss(f: list[Expr], y: int, strength: Expr) -> Expr:
    """The softmax loss plus ``strength`` times the rivals' disagreement."""
    return -log(softmax(f)[y]) + strength * disagreement(rivals(f, y))


def equation_8(f: list[Expr], y: int) -> Equation:
    """The disagreement, with both divergences under one sum."""
    q, u = softmax(rivals(f, y)), Rational(1, len(f) - 1)
    printed = HALF * Add(*((q_c - u) * log(q_c) for q_c in q))
    return Equation(SOURCE, "8", disagreement(rivals(f, y)), printed)


def equation_9(f: list[Expr], y: int) -> list[Equation]:
    """The rivals' own softmax q: what p says once the target is ruled out."""
    p = softmax(f)
    given_a_rival = [p_c / (1 - p[y]) for p_c in rivals(p, y)]
    printed = softmax(rivals(f, y))
    sides = zip(given_a_rival, printed, strict=True)
    return [Equation(SOURCE, "9", left, right) for left, right in sides]


def equation_10(f: list[Expr], y: int) -> list[Equation]:
    """The two divergences, D(q || u) and D(u || q)."""
    f, r = rivals(f, y), Integer(len(f) - 1)
    q = softmax(f)
    to_uniform = Add(*(q_c * log(r * q_c) for q_c in q))
    from_uniform = Add(*(log(1 / (r * q_c)) / r for q_c in q))
    return [
        Equation(SOURCE, "10, left", kl_to_uniform(f), to_uniform),
        Equation(SOURCE, "10, right", kl_from_uniform(f), from_uniform),
    ]


def equation_11(f: list[Expr], y: int, strength: Expr) -> Equation:
    """The large-margin loss."""
    q, u = softmax(rivals(f, y)), Rational(1, len(f) - 1)
    cross_entropy = -log(exp(f[y]) / Add(*map(exp, f)))
    printed = cross_entropy + strength / 2 * Add(*((q_c - u) * log(q_c) for q_c in q))
    return Equation(SOURCE, "11", large_margin_loss(f, y, strength), printed)


def equation_12(f: list[Expr], y: int, strength: Expr) -> list[Equation]:
    """The derivative in each logit; the x_c and x_d printed there are the logits f_c and f_d."""
    loss, p, u = large_margin_loss(f, y, strength), softmax(f), Rational(1, len(f) - 1)
    weighted_mean = expectation(softmax(rivals(f, y)), rivals(f, y))
    printed = []
    for c in range(len(f)):
        if c == y:
            printed.append(p[y] - 1)
        else:
            q_c = exp(f[c]) / Add(*map(exp, rivals(f, y)))
            printed.append(p[c] + strength / 2 * (q_c * (f[c] - weighted_mean) + (q_c - u)))
    sides = zip(f, printed, strict=True)
    return [Equation(SOURCE, "12", diff(loss, f_c), right) for f_c, right in sides]


def label_smoothing_loss(f: list[Expr], y: int, smoothing: Expr) -> Expr:
    """The cross-entropy against the label (1 - s) e_y + s u."""
    label = [smoothing / len(f) + (1 - smoothing if c == y else 0) for c in range(len(f))]
    return -expectation(label, [log(p_c) for p_c in softmax(f)])


def equation_13(f: list[Expr], y: int, smoothing: Expr) -> list[Equation]:
    """Label smoothing, in its two printed forms.  Here u is uniform over all classes."""
    loss, p, c = label_smoothing_loss(f, y, smoothing), softmax(f), Integer(len(f))
    kept = -(1 - smoothing) * log(p[y])
    spread = -smoothing / c * Add(*(log(p_c) for p_c in p))
    return [
        Equation(SOURCE, "13, left", loss, kept + spread),
        Equation(SOURCE, "13, right", loss, kept + smoothing * (kl(uniform(c), p) + log(c))),
    ]


# --- No logarithm is needed ----------------------------------------------------------------


def disagreement_without_log(f: list[Expr]) -> Expr:
    """1/2 (E_q[f] - E_u[f]): what the library computes."""
    return HALF * (expectation(softmax(f), f) - mean(f))


def no_logarithm(f: list[Expr], y: int) -> Equation:
    """The normaliser inside log q cancels from (8)."""
    f = rivals(f, y)
    return Equation(SOURCE, "8, no logarithm", disagreement(f), disagreement_without_log(f))


# --- Three classes: two rivals at +s and -s ------------------------------------------------


def two_rivals(s: Symbol) -> list[Equation]:
    """D(q || u), D(u || q) and their mean, for rivals whose gap is 2s."""
    pair = [s, -s]
    return [
        Equation(SOURCE, "10, left, C = 3", kl_to_uniform(pair), s * tanh(s) - log(cosh(s))),
        Equation(SOURCE, "10, right, C = 3", kl_from_uniform(pair), log(cosh(s))),
        Equation(SOURCE, "8, C = 3", disagreement(pair), s * tanh(s) / 2),
    ]


def curvature(s: Symbol) -> list[Equation]:
    """The second derivatives of the three in s: all share the factor 1 / cosh^2 s."""
    signs = (1 - 2 * s * tanh(s), Integer(1), 1 - s * tanh(s))
    return [
        Equation(SOURCE, f"{eq.number}, curvature", diff(eq.right, s, 2), sign / cosh(s) ** 2)
        for eq, sign in zip(two_rivals(s), signs, strict=True)
    ]


# --- What descent does to the bias ---------------------------------------------------------


def bias(f: list[Expr]) -> Expr:
    """The implicit bias of rivals of which the first is the strongest.  Eq. (7)."""
    return log(Add(*(exp(f_c - f[0]) for f_c in f)))


def bias_rates(f: list[Symbol], y: int) -> list[Equation]:
    """How fast the bias changes while the rivals descend: D(q||u), D(u||q), softmax loss."""
    f_r = rivals(f, y)
    q, p_y = softmax(f_r), softmax(f)[y]
    steps = [q_c * (log(q_c) - expectation(q, [log(q_d) for q_d in q])) for q_c in q]
    crowd = q[0] - expectation(q, q)

    def rate(loss: Expr) -> Expr:
        return -Add(*(diff(bias(f_r), f_c) * diff(loss, f_c) for f_c in f_r))

    lead = steps[0] - expectation(q, steps)
    return [
        Equation(SOURCE, "7, on D(q||u)", rate(kl_to_uniform(f_r)), lead),
        Equation(SOURCE, "7, on D(u||q)", rate(kl_from_uniform(f_r)), crowd),
        Equation(SOURCE, "7, on (2)", rate(-log(p_y)), (1 - p_y) * crowd),
    ]


# --- The mean margin, and label smoothing --------------------------------------------------


def mean_margin(f: list[Expr], y: int) -> Expr:
    """How far the target stands above the rivals' plain mean."""
    return f[y] - mean(rivals(f, y))


def loss_from_mean_margin(f: list[Expr], y: int) -> Equation:
    """The softmax loss is a softplus of the mean margin and D(u || q)."""
    f_r = rivals(f, y)
    inside = log(Integer(len(f_r))) - mean_margin(f, y) + kl_from_uniform(f_r)
    return Equation(SOURCE, "3, mean margin", lse(f) - f[y], softplus(inside))


def smoothing_as_price(f: list[Expr], y: int, smoothing: Expr) -> Equation:
    """Label smoothing is the softmax loss plus a price on the mean margin."""
    c = Integer(len(f))
    priced = lse(f) - f[y] + smoothing * (c - 1) / c * mean_margin(f, y)
    return Equation(SOURCE, "13, price", label_smoothing_loss(f, y, smoothing), priced)


def smoothing_in_parts(f: list[Expr], y: int, smoothing: Expr) -> Equation:
    """Label smoothing as a two-class question (target or not) plus D(u || q) of the rivals."""
    c, p_y = Integer(len(f)), softmax(f)[y]
    share = smoothing * (c - 1) / c
    two_classes = -(1 - share) * log(p_y) - share * log(1 - p_y)
    among_rivals = share * (kl_from_uniform(rivals(f, y)) + log(c - 1))
    loss = label_smoothing_loss(f, y, smoothing)
    return Equation(SOURCE, "13, parts", loss, two_classes + among_rivals)


def smoothing_gap(c: int, smoothing: Expr) -> Expr:
    """The gap between target and (equal) rivals at which label smoothing is least."""
    return log(1 + c * (1 - smoothing) / smoothing)


# --- Super-symmetry ------------------------------------------------------------------------


def supersymmetric_gram(c: int, v: Expr) -> Matrix:
    """w_c . w_c = v and w_c . w_k = -v / (c - 1): the corners of a regular simplex."""
    return Matrix(c, c, lambda i, j: v if i == j else -v / (c - 1))


def least_mean_loss(c: int, v: Expr, r: Expr) -> Expr:
    """The least mean softmax loss with mean |w|^2 = v and mean |x|^2 = r^2."""
    return softplus(log(Integer(c - 1)) - Rational(c, c - 1) * r * sqrt(v))


# --- Order: how strong a regulariser may be ------------------------------------------------


def pull(s: Symbol, r: int) -> Expr:
    """How hard the disagreement lifts a rival that stands 2s below the only other that counts.

    Minus the derivative of the disagreement in that rival's logit, while the remaining
    r - 2 rivals are infinitely low.
    """
    return (Rational(1, r) + (s / cosh(s) ** 2 + tanh(s) - 1) / 2) / 2


def safe_strength(c: int, x: Expr) -> Expr:
    """The strength below which order is kept; x is the positive root of x tanh x = 1."""
    return 4 / (Integer(2) / (c - 1) + x - 1)
