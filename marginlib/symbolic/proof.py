"""What it means, in this book, for SymPy to have proved an equation."""

import random
from dataclasses import dataclass

from sympy import Eq, Expr, Float, Symbol, cancel, exp, expand_log, factor, latex, log, simplify

DIGITS = 40
POINTS = 3


class Unproved(AssertionError):
    """SymPy could not bring the two sides together."""


def prove(left: Expr, right: Expr) -> str:
    """Return the end-of-proof mark if ``left`` equals ``right`` identically; raise otherwise.

    First both sides are worked out to 40 digits at three points, so that a false equation is
    refuted by a number.  Then the difference is rewritten until it is zero: with X for e^x,
    only rational functions of positive symbols and logarithms of such functions are left, and
    those have a normal form.  Splitting a logarithm of a product needs positive factors.  Every
    logarithm in this book is of a sum of exponentials, a probability or a count, so they are.

    Raises:
        Unproved: with the point at which the sides differ, or the gap that was left.

    >>> from sympy import exp, log, symbols
    >>> a, b = symbols("a b", real=True)
    >>> prove(log(exp(a) + exp(b)), a + log(1 + exp(b - a)))
    '∎'
    >>> prove(log(exp(a) + exp(b)), a + b)
    Traceback (most recent call last):
    marginlib.symbolic.proof.Unproved: at a = 2.07, b = 2.25 left is 2.85719 and right 4.32000
    """
    _refute(left, right)
    gap = _normal_form(left - right)
    if gap != 0:
        gap = simplify(gap)
    if gap != 0:
        raise Unproved(f"left - right = {gap}")
    return "∎"


def _refute(left: Expr, right: Expr) -> None:
    """Raise if the sides differ at one of a few fixed points."""
    names = sorted(left.free_symbols | right.free_symbols, key=str)
    draw = random.Random(0)
    for _ in range(POINTS):
        # Above zero, so that a symbol declared positive gets a value that it may have.
        point = {name: Float(draw.randint(10, 300), DIGITS) / 100 for name in names}
        a, b = (side.evalf(DIGITS, subs=point) for side in (left, right))
        if not abs(a - b) < Float(10) ** (10 - DIGITS) * (1 + abs(a)):
            where = ", ".join(f"{name} = {float(value):g}" for name, value in point.items())
            raise Unproved(f"at {where} left is {a.evalf(6)} and right {b.evalf(6)}")


def _normal_form(gap: Expr) -> Expr:
    """Write X for e^x throughout, split the logarithms, and bring all to one fraction."""
    gap = gap.rewrite(exp)  # cosh and tanh are exponentials too
    raised = {name for power in gap.atoms(exp) for name in power.free_symbols}
    gap = gap.subs({name: log(Symbol(f"E_{name}", positive=True)) for name in raised})
    gap = gap.replace(log, lambda x: expand_log(log(factor(x)), force=True))
    return cancel(gap)


@dataclass(frozen=True, repr=False)
class Equation:
    """``left = right``, with the number that it carries in its source.

    Attributes:
        source: the seed, ``"000"`` to ``"004"``, as the book's bibliography lists them.
        number: the equation's number there, without brackets.
        left: the left side.
        right: the right side.

    >>> from sympy import symbols
    >>> a, b = symbols("a b", real=True)
    >>> square = Equation("002", "0", (a + b) ** 2, a**2 + 2 * a * b + b**2)
    >>> square, square.prove()
    ((002.0) (a + b)**2 = a**2 + 2*a*b + b**2, '∎')
    """

    source: str
    number: str
    left: Expr
    right: Expr

    def prove(self) -> str:
        """:func:`prove` the two sides equal."""
        return prove(self.left, self.right)

    def __repr__(self) -> str:
        return f"({self.source}.{self.number}) {self.left} = {self.right}"

    def _repr_latex_(self) -> str:
        sides = latex(Eq(self.left, self.right, evaluate=False))
        return rf"$\displaystyle {sides} \qquad \text{{({self.source}.{self.number})}}$"
