"""The vocabulary that every derivation shares: logits, target, rivals, softmax.

A derivation is for a fixed number of classes.  The list ``f`` holds one real symbol per
class and ``y`` is the place of the target in it; the rivals are the rest.
"""

from sympy import Add, Expr, Integer, Max, Symbol, exp, log, symbols


def logits(c: int) -> list[Symbol]:
    """Return one real symbol per class, f_0 to f_{c-1}.

    >>> logits(3)
    [f_0, f_1, f_2]
    """
    return list(symbols(f"f_:{c}", real=True))


def rivals(f: list[Expr], y: int) -> list[Expr]:
    """All logits but the target's.

    >>> rivals(logits(3), y=1)
    [f_0, f_2]
    """
    return f[:y] + f[y + 1 :]


def softmax(f: list[Expr]) -> list[Expr]:
    """The probabilities exp f_c / sum_d exp f_d, one per class."""
    total = Add(*(exp(f_d) for f_d in f))
    return [exp(f_c) / total for f_c in f]


def lse(f: list[Expr]) -> Expr:
    """The log-sum-exp: log sum_c exp f_c."""
    return log(Add(*(exp(f_c) for f_c in f)))


def softplus(x: Expr) -> Expr:
    """log(1 + e^x)."""
    return log(1 + exp(x))


def hinge(x: Expr) -> Expr:
    """max(0, x)."""
    return Max(0, x)


def mean(f: list[Expr]) -> Expr:
    """The plain mean, E_u[f] for the uniform u."""
    return Add(*f) / Integer(len(f))


def expectation(q: list[Expr], f: list[Expr]) -> Expr:
    """E_q[f] = sum_c q_c f_c."""
    return Add(*(q_c * f_c for q_c, f_c in zip(q, f, strict=True)))


def entropy(q: list[Expr]) -> Expr:
    """Shannon's entropy in nats, -sum_c q_c log q_c."""
    return -Add(*(q_c * log(q_c) for q_c in q))


def kl(p: list[Expr], q: list[Expr]) -> Expr:
    """D(p || q) = sum_c p_c log(p_c / q_c), in nats."""
    return Add(*(p_c * log(p_c / q_c) for p_c, q_c in zip(p, q, strict=True)))


def uniform(r: int) -> list[Expr]:
    """1/r, r times."""
    return [Integer(1) / r] * r
