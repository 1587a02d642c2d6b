"""Write the sheet of formulas: two pages, every formula from a chapter, proved a moment ago.

    python book/tools/sheet.py    write _build/sheet/index.html, and a PDF where Chromium is there

No formula is typed here.  Each is taken from its chapter by its label, and stands beside the object
of ``marginlib.symbolic`` that says the same for a few classes; the object is proved while the sheet
is made.  What is a definition, and has nothing to prove, is marked so.
"""

import html
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import nbformat
from sympy import Expr, Integer, symbols

from marginlib.symbolic import (
    angular,
    ensemble,
    gaussian_mixture,
    group,
    hinge,
    large_margin,
    logits,
    pairs,
    perturbed,
    soft_margin,
    softmax,
)
from marginlib.symbolic.proof import Equation, prove

sys.path.insert(0, str(Path(__file__).parent))

import outside

import chapters

FOLDER = chapters.ROOT / "_build" / "sheet"
TEMPLATE = Path(__file__).parent / "templates" / "sheet.html"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")

F, Y = logits.logits(4), 0
M, LAM, S, ALPHA, THETA = symbols("m lambda s alpha theta", positive=True)
RHO = symbols("rho", positive=True)
Z = group.ingredients(4, 3)
X, MU = list(symbols("x_:2", real=True)), list(symbols("mu_:2", real=True))
D, V = list(symbols("d_:3", real=True)), list(symbols("v_:3", positive=True))
PRIOR = list(symbols("pi_:3", positive=True))
A, P, N = (list(symbols(f"{name}_:2", real=True)) for name in "apn")
PAIR = [ensemble.classifier(name, 3, 1) for name in "wu"]


def in_every_order(make: Callable[[list[Expr]], Equation]) -> list[Equation]:
    """An equation with a maximum in it, once for each order of three logits and their bias."""
    f = logits.logits(3)
    equation = make(f)
    return [
        Equation(
            equation.source,
            equation.number,
            equation.left.subs(order).doit(),
            equation.right.subs(order).doit(),
        )
        for order in hinge.orders(f, Y, RHO)
    ]


def raised() -> list[Equation]:
    """The soft margin as a function of the softmax loss alone."""
    left = soft_margin.equation_4(F, Y, M).left
    return [Equation("book", "raised", left, soft_margin.raised(softmax.loss(F, Y), M))]


def gradients_of_both_types() -> list[Equation]:
    """The gradients of the group losses."""
    return [one for kind in (1, 2) for one in group.equation_17(Z, Y, [[0, 1], [2, 3]], kind)]


# Label, what it says, and the equations to prove; None for a definition.
Entry = tuple[str, str, Callable[[], Equation | Iterable[Equation]] | None]
SHEET: dict[str, list[Entry]] = {
    "01_softmax": [
        ("eq-002-3", "the softmax loss", lambda: softmax.equation_3(F, Y)),
        ("eq-002-6", "a biased margin", lambda: softmax.equation_6(F, Y, 1)),
        ("eq-002-7", "the bias", lambda: softmax.equation_7(F, Y, 1)),
        ("eq-002-4", "its limits", lambda: softmax.equation_4(F, Y, 1)),
        ("eq-000-16", "the gradient", lambda: group.equation_16(Z, Y)),
    ],
    "02_hinge": [
        ("eq-002-1", "hinge", lambda: in_every_order(lambda f: hinge.equation_1(f, Y, RHO))),
        ("eq-hinge-game", "every loss of the chapter", None),
        ("eq-hinge-sparsemax", "sparsemax", None),
    ],
    "03_soft_margin": [
        ("eq-001-4", "soft margin", lambda: soft_margin.equation_4(F, Y, M)),
        ("eq-raised", "from the loss alone", raised),
    ],
    "04_large_margin": [
        ("eq-002-9", "rivals among themselves", lambda: large_margin.equation_9(F, Y)),
        ("eq-002-8", "disagreement", lambda: large_margin.equation_8(F, Y)),
        ("eq-large-margin-no-log", "no logarithm", lambda: large_margin.no_logarithm(F, Y)),
        ("eq-002-11", "large margin", lambda: large_margin.equation_11(F, Y, LAM)),
        (
            "eq-large-margin-price",
            "label smoothing",
            lambda: large_margin.smoothing_as_price(F, Y, LAM),
        ),
        ("eq-large-margin-supersymmetry", "super-symmetry", None),
    ],
    "05_angular": [
        ("eq-003-psi", "psi", None),
        ("eq-003-expansion", "without the angle", lambda: angular.multiple_angle(THETA, 4)),
        ("eq-angular-margin", "a margin of its own", lambda: angular.loss(F, Y, S)),
        ("eq-003-mixture", "annealed", lambda: angular.mixture(RHO, THETA, S, LAM)),
        ("eq-angular-arc", "ArcFace", lambda: angular.arcface_margin(THETA, M)),
    ],
    "06_gaussian_mixture": [
        (
            "eq-gaussian-mixture-logits",
            "logits",
            lambda: gaussian_mixture.posterior(D, V, PRIOR, Y, 3),
        ),
        (
            "eq-gaussian-mixture-linear",
            "Gaussian is linear",
            lambda: gaussian_mixture.linear(X, MU),
        ),
        ("eq-004-margin", "margin", lambda: gaussian_mixture.margin_loss(D, V, PRIOR, Y, M)),
        ("eq-gaussian-mixture-margin", "for each example", None),
        ("eq-004-16", "likelihood", lambda: gaussian_mixture.equation_16([X, A], [MU, P])),
    ],
    "07_group": [
        ("eq-000-7", "type I", None),
        ("eq-000-8", "type II", None),
        ("eq-000-9", "discriminativity", lambda: group.equation_9(Z[0], Y)),
        (
            "eq-group-margins",
            "by margins",
            lambda: group.type_2_from_margins(Z, Y, [[0, 1], [2, 3]]),
        ),
        ("eq-000-17", "gradients", gradients_of_both_types),
    ],
    "08_ensemble": [
        ("eq-001-5", "HSIC", lambda: ensemble.equation_5(*PAIR)),
        ("eq-001-6", "against all others", lambda: ensemble.equation_6(PAIR, 0)),
    ],
    "09_perturbed": [
        ("eq-perturbed-odds", "odds", None),
        ("eq-perturbed-sig-odds", "SigSoftmax", lambda: perturbed.sigsoftmax_odds(F, Y)),
        ("eq-perturbed-shortfall", "the shortfall", None),
        ("eq-perturbed-virtual-odds", "Virtual Softmax", lambda: perturbed.virtual(F, Y, S)),
        ("eq-perturbed-noisy", "Noisy Softmax", None),
    ],
    "10_pairs": [
        ("eq-pairs-contrastive", "contrastive", None),
        ("eq-pairs-triplet", "triplet", None),
        (
            "eq-pairs-linear",
            "linear in the anchor",
            lambda: pairs.linear_in_anchor(A, P, N, Integer(0)),
        ),
        ("eq-pairs-smooth", "proxies", lambda: pairs.smooth_triplet(D, Y, M)),
    ],
}


def formulas() -> dict[str, str]:
    """The TeX of every labelled formula of the chapters."""
    found = {}
    for path in chapters.chosen([]):
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "markdown":
                found |= {
                    label: tex.strip().rstrip(",. ")
                    for tex, label in re.findall(
                        r"^\$\$\n((?:(?!\$\$).)*?)\n\$\$ *\((eq-[\w-]+)\)$",
                        cell.source,
                        re.M | re.S,
                    )
                }
    return found


def status(claim: Callable[[], Equation | Iterable[Equation]] | None) -> str:
    """Prove what there is to prove; the mark that the sheet prints."""
    if claim is None:
        return "definition"
    equations = claim()
    for equation in [equations] if isinstance(equations, Equation) else equations:
        prove(equation.left, equation.right)
    return "∎"


def row(label: str, words: str, tex: str, mark: str) -> str:
    """One formula."""
    number = outside.SOURCE.fullmatch(label.removeprefix("eq-"))
    shown = f"({number[1]}.{number[2]})" if number else ""
    return (
        f'<div class="row"><p>{html.escape(words)} <span>{shown}</span><b>{mark}</b></p>'
        f"\\[{html.escape(tex, quote=False)}\\]</div>"
    )


def page() -> str:
    """The whole sheet."""
    tex, about = formulas(), chapters.project()
    rows = []
    for stem, entries in SHEET.items():
        title = nbformat.read(chapters.CHAPTERS / f"{stem}.ipynb", as_version=4).cells[0].source
        heading = f"{int(stem[:2])} {title.splitlines()[0].removeprefix('# ')}"
        first, *more = (row(name, said, tex[name], status(claim)) for name, said, claim in entries)
        # A chapter may go over a column; its heading stays with its first formula.
        rows += [f"<section><h2>{html.escape(heading)}</h2>{first}</section>", *more]
    credit = f"{about['authors'][0]['name']}, version {about['version']}, CC BY 4.0."
    template = TEMPLATE.read_text(encoding="utf-8")
    return template.replace("@credit@", html.escape(credit)).replace("@rows@", "\n".join(rows))


def main() -> None:
    """Write the sheet; print it, where there is a browser."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    outside.copy_mathjax(FOLDER / "mathjax")
    (FOLDER / "index.html").write_text(page(), encoding="utf-8")
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser:
        target = FOLDER / "margins-formulas.pdf"
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-pdf-header-footer"]
        options += ["--virtual-time-budget=20000", f"--print-to-pdf={target}"]
        address = (FOLDER / "index.html").as_uri()
        subprocess.run([browser, *options, address], check=True, capture_output=True)
        pages = len(re.findall(rb"/Type\s*/Page\b", target.read_bytes()))
        print(f"{target.name}: {pages} pages")
        if pages != 2:
            raise SystemExit(f"The sheet takes {pages} pages; it should take two.")
    else:
        print("No Chromium here: print index.html from a browser.")


if __name__ == "__main__":
    main()
