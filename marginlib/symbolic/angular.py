"""Angular margins, symbol by symbol (chapter 5).  SymPy only: no tensor enters here.

The slides number no equations; ours are named after what they say.  As everywhere, a left
side is first principles and a right side is what is printed, unless the name says otherwise.

Source    Slides on W. Liu et al., "Large-Margin Softmax Loss for Convolutional Neural
          Networks", ICML 2016.
"""

from sympy import Add, Expr, Integer, atan2, binomial, cos, diff, exp, log, sin, sqrt

from .logits import lse, rivals, softplus
from .proof import Equation

SOURCE = "003"


# --- The multiple of an angle, by its cosine ------------------------------------------------


def expansion(c: Expr, m: int) -> Expr:
    """The source's sum over n: (-1)^n C(m, 2n) c^(m - 2n) (1 - c^2)^n."""
    terms = range(m // 2 + 1)
    return Add(
        *((-1) ** n * binomial(m, 2 * n) * c ** (m - 2 * n) * (1 - c**2) ** n for n in terms)
    )


def de_moivre(c: Expr, s: Expr, m: int) -> Expr:
    """The real part of (c + i s)^m: cos(m theta), for c = cos(theta) and s = sin(theta)."""
    real, imaginary = Integer(1), Integer(0)
    for _ in range(m):
        real, imaginary = (real * c - imaginary * s).expand(), (real * s + imaginary * c).expand()
    return real


def multiple_angle(theta: Expr, m: int) -> Equation:
    """The expansion of cos(m theta) with s^2 = 1 - c^2, as the source has it."""
    c = cos(theta)
    left = de_moivre(c, sqrt(1 - c**2), m)
    return Equation(SOURCE, f"cos {m} theta", left, expansion(c, m))


def printed_row(theta: Expr, m: int) -> Expr:
    """The row for m = 2 or m = 4 as the slides print it; both are wrong."""
    c = cos(theta)
    if m == 2:
        return c**2 - c**4 * (1 - c**2)
    return c**4 - 6 * c**2 * (1 - c**2) + c**2 * (1 - c**2) ** 2


# --- psi ------------------------------------------------------------------------------------


def psi(theta: Expr, m: Expr, k: Expr) -> Expr:
    """The source's psi on its k-th part, k pi <= m theta <= (k + 1) pi."""
    return (-1) ** k * cos(m * theta) - 2 * k


def slope(theta: Expr, m: Expr, k: Expr) -> Equation:
    """The slope of psi there: minus m times a sine that the sign makes positive."""
    return Equation(
        SOURCE, "psi, slope", diff(psi(theta, m, k), theta), -m * (-1) ** k * sin(m * theta)
    )


def steepest(m: Expr) -> Expr:
    """The largest slope of |x| psi(theta(x)) in x: m sqrt((5m - 3) / (m + 1))."""
    return m * sqrt((5 * m - 3) / (m + 1))


def squared_slope(u: Expr, m: Expr) -> Expr:
    """psi^2 + (d psi / d theta)^2 on the last part, k = m - 1, where (-1)^k cos(m theta) = u."""
    return (u - 2 * (m - 1)) ** 2 + m**2 * (1 - u**2)


# --- The loss -------------------------------------------------------------------------------


def loss(f: list[Expr], y: int, put: Expr) -> Equation:
    """The loss as printed, with ``put`` for the target's logit, and as a softplus of a margin.

    ``f`` are the plain logits |w_c| |x| cos(theta_c); the margin is f_y - put.
    """
    printed = -log(exp(put) / (exp(put) + Add(*map(exp, rivals(f, y)))))
    return Equation(SOURCE, "loss", softplus(lse(rivals(f, y)) - f[y] + (f[y] - put)), printed)


def mixture(length: Expr, theta: Expr, target: Expr, lam: Expr) -> Equation:
    """The target's logit in practice, and as the plain one less a margin over 1 + lambda."""
    printed = (lam * length * cos(theta) + length * target) / (1 + lam)
    margin = length * (cos(theta) - target) / (1 + lam)
    return Equation(SOURCE, "mixture", length * cos(theta) - margin, printed)


# --- Where two classes meet -----------------------------------------------------------------


def boundary(ratio: Expr, wedge: Expr) -> Expr:
    """The angle from w_1 at which two plain logits tie inside the wedge between w_1 and w_2.

    ``ratio`` is |w_1| / |w_2|: from ratio cos(theta) = cos(wedge - theta).
    """
    return atan2(ratio - cos(wedge), sin(wedge))


# --- The relatives --------------------------------------------------------------------------


def arcface_margin(theta: Expr, m: Expr) -> Equation:
    """What ArcFace's plain cosine takes off: a product whose sign can be read."""
    product = 2 * sin(m / 2) * sin(theta + m / 2)
    return Equation("ArcFace", "margin", cos(theta) - cos(theta + m), product)


def arcface_past(theta: Expr, m: Expr) -> Expr:
    """The library's choice for theta > pi - m."""
    return -2 - cos(theta + m)
