"""Draw the explorables' still pictures, for readers without scripts.

    python book/tools/explore.py

A page of the book shows the moving picture in its place; Colab, Jupyter, print and a browser with
scripts switched off show this one.  Every number in it is marginlib's.  The pictures stand in
book/static/explore, one for each file of JavaScript that draws an explorable.
"""

import html
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch

import marginlib as ml

FOLDER = Path(__file__).resolve().parents[1] / "static" / "explore"
WIDTH = 640
ARROW = 0.4  # of the pull: its arrow stays in the picture
STYLE = """\
text{font:15px system-ui,sans-serif;fill:#222}
.t{fill:#48566b;font-size:13px}.m{text-anchor:middle}.e{text-anchor:end}
path{fill:none;stroke-width:2;stroke:#222}
.g{stroke:#d1d5da;stroke-width:.7}
.target{stroke:#0072b2}.rival{stroke:#d55e00}.margin{stroke:#009e73}.bias{stroke:#cc79a7}
.first{stroke:#a65e00}.second{stroke:#4b4bb5}.grey{stroke:#6e6e6e}
.bar{stroke-width:6}.dash{stroke-dasharray:7 4}.dot{stroke-dasharray:2 4}
.dashdot{stroke-dasharray:8 3 2 3}
.area{stroke:none;opacity:.22}.area.target,.f.target{fill:#0072b2}
.area.rival,.f.rival{fill:#d55e00}.area.margin,.f.margin{fill:#009e73}
.f{fill:#222;stroke:#fff}"""

Point = tuple[float, float]


class Picture:
    """A white sheet in pixels; each drawing on it has axes of its own."""

    def __init__(self, height: int, title: str, words: str):
        self.height, self.title, self.words_ = height, title, words
        self.parts: list[str] = []

    def words(self, x: float, y: float, text: str, kind: str = "") -> None:
        """Write a text at a place in pixels."""
        self.parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}">{html.escape(text, quote=False)}</text>'
        )

    def path(self, points: Iterable[Point], kind: str, close: bool = False) -> None:
        """Draw from place to place, in pixels."""
        steps = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        self.parts.append(f'<path class="{kind}" d="M{steps}{"Z" if close else ""}"/>')

    def mark(self, at: Point, kind: str, size: float = 7) -> None:
        """A disc, or a diamond for a rival."""
        x, y = at
        if kind == "rival":
            self.path([(x, y - 8), (x + 8, y), (x, y + 8), (x - 8, y)], "f rival", close=True)
        else:
            circle = f'cx="{x:.1f}" cy="{y:.1f}" r="{size:g}"'
            self.parts.append(f'<circle class="f {kind}" {circle}/>')

    def text(self) -> str:
        """The picture as a file."""
        inside = "\n".join(self.parts)
        size = f'viewBox="0 0 {WIDTH} {self.height}" width="{WIDTH}" height="{self.height}"'
        title, words = (html.escape(text, quote=False) for text in (self.title, self.words_))
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">\n'
            f"<title>{title}</title>\n<desc>{words}</desc>\n"
            f"<style>{STYLE}</style>\n"
            f'<rect width="{WIDTH}" height="{self.height}" fill="#fff"/>\n{inside}\n</svg>\n'
        )


class Axes:
    """A frame on a picture: from values to pixels, and the ticks that say so."""

    def __init__(self, on: Picture, box: Sequence[float], x: Point, y: Point):
        self.on, self.x, self.y = on, x, y
        self.left, self.top, self.right, self.bottom = box

    def at(self, x: float, y: float) -> Point:
        """A pair of values in pixels."""
        across = (x - self.x[0]) / (self.x[1] - self.x[0])
        up = (y - self.y[0]) / (self.y[1] - self.y[0])
        return (
            self.left + across * (self.right - self.left),
            self.bottom - up * (self.bottom - self.top),
        )

    def ticks(
        self, x: Iterable[int] = (), y: Iterable[int] = (), names: Sequence[str] = ""
    ) -> None:
        """Draw the grid, number it, and name the axes."""
        for value in x:
            foot, head = self.at(value, self.y[0]), self.at(value, self.y[1])
            self.on.path([foot, head], "g")
            self.on.words(foot[0], foot[1] + 17, number(value, 0), "t m")
        for value in y:
            start, end = self.at(self.x[0], value), self.at(self.x[1], value)
            self.on.path([start, end], "g")
            self.on.words(start[0] - 7, start[1] + 5, number(value, 0), "t e")
        if names:
            middle = (self.left + self.right) / 2
            self.on.words(middle, self.bottom + 36, names[0], "t m")
        if len(names) > 1:
            self.on.words(self.left, self.top - 8, names[1], "t")

    def line(self, points: Iterable[Point], kind: str, close: bool = False) -> None:
        """Draw from value to value."""
        self.on.path([self.at(*point) for point in points], kind, close)

    def curve(self, f: Callable[[torch.Tensor], torch.Tensor], kind: str, steps: int = 80) -> None:
        """Draw a function as far as it lies in the frame."""
        x = torch.linspace(*self.x, steps + 1, dtype=torch.float64)
        pairs = zip(x.tolist(), f(x).tolist(), strict=True)
        self.line([(a, b) for a, b in pairs if self.y[0] <= b <= self.y[1]], kind)


def number(value: float, digits: int = 3) -> str:
    """Rounded, with a real minus."""
    return f"{value:.{digits}f}".replace("-", "−")


def row(*values: float) -> torch.Tensor:
    """One example, in double precision."""
    return torch.tensor([values], dtype=torch.float64)


def with_rivals(x: torch.Tensor, rivals: torch.Tensor) -> torch.Tensor:
    """Rows of logits with the target at x and the rivals as they are."""
    return torch.cat([x[:, None], rivals.expand(len(x), -1)], dim=1)


FIRST = torch.tensor([0])


def firsts(x: torch.Tensor) -> torch.Tensor:
    """The first class as the target of every row."""
    return torch.zeros(len(x), dtype=torch.long)


def rows_of_logits(picture: Picture, logits: torch.Tensor, low: int, high: int) -> float:
    """Rivals above, the target below, then margin and bias as bars; return where it ends."""
    f_y, *rivals = logits[0].tolist()
    lead, bias = ml.margin(logits, FIRST).item(), ml.implicit_bias(logits, FIRST).item()
    count = len(rivals) + 3
    axes = Axes(picture, (90, 10, 620, 10 + 26 * count), (low, high), (0, count))
    axes.ticks(x=range(low, high + 1), names=["logit"])
    top = max(rivals)
    axes.line([(top, 0), (top, count)], "rival dot")
    axes.line([(top + bias, 0), (top + bias, count)], "bias dash")
    names = [f"rival {k + 1}" for k in range(len(rivals))]
    for k, name in enumerate([*names, "target", "margin", "bias"]):
        picture.words(80, axes.at(low, count - k - 0.5)[1] + 5, name, "e")
    for k, f in enumerate(rivals):
        picture.mark(axes.at(f, count - k - 0.5), "rival")
    picture.mark(axes.at(f_y, 2.5), "target")
    axes.line([(top, 1.5), (top + lead, 1.5)], "margin bar")
    axes.line([(top, 0.5), (top + bias, 0.5)], "bias bar dash")
    return axes.bottom + 36


def logits() -> Picture:
    """Chapter 1: a row of logits, its margin, its bias and its loss."""
    f = row(2, 1, -1.5, -2, -2.5)
    lead, bias = ml.margin(f, FIRST).item(), ml.implicit_bias(f, FIRST).item()
    loss = ml.softmax_loss(f, FIRST).item()
    told = f"margin {number(lead)}, bias {number(bias)}, ξ = {number(bias - lead)}, "
    told += f"loss = softplus(ξ) = {number(loss)}"
    picture = Picture(
        470,
        "From logits to margin, bias and loss",
        "Above, a line of logits: four rivals, the target, the margin from the strongest rival to "
        "the target, and the bias that the other rivals add. Below, the softplus curve with a dot "
        f"where this row stands: {told}.",
    )
    end = rows_of_logits(picture, f, -3, 3)
    axes = Axes(picture, (90, end + 26, 620, end + 166), (-6, 8), (0, 8))
    axes.ticks(range(-6, 9, 2), range(0, 9, 2), ["ξ = bias − margin, logits", "loss, nats"])
    axes.line([(-6, 0), (0, 0), (8, 8)], "grey dot")
    axes.curve(lambda x: ml.softmax_loss(torch.stack([-x, 0 * x], 1), firsts(x)), "")
    picture.mark(axes.at(bias - lead, loss), "", 6)
    picture.words(90, 462, told)
    return picture


def angles() -> Picture:
    """Chapter 5: the directions that two classes win, and psi."""
    m, weight = 2, torch.eye(2, dtype=torch.float64)
    turn = (torch.arange(0, 720, dtype=torch.float64) / 2 + 0.25).deg2rad()
    x = torch.stack([turn.cos(), turn.sin()], 1)
    met = []
    for k in (0, 1):
        y = torch.full((720,), k)
        lead = ml.margin(x @ weight.T, y) - ml.l_softmax_margin(x, weight, y, m)
        met.append(lead > 0)
    kept = [(one.sum().item() / 2, one) for one in met]
    picture = Picture(
        330,
        "The directions that two class vectors win under L-Softmax",
        "Left, a disc of directions with two class vectors at right angles. A blue sector meets "
        "the target's demand, a vermilion one the rival's, and the green sectors between meet "
        f"neither; each class keeps {number(kept[0][0], 0)} degrees of its 180. Right, ψ(θ) for "
        "m = 2 falls below the cosine, to −3 at 180 degrees.",
    )
    plane = Axes(picture, (10, 20, 290, 300), (-1.6, 1.6), (-1.6, 1.6))
    ways = {"target area": met[0], "rival area": met[1], "margin area": ~(met[0] | met[1])}
    for kind, inside in ways.items():
        for start, end in runs(inside.tolist()):
            arc = torch.linspace(start / 2, end / 2, 60, dtype=torch.float64).deg2rad()
            rim = zip((1.5 * arc.cos()).tolist(), (1.5 * arc.sin()).tolist(), strict=True)
            plane.line([(0, 0), *rim], kind, close=True)
    plane.line([(-1.06, -1.06), (1.06, 1.06)], "grey dash")
    for k, kind in enumerate(("target", "rival")):
        tip = tuple(weight[k].tolist())
        plane.line([(0, 0), tip], kind)
        picture.mark(plane.at(*tip), kind)
        a, b = plane.at(1.22 * tip[0], 1.22 * tip[1])
        picture.words(a, b + 5, f"w{k + 1}", "m")
    graph = Axes(picture, (350, 30, 620, 282), (0, 180), (-3, 1))
    graph.ticks(range(0, 181, 45), range(-3, 2), ["angle θ, degrees", "in the cosine's place"])
    graph.curve(lambda t: t.deg2rad().cos(), "grey dot")
    graph.curve(lambda t: ml.psi(t.deg2rad().cos(), m), "target")
    picture.words(615, graph.at(180, -1)[1] - 8, "cos θ", "t e")
    picture.words(505, graph.at(90, -2)[1], "ψ(θ), m = 2", "e")
    return picture


def runs(flags: Sequence[bool]) -> list[tuple[int, int]]:
    """Where a ring of flags is set: (start, end), the end possibly beyond the ring's length."""
    n = len(flags)
    starts = [k for k in range(n) if flags[k] and not flags[k - 1]]
    ends = [k + 1 for k in range(n) if flags[k] and not flags[(k + 1) % n]]
    return [
        (start, next(e for e in (*ends, *(e + n for e in ends)) if e > start)) for start in starts
    ]


def groups() -> Picture:
    """Chapter 7: eight features, sorted and cut in two, and the three losses."""
    lifts = row(3, 1, -1, 0, 0.5, 2, -0.5, -1)
    told = (torch.ones_like(lifts), torch.cat([lifts, 0 * lifts]), None, FIRST)
    score = ml.discriminativity(*told)
    parts = ml.discriminative_groups(score, 2)
    values = {
        "softmax": ml.group_loss(*told, groups=(1,)).item(),
        "type I": ml.group_loss(*told, groups=(2,), kind=1).item(),
        "type II": ml.group_loss(*told, groups=(2,), kind=2).item(),
    }
    values["bound"] = values["type I"] + math.log(2)
    sums = [score[part].sum().item() for part in parts]
    said = ", ".join(f"{name} {number(value)}" for name, value in values.items())
    picture = Picture(
        430,
        "Eight features in two groups, and what each loss says",
        "Above, a bar for each feature's lift of the target over its rival, sorted from weak to "
        f"strong and cut in two groups whose lifts add up to {number(sums[0], 1)} and "
        f"{number(sums[1], 1)}. Below, the losses in nats: {said}.",
    )
    bars = Axes(picture, (90, 26, 620, 196), (0, 8), (-3, 3))
    bars.ticks(y=range(-3, 4), names=["", "lift, logits"])
    for place, j in enumerate(torch.cat(parts).tolist()):
        lift, x = score[j].item(), place + 0.5
        if lift:
            bars.line([(x, 0), (x, lift)], "rival bar dash" if lift < 0 else "target bar")
        picture.words(bars.at(x, -3)[0], 214, str(j + 1), "t m")
    for k, lead in enumerate(sums):
        a, b = bars.at(4 * k, 0)[0] + 5, bars.at(4 * k + 4, 0)[0] - 5
        picture.path([(a, 222), (a, 228), (b, 228), (b, 222)], "")
        picture.words((a + b) / 2, 246, f"group {k + 1}: {number(lead, 1)}", "m")
    axes = Axes(picture, (90, 268, 620, 372), (0, 4), (0, 4))
    axes.ticks(x=range(5), names=["loss, nats"])
    looks = ("", "first dash", "second dashdot", "grey dot")
    for k, ((name, value), look) in enumerate(zip(values.items(), looks, strict=True)):
        picture.words(80, axes.at(0, 3.5 - k)[1] + 5, name, "e")
        axes.line([(0, 3.5 - k), (value, 3.5 - k)], look)
        picture.mark(axes.at(value, 3.5 - k), "", 5)
        picture.words(axes.at(value, 0)[0] + 10, axes.at(0, 3.5 - k)[1] + 5, number(value), "t")
    return picture


def mixture() -> Picture:
    """Chapter 6: the circle inside which the margin is met, and the pull on a feature."""
    means = torch.tensor([[0.0, 0.0], [2.0, 0.0]], dtype=torch.float64)
    x = row(-5, 2.5).requires_grad_()
    alpha = 1.0
    loss = ml.gaussian_mixture_loss(x, means, FIRST, alpha=alpha)
    (slope,) = torch.autograd.grad(loss.sum(), x)
    (a, b), (u, v) = x[0].tolist(), (-slope[0]).tolist()
    radius, centre = 2 * math.sqrt(1 + alpha) / alpha, -2 / alpha
    said = f"loss {number(loss.item())}, pull {number(math.hypot(u, v))}"
    picture = Picture(
        366,
        "The circle inside which a mixture's margin is met",
        "The target's mean on the left, a rival's on the right, and a dotted line half way "
        "between. With α = 1 the margin is met inside a green circle round a centre behind the "
        "own mean. A feature x lies outside it. An arrow shows that it is pulled towards that "
        f"centre, and not towards its own mean: {said}.",
    )
    axes = Axes(picture, (0, 0, 640, 366), (-9, 5), (-4, 4))
    turn = torch.linspace(0, 2 * math.pi, 91, dtype=torch.float64)
    ring = torch.stack([centre + radius * turn.cos(), radius * turn.sin()], 1).tolist()
    axes.line(ring, "area margin")
    axes.line(ring, "margin")
    axes.line([(1, -4), (1, 4)], "grey dot")
    axes.line([(a, b), (0, 0)], "grey dot")
    tip, turned = (a + ARROW * u, b + ARROW * v), math.atan2(v, u)
    axes.line([(a, b), tip], "")
    barbs = [turned + side for side in (0.5, -0.5)]
    ends = [(tip[0] - 0.3 * math.cos(t), tip[1] - 0.3 * math.sin(t)) for t in barbs]
    axes.line([ends[0], tip, ends[1]], "")
    named = {"own mean": ((0, 0), "target"), "rival": ((2, 0), "rival"), "x": ((a, b), "")}
    for word, (at, kind) in named.items():
        picture.mark(axes.at(*at), kind)
        picture.words(axes.at(*at)[0], axes.at(*at)[1] + 27, word, "m")
    x_centre, y_centre = axes.at(centre, 0)
    picture.path([(x_centre - 6, y_centre), (x_centre + 6, y_centre)], "margin")
    picture.path([(x_centre, y_centre - 6), (x_centre, y_centre + 6)], "margin")
    picture.words(10, 356, f"α = 1: {said}")
    return picture


def smoothing() -> Picture:
    """Chapter 4: three losses of one row, by the target's logit."""
    f = row(5.5, 1.5, 0, -1.5)
    losses = {
        "softmax": (ml.softmax_loss, ""),
        "label smoothing 0.1": (ml.label_smoothing_loss, "first dash"),
        "large margin 0.3": (ml.large_margin_loss, "second dashdot"),
    }
    values = {name: loss(f, FIRST).item() for name, (loss, _) in losses.items()}
    said = ", ".join(f"{name} {number(value)}" for name, value in values.items())
    picture = Picture(
        424,
        "Label smoothing, large margin and the bias",
        "Above, a line of logits with three rivals, the target, the margin and the bias. Below, "
        "three losses by the target's logit: the softmax loss and the large-margin loss fall for "
        f"ever, label smoothing has a lowest point and rises again. At this row: {said}.",
    )
    end = rows_of_logits(picture, f, -3, 8)
    axes = Axes(picture, (90, end + 26, 620, end + 156), (-3, 8), (0, 4))
    axes.ticks(range(-2, 9, 2), range(5), ["the target's logit", "loss, nats"])
    for place, (name, (loss, look)) in enumerate(losses.items()):
        axes.curve(lambda x, loss=loss: loss(with_rivals(x, f[:, 1:]), firsts(x)), look)
        picture.mark(axes.at(5.5, values[name]), "", 4)
        y = axes.top + 14 + 20 * place
        picture.path([(430, y - 5), (458, y - 5)], look)
        picture.words(464, y, name)
    picture.words(90, 416, said)
    return picture


PICTURES = {draw.__name__: draw for draw in (logits, angles, groups, mixture, smoothing)}


def main() -> None:
    """Write every picture."""
    for name, draw in PICTURES.items():
        (FOLDER / f"{name}.svg").write_text(draw().text(), encoding="utf-8")
        print(f"{name}.svg")


if __name__ == "__main__":
    main()
