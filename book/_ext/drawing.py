"""The map of the losses as a picture: SVG with links, drawn from book/map.toml.

Two sizes are drawn, one for a page and one for a phone; the style sheet shows the one that fits.
Words are text and links are links, so the map can be searched, read aloud and walked by keyboard.
"""

from collections.abc import Callable
from dataclasses import dataclass
from html import escape

from contents import Loss, Place

HEIGHT = 56


@dataclass(frozen=True)
class Size:
    """Measures of one drawing, in pixels of the page."""

    kind: str
    columns: int  # of cards beside each other; with one, all stand below each other
    step: int  # from a column to the next; with one column, how far a child is moved in
    card: int  # the width of a card
    letters: int  # how many fit on a line of a card
    start: int  # the left edge of the first column


WIDE = Size("wide", columns=3, step=191, card=177, letters=25, start=116)
NARROW = Size("narrow", columns=1, step=24, card=292, letters=42, start=4)
SIZES = (WIDE, NARROW)
ROW = HEIGHT + 12


def wrapped(text: str, letters: int) -> list[str]:
    """The text in lines of at most so many letters."""
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > letters:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines


def root_of(losses: tuple[Loss, ...]) -> str:
    """The function of the loss that changes nothing."""
    return next(loss.function for loss in losses if not loss.parent)


def family(losses: tuple[Loss, ...], place: str, parent: str) -> list[Loss]:
    """The losses of a place that change the same other loss."""
    return [loss for loss in losses if loss.place == place and loss.parent == parent]


def descend(losses, loss, column, row, size) -> tuple[dict[str, tuple[int, int]], int]:
    """Column and row of a loss and of those that change it, and the next free row.

    On a page the first child stands beside its parent; on a phone always below it.
    """
    cells, free = {loss.function: (column, row)}, row + 1
    for i, child in enumerate(family(losses, loss.place, loss.function)):
        beside = i == 0 and size.columns > 1
        found, free = descend(losses, child, column + 1, row if beside else free, size)
        cells |= found
    return cells, free


def arranged(losses: tuple[Loss, ...], place: str, size: Size) -> tuple[dict, int]:
    """Column and row of every loss of a place, and how many rows they take.

    Losses that nothing here changes further share a row with their like.
    """
    cells: dict[str, tuple[int, int]] = {}
    free, column = 0, 0
    members = family(losses, place, root_of(losses))
    members.sort(key=lambda loss: not family(losses, place, loss.function))
    for loss in members:
        if family(losses, place, loss.function):
            found, free = descend(losses, loss, 0, free, size)
            cells |= found
            continue
        if column == size.columns:
            free, column = free + 1, 0
        cells[loss.function] = (column if size.columns > 1 else 0, free)
        column += 1
    return cells, free + bool(column)


def layout(
    places: tuple[Place, ...], losses: tuple[Loss, ...], size: Size
) -> tuple[dict, dict, int]:
    """Left and top of each loss's card and of each place's word, and the height of it all."""
    cards, words, top = {}, {}, 4
    for place in places:
        words[place.key] = (4, top + (16 if size.columns == 1 else 23))
        top += 26 if size.columns == 1 else 0
        cells, rows = arranged(losses, place.key, size)
        for function, (column, row) in cells.items():
            cards[function] = (size.start + column * size.step, top + row * ROW)
        top += rows * ROW + 10
    return cards, words, top - 10


def card(loss: Loss, at: tuple[int, int], size: Size, colour: str, link: str, chapter: str) -> str:
    """A box with the loss's name, its chapter and what it changes."""
    x, y = at
    lines = "".join(
        f'<tspan x="{x + 12}" dy="{15 if i else 0}">{escape(line)}</tspan>'
        for i, line in enumerate(wrapped(loss.changes, size.letters))
    )
    return (
        f'<a href="{escape(link)}" class="loss {colour}">'
        f'<rect x="{x}" y="{y}" width="{size.card}" height="{HEIGHT}" rx="4"/>'
        f'<path class="edge" d="M{x + 2} {y + 4}V{y + HEIGHT - 4}"/>'
        f'<text class="name" x="{x + 12}" y="{y + 18}">{escape(loss.name)}</text>'
        f'<text class="number" x="{x + size.card - 8}" y="{y + 18}">{escape(chapter)}</text>'
        f'<text class="changes" x="{x + 12}" y="{y + 34}">{lines}</text></a>'
    )


def line(parent: tuple[int, int], child: tuple[int, int], size: Size) -> str:
    """The line from a loss to the one that changes it."""
    (x0, y0), (x1, y1) = parent, child
    if size.columns == 1:
        return f"M{x0 + 10} {y0 + HEIGHT}V{y1 + HEIGHT // 2}H{x1}"
    middle = y0 + HEIGHT // 2
    bend = (x0 + size.card + x1) // 2
    return f"M{x0 + size.card} {middle}H{bend}V{y1 + HEIGHT // 2}H{x1}"


def svg(
    places: tuple[Place, ...],
    losses: tuple[Loss, ...],
    size: Size,
    link: Callable[[Loss], str],
    chapter: Callable[[Loss], str],
) -> str:
    """The map in one size."""
    cards, words, height = layout(places, losses, size)
    width = max(x for x, _ in cards.values()) + size.card + 4
    colours = {place.key: place.colour for place in places}
    drawn = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="map {size.kind}" role="group" '
        f'viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'aria-label="A map of the losses; the same links follow as a list">'
    ]
    placed = [loss for loss in losses if loss.function in cards]
    kin = [loss for loss in placed if loss.parent in cards]
    path = "".join(line(cards[loss.parent], cards[loss.function], size) for loss in kin)
    drawn.append(f'<path class="kin" d="{path}"/>')
    for place in places:
        x, y = words[place.key]
        for i, text in enumerate(wrapped(place.word, 40 if size.columns == 1 else 13)):
            drawn.append(f'<text class="place" x="{x}" y="{y + 17 * i}">{escape(text)}</text>')
        if size.columns > 1 and place != places[0]:
            first = min(
                y for loss in placed if loss.place == place.key for y in [cards[loss.function][1]]
            )
            drawn.append(f'<path class="rule" d="M4 {first - 11}H{width - 4}"/>')
    for loss in placed:
        at = cards[loss.function]
        drawn.append(card(loss, at, size, colours[loss.place], link(loss), chapter(loss)))
    return "".join(drawn) + "</svg>"
