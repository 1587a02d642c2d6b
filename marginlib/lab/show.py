"""Figures that speak one language, and code without its docstring.

Target blue, rivals vermilion, margin green, bias purple, all else grey; the colours stay
apart for colour-blind readers, and a line style or marker always says the same again.
"""

import ast
import inspect
import textwrap
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from .evidence import FINISHED, Record, of, sorted_values, with_unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TARGET = "#0072B2"
RIVALS = "#D55E00"
MARGIN = "#009E73"
BIAS = "#CC79A7"
GREY = "#6E6E6E"

# Lines that stand for methods must not borrow the colours that stand for quantities, and are
# dark enough for the words on them to be read.
METHOD_LINES = (
    {"color": "#222222", "linestyle": "-"},
    {"color": "#A65E00", "linestyle": "--"},
    {"color": "#4B4BB5", "linestyle": "-."},
    {"color": "#5B7F00", "linestyle": ":"},
    {"color": "#7A1F3D", "linestyle": (0, (5, 1, 1, 1, 1, 1))},
    {"color": GREY, "linestyle": (0, (8, 3))},
)

SHEET = {
    "figure.figsize": (6, 3.5),
    "figure.dpi": 110,
    "figure.facecolor": "white",
    "axes.edgecolor": GREY,
    "axes.labelcolor": "#222222",
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": "medium",
    "axes.titlelocation": "left",
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.6,
    "font.size": 10,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "savefig.bbox": "tight",
    "xtick.color": GREY,
    "ytick.color": GREY,
}


def style() -> None:
    """Set the book's style sheet for every figure drawn after this."""
    import matplotlib.pyplot as plt

    plt.rcParams.update(SHEET)


def label_line(axes: "Axes", x: float, y: float, text: str, color: str) -> None:
    """Write on a line what it is, just right of the point (x, y), in its own colour."""
    axes.annotate(
        text,
        (x, y),
        xytext=(5, 0),
        textcoords="offset points",
        va="center",
        color=color,
        annotation_clip=False,  # a label pushed past the frame must still be seen
    )


def curves(
    record: Record,
    measure: str,
    *,
    by: str = "method",
    split: str = "validation",
    order: Sequence[Any] | None = None,
    axes: "Axes | None" = None,
) -> "Axes":
    """Draw a measure over the epochs: per method the mean of its seeds, and their range.

    Args:
        record: runs of one scale and regime.
        measure: which measure.
        by: the setting that tells the lines apart.
        split: ``"validation"`` or ``"train"``.
        order: which lines, in this order; by default all.  At most six.
        axes: where to draw; by default a new figure.

    Raises:
        ValueError: for more than six lines: nobody can tell them apart.
    """
    import matplotlib.pyplot as plt

    lines = list(order) if order is not None else sorted_values(of(run, by) for run in record.runs)
    if len(lines) > len(METHOD_LINES):
        raise ValueError(f"at most {len(METHOD_LINES)} lines can be told apart; got {len(lines)}")
    if axes is None:
        _, axes = plt.subplots()
    ends = []
    for name, look in zip(lines, METHOD_LINES, strict=False):
        runs = [run for run in record.select(**{by: name}).runs if run.ended == FINISHED]
        per_epoch = list(zip(*(run.measures[split][measure] for run in runs), strict=True))
        epochs = range(1, len(per_epoch) + 1)
        mean = [sum(values) / len(values) for values in per_epoch]
        low, high = [min(v) for v in per_epoch], [max(v) for v in per_epoch]
        axes.fill_between(epochs, low, high, color=look["color"], alpha=0.15, linewidth=0)
        axes.plot(epochs, mean, **look)
        ends.append((mean[-1], f"{name} (n = {len(runs)})", look["color"], len(per_epoch)))
    axes.set_xlabel("epoch")
    axes.set_ylabel(f"{with_unit(measure)}, {split} images")
    for y, (_, text, color, last) in zip(spread(axes, ends), sorted(ends), strict=True):
        label_line(axes, last, y, text, color)
    return axes


def spread(axes: "Axes", ends: Sequence[tuple]) -> list[float]:
    """Heights for the labels, lowest first: at their lines' ends, moved apart where too near."""
    low, high = axes.get_ylim()
    step = 0.07 * (high - low)
    heights: list[float] = []
    for y, *_ in sorted(ends):
        heights.append(max(y, heights[-1] + step) if heights else y)
    # Sharing the push evenly keeps the stack centred on its lines; the frame's foot stops it.
    pushed = sum(h - y for h, (y, *_) in zip(heights, sorted(ends), strict=True))
    back = min(pushed / max(1, len(heights)), max(0.0, min(heights, default=low) - low))
    return [h - back for h in heights]


def source(function: Callable) -> None:
    """Print a function as it stands in the library, without its docstring and its decorators.

    >>> source(style)
    def style() -> None:
        import matplotlib.pyplot as plt
    <BLANKLINE>
        plt.rcParams.update(SHEET)
    """
    text = textwrap.dedent(inspect.getsource(function))
    lines = text.splitlines()
    node = ast.parse(text).body[0]
    keep = lines[node.lineno - 1 :]
    if ast.get_docstring(node, clean=False) is not None:
        said = node.body[0]
        keep = lines[node.lineno - 1 : said.lineno - 1] + lines[said.end_lineno :]
    print("\n".join(keep).strip("\n"))
