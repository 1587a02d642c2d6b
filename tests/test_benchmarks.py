"""The benchmarks measure what they say, and the page says what was measured.

No test here asserts a time: times depend on the machine.  Memory does not.
"""

import importlib.util
import json
import math
from pathlib import Path

import pytest
import torch

from marginlib import heads
from marginlib.lab import data, evidence
from marginlib.lab.train import pixels

ROOT = Path(__file__).resolve().parents[1]
CPU = torch.device("cpu")
# Small, and yet so that no tensor of a single row or column decides.
SHAPE = (64, 96, 128)


def load(name, path):
    spec = importlib.util.spec_from_file_location(name, ROOT / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


run = load("benchmarks_run", "benchmarks/run.py")
page = load("benchmarks_page", "book/tools/benchmarks.py")
RECORDS = json.loads(run.RECORD.read_text()) if run.RECORD.exists() else {}
speeds = load("benchmarks_throughput", "benchmarks/throughput.py")
SPEEDS = json.loads(speeds.RECORD.read_text()) if speeds.RECORD.exists() else {}


# --- Claimed and proved: the record of this repository --------------------------------------


def test_the_page_is_up_to_date_or_make_benchmarks_was_forgotten():
    assert (ROOT / "book/benchmarks.md").read_text(encoding="utf-8") == page.page()


@pytest.mark.parametrize("name", RECORDS)
def test_a_record_says_where_and_when_and_is_whole(name):
    record = RECORDS[name]
    assert record["commit"] != "unknown"
    assert not record["commit"].endswith("-dirty")
    assert record["rounds"] >= 3
    assert set(record["versions"]) == {"python", "torch", "marginlib"}
    found = {(row["case"], tuple(row["shape"])) for row in record["rows"]}
    assert set(record.get("peers", {})) <= {name.split(" ")[0] for name in run.SAME}
    assert {(case, shape) for case in run.CASES for shape in run.SHAPES} <= found
    for row in record["rows"]:
        low, high = row["quartiles"]
        assert 0 < low <= row["time"] <= high
        assert row["memory"] > 0


@pytest.mark.parametrize("name", SPEEDS)
def test_a_record_of_speeds_says_where_and_when_and_is_whole(name):
    record = SPEEDS[name]
    assert record["commit"] != "unknown"
    assert not record["commit"].endswith("-dirty")
    assert record["rounds"] >= 3
    assert sum(record["shares"].values()) == pytest.approx(1, abs=0.005)  # of rounded shares
    first, *rest = record["rows"]
    assert (first["case"], first["ratio"]) == ("laboratory", 1)
    assert {"plain loop", "4 seeds at once"} <= {row["case"] for row in rest}


def test_every_head_of_the_library_is_measured():
    made = {type(recipe(8, 3)) for recipe in run.CASES.values()}
    ours = {
        h for h in vars(heads).values() if isinstance(h, type) and h.__module__ == heads.__name__
    }
    assert {h for h in ours if issubclass(h, heads.Head)} - made == {heads.Head}


# --- Computed and compared ------------------------------------------------------------------


@pytest.fixture(scope="module")
def few():
    return data.load("pocket").fewer(6)


def test_seeds_at_once_take_the_steps_that_each_would_take_alone(few, monkeypatch):
    monkeypatch.setattr(speeds, "DECAY", 0.1)  # at 1e-4 three steps would not show it
    models = [speeds.whole("tiny", few, seed, CPU) for seed in (0, 1)]
    alone = [speeds.whole("tiny", few, seed, CPU) for seed in (0, 1)]
    stacked = speeds.Stacked(models, 20, few)
    together = list(stacked.orders())
    assert len(together) == 3
    for views in together:
        images, labels = (torch.stack(part) for part in zip(*views, strict=True))
        stacked.step(images.float() / 255, labels)
    for k, model in enumerate(alone):
        optimiser = torch.optim.SGD(
            model.parameters(), speeds.RATE, speeds.MOMENTUM, weight_decay=speeds.DECAY
        )
        for views in together:
            view, labels = views[k]
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(model(view.float() / 255), labels).backward()
            optimiser.step()
        for name, weight in model.named_parameters():
            # Sums in another order; three steps in float32.
            assert torch.allclose(stacked.weights[name][k], weight, rtol=1e-4, atol=1e-6), name


def test_every_way_trains_on_the_same_number_of_images(few):
    assert speeds.laboratory("tiny", few, 20, CPU)() == 60
    assert speeds.plain("tiny", few, 20, CPU)() == 60
    assert speeds.seeds_at_once("tiny", few, 20, CPU, seeds=2)() == 120


def test_the_plain_loop_scales_its_images_as_the_laboratory_does(few):
    loop = speeds.OneByOne(few)
    mean, deviation = pixels(few.train_images)
    seen = torch.stack([loop[i][0] for i in range(len(loop))])
    # Crops replace some pixels by padded zeros, and keep the scale of all others.
    levels = ((few.train_images.float() - mean) / deviation).unique()
    assert torch.isin(seen.unique().round(decimals=4), levels.round(decimals=4)).all()


def test_a_measured_speed_is_whole(few):
    record = speeds.measure(few, "tiny", CPU, batch=20, seeds=2, rounds=2)
    assert [row["case"] for row in record["rows"]] == [
        "laboratory",
        "plain loop",
        "2 seeds at once",
    ]
    assert record["rows"][0]["quartiles"] == [1, 1]
    assert set(record["shares"]) == {"batch", "forward", "backward", "optimiser"}
    text = page.trained("cpu", record)
    assert "| plain loop |" in text
    assert "no workers" in text


def memory(case, shape=SHAPE):
    return run.peak(run.make_step(run.CASES[case], shape, CPU), CPU) / run.peak(
        run.make_step(run.Plain, shape, CPU), CPU
    )


# What a step may hold at its peak, at this shape, where a copy of the logits or of the weight is
# about a third of what the plain step holds.
@pytest.mark.parametrize(
    ("case", "most"),
    [
        ("softmax", 1.01),
        ("soft margin", 1.01),
        ("L-Softmax", 2.1),
        ("A-Softmax", 2.1),
        ("NormFace", 2.1),
        ("CosFace", 2.1),
        ("ArcFace", 2.1),
        ("mixture", 2.5),
        ("groups (1, 2), kind 1", 2.5),
        ("groups (1, 2, 4), kind 2", 4.4),
    ],
)
def test_a_head_holds_no_more_than_this_many_times_the_plain_steps_memory(case, most):
    assert memory(case) <= most


def test_the_softmax_losses_take_the_memory_of_cross_entropy():
    # Three tensors of logits' size at once; row-wise numbers are an eightieth of one each.
    assert memory("softmax", (80, 8, 800)) <= 1.01
    assert memory("soft margin", (80, 8, 800)) <= 1.01


def test_the_groups_never_form_the_logits_of_every_feature():
    n, d, c = SHAPE
    whole = 4 * n * d * c
    assert run.peak(run.make_step(run.CASES["groups (1, 2), kind 1"], SHAPE, CPU), CPU) < whole / 5


def test_the_peak_is_the_most_that_is_held_at_once():
    def two_then_one():
        first = torch.empty(1000)
        second = torch.empty(500)
        del first
        third = torch.empty(600)
        del second, third

    assert run.peak(two_then_one, CPU) == 4 * 1500


def test_what_a_step_lets_go_of_first_is_not_counted_against_it():
    kept = {"gradient": torch.empty(1000)}

    def replace():
        kept.clear()
        kept["gradient"] = torch.empty(1000)

    assert run.peak(replace, CPU) == 4 * 1000


def test_a_step_gives_every_parameter_and_the_features_a_gradient_each_time_anew():
    seen = []

    class Watched(run.Plain):
        def forward(self, features, target):
            seen[:] = [features, *self.parameters()]
            return super().forward(features, target)

    step = run.make_step(Watched, (4, 3, 5), CPU)
    step()
    first = [leaf.grad.clone() for leaf in seen]
    step()
    assert all(torch.equal(leaf.grad, grad) for leaf, grad in zip(seen, first, strict=True))


# Counted, so the same on every machine.
@pytest.mark.parametrize(
    ("case", "times"),
    [("softmax", 1), ("ArcFace", 1), ("groups (1, 2, 4), kind 1", 1), ("mixture, diagonal", 2)],
)
def test_products_are_counted_and_bytes_are_those_of_the_leaves(case, times):
    n, d, c = SHAPE
    step = run.make_step(run.CASES[case], SHAPE, CPU)
    assert run.operations(step) == times * 6 * n * d * c
    held = sum(p.numel() for p in run.CASES[case](d, c).parameters())
    assert run.least_bytes(step.leaves) == 2 * 4 * (n * d + held)


@pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")  # a peer's own
@pytest.mark.parametrize(("peer", "ours"), run.SAME.items())
def test_a_peer_that_is_installed_computes_the_same(peer, ours):
    if peer not in run.peers():
        pytest.skip("not installed")
    torch.manual_seed(0)
    n, d, c = 20, 8, 6
    x, y = torch.randn(n, d), torch.arange(n) % c
    theirs, head = run.peers()[peer](d, c), run.CASES[ours](d, c)
    # Where the two libraries' defaults differ.
    told = {
        "ArcFace": {"m": math.radians(28.6), "scale": 64},
        "CosFace": {"scale": 64},
        "NormFace": {"scale": 1 / 0.05},
    }
    for name, value in told.get(ours, {}).items():
        assert hasattr(head, name)
        setattr(head, name, value)
    weight = theirs.W if hasattr(theirs, "W") else theirs.linear.weight
    with torch.no_grad():
        head.weight.copy_(weight.T if hasattr(theirs, "W") else weight)
        if hasattr(theirs, "linear"):
            head.bias.copy_(theirs.linear.bias)
    # torch divides the dense hinge by c and not by the number of rivals.
    factor = (c - 1) / c if ours == "dense hinge" else 1
    torch.testing.assert_close(theirs(x, y), factor * head(x, y), rtol=1e-4, atol=1e-5)


def test_the_ratio_is_ours_by_theirs(monkeypatch):
    monkeypatch.setattr(run, "seconds", lambda step, device: {"ours": 3.0, "plain": 2.0}[step])
    monkeypatch.setattr(run, "peak", lambda step, device: {"ours": 3 << 20, "plain": 2 << 20}[step])
    found = run.compare("ours", "plain", 4, CPU)
    assert found == {
        "time": 1.5,
        "quartiles": [1.5, 1.5],
        "memory": 1.5,
        "plain_ms": 2000.0,
        "plain_mib": 2.0,
    }


# --- Told and checked -----------------------------------------------------------------------


def test_every_case_runs_and_the_record_is_whole(tmp_path):
    shapes = ((6, 8, 5), (4, 8, 12))
    said = []
    record = run.measure(run.CASES, shapes=shapes, rounds=2, say=said.append)
    assert len(said) == len(record["rows"]) == 2 * len(run.CASES)
    path = tmp_path / "benchmarks.json"
    name = run.setting("cpu", None, False)
    run.keep(name, record, path)
    run.keep("cuda bfloat16 compiled", record, path)
    run.keep(name, record, path)
    assert json.loads(path.read_text()) == {name: record, "cuda bfloat16 compiled": record}
    assert record["device"].endswith("1 thread")
    assert set(record) - {"rows"} == {*evidence.stamp(CPU), "rounds", "limits"}
    assert min(record["limits"].values()) > 1e6
    for row in record["rows"]:
        assert "same" not in row
        assert row["bytes"] > 0


def test_who_computes_the_same_is_named_and_measured_beside_ours():
    names = {"softmax", "torch linear_cross_entropy", "torch label smoothing", "label smoothing"}
    cases = {name: one for name, one in (run.CASES | run.peers()).items() if name in names}
    record = run.measure(cases, shapes=((6, 8, 5),), rounds=2, say=str)
    assert "peers" not in record
    same = {row["case"]: row["same"] for row in record["rows"] if "same" in row}
    assert same == {name: run.SAME[name] for name in cases if name in run.SAME}
    assert set(run.SAME.values()) <= set(run.CASES)
    assert set(run.peers()) <= set(run.SAME)


def test_it_runs_under_autocast_and_compiled():
    cases = {"softmax": run.CASES["softmax"]}
    plain = run.make_step(run.Plain, (4, 3, 5), CPU, torch.bfloat16)
    plain()
    record = run.measure(cases, shapes=((6, 8, 5),), rounds=2, autocast="bfloat16", say=str)
    assert record["rows"][0]["case"] == "softmax"
    assert run.setting("cuda", "bfloat16", True) == "cuda bfloat16 compiled"


def test_a_goal_is_met_to_two_decimals():
    assert page.met(1.254, 1.25)
    assert not page.met(1.256, 1.25)
    assert page.met(4.5, 0.9 * 5)


def row(case, time, memory, shape=(256, 2048, 1000), **more):
    return {"case": case, "shape": list(shape), "time": time, "memory": memory, **more}


def test_a_goal_is_judged_by_its_worst_cell_and_says_why_it_is_missed(monkeypatch):
    goal = page.Goal("both", ("a", "b"), 1.5, 2.0, "the floor")
    monkeypatch.setattr(page, "GOALS", (goal,))
    fine = [row("a", 1.1, 2.0), row("b", 1.5, 1.0), row("c", 9, 9)]
    assert page.goals(fine).endswith("| yes |")
    for worse in (row("a", 1.6, 1.0, (1, 2, 3)), row("a", 1.0, 2.1)):
        said = page.goals([*fine, worse])
        assert "| no |" in said
        assert said.endswith("- *both*: the floor")
    assert "1.60 (a, 1 × 2 × 3)" in page.goals([*fine, row("a", 1.6, 1.0, (1, 2, 3))])


def test_ours_stands_beside_whoever_computes_the_same():
    ours = row("a", 1.0, 2.0)
    assert page.beside([ours]) == ""
    said = page.beside([ours, row("their a", 2.0, 1.0, same="a")])
    assert "| their a | a | 0.50 | 2.00 |" in said
    assert said.endswith("faster everywhere.")
    quicker = row("their a", 0.8, 1.0, same="a")
    assert "Slower at some shape: a than their a, by 25 % at most." in page.beside([ours, quicker])


def test_the_roof_is_the_longer_of_two_times():
    limits = {"operations": 1e9, "bytes": 1e9}
    one = {"operations": 3e6, "bytes": 2e6, "plain_ms": 6.0}
    assert page.roof(one, limits) == pytest.approx(0.5)
    assert page.roof(one | {"bytes": 12e6}, limits) == pytest.approx(2.0)
    cell = row("a", 1.0, 1.0, quartiles=[1, 1], **one)
    assert page.costs([cell], limits).endswith("| a | 1.00 (1.00 to 1.00) | 1.00 | 0.50 |")


def test_without_a_record_the_page_says_only_how_to_measure(tmp_path):
    assert "make benchmarks" in page.page(tmp_path)
    assert "\n## " not in page.page(tmp_path)


def test_the_goals_speak_of_cases_that_are_measured():
    for goal in page.GOALS:
        assert set(goal.cases) <= set(run.CASES)
        assert goal.floor.endswith(".")


# --- Refused --------------------------------------------------------------------------------


def test_a_peer_that_is_not_installed_is_not_missed(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert {name.split(" ")[0] for name in run.peers()} == {"torch"}
