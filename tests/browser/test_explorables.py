"""The explorables, driven in a real browser: their numbers are marginlib's, and hands reach them.

Each is opened on a small page of its own, made of the chapter's cell and the files beside the
book's pages; no site has to be built.  Hands, keys and sliders set the state.  It is read back from
the page, and the numbers and the drawing are compared with the library in double precision.
"""

import ast
import importlib.util
import itertools
import math
import random
import re
from functools import partial
from pathlib import Path

import nbformat
import pytest
import torch

import marginlib as ml
from marginlib import rivals
from marginlib.group import fixed_groups

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "book" / "static" / "explore"
NAMES = ("logits", "smoothing", "angles", "mixture", "groups")
SITE = "http://book.test/"
CLOSE = 1e-6  # what the book promises, for numbers and for the drawing
OFTEN = 12  # random settings of each explorable
COSINE_SCALE = 4

each_explorable = pytest.mark.parametrize("name", NAMES)


def load(folder: str, name: str):
    """A module of the book's tools, which are no package."""
    spec = importlib.util.spec_from_file_location(
        f"book_{name}", ROOT / "book" / folder / f"{name}.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


pictures = load("tools", "explore")
chapters = load("tools", "chapters")
extension = load("_ext", "book_explore")


def notebook(name: str):
    path = ROOT / "chapters" / f"{chapters.EXPLORABLES[name]}.ipynb"
    return nbformat.read(path, as_version=4)


def cell(name: str) -> str:
    (found,) = [cell for cell in notebook(name).cells if cell.id == f"explore-{name}"]
    return found.source


def on_the_page(body: str) -> dict:
    """What the book's extension makes of a page."""
    context = {"body": body, "pathto": lambda place, _: f"../{place}"}
    extension.bring(None, "chapters/some", None, context, None)
    return context


def page_of(name: str) -> str:
    told = on_the_page(cell(name))
    # The theme's article, as far as it touches an explorable.
    return f"""<!doctype html>
<html lang="en" data-theme="light"><head><meta charset="utf-8"><title>Explorable</title>
<meta name="viewport" content="width=device-width">{told["metatags"]}
<style>body {{ font: 16px/1.6 sans-serif; margin: 16px; }} main {{ max-width: 720px; }}</style>
</head><body><main class="bd-article">{told["body"]}</main></body></html>"""


# --- A browser ---------------------------------------------------------------------------------


@pytest.fixture
def opened(browser):
    """Open an explorable; at the end no page may have complained."""
    contexts, complaints = [], []

    def serve(route):
        place = route.request.url.removeprefix(SITE)
        if place.startswith("chapters/"):
            html = page_of(place.removeprefix("chapters/"))
            route.fulfill(body=html, content_type="text/html")
        elif place.startswith("_static/explore/"):
            route.fulfill(path=FOLDER / place.removeprefix("_static/explore/"))
        elif place == "favicon.ico":
            route.fulfill(status=204)
        else:
            complaints.append(f"asked for {route.request.url}")
            route.abort()

    def open_page(name, width=800, **settings):
        told = {"viewport": {"width": width, "height": 900}, **settings}
        contexts.append(browser.new_context(**told))
        contexts[-1].set_default_timeout(300_000)  # no verdict on how busy the machine is
        page = contexts[-1].new_page()
        page.route("**/*", serve)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(f"{SITE}chapters/{name}")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


# --- Hands and eyes ----------------------------------------------------------------------------


def numbers(page) -> dict[str, float]:
    """The numbers that the page states, unrounded."""
    read = "found => found.map(e => [e.dataset.name, e.value])"
    return {name: float(value) for name, value in page.locator("data").evaluate_all(read)}


def marks(page) -> dict[str, tuple[float, float]]:
    """Where the marks stand that a reader can move, by their labels."""
    read = """found => found.filter(e => e.style.display !== "none")
        .map(e => [e.getAttribute("aria-label"), Number(e.dataset.x), Number(e.dataset.y)])"""
    return {label: (x, y) for label, x, y in page.locator(".handle").evaluate_all(read)}


def drag(page, label: str, to: tuple[float, float], steps: int = 1) -> None:
    """Take a mark by its middle and bring it to a place, as a share of its panel."""
    mark = page.get_by_role("slider", name=label, exact=True)
    box = mark.locator(".reach").bounding_box()
    panel = mark.locator("xpath=ancestor::*[name()='svg']").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(
        panel["x"] + to[0] * panel["width"], panel["y"] + to[1] * panel["height"], steps=steps
    )
    page.mouse.up()


def drawn(page, selector: str) -> list[list[tuple[float, float]]]:
    """The points of the drawn paths, in the values of their panels' axes.

    The scale is what a reader has: the numbers at the ticks, and the marks whose places are known.
    Along an axis with neither, the points are in pixels.
    """
    read = """found => found.map(path => {
        const panel = path.closest("svg");
        const ticks = [...panel.querySelectorAll("text[data-tick]")].map(e => [
            e.dataset.tick, Number(e.textContent.replace("−", "-")),
            Number(e.getAttribute(e.dataset.tick)) - (e.dataset.tick === "y" ? 4 : 0)]);
        const places = [...panel.querySelectorAll(".handle")].flatMap(e => {
            const [x, y] = e.getAttribute("transform").match(/-?\\d[\\d.e-]*/g).map(Number);
            return [["x", Number(e.dataset.x), x], ["y", Number(e.dataset.y), y]];
        });
        return [path.getAttribute("d"), [...ticks, ...places]];
    })"""
    curves = []
    for d, known in page.locator(selector).evaluate_all(read):
        pixels = [float(number) for number in re.findall(r"-?\d+(?:\.\d+)?(?:e-?\d+)?", d)]
        scales = []
        for axis in "xy":
            pairs = sorted((value, px) for name, value, px in known if name == axis)
            (v0, p0), (v1, p1) = (pairs[0], pairs[-1]) if pairs else ((0, 0), (1, 1))
            per_pixel = (v1 - v0) / (p1 - p0)
            for value, px in pairs:
                assert v0 + (px - p0) * per_pixel == pytest.approx(value, abs=1e-9)
            scales.append((v0, p0, per_pixel))
        values = [
            v0 + (px - p0) * per_pixel
            for px, (v0, p0, per_pixel) in zip(pixels, itertools.cycle(scales))
        ]
        curves.append(list(zip(values[::2], values[1::2])))
    return curves


def table(values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def row(values) -> torch.Tensor:
    return table([list(values)])


FIRST = torch.tensor([0])


def firsts(rows: torch.Tensor) -> torch.Tensor:
    return torch.zeros(len(rows), dtype=torch.long)


def slope_of(loss, at: torch.Tensor) -> torch.Tensor:
    leaf = at.clone().requires_grad_()
    return torch.autograd.grad(loss(leaf).sum(), leaf)[0]


# --- What a page has to say at a state, by the library ------------------------------------------


def logits_of(page) -> torch.Tensor:
    return row(x for x, _ in marks(page).values())


def expected_logits(page) -> dict[str, float]:
    f = logits_of(page)
    lead, bias = ml.margin(f, FIRST), ml.implicit_bias(f, FIRST)
    return {
        "margin": lead,
        "bias": bias,
        "xi": bias - lead,
        "loss": ml.softmax_loss(f, FIRST),
        "probability": f.softmax(1)[0, 0],
    }


def slider(page, label: str) -> float:
    return float(page.get_by_role("slider", name=label, exact=True).input_value())


def three_losses(page) -> dict:
    smoothing, strength = slider(page, "smoothing"), slider(page, "large-margin strength")
    return {
        "softmax": lambda f: ml.softmax_loss(f, firsts(f)),
        "label_smoothing": lambda f: ml.label_smoothing_loss(f, firsts(f), smoothing),
        "large_margin": lambda f: ml.large_margin_loss(f, firsts(f), strength),
    }


def expected_smoothing(page) -> dict[str, float]:
    f = logits_of(page)
    told = {
        "margin": ml.margin(f, FIRST),
        "bias": ml.implicit_bias(f, FIRST),
        "probability": f.softmax(1)[0, 0],
    }
    bias_slope = slope_of(lambda z: ml.implicit_bias(z, FIRST), f)
    for name, loss in three_losses(page).items():
        slope = slope_of(loss, f)
        told[f"{name}-loss"] = loss(f)
        told[f"{name}-push"] = -slope[0, 0]
        told[f"{name}-rate"] = -(slope * bias_slope).sum()
    return told


def angular(page) -> dict:
    """The state of the angles: the loss's name, m, class vectors, the feature."""
    places = marks(page)
    return {
        "name": page.get_by_role("group", name="Loss").locator(":checked").input_value(),
        "m": slider(page, "margin m"),
        "weight": table([place for label, place in places.items() if label.startswith("Class")]),
        "x": row(places["Feature x"]),
    }


def angular_parts(state, x: torch.Tensor, target: int = 0) -> tuple:
    """Logits, margin and loss of features, by the library's functions of that name."""
    weight, m, y = state["weight"], state["m"], torch.full((len(x),), target)
    scale = COSINE_SCALE
    if state["name"] == "l_softmax":
        told = ml.l_softmax_margin(x, weight, y, m), ml.l_softmax_loss(x, weight, y, m)
        return x @ weight.T, *told
    if state["name"] == "a_softmax":
        told = ml.a_softmax_margin(x, weight, y, m), ml.a_softmax_loss(x, weight, y, m)
        return ml.a_softmax_logits(x, weight), *told
    f = ml.cosine_logits(x, weight, scale)
    if state["name"] == "cosface":
        return f, torch.full((len(x),), scale * m), ml.cosface_loss(x, weight, y, scale, m)
    told = ml.arcface_margin(x, weight, y, scale, m), ml.arcface_loss(x, weight, y, scale, m)
    return f, *told


def ahead(state, angles, target: int, with_margin: bool = True) -> torch.Tensor:
    """By how much the class wins in these directions, in logits."""
    angles = torch.as_tensor(angles, dtype=torch.float64)
    x = torch.stack([angles.cos(), angles.sin()], 1)
    f, asked, _ = angular_parts(state, x, target)
    lead = ml.margin(f, torch.full((len(x),), target))
    return lead - asked if with_margin else lead


def expected_angles(page) -> dict[str, float]:
    state = angular(page)
    _, asked, loss = angular_parts(state, state["x"])
    (x, y), (u, v) = state["x"][0], state["weight"][0]
    theta = torch.atan2((x * v - y * u).abs(), x * u + y * v)
    return {"theta": theta.rad2deg(), "margin": asked, "loss": loss}


def mixture(page) -> dict:
    places = marks(page)
    told = {
        "means": table([places["Mean of the target"], places["Mean of the rival"]]),
        "x": row(places["Feature x"]),
        "alpha": slider(page, "α"),
        "m": slider(page, "m"),
    }
    return told


def mixture_loss(state, x):
    told = {"alpha": state["alpha"], "margin": state["m"]}
    return ml.gaussian_mixture_loss(x, state["means"], firsts(x), **told)


def met(state, x) -> torch.Tensor:
    """How far the margin is over-fulfilled at these features, in logits."""
    y = firsts(x)
    asked = ml.gaussian_margin(x, state["means"], y, alpha=state["alpha"], margin=state["m"])
    return ml.margin(ml.gaussian_logits(x, state["means"]), y) - asked


def expected_mixture(page) -> dict[str, float]:
    state = mixture(page)
    x, means = state["x"], state["means"]
    return {
        "own": ml.center_loss(x, means, FIRST),
        "other": ml.center_loss(x, means, FIRST + 1),
        "asked": ml.gaussian_margin(x, means, FIRST, alpha=state["alpha"], margin=state["m"]),
        "loss": mixture_loss(state, x),
        "pull": slope_of(lambda z: mixture_loss(state, z), x).norm(),
    }


def grouped(page) -> dict:
    lifts = row(y for _, y in marks(page).values())
    count = int(page.get_by_role("group", name="Groups").locator(":checked").input_value())
    order = page.get_by_role("group", name="Order").locator(":checked").input_value()
    rule = ml.discriminative_groups if order == "sorted" else fixed_groups
    return {
        "given": (torch.ones_like(lifts), torch.cat([lifts, 0 * lifts]), None, FIRST),
        "count": count,
        "rule": rule,
        "parts": [part.tolist() for part in rule(lifts[0], count)],
        "lifts": lifts,
    }


def group_updates(state, kind: int) -> list[float]:
    """What each feature's logit is told, with its sign turned: 1 - p_y, by autograd."""
    x, weight, bias, y = state["given"]
    told = {"groups": (state["count"],), "kind": kind, "grouping": state["rule"]}
    slope = slope_of(lambda w: ml.group_loss(x, w, bias, y, **told), weight)
    return (-slope[0]).tolist()


def expected_groups(page) -> dict[str, float]:
    state = grouped(page)

    def loss(count, kind):
        told = {"groups": (count,), "kind": kind, "grouping": state["rule"]}
        return ml.group_loss(*state["given"], **told)

    type1 = loss(state["count"], 1)
    updates = group_updates(state, kind=1)
    return {
        "softmax": loss(1, 1),
        "type1": type1,
        "type2": loss(state["count"], 2),
        "most": type1 + (state["count"] - 1) * math.log(2),
        "weakest": max(updates),
        "strongest": min(updates),
    }


EXPECTED = {
    "logits": expected_logits,
    "smoothing": expected_smoothing,
    "angles": expected_angles,
    "mixture": expected_mixture,
    "groups": expected_groups,
}
# The numbers that say where a border is: the library has no function for them, and their own
# tests put them to the library's margins.
BORDERS = {"angles": {"wins", "kept"}, "mixture": {"reach"}}


def random_settings(page, name: str, seed: int = 0, count: int = OFTEN):
    """Move something at random, again and again; stop after each move."""
    draw = random.Random(f"{name}{seed}")
    for _ in range(count):
        label = draw.choice(sorted(marks(page)))
        drag(page, label, (draw.uniform(0.02, 0.98), draw.uniform(0.02, 0.98)))
        for control in page.locator("input[type=range]").all():
            low, high, step = (float(control.get_attribute(key)) for key in ("min", "max", "step"))
            value = low + step * draw.randint(0, round((high - low) / step))
            control.fill(f"{value:g}")
        for group in page.locator("fieldset").all():
            draw.choice(group.locator("input").all()).check()
        yield


def same(found: dict, expected: dict) -> None:
    for key, value in expected.items():
        assert found[key] == pytest.approx(float(value), abs=CLOSE), key


# --- Claimed and proved: what the chapters say of them -------------------------------------------


def test_two_rivals_that_draw_level_double_the_loss(opened):
    page = opened("logits")
    before = numbers(page)
    for label in ("Logit of rival 2", "Logit of rival 3"):
        page.get_by_role("slider", name=label, exact=True).focus()
        for _ in range(40):
            if marks(page)[label][0] == 1:
                break
            page.keyboard.press("ArrowRight")
    after = numbers(page)
    assert after["margin"] == before["margin"]
    assert after["loss"] > 2 * before["loss"]


def test_label_smoothing_moves_the_bias_as_fast_as_the_softmax_loss(opened):
    page = opened("smoothing")
    for _ in random_settings(page, "smoothing"):
        told = numbers(page)
        assert told["label_smoothing-rate"] == pytest.approx(told["softmax-rate"], abs=1e-12)
        assert told["large_margin-push"] == pytest.approx(told["softmax-push"], abs=1e-12)


def test_only_label_smoothing_takes_the_target_down_and_two_losses_go_on_raising_the_bias(opened):
    page = opened("smoothing")
    ends = {}
    for name in ("softmax", "label smoothing", "large margin"):
        page.get_by_role("button", name="Start again").click()
        page.get_by_role("radio", name=name, exact=True).check()
        start = marks(page)["Logit of the target"][0]
        for _ in range(6):
            page.get_by_role("button", name="Go downhill").click()
        ends[name] = numbers(page)["bias"], marks(page)["Logit of the target"][0] - start
    assert ends["label smoothing"][1] < 0 < ends["softmax"][1]
    assert ends["large margin"][1] > 0
    assert ends["label smoothing"][0] > ends["softmax"][0] + 0.1
    assert ends["large margin"][0] > ends["softmax"][0] + 0.1


def test_only_in_l_softmax_does_a_longer_class_vector_win_room(opened):
    page = opened("angles")
    for name in ("L-Softmax", "A-Softmax", "CosFace", "ArcFace"):
        page.get_by_role("button", name="Start again").click()
        page.get_by_role("radio", name=name, exact=True).check()
        before = numbers(page)
        page.get_by_role("slider", name="Class vector of the target").focus()
        for _ in range(8):
            page.keyboard.press("ArrowRight")
        after = numbers(page)
        if name == "L-Softmax":
            assert after["wins"] > before["wins"] + 5
            assert after["kept"] > before["kept"] + 1
        else:
            assert after["wins"] == pytest.approx(before["wins"], abs=CLOSE)
            assert after["kept"] == pytest.approx(before["kept"], abs=CLOSE)


def test_the_pull_points_to_the_centre_of_the_circle(opened):
    page = opened("mixture")
    for _ in random_settings(page, "mixture"):
        state = mixture(page)
        if state["alpha"] == 0 or numbers(page)["pull"] < 1e-3:
            continue
        own, rival = state["means"]
        towards = own + (own - rival) / state["alpha"] - state["x"][0]
        ((start, end),) = drawn(page, "[data-pull]")
        arrow = table(end) - table(start)
        assert torch.dot(arrow, towards) > 0
        across = arrow[0] * towards[1] - arrow[1] * towards[0]
        assert float(across.abs() / towards.norm()) < CLOSE


def test_a_finer_cut_raises_type_two_in_either_order(opened):
    page = opened("groups")
    for order in ("as they stand", "sorted, weakest first"):
        page.get_by_role("radio", name=order).check()
        found = []
        for count in "1248":
            page.get_by_role("group", name="Groups").get_by_label(count, exact=True).check()
            found.append(numbers(page)["type2"])
        assert found == sorted(found)
        assert len(set(found)) == 4


# --- Computed and compared -----------------------------------------------------------------------


def cases(draw: random.Random) -> dict[str, tuple[list, object]]:
    """For each function of losses.js: arguments, and what the library gives for them."""
    c, d = draw.randint(2, 9), draw.randint(2, 6)

    def many(count, scale=3.0):
        return [draw.gauss(0, scale) for _ in range(count)]

    f, y = many(c), draw.randrange(c)
    x, weight, bias = many(d), [many(d) for _ in range(c)], many(c)
    m, alpha, scale = draw.uniform(0, 3), draw.uniform(0, 2), draw.uniform(1, 30)
    times, arc = draw.choice([1, 1.5, 2, 2.75, 4]), draw.uniform(0, 1.5)
    rate = draw.uniform(0, 1)
    F, Y, X, W = row(f), torch.tensor([y]), row(x), table(weight)
    B = table(bias)
    others = ml.split(F, Y)[1]
    count = draw.randint(1, d)
    parts = draw.choice([fixed_groups, ml.discriminative_groups])
    grouping = [part.tolist() for part in parts(torch.tensor(x), count)]
    kind = draw.choice([1, 2])
    grouped_by = {"groups": (count,), "kind": kind, "grouping": lambda s, g: parts(X[0], g)}
    bias_slope = slope_of(lambda z: ml.implicit_bias(z, Y), F)
    softmax_slope = slope_of(lambda z: ml.softmax_loss(z, Y), F)
    pull = slope_of(lambda z: ml.gaussian_mixture_loss(z, W, Y, alpha=alpha, margin=m), X)
    members = grouping[0]
    return {
        "sum": ([f], F.sum()),
        "mean": ([f], F.mean()),
        "dot": ([x, weight[0]], X[0] @ W[0]),
        "length": ([x], X.norm()),
        "logsumexp": ([f], F.logsumexp(1)),
        "softmax": ([f], F.softmax(1)),
        "softplus": ([f[0]], rivals.softplus(F[0, 0])),
        "split": ([f, y], [F[0, y].item(), others[0].tolist()]),
        "log_odds": ([f[0], f[1:]], rivals.log_odds(F[:, 0], F[:, 1:])),
        "margin": ([f, y], ml.margin(F, Y)),
        "implicit_bias": ([f, y], ml.implicit_bias(F, Y)),
        "soft_margin_loss": ([f, y, m], ml.soft_margin_loss(F, Y, margin=m)),
        "softmax_loss": ([f, y], ml.softmax_loss(F, Y)),
        "disagreement": ([f[1:]], ml.disagreement(F[:, 1:])),
        "large_margin_loss": ([f, y, rate], ml.large_margin_loss(F, Y, rate)),
        "label_smoothing_loss": ([f, y, rate], ml.label_smoothing_loss(F, Y, rate)),
        "softmax_slope": ([f, y], softmax_slope),
        "large_margin_slope": (
            [f, y, rate],
            slope_of(lambda z: ml.large_margin_loss(z, Y, rate), F),
        ),
        "label_smoothing_slope": (
            [f, y, rate],
            slope_of(lambda z: ml.label_smoothing_loss(z, Y, rate), F),
        ),
        "bias_rate": ([f, y, softmax_slope[0].tolist()], -(softmax_slope * bias_slope).sum()),
        "cosine": ([x, weight[0]], ml.cosine_logits(X, W)[0, 0]),
        "falling": ([4 * math.pi * rate], ml.psi(row([math.pi * rate]).cos(), 4)),
        "psi": ([2 * rate - 1, times], ml.psi(row([2 * rate - 1]), times)),
        "l_softmax_margin": ([x, weight, y, times], ml.l_softmax_margin(X, W, Y, times)),
        "a_softmax_margin": ([x, weight, y, times], ml.a_softmax_margin(X, W, Y, times)),
        "arcface_margin": ([x, weight, y, scale, arc], ml.arcface_margin(X, W, Y, scale, arc)),
        "linear_logits": ([x, weight], X @ W.T),
        "a_softmax_logits": ([x, weight], ml.a_softmax_logits(X, W)),
        "cosine_logits": ([x, weight, scale], ml.cosine_logits(X, W, scale)),
        "gaussian_logits": ([x, weight], ml.gaussian_logits(X, W)),
        "gaussian_margin": (
            [x, weight, y, alpha, m],
            ml.gaussian_margin(X, W, Y, alpha=alpha, margin=m),
        ),
        "gaussian_mixture_loss": (
            [x, weight, y, alpha, m],
            ml.gaussian_mixture_loss(X, W, Y, alpha=alpha, margin=m),
        ),
        "gaussian_pull": ([x, weight, y, alpha, m], -pull),
        "discriminativity": ([x, weight, bias, y], ml.discriminativity(X, W, B, Y)),
        "fixed_groups": ([x, count], [part.tolist() for part in fixed_groups(X[0], count)]),
        "discriminative_groups": (
            [x, count],
            [part.tolist() for part in ml.discriminative_groups(X[0], count)],
        ),
        "group_logits": (
            [x, weight, bias, members],
            X[:, members] @ W[:, members].T + B * len(members) / d,
        ),
        "group_loss": (
            [x, weight, bias, y, grouping, kind],
            ml.group_loss(X, W, B, Y, **grouped_by),
        ),
    }


def flat(value) -> list[float]:
    if isinstance(value, torch.Tensor):
        return value.double().flatten().tolist()
    return [x for part in value for x in flat(part)] if isinstance(value, list) else [float(value)]


def test_every_function_is_the_library_s(opened):
    page = opened("logits")
    draw = random.Random(0)
    names = set(page.evaluate("Object.keys(losses)"))
    for _ in range(60):
        told = cases(draw)
        assert names == set(told)
        calls = [[name, arguments] for name, (arguments, _) in told.items()]
        found = page.evaluate(
            "calls => calls.map(([name, given]) => losses[name](...given))", calls
        )
        for (name, (_, expected)), value in zip(told.items(), found):
            assert flat(value) == pytest.approx(flat(expected), rel=1e-9, abs=1e-9), name


def test_far_logits_and_the_ends_of_the_angles_give_finite_numbers(opened):
    page = opened("logits")
    far = [3e4, -3e4, 3e4]
    for name, arguments, expected in (
        ("softmax_loss", [far, 1], ml.softmax_loss(row(far), torch.tensor([1]))),
        ("implicit_bias", [far, 1], ml.implicit_bias(row(far), torch.tensor([1]))),
        ("psi", [1, 4], 1.0),
        ("psi", [-1, 4], -7.0),
        ("arcface_margin", [[-1, 0], [[1, 0]], 0, 1, 0.5], -1 + 2 + math.cos(math.pi + 0.5)),
    ):
        found = page.evaluate("([name, given]) => losses[name](...given)", [name, arguments])
        assert found == pytest.approx(float(expected), rel=1e-12), name


@each_explorable
def test_the_numbers_on_the_page_are_the_library_s(opened, name):
    page = opened(name)
    same(numbers(page), EXPECTED[name](page))
    for _ in random_settings(page, name):
        found, expected = numbers(page), EXPECTED[name](page)
        assert set(found) - BORDERS.get(name, set()) == set(expected)
        same(found, expected)


@each_explorable
def test_the_rounded_words_are_the_numbers(opened, name):
    page = opened(name)
    for _ in random_settings(page, name, seed=1, count=5):
        read = "found => found.map(e => [e.value, e.textContent])"
        for value, words in page.locator("data").evaluate_all(read):
            if words == "nowhere":
                assert value == "NaN"
                continue
            digits = len(words.partition(".")[2])
            assert float(words.replace("−", "-")) == pytest.approx(
                float(value), abs=0.5001 * 10**-digits
            )


def test_the_bars_reach_as_far_as_margin_and_bias(opened):
    for name in ("logits", "smoothing"):
        page = opened(name)
        for _ in random_settings(page, name, seed=2, count=8):
            f = logits_of(page)
            top = f[0, 1:].max().item()
            for word, size in (("margin", ml.margin), ("bias", ml.implicit_bias)):
                ((start, end),) = drawn(page, f'[data-bar="{word}"]')
                assert start[0] == pytest.approx(top, abs=CLOSE)
                assert end[0] - start[0] == pytest.approx(size(f, FIRST).item(), abs=CLOSE)


def test_the_softplus_is_drawn_where_it_is_and_the_dot_lies_on_it(opened):
    page = opened("logits")
    (curve,) = drawn(page, "[data-curve=softplus]")
    assert len(curve) > 200
    for x, y in curve:
        assert y == pytest.approx(rivals.softplus(row([x])).item(), abs=CLOSE)
    for _ in random_settings(page, "logits", seed=3, count=8):
        ticks = page.locator("svg").nth(1)
        dot = page.locator("[data-dot=loss]").get_attribute("transform")
        px, py = (float(number) for number in re.findall(r"[\d.]+", dot))
        d = f"M{px} {py}"
        ticks.evaluate(
            """(panel, d) => {
                const probe = document.createElementNS("http://www.w3.org/2000/svg", "path");
                probe.setAttribute("class", "probe");
                probe.setAttribute("d", d);
                panel.append(probe);
            }""",
            d,
        )
        (((x, y),),) = drawn(page, ".probe")
        page.locator(".probe").evaluate("e => e.remove()")
        told = numbers(page)
        assert (x, y) == pytest.approx((told["xi"], told["loss"]), abs=CLOSE)


def test_the_three_curves_are_the_losses_and_the_lowest_point_is_where_it_says(opened):
    page = opened("smoothing")
    for _ in random_settings(page, "smoothing", seed=4, count=8):
        f = logits_of(page)
        losses = three_losses(page)
        for name, loss in losses.items():
            for curve in drawn(page, f'[data-curve="{name}"]'):
                x, y = table(curve).T
                rows = torch.cat([x[:, None], f[:, 1:].expand(len(x), -1)], 1)
                assert torch.allclose(loss(rows), y, rtol=0, atol=CLOSE)
        for foot, _ in drawn(page, "[data-rest]"):
            at_rest = f.clone()
            at_rest[0, 0] = foot[0]
            slope = slope_of(losses["label_smoothing"], at_rest)[0, 0]
            assert slope.item() == pytest.approx(0, abs=CLOSE)
        chosen = page.get_by_role("group", name="Loss").locator(":checked").input_value()
        slope = slope_of(losses[chosen], f)[0]
        for (start, end), expected in zip(drawn(page, "[data-push]"), slope.tolist()):
            assert (end[0] - start[0]) / 2 == pytest.approx(-expected, abs=CLOSE)


@pytest.mark.parametrize("name", ["softmax", "label smoothing", "large margin"])
def test_going_downhill_is_the_library_s_descent(opened, name):
    page = opened("smoothing")
    page.get_by_role("radio", name=name, exact=True).check()
    loss = three_losses(page)[name.replace(" ", "_")]
    f = logits_of(page)
    for _ in range(2):
        page.get_by_role("button", name="Go downhill, 40 steps").click()
        for _ in range(40):
            f = f - 0.5 * slope_of(loss, f)
    assert torch.allclose(logits_of(page), f, rtol=0, atol=CLOSE)


def test_what_stands_in_the_cosine_s_place_is_drawn_where_it_is(opened):
    page = opened("angles")
    for _ in random_settings(page, "angles", seed=5, count=8):
        state = angular(page)
        (curve,) = drawn(page, "[data-curve=instead]")
        theta, y = table(curve).T
        x = torch.stack([theta.deg2rad().cos(), theta.deg2rad().sin()], 1)
        alone = {**state, "weight": table([[1.0, 0.0], [0.0, 1.0]])}
        f, asked, _ = angular_parts(alone, x)
        scale = COSINE_SCALE if state["name"] in ("cosface", "arcface") else 1
        assert torch.allclose((f[:, 0] - asked) / scale, y, rtol=0, atol=CLOSE)


def test_every_sector_belongs_to_the_class_whose_demand_is_met_there(opened):
    page = opened("angles")
    for _ in random_settings(page, "angles", seed=6):
        state = angular(page)
        read = (
            "found => found.map(e => [e.dataset.from, e.dataset.to, e.dataset.owner].map(Number))"
        )
        sectors = page.locator("[data-owner]").evaluate_all(read)
        assert sum(end - start for start, end, _ in sectors) == pytest.approx(2 * math.pi)
        classes = range(len(state["weight"]))
        leads = [partial(ahead, state, target=k) for k in classes]
        for start, end, owner in sectors:
            inside = [start + share * (end - start) for share in (0.01, 0.3, 0.5, 0.8, 0.99)]
            for k, lead in enumerate(leads):
                assert bool((lead(inside) > 0).all()) is (k == owner)
            if len(sectors) > 1:
                # At its first border somebody's demand is met exactly.
                assert min(abs(lead([start]).item()) for lead in leads) < CLOSE


def test_the_drawn_sectors_have_the_angles_they_tell(opened):
    page = opened("angles")
    for _ in random_settings(page, "angles", seed=7, count=6):
        read = "found => found.map(e => [Number(e.dataset.from), Number(e.dataset.to)])"
        told = page.locator("[data-owner]").evaluate_all(read)
        for (start, end), points in zip(told, drawn(page, "[data-owner]")):
            for angle, (x, y) in ((start, points[1]), (end, points[-2])):
                assert (x, y) == pytest.approx(
                    (1.5 * math.cos(angle), 1.5 * math.sin(angle)), abs=CLOSE
                )
        for border in page.locator("[data-border]").all():
            angle = float(border.get_attribute("data-border"))
            assert ahead(angular(page), [angle], 0, with_margin=False).abs().item() < CLOSE


def test_the_borders_towards_the_rival_are_where_the_numbers_say(opened):
    page = opened("angles")
    for _ in random_settings(page, "angles", seed=8):
        state, told = angular(page), numbers(page)
        own, other = (math.atan2(y, x) for x, y in state["weight"][:2].tolist())
        way = 1 if (other - own) % (2 * math.pi) <= math.pi else -1
        for name, with_margin in (("wins", False), ("kept", True)):
            reach = math.radians(told[name])
            if reach == 0:
                assert ahead(state, [own], 0, with_margin).item() <= CLOSE
                continue
            assert ahead(state, [own + way * reach], 0, with_margin).abs().item() < CLOSE
            on_the_way = [own + way * share * reach for share in (0.0, 0.5, 0.99)]
            assert bool((ahead(state, on_the_way, 0, with_margin) > 0).all())


def test_the_green_border_is_where_the_margin_is_just_met(opened):
    page = opened("mixture")
    seen = set()

    def settings():
        alpha, m = page.locator("input[type=range]").all()
        for values in (("0", "1.5"), ("2", "4")):
            alpha.fill(values[0])
            m.fill(values[1])
            yield
        yield from random_settings(page, "mixture", seed=9)

    for _ in settings():
        state, told = mixture(page), numbers(page)
        for border in ("line", "circle"):
            for points in drawn(page, f'[data-border="{border}"]'):
                seen.add(border)
                x = table(points)
                # Distances here go up to a hundred, and their squares are subtracted.
                assert met(state, x).abs().max().item() < 100 * CLOSE
        own, rival = state["means"]
        if math.isnan(told["reach"]):
            seen.add("nowhere")
            centre = own + (own - rival) / state["alpha"]
            assert met(state, centre[None]).item() <= 0  # the best place of all
        else:
            at = own + told["reach"] * (rival - own) / (rival - own).norm()
            assert met(state, at[None]).abs().item() < CLOSE
    assert seen == {"line", "circle", "nowhere"}


def test_the_profile_is_the_loss_along_the_ray_and_the_arrow_is_its_slope(opened):
    page = opened("mixture")
    for _ in random_settings(page, "mixture", seed=10, count=8):
        state = mixture(page)
        own, x = state["means"][0], state["x"][0]
        out = (x - own) / (x - own).norm()
        for curve in drawn(page, "[data-curve=loss]"):
            t, y = table(curve).T
            assert torch.allclose(
                mixture_loss(state, own + t[:, None] * out), y, rtol=0, atol=CLOSE
            )
        slope = slope_of(lambda z, state=state: mixture_loss(state, z), state["x"])[0]
        ((start, end),) = drawn(page, "[data-pull]")
        for j in (0, 1):
            assert (end[j] - start[j]) / 0.4 == pytest.approx(-slope[j].item(), abs=CLOSE)


def test_bars_updates_and_losses_of_the_groups_are_drawn_to_scale(opened):
    page = opened("groups")
    for _ in random_settings(page, "groups", seed=11, count=10):
        state, told = grouped(page), numbers(page)
        names = {"softmax": "softmax", "type I": "type1", "type II": "type2", "bound": "most"}
        for word, key in names.items():
            ((start, end),) = drawn(page, f'[data-bar="{word}"]')
            assert (start[0], end[0]) == pytest.approx((0, told[key]), abs=CLOSE)
        for kind in (1, 2):
            updates = group_updates(state, kind)
            for k, members in enumerate(state["parts"]):
                ((start, end),) = drawn(page, f'[data-line="type{kind}-{k}"]')
                for j in members:
                    assert (start[1], end[1]) == pytest.approx((updates[j],) * 2, abs=CLOSE)
        # The columns stand in the order of the groups.
        places = [x for x, _ in marks(page).values()]
        order = [j for members in state["parts"] for j in members]
        assert sorted(range(8), key=places.__getitem__) == order


@each_explorable
def test_the_still_picture_is_what_the_library_draws_today(name):
    stored = (FOLDER / f"{name}.svg").read_text(encoding="utf-8")
    today = pictures.PICTURES[name]().text()
    pattern = r"-?\d+\.?\d*"
    assert re.split(pattern, stored) == re.split(pattern, today)
    # The last digit of a rounded number may fall either way on another machine.
    for old, new in zip(re.findall(pattern, stored), re.findall(pattern, today)):
        digits = len(old.partition(".")[2])
        assert float(old) == pytest.approx(float(new), abs=1.01 * 10**-digits if digits else 0)


# --- Told and checked ----------------------------------------------------------------------------


@each_explorable
def test_it_asks_a_question_first(opened, name):
    page = opened(name)
    first = page.locator(".explore > *").first
    assert first.inner_text().rstrip(".").count("?") == 1
    assert page.get_by_role("group").first.get_attribute("aria-label").startswith("Explorable")


@each_explorable
def test_its_chapter_says_what_to_try_and_what_was_seen(name):
    ids = [cell.id for cell in notebook(name).cells]
    place = ids.index(f"explore-{name}")
    assert ids[place - 1 : place + 2] == [
        f"explore-{name}-try",
        f"explore-{name}",
        f"explore-{name}-seen",
    ]


NAME_OF = 'e => e.getAttribute("aria-label") ?? e.labels?.[0]?.textContent ?? e.textContent'


@each_explorable
def test_keys_reach_and_move_everything(opened, name):
    page = opened(name)
    expected = EXPECTED[name]
    controls = page.locator(".handle, input, button").evaluate_all(
        f"""found => found
            .filter(e => e.style.display !== "none" && (e.type !== "radio" || e.checked))
            .map({NAME_OF})"""
    )
    reached = []
    for _ in controls:
        page.keyboard.press("Tab")
        reached.append(page.evaluate(f"({NAME_OF})(document.activeElement)"))
    # A table that scrolls would be one stop more; nothing else may hide.
    assert reached == controls
    for label in marks(page):
        mark = page.get_by_role("slider", name=label, exact=True)
        moves = mark.get_attribute("class").split("moves-")[1]
        for key, way in (("ArrowRight", 1), ("ArrowLeft", -1), ("ArrowUp", 1), ("ArrowDown", -1)):
            before = marks(page)[label]
            mark.focus()
            page.keyboard.press(key)
            after = marks(page)[label]
            axis = {"x": 0, "y": 1, "xy": int(key in ("ArrowUp", "ArrowDown"))}[moves]
            stuck = before[axis] in (
                float(mark.get_attribute("aria-valuemax")),
                float(mark.get_attribute("aria-valuemin")),
            )
            assert stuck or (after[axis] - before[axis]) * way > 0
            assert after[1 - axis] == before[1 - axis]
            same(numbers(page), expected(page))


@each_explorable
def test_home_end_and_large_steps_work(opened, name):
    page = opened(name)
    label = next(iter(marks(page)))
    mark = page.get_by_role("slider", name=label, exact=True)
    upright = "moves-y" in mark.get_attribute("class")
    mark.focus()
    for key, bound in (("Home", "aria-valuemin"), ("End", "aria-valuemax")):
        page.keyboard.press(key)
        assert marks(page)[label][upright] == float(mark.get_attribute(bound))
    page.keyboard.press("Home")
    start = marks(page)[label]
    page.keyboard.press("ArrowUp" if upright else "ArrowRight")
    step = marks(page)[label][upright] - start[upright]
    page.keyboard.press("Home")
    page.keyboard.press("Shift+ArrowUp" if upright else "Shift+ArrowRight")
    assert marks(page)[label][upright] - start[upright] == pytest.approx(5 * step)


@each_explorable
def test_the_focus_is_seen(opened, name):
    page = opened(name)
    page.keyboard.press("Tab")
    stroke = "() => getComputedStyle(document.activeElement.querySelector('.reach')).strokeWidth"
    assert page.evaluate(stroke) == "2.5px"


@each_explorable
def test_a_mark_follows_the_mouse(opened, name):
    page = opened(name)
    label = next(iter(marks(page)))
    mark = page.get_by_role("slider", name=label, exact=True)
    panel = mark.locator("xpath=ancestor::*[name()='svg']").bounding_box()
    x, y = panel["x"] + 0.55 * panel["width"], panel["y"] + 0.35 * panel["height"]
    drag(page, label, (0.55, 0.35), steps=5)
    box = mark.locator(".reach").bounding_box()
    moves = mark.get_attribute("class").split("moves-")[1]
    # Within half a step of the mark's, which is a tenth of a unit at most.
    if "x" in moves:
        assert box["x"] + box["width"] / 2 == pytest.approx(x, abs=6)
    if "y" in moves:
        assert box["y"] + box["height"] / 2 == pytest.approx(y, abs=6)


@each_explorable
def test_a_mark_follows_a_finger_and_the_page_stays(opened, name):
    page = opened(name, width=390, has_touch=True, is_mobile=True)
    page.set_viewport_size({"width": 390, "height": 500})  # a page that could scroll
    label = list(marks(page))[-1]
    mark = page.get_by_role("slider", name=label, exact=True)
    mark.scroll_into_view_if_needed()
    scrolled, places = page.evaluate("scrollY"), [marks(page)[label]]
    box = mark.locator(".reach").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    touch = page.context.new_cdp_session(page)
    for kind, shift in [("touchStart", 0), *(("touchMove", far) for far in (15, 30, 45, 60))]:
        point = {"x": x + shift, "y": y - shift}
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [point]})
        places.append(marks(page)[label])
    touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    assert len(set(places[1:])) == 5
    assert page.evaluate("scrollY") == scrolled
    same(numbers(page), EXPECTED[name](page))


@each_explorable
def test_what_a_finger_has_to_hit_is_large_enough(opened, name):
    page = opened(name, width=390)
    for box in (e.bounding_box() for e in page.locator(".handle .reach, button, label").all()):
        if box:
            assert min(box["width"], box["height"]) >= 24


@each_explorable
def test_start_again_does(opened, name):
    page = opened(name)
    before = numbers(page), marks(page)
    for _ in random_settings(page, name, seed=12, count=2):
        pass
    assert (numbers(page), marks(page)) != before
    page.get_by_role("button", name="Start again").click()
    assert (numbers(page), marks(page)) == before


@each_explorable
def test_a_change_is_read_out_once_and_calmly(opened, name):
    page = opened(name)
    page.evaluate(
        """() => {
            const voice = document.querySelector("[aria-live=polite]");
            window.said = [];
            const listen = new MutationObserver(() => window.said.push(voice.textContent));
            listen.observe(voice, { childList: true });
        }"""
    )
    page.get_by_role("slider").first.focus()
    for _ in range(6):
        page.keyboard.press("ArrowLeft")
    page.wait_for_function("window.said.length > 0")
    (said,) = page.evaluate("window.said")
    assert re.search(r"\d", said)
    assert said.endswith(".")


def widen(page, width: int) -> None:
    """Give the page another width, and wait until it is drawn anew."""
    page.set_viewport_size({"width": width, "height": 900})
    page.wait_for_function(
        """[...document.querySelectorAll("svg")]
            .every(e => e.viewBox.baseVal.width === e.clientWidth)"""
    )


@each_explorable
def test_axe_finds_nothing_in_light_and_in_dark(opened, name):
    axe = pytest.importorskip(
        "axe_playwright_python", reason="needs axe-playwright-python, see the extra dev"
    )
    page = opened(name)
    for _ in random_settings(page, name, seed=13, count=1):
        pass
    page.evaluate((Path(axe.__file__).parent / "axe.min.js").read_text(encoding="utf-8"))
    for theme, paper in (("light", "#fff"), ("dark", "#14181e")):
        page.evaluate(
            """([theme, paper]) => {
                document.documentElement.dataset.theme = theme;
                document.body.style.background = paper;
            }""",
            [theme, paper],
        )
        for width in (800, 390):
            widen(page, width)
            run = "axe.run('.explore').then(r => r.violations.map(v => [v.id, v.impact]))"
            assert page.evaluate(run) == [], (theme, width)


@each_explorable
def test_nothing_hangs_over_at_any_width(opened, name):
    page = opened(name)
    for _ in random_settings(page, name, seed=14, count=2):
        for width in (800, 390, 340):
            widen(page, width)
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            over = page.locator("svg text.tick, svg text.axis").evaluate_all(
                """found => found.filter(e => {
                    const word = e.getBoundingClientRect();
                    const sheet = e.ownerSVGElement.getBoundingClientRect();
                    return word.left < sheet.left - 1 || word.right > sheet.right + 1
                        || word.bottom > sheet.bottom + 2;
                }).map(e => e.textContent)"""
            )
            assert over == []
            same(numbers(page), EXPECTED[name](page))


@each_explorable
def test_nothing_moves_by_itself(opened, name):
    page = opened(name, reduced_motion="reduce")
    for _ in random_settings(page, name, seed=15, count=2):
        assert page.evaluate("document.getAnimations().length") == 0
    assert not re.search(r"animation|transition", (FOLDER / "explore.css").read_text())


@each_explorable
def test_without_scripts_the_still_picture_is_there(opened, name):
    page = opened(name, java_script_enabled=False)
    image = page.locator(".explore img")
    assert len(image.get_attribute("alt")) > 100
    image.scroll_into_view_if_needed()
    assert image.bounding_box()["height"] > 200
    assert page.get_by_role("slider").count() == 0
    assert page.locator(".explore a").get_attribute("href") == f"#explore-{name}"


def test_colab_and_jupyter_get_a_picture_with_an_address_and_a_link():
    site = load("_ext", "book_html").pages_address(chapters.project()["urls"]["Repository"])
    for name, stem in chapters.EXPLORABLES.items():
        text = cell(name)
        assert f'src="{site}_static/explore/{name}.svg"' in text
        assert f'href="{site}chapters/{stem}.html#explore-{name}"' in text
        assert "script" not in text
        assert "\n\n" not in text  # a blank line would end the block, and show its tags


def test_a_page_loads_what_it_uses_and_nothing_else():
    told = on_the_page(cell("mixture"))
    assert re.findall(r'src="../_static/explore/(\w+\.\w+)"', told["body"]) == [
        "mixture.svg",
        "losses.js",
        "stage.js",
        "mixture.js",
    ]
    assert "https:" not in told["body"] + told["metatags"]
    plain = on_the_page("<p>A page without one.</p>")
    assert plain["body"] == "<p>A page without one.</p>"
    assert "metatags" not in plain


@each_explorable
def test_it_is_light(name):
    files = ("losses.js", "stage.js", "explore.css", f"{name}.js")
    assert sum((FOLDER / file).stat().st_size for file in files) < 60_000
    assert (FOLDER / f"{name}.svg").stat().st_size < 10_000


def test_the_colours_are_those_of_the_figures():
    source = (ROOT / "marginlib" / "lab" / "show.py").read_text(encoding="utf-8")
    named = {
        node.targets[0].id: node.value.value
        for node in ast.parse(source).body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
    }
    sheet = (FOLDER / "explore.css").read_text(encoding="utf-8").lower()
    for name in ("TARGET", "RIVALS", "MARGIN", "BIAS"):
        assert re.findall(rf"--{name.lower()}: (#\w+);", sheet) == [named[name].lower()]
        assert named[name].lower() in pictures.STYLE


# --- Refused -------------------------------------------------------------------------------------


@each_explorable
def test_no_mark_leaves_its_range(opened, name):
    page = opened(name)
    for label in marks(page):
        for corner in ((-0.2, -0.2), (1.3, 1.3)):
            drag(page, label, corner)
            mark = page.get_by_role("slider", name=label, exact=True)
            upright = "moves-y" in mark.get_attribute("class")
            low, high = (float(mark.get_attribute(f"aria-value{end}")) for end in ("min", "max"))
            assert low <= marks(page)[label][upright] <= high
    same(numbers(page), EXPECTED[name](page))


def test_a_vector_keeps_a_direction_and_two_means_keep_apart(opened):
    page = opened("angles")
    drag(page, "Class vector of the target", (0.5, 0.5), steps=30)
    x, y = marks(page)["Class vector of the target"]
    assert math.hypot(x, y) > 0.19
    page = opened("mixture")
    for _ in range(30):
        page.get_by_role("slider", name="Mean of the rival").press("ArrowLeft")
    (x0, y0), (x1, y1) = (marks(page)[f"Mean of the {who}"] for who in ("target", "rival"))
    assert math.hypot(x1 - x0, y1 - y0) >= 0.5


def test_another_button_of_the_mouse_moves_nothing(opened):
    page = opened("logits")
    before = marks(page)
    box = page.get_by_role("slider").first.locator(".reach").bounding_box()
    page.mouse.move(box["x"] + 13, box["y"] + 13)
    page.mouse.down(button="right")
    page.mouse.move(box["x"] - 80, box["y"] + 13)
    page.mouse.up(button="right")
    assert marks(page) == before


def test_class_vectors_of_one_direction_let_nobody_win(opened):
    page = opened("angles")
    page.get_by_role("radio", name="CosFace").check()
    drag(page, "Class vector of rival 1", (0.8, 0.5))
    assert marks(page)["Class vector of rival 1"][1] == 0
    owners = page.locator("[data-owner]").evaluate_all("found => found.map(e => e.dataset.owner)")
    assert owners == ["-1"]
