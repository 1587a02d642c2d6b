"""The soft margin, symbol by symbol (chapter 3): the source's lines and the theorems about them.

An inequality of the source enters as the slack between its sides, in a form whose sign can
be read off.  ``m`` is the margin.  Source 001, section 3.1; number 15 is from source 002.
"""

from sympy import Add, Expr, Integer, cos, exp, log, sin, sqrt

from .logits import expectation, lse, rivals, softmax, softplus
from .proof import Equation


def equation_2(theta: Expr, m: Expr) -> Equation:
    """Slack of cos(theta) >= cos(m theta).  Eq. (2), left, without the lengths."""
    slack = 2 * sin((m + 1) * theta / 2) * sin((m - 1) * theta / 2)
    return Equation("001", "2", cos(theta) - cos(m * theta), slack)


def equation_3(w: list[Expr], v: list[Expr], x: list[Expr], m: Expr) -> Equation:
    """Slack of w.x - m > v.x: |w - v| times what the distance to the boundary has over the band.

    The band is m / |w - v| wide.  Eq. (3), right.
    """
    between = [w_i - v_i for w_i, v_i in zip(w, v, strict=True)]
    length = sqrt(expectation(between, between))
    distance, band = expectation(between, x) / length, m / length
    return Equation(
        "001", "3", expectation(w, x) - m - expectation(v, x), length * (distance - band)
    )


def lowered(f: list[Expr], y: int, m: Expr) -> list[Expr]:
    """The logits with m taken off the target's."""
    return [f_c - m if c == y else f_c for c, f_c in enumerate(f)]


def equation_4(f: list[Expr], y: int, m: Expr) -> Equation:
    """The loss as printed, and as marginlib computes it.  Eq. (4)."""
    printed = -log(softmax(lowered(f, y, m))[y])
    return Equation("001", "4", printed, softplus(lse(rivals(f, y)) - f[y] + m))


def equation_15(f: list[Expr], y: int) -> Equation:
    """Kobayashi's modified loss, both printed forms.  002, Eq. (15), with f for its x."""
    right = -log(softmax(lowered(f, y, Integer(1)))[y])
    return Equation("002", "15", softplus(lse(rivals(f, y)) - f[y] + 1), right)


def odds(loss: Expr) -> Expr:
    """The odds against the target, (1 - p_y) / p_y, told by the loss: e^loss - 1."""
    return exp(loss) - 1


def raised(loss: Expr, m: Expr) -> Expr:
    """phi_m, what a margin makes of the softmax loss: log(1 + e^m (e^loss - 1))."""
    return log(1 + exp(m) * odds(loss))


def weight(p_y: Expr, m: Expr) -> Expr:
    """The factor on the softmax loss's gradient, phi_m' = 1 / (1 - (1 - e^-m) p_y)."""
    return 1 / (1 - (1 - exp(-m)) * p_y)


def recalibrated(s: list[Expr], m: list[Expr]) -> list[Expr]:
    """Class probabilities whose best answer is s, with margin m_c on class c: ~ s_c (1 - a_c s_c).

    Here a_c = 1 - e^-m_c, so that 1 - a_c s_c is one over :func:`weight`.
    """
    share = [s_c / weight(s_c, m_c) for s_c, m_c in zip(s, m, strict=True)]
    return [share_c / Add(*share) for share_c in share]


def log_odds(gap: Expr, m: Expr) -> Expr:
    """Two classes: the true log-odds behind a gap of f_1 - f_2 at the population's optimum."""
    return softplus(gap - m) - softplus(-gap - m)


def psi(theta: Expr, m: Expr, k: Expr) -> Expr:
    """L-Softmax's cosine on k pi <= m theta <= (k + 1) pi: (-1)^k cos(m theta) - 2k."""
    return (-1) ** k * cos(m * theta) - 2 * k
