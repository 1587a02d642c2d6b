"""Chapter 1 in symbols: the softmax loss, and the margin that is already in it.

The functions take the list ``f`` of all logits, the target's place ``y`` in it and, where
the strongest rival has a part, its place ``strongest``.  Every equation holds whichever
rival is named; only the signs that the chapter reads off it need the strongest.

Derived   chapters/01_softmax.ipynb
Source    T. Kobayashi, "Large Margin In Softmax Cross-Entropy Loss", BMVC 2019 ("002"), and
          X. Wang et al., "Ensemble Soft-Margin Softmax Loss", IJCAI 2018 ("001").
"""

from sympy import Add, Expr, Integer, Symbol, diff, exp, log

from .logits import entropy, expectation, kl, lse, mean, rivals, softmax, softplus, uniform
from .proof import Equation


def loss(f: list[Expr], y: int) -> Expr:
    """The softmax loss as everyone writes it, -log p_y.

    >>> from marginlib.symbolic.logits import logits
    >>> loss(logits(2), y=0)
    -log(exp(f_0)/(exp(f_0) + exp(f_1)))
    """
    return -log(softmax(f)[y])


def bias(f: list[Expr], y: int, strongest: int) -> Expr:
    """What the rivals add to their strongest: log sum_{c != y} exp(f_c - f*).

    >>> from marginlib.symbolic.logits import logits
    >>> bias(logits(3), y=0, strongest=2)
    log(exp(f_1 - f_2) + 1)
    """
    return log(Add(*(exp(f_c - f[strongest]) for f_c in rivals(f, y))))


def equation_2(f: list[Expr], y: int) -> Equation:
    """The loss depends on differences from the target's logit and on nothing else."""
    return Equation("002", "2", loss(f, y), log(Add(*(exp(f_c - f[y]) for f_c in f))))


def equation_3(f: list[Expr], y: int) -> list[Equation]:
    """The target's own term is the one in softplus; the rest are the rivals."""
    over_target = Add(*(exp(f_c - f[y]) for f_c in rivals(f, y)))
    return [
        Equation("002", "3", loss(f, y), log(1 + over_target)),
        Equation("002", "3", log(1 + over_target), softplus(lse(rivals(f, y)) - f[y])),
    ]


def equation_4(f: list[Expr], y: int, strongest: int) -> list[Equation]:
    """How far log-sum-exp is from both of its bounds, in sums of terms with one sign.

    ``f* < LSE <= f* + log(c - 1)`` says the same of ``e^(LSE - f*)``, 1 and ``c - 1``.  The
    first gap is a sum of exponentials, one for each rival but the strongest; the second is
    a sum of terms ``1 - e^(f_c - f*)``, none negative.
    """
    top = f[strongest]
    ratio = exp(lse(rivals(f, y)) - top)
    rest = [f_c for c, f_c in enumerate(f) if c not in (y, strongest)]
    below = Add(*(exp(f_c - top) for f_c in rest))
    above = Add(*(1 - exp(f_c - top) for f_c in rivals(f, y)))
    return [
        Equation("002", "4", ratio - 1, below),
        Equation("002", "4", Integer(len(f) - 1) - ratio, above),
    ]


def equation_5(f: list[Expr], y: int, strongest: int) -> list[Equation]:
    """Log-sum-exp is the strongest rival and a remainder, written in two ways."""
    top = f[strongest]
    rest = [f_c for c, f_c in enumerate(f) if c not in (y, strongest)]
    one_and_rest = log(1 + Add(*(exp(f_c - top) for f_c in rest)))
    return [
        Equation("002", "5", lse(rivals(f, y)), top + bias(f, y, strongest)),
        Equation("002", "5", bias(f, y, strongest), one_and_rest),
    ]


def equation_6(f: list[Expr], y: int, strongest: int) -> Equation:
    """The softmax loss as a margin loss: softplus(f* - f_y + bias)."""
    return Equation("002", "6", loss(f, y), softplus(f[strongest] - f[y] + bias(f, y, strongest)))


def equation_7(f: list[Expr], y: int, strongest: int) -> Equation:
    """The bias: by how much log-sum-exp exceeds the strongest rival."""
    return Equation("002", "7", lse(rivals(f, y)) - f[strongest], bias(f, y, strongest))


def posterior(z: list[Expr], k: int) -> Equation:
    """Source 001, section 2.1: class k against the rest is the same softmax."""
    rest = Add(*(exp(z_j) for z_j in rivals(z, k)))
    return Equation("001", "section 2.1", exp(z[k]) / (exp(z[k]) + rest), softmax(z)[k])


def min_entropy(q: list[Expr], likeliest: int) -> Expr:
    """H_oo(q) = -log max q."""
    return -log(q[likeliest])


def collision_entropy(q: list[Expr]) -> Expr:
    """H_2(q) = -log sum q_c^2: how often two draws from q meet."""
    return -log(Add(*(q_c**2 for q_c in q)))


def three_forms(f: list[Expr], y: int, strongest: int) -> list[Expr]:
    """The softmax loss with the rivals at their maximum, weighted mean and plain mean."""
    others = rivals(f, y)
    q = softmax(others)
    likeliest = others.index(f[strongest])
    r = len(others)
    return [
        softplus(f[strongest] - f[y] + min_entropy(q, likeliest)),
        softplus(expectation(q, others) - f[y] + entropy(q)),
        softplus(mean(others) - f[y] + log(Integer(r)) + kl(uniform(r), q)),
    ]


def gradient(f: list[Expr], y: int) -> list[Expr]:
    """The derivative of the loss in each logit: p - e_y."""
    return [p_c - 1 if c == y else p_c for c, p_c in enumerate(softmax(f))]


def gradient_by_rivals(f: list[Expr], y: int) -> list[Expr]:
    """The same: how wrong, 1 - p_y, times whose fault, q; the rivals in order, without y."""
    wrong = 1 - softmax(f)[y]
    return [wrong * q_c for q_c in softmax(rivals(f, y))]


def squared_gradient(f: list[Expr], y: int) -> Expr:
    """The gradient's squared length, (1 - p_y)^2 (1 + e^-H_2(q))."""
    q = softmax(rivals(f, y))
    return (1 - softmax(f)[y]) ** 2 * (1 + exp(-collision_entropy(q)))


def rate(quantity: Expr, f: list[Symbol], velocity: list[Expr]) -> Expr:
    """The rate of change of ``quantity`` while the logits move at ``velocity``."""
    return Add(*(diff(quantity, f_c) * v for f_c, v in zip(f, velocity, strict=True)))


def descent(f: list[Expr], y: int) -> list[Expr]:
    """The velocity of logits that are free to descend the softmax loss: e_y - p."""
    return [-g for g in gradient(f, y)]


def bias_rate(f: list[Expr], y: int, strongest: int) -> Expr:
    """The bias's rate of change in descent: (1 - p_y) (max q - sum q_c^2), never negative."""
    others = rivals(f, y)
    q = softmax(others)
    likeliest = others.index(f[strongest])
    return (1 - softmax(f)[y]) * (q[likeliest] - Add(*(q_c**2 for q_c in q)))


def margin_rate(f: list[Expr], y: int, strongest: int) -> Expr:
    """The margin's, f_y - f*, in descent: (1 - p_y) (1 + max q), always positive."""
    others = rivals(f, y)
    likeliest = others.index(f[strongest])
    return (1 - softmax(f)[y]) * (1 + softmax(others)[likeliest])


def bias_rate_in_growth(f: list[Expr], y: int, strongest: int) -> Expr:
    """The same while all logits grow in proportion, f' = f: E_q[f] - f*, never positive."""
    others = rivals(f, y)
    return expectation(softmax(others), others) - f[strongest]
