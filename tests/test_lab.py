"""The laboratory: are the images, the runs and the records what they are said to be?"""

import math
import re
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from marginlib import LinearHead, large_margin_loss, softmax_loss
from marginlib.lab import __main__ as runner
from marginlib.lab import data, evidence, forecast, measures, nets, report, show, studies
from marginlib.lab.studies import Setting, large_margin
from marginlib.lab.train import Falling, Steps, pixels, seeded, train

LAB = Path(data.__file__).parent


@pytest.fixture(scope="module")
def pocket():
    return data.load("pocket")


@pytest.fixture(scope="module")
def few(pocket):
    return pocket.fewer(20, seed=0)


@pytest.fixture
def results(tmp_path, monkeypatch):
    """An empty folder of records."""
    monkeypatch.setenv("MARGINLIB_RESULTS", str(tmp_path / "results"))
    return tmp_path / "results"


def trained(images, *, seed=0, loss=softmax_loss, epochs=1, **options):
    with seeded(seed):
        net = nets.build("tiny", images.channels, images.size)
        head = LinearHead(net.features, images.classes, loss=loss)
    run = train(net, head, images, seed=seed, epochs=epochs, batch=20, progress=False, **options)
    return run, net, head


def a_run(method="softmax", seed=0, error=10.0, **config):
    config = {"method": method, "scale": "pocket", "regime": "clean", **config}
    return evidence.Run(
        config=config,
        seed=seed,
        measures={
            "train": {"error": [error + 2, error + 1]},
            "validation": {"error": [error + 1, error]},
            "test": {"error": error},
        },
        ended="finished",
        source="made up",
        device="a test",
        versions={"torch": "0"},
        commit="none",
        seconds=1.0,
        peak_memory=None,
        date="2026-01-31T12:00:00+00:00",
    )


# --- Claimed and proved -------------------------------------------------------------------


@pytest.mark.parametrize(("n", "t"), [(2, 12.7062), (3, 4.3027), (5, 2.7764), (61, 2.0003)])
def test_the_interval_is_students_as_the_printed_tables_have_it(n, t):
    # n - 1 zeros and one n: mean 1, standard error 1; the tables print four decimals.
    mean, low, high = evidence.interval([0.0] * (n - 1) + [float(n)])
    assert (mean, high - mean, mean - low) == pytest.approx((1, t, t), abs=5e-5)


def test_the_learning_rate_falls_evenly_in_its_logarithm():
    rate = Falling(0.1, 1e-4)
    steps = [math.log10(rate(t)) for t in (0, 0.25, 0.5, 0.75, 1)]
    assert steps == pytest.approx([-1, -1.75, -2.5, -3.25, -4])


# --- Computed and compared ----------------------------------------------------------------


def test_what_is_held_out_is_a_share_of_every_class_and_nothing_is_lost(pocket):
    apart = pocket.held_out(0.2, seed=3)
    assert torch.bincount(apart.test_labels).tolist() == [50] * 10
    assert torch.bincount(apart.train_labels).tolist() == [200] * 10
    pieces = torch.cat([apart.train_images, apart.test_images]).flatten(1)
    assert sorted(map(bytes, pieces.numpy())) == sorted(
        map(bytes, pocket.train_images.flatten(1).numpy())
    )


@pytest.mark.parametrize("rate", [0.0, 0.25, 1.0])
def test_noise_changes_exactly_that_share_of_the_labels_and_leaves_the_test_alone(pocket, rate):
    noisy = pocket.noisy(rate, seed=1)
    assert (noisy.train_labels != pocket.train_labels).sum() == rate * 2500
    assert noisy.train_labels.min() >= 0
    assert noisy.train_labels.max() <= 9
    assert torch.equal(noisy.test_labels, pocket.test_labels)


def test_every_wrong_label_is_as_likely_as_any_other(pocket):
    label = pocket.noisy(1.0, seed=0).train_labels[pocket.train_labels == 4]
    counts = torch.bincount(label, minlength=10)
    assert counts[4] == 0
    # 250 draws over 9 classes: 27.8 expected, standard deviation 5; four of them either side.
    assert all(8 < n < 48 for n in counts[[0, 1, 2, 3, 5, 6, 7, 8, 9]])


def test_fewer_images_are_drawn_class_by_class(pocket):
    assert torch.bincount(pocket.fewer(7).train_labels).tolist() == [7] * 10
    assert torch.bincount(pocket.fewer(fraction=0.1).train_labels).tolist() == [25] * 10


def test_some_of_the_classes_are_kept_with_all_their_images_and_counted_anew(pocket):
    part = pocket.only(4, seed=2)
    assert part.classes == 4
    assert torch.bincount(part.train_labels).tolist() == [250] * 4
    assert torch.bincount(part.test_labels).tolist() == [80] * 4
    old = [pocket.label_names.index(name) for name in part.label_names]
    assert old == sorted(old)
    assert old != [pocket.label_names.index(name) for name in pocket.only(4, seed=3).label_names]
    for label, before in enumerate(old):
        kept = part.test_images[part.test_labels == label]
        assert torch.equal(kept, pocket.test_images[pocket.test_labels == before])
    assert torch.equal(pocket.only(10).train_labels, pocket.train_labels)


@pytest.mark.parametrize("classes", [1, 11])
def test_more_classes_than_there_are_or_fewer_than_two_are_refused(pocket, classes):
    with pytest.raises(ValueError, match=f"has 10 classes; expected 2 to that many, got {classes}"):
        pocket.only(classes)


def test_a_setting_may_keep_some_of_the_classes_and_says_so_only_then():
    setting = Setting("pocket", "tiny", epochs=1, per_class=20, classes=3)
    run = studies.run(softmax_loss, setting, 0, named={"method": "a", "scale": "b", "regime": "c"})
    assert (run.config["classes"], run.config["images"]) == (3, 54)
    assert "classes" not in replace(setting, classes=None).config()


def test_pad_crop_flip_is_what_slices_of_a_padded_image_give():
    images = torch.randint(0, 256, (5, 3, 6, 6), dtype=torch.uint8)
    place = torch.tensor([[0, 0], [4, 4], [8, 1], [3, 8], [5, 2]])
    mirror = torch.tensor([False, True, False, True, True])
    padded = np.pad(images.numpy(), [(0, 0), (0, 0), (4, 4), (4, 4)])
    for i, (down, right) in enumerate(place.tolist()):
        piece = padded[i, :, down : down + 6, right : right + 6]
        expected = torch.from_numpy((piece[:, :, ::-1] if mirror[i] else piece).copy())
        assert torch.equal(data.pad_crop_flip(images, place, mirror)[i], expected)


def test_an_epoch_shows_each_image_at_most_once_with_its_own_label():
    images = torch.arange(50, dtype=torch.uint8).reshape(50, 1, 1, 1)
    draw = torch.Generator().manual_seed(0)
    seen = list(data.batches(images, torch.arange(50), 16, draw))
    assert [len(labels) for _, labels in seen] == [16, 16, 16]
    labels = torch.cat([labels for _, labels in seen])
    assert labels.unique().numel() == 48
    assert torch.equal(torch.cat([view.flatten() for view, _ in seen]), labels.to(torch.uint8))


def test_a_set_smaller_than_a_batch_is_one_batch():
    draw = torch.Generator().manual_seed(0)
    (only,) = data.batches(torch.zeros(5, 1, 8, 8, dtype=torch.uint8), torch.arange(5), 16, draw)
    assert len(only[1]) == 5


def test_pixel_statistics_are_those_of_the_float_images(pocket):
    mean, deviation = pixels(pocket.train_images)
    images = pocket.train_images.double()
    assert mean.item() == pytest.approx(images.mean().item(), rel=1e-6)  # returned in float32
    assert deviation.item() == pytest.approx(images.std(correction=0).item(), rel=1e-6)


def test_calibration_error_is_the_sum_over_bins_done_by_hand():
    logits = 2 * torch.randn(300, 4, generator=torch.Generator().manual_seed(0))
    # Drawn from the probabilities themselves: some bins are too sure, others not sure enough, so
    # that merging two of them changes the sum.
    chance = torch.Generator().manual_seed(1)
    target = torch.multinomial(logits.softmax(1), 1, generator=chance).squeeze(1)
    confidence, winner = logits.double().softmax(1).max(1)
    total = 0.0
    for k in range(15):
        here = [i for i in range(300) if k / 15 < confidence[i].item() <= (k + 1) / 15]
        if here:
            sure = sum(confidence[i].item() for i in here) / len(here)
            right = sum(float(winner[i] == target[i]) for i in here) / len(here)
            total += len(here) / 300 * abs(sure - right)
    assert measures.calibration_error(logits, target) == pytest.approx(100 * total, rel=1e-9)


def test_the_margin_is_positive_for_just_the_examples_that_are_right():
    logits = torch.randn(200, 5, generator=torch.Generator().manual_seed(0))
    target = torch.arange(200) % 5
    taken = measures.default(logits, target, torch.ones(200, 3))
    wrong = (logits.argmax(1) != target).sum().item()
    assert taken["error"] == pytest.approx(wrong / 2)
    assert taken["margin_low"] < taken["margin_median"] < taken["margin_high"]
    assert taken["feature_norm"] == pytest.approx(math.sqrt(3), rel=1e-6)  # float32


def test_a_paired_difference_is_that_of_the_differences_by_hand():
    runs = [a_run("a", s, 10.0 + s) for s in range(3)] + [
        a_run("b", s, 9.0 + 2 * s) for s in (0, 1, 2)
    ]
    found = evidence.Record("x", tuple(runs)).paired("a", "b")
    # Differences 1, 0, -1: mean 0, deviation 1, half width 4.3027 / sqrt(3).
    assert (found.mean, found.n) == (0, 3)
    assert found.high == pytest.approx(4.3027 / math.sqrt(3), abs=1e-4)
    assert found.low == -found.high


# --- Told and checked ---------------------------------------------------------------------


def test_the_embedded_set_is_small_balanced_and_has_its_licence_beside_it(pocket):
    assert (LAB / "pocket.npz").stat().st_size <= 1.5e6
    assert "MIT License" in (LAB / "pocket.LICENSE.txt").read_text()
    assert pocket.train_images.shape == (2500, 1, 28, 28)
    assert pocket.train_images.dtype == torch.uint8
    assert torch.bincount(pocket.train_labels).tolist() == [250] * 10
    assert torch.bincount(pocket.test_labels).tolist() == [80] * 10
    train_set = set(map(bytes, pocket.train_images.flatten(1).numpy()))
    assert not train_set & set(map(bytes, pocket.test_images.flatten(1).numpy()))


def test_a_kept_set_is_read_without_asking_for_it_again(tmp_path, monkeypatch):
    monkeypatch.setenv("MARGINLIB_DATA", str(tmp_path))
    with np.load(LAB / "pocket.npz") as arrays:
        np.savez(tmp_path / "mnist.npz", **arrays)
    monkeypatch.setattr(data, "_torchvision", lambda *_: pytest.fail("asked the network"))
    assert data.load("mnist").source.startswith("Fashion-MNIST")


@pytest.mark.parametrize("name", list(data.DOWNLOADS))
def test_a_downloaded_set_is_kept_in_the_common_layout(tmp_path, monkeypatch, name):
    grey = name.endswith("mnist")
    images = np.random.default_rng(0).integers(0, 256, (20, *((28, 28) if grey else (32, 32, 3))))
    images = images.astype(np.uint8)
    labels = np.arange(20) % 10
    # What torchvision's five classes hold: MNIST's tensors, CIFAR's arrays and lists, SVHN's
    # labels under another name with the channels first.
    if name == "svhn":
        part = SimpleNamespace(data=images.transpose(0, 3, 1, 2), labels=labels)
    elif grey:
        part = SimpleNamespace(
            data=torch.from_numpy(images),
            targets=torch.from_numpy(labels),
            classes=list("abcdefghij"),
        )
    else:
        part = SimpleNamespace(data=images, targets=labels.tolist(), classes=list("abcdefghij"))
    monkeypatch.setenv("MARGINLIB_DATA", str(tmp_path))
    monkeypatch.setattr(data, "_torchvision", lambda *_: (part, part))
    loaded = data.load(name)
    expected = torch.from_numpy(images if not grey else images[..., None]).permute(0, 3, 1, 2)
    assert torch.equal(loaded.train_images, expected)
    assert torch.equal(loaded.test_labels, torch.from_numpy(labels))
    assert loaded.classes == 10
    assert [p.name for p in tmp_path.iterdir()] == [f"{name}.npz"]


def test_omniglot_is_white_ink_on_black_35_x_35_with_five_drawings_of_each_to_test(
    tmp_path, monkeypatch
):
    from PIL import Image
    from torchvision import datasets

    folder = tmp_path / "omniglot-py" / "images_background"
    for k, character in enumerate(
        ("Greek/character02", "Greek/character01", "Balinese/character01")
    ):
        (folder / character).mkdir(parents=True)
        for drawer in range(1, 21):
            drawing = Image.new("1", (105, 105), 1)
            # The drawer's number, across, and the character's, down, as one black pixel.
            drawing.putpixel((3 * drawer, 3 * k + 1), 0)
            drawing.save(folder / character / f"{k:04}_{drawer:02}.png")
    made = SimpleNamespace(target_folder=str(folder))
    monkeypatch.setattr(datasets, "Omniglot", lambda root, download: made)
    monkeypatch.setenv("MARGINLIB_DATA", str(tmp_path))
    loaded = data.load("omniglot")
    assert loaded.label_names == ("Balinese/character01", "Greek/character01", "Greek/character02")
    assert loaded.train_images.shape == (45, 1, 35, 35)
    assert torch.bincount(loaded.train_labels).tolist() == [15] * 3
    assert torch.bincount(loaded.test_labels).tolist() == [5] * 3
    # One pixel of nine is black: a ninth of the ink.
    (place,) = (loaded.test_images[0, 0] > 0).nonzero().tolist()
    assert place == [2, 16]
    assert loaded.test_images[0, 0, 2, 16] == round(255 / 9)
    assert loaded.train_images[-1, 0, 0, 15] == round(255 / 9)
    assert loaded.source == "Omniglot as torchvision downloads it: its background set, 35 x 35"


@pytest.mark.parametrize("split", [True, False])
def test_a_folder_of_images_is_a_set(tmp_path, split):
    from PIL import Image

    places = [tmp_path / "train", tmp_path / "val"] if split else [tmp_path]
    for place in places:
        for shade, label in ((40, "dark"), (200, "light")):
            (place / label).mkdir(parents=True)
            for i in range(5):
                Image.new("RGB", (30 + i, 20), (shade,) * 3).save(place / label / f"{i}.png")
    loaded = data.load(tmp_path, size=16)
    assert loaded.label_names == ("dark", "light")
    assert loaded.train_images.shape == (10 if split else 8, 3, 16, 16)
    assert loaded.test_images.shape == (10 if split else 2, 3, 16, 16)
    light = loaded.train_images[loaded.train_labels == 1]
    assert light.float().mean().item() == pytest.approx(200)
    assert tmp_path.name in loaded.source


def test_a_seed_fixes_a_run_to_the_last_bit(few):
    first, second = (trained(few, seed=5, augment=True) for _ in range(2))
    assert first[0].measures == second[0].measures
    for a, b in zip(first[1].state_dict().values(), second[1].state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_another_seed_is_another_run(few):
    assert trained(few, seed=1)[0].measures != trained(few, seed=2)[0].measures


def test_a_run_leaves_generators_and_threads_as_it_found_them(few):
    torch.manual_seed(11)
    before, count = torch.get_rng_state(), torch.get_num_threads()
    trained(few.held_out(0.5), seed=5, cpu_threads=2)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == count


def test_training_learns(pocket):
    run, *_ = trained(pocket, epochs=2, rate=(0.05, 0.01))
    assert run.ended == "finished"
    loss = run.measures["train"]["loss"]
    assert loss[1] < loss[0]
    assert run.test["error"] < 35  # chance is 90; ten seeds lay between 20 and 25


def test_a_run_that_blows_up_says_so_and_claims_no_test(few):
    run, *_ = trained(few, epochs=3, rate=(1e6, 1e6))
    assert run.ended == "diverged at epoch 1"
    assert run.test == {}
    evidence.check(evidence.plain(asdict(run)))
    assert str(run).endswith(run.ended)


def test_the_test_images_are_looked_at_once_and_never_before_the_end(few):
    sizes = []

    def counted(logits, target, features):
        sizes.append(len(target))
        return measures.default(logits, target, features)

    trained(few, epochs=2, measure=counted)
    # 200 images: 180 train in 9 steps of 20, 20 validate; 800 test.
    assert sizes == [180, 20, 180, 20, 800]


def test_a_compiled_network_is_trained_in_the_place_of_the_plain_one(few, monkeypatch):
    taken = []
    monkeypatch.setattr(torch, "compile", lambda net: taken.append(net) or net)
    run, net, _ = trained(few, compiled=True)
    assert taken == [net]
    assert run.config["compiled"] is True
    plain = trained(few)[0]
    assert plain.measures == run.measures
    assert len(taken) == 1
    assert "compiled" not in plain.config


def test_validation_may_be_left_out(few):
    run, *_ = trained(few, validation=0.0)
    assert run.measures["validation"] == {}
    assert run.config["images"] == 200


def test_bfloat16_trains_and_measures_in_float32(few):
    run, net, _ = trained(few, half=True)
    assert run.ended == "finished"
    assert all(p.dtype == torch.float32 for p in net.parameters())


def test_the_steps_of_source_001_are_tenths():
    rate = Steps(0.1, at=(0.4, 0.7))
    assert [rate(t) for t in (0.0, 0.39, 0.4, 0.7)] == pytest.approx([0.1, 0.1, 0.01, 0.001])


def test_the_rate_reaches_both_its_ends(few):
    asked = []

    def rate(progress):
        asked.append(progress)
        return 0.01

    trained(few, epochs=2, rate=rate)
    assert asked[1] == 0  # the first step; the one before builds the optimiser
    assert asked[-1] == 1
    assert asked[1:] == sorted(asked[1:])


def test_a_schedule_is_told_the_share_of_steps_before_each_of_them(few):
    told = []
    *_, head = trained(few, epochs=2, before_step=lambda *said: told.append(said))
    shares = [share for _, share in told]
    assert all(asked is head for asked, _ in told)
    # 180 training images make 9 steps of 20, twice.
    assert shares == [step / 17 for step in range(18)]


def test_what_examine_finds_joins_the_test_measures(few):
    def examine(model, images, labels):
        assert images.dtype == torch.uint8
        features = model.features(images)
        assert features.requires_grad  # gradients flow, so an attack can be tried
        return {"classes": len(labels.unique()), "lengths": features.norm(dim=1)[:3].tolist()}

    run, *_ = trained(few, examine=examine)
    assert run.test["classes"] == 10
    assert len(run.test["lengths"]) == 3
    assert "error" in run.test
    evidence.check(evidence.plain(asdict(run)))


def test_a_run_that_examines_itself_to_nan_diverged(few):
    run, *_ = trained(few, examine=lambda *_: {"lengths": [1.0, float("nan")]})
    assert run.ended == "diverged at epoch 1"


def test_kept_arrays_come_back_with_their_line(results):
    points = torch.randn(5, 2).half().numpy()
    evidence.keep_arrays("plane", "five points, seed 0", points=points)
    kept = evidence.recall_arrays("plane")
    assert kept["about"] == "five points, seed 0"
    assert (kept["points"] == points).all()
    assert [path.name for path in results.iterdir()] == ["plane.npz"]


def test_a_kept_run_comes_back_as_it_was(results, few):
    run, *_ = trained(few)
    evidence.keep("softmax", run)
    (back,) = evidence.recall("softmax").runs
    assert back.measures == run.measures
    assert back.config == run.config
    assert back.source == few.source
    assert back.versions["torch"] == torch.__version__


def test_a_run_made_again_replaces_the_first(results):
    for error in (10.0, 20.0):
        evidence.keep("x", a_run(error=error))
    evidence.keep("x", a_run(seed=1))
    assert evidence.recall("x").values() == [20.0, 10.0]


def test_many_who_keep_at_once_lose_nothing(results):
    start = threading.Barrier(8)

    def work(i):
        start.wait()
        for j in range(4):
            evidence.keep("x", a_run(seed=10 * i + j))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert len(evidence.recall("x")) == 32
    assert [p.name for p in results.iterdir()] == ["x.json"]


def test_a_kill_while_keeping_leaves_the_record_that_was(results, monkeypatch):
    evidence.keep("x", a_run(seed=0))

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        evidence.keep("x", a_run(seed=1))
    assert len(evidence.recall("x")) == 1


def test_a_table_gives_mean_spread_and_n_and_says_what_failed():
    lost = replace(
        a_run("b", 2),
        ended="diverged at epoch 1",
        measures={"train": {}, "validation": {}, "test": {}},
    )
    runs = (a_run("a", 0, 10.0), a_run("a", 1, 12.0), a_run("b", 0, 9.0), lost)
    text = str(evidence.Record("x", runs).table(beside={"source": {"a": "28.62"}}))
    assert "11.00 ± 1.41 (n = 2)" in text
    assert "9.00 (n = 1, 1 diverged)" in text
    assert "28.62" in text
    assert "error (%)" in text


def test_a_table_by_columns_is_a_grid():
    runs = tuple(
        a_run(f"{d}-{s}", 0, error, divergence=d, strength=s)
        for d, s, error in (("D", 0.1, 1.0), ("D", 0.3, 2.0), ("E", 0.1, 3.0))
    )
    table = evidence.Record("x", runs).table(rows="divergence", columns="strength")
    assert table.title == ("divergence", "0.1", "0.3")
    assert table.rows == (("D", "1.00 (n = 1)", "2.00 (n = 1)"), ("E", "3.00 (n = 1)", "-"))


def test_a_table_in_a_notebook_is_html_with_its_words_escaped():
    shown = evidence.Table(("a<b",), (("1 & 2",),), "note")._repr_html_()
    assert "<th>a&lt;b</th>" in shown
    assert "<td>1 &amp; 2</td>" in shown


@pytest.mark.parametrize(
    ("errors", "verdict"),
    [
        ((1.0, -1.0, 0.5), "no detectable effect"),
        ((-1.0, -1.1, -0.9), "improves"),
        ((1.0, 1.1, 0.9), "worsens"),
    ],
)
def test_no_effect_is_claimed_where_the_interval_holds_zero(errors, verdict):
    runs = [a_run("new", s, 20 + e) for s, e in enumerate(errors)]
    runs += [a_run("old", s, 20) for s in range(3)]
    found = evidence.Record("x", tuple(runs)).paired("new", "old")
    assert found.verdict == verdict
    assert str(found).endswith(f"n = 3: {verdict}")


def test_a_record_says_where_and_when_it_was_made():
    text = str(evidence.Record("x", (a_run(), a_run(seed=1))))
    for said in ("2 runs", "made up", "a test", "torch    0", "2026-01-31"):
        assert said in text


def test_the_commit_is_told_or_said_to_be_unknown():
    assert evidence.commit() == "unknown" or len(evidence.commit().removesuffix("-dirty")) == 12


def test_numbers_are_kept_to_six_digits():
    assert evidence.plain({"a": (1 / 3, 1e-9 / 3, 2)}) == {"a": [0.333333, 3.33333e-10, 2]}


def test_method_lines_borrow_no_colour_that_means_a_quantity():
    meant = {show.TARGET, show.RIVALS, show.MARGIN, show.BIAS}
    looks = [(line["color"], str(line["linestyle"])) for line in show.METHOD_LINES]
    assert not meant & {color for color, _ in looks}
    assert len({color for color, _ in looks}) == len({style for _, style in looks}) == len(looks)


def test_words_in_a_line_s_colour_can_be_read_on_white():
    for color in [line["color"] for line in show.METHOD_LINES]:
        parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        light = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        luminance = sum(w * p for w, p in zip((0.2126, 0.7152, 0.0722), light, strict=True))
        assert 1.05 / (luminance + 0.05) >= 4.5, color  # WCAG 2, level AA


def test_curves_label_every_line_with_its_n():
    import matplotlib.pyplot as plt

    runs = tuple(a_run(m, s, 10.0 + s) for m in ("a", "b") for s in (0, 1))
    axes = show.curves(evidence.Record("x", runs), "error")
    assert [text.get_text() for text in axes.texts] == ["a (n = 2)", "b (n = 2)"]
    assert axes.texts[0].xyann == (5, 0)
    assert axes.lines[0].get_ydata().tolist() == [11.5, 10.5]
    heights = [text.xy[1] for text in axes.texts]
    assert heights[1] > heights[0]  # both lines end at 10.5: their labels may not
    assert heights[0] >= axes.get_ylim()[0]
    plt.close("all")


def test_source_shows_the_body_and_not_the_docstring(capsys):
    show.source(softmax_loss)
    shown = capsys.readouterr().out
    assert shown.startswith("def softmax_loss(")
    assert '"""' not in shown
    assert shown.endswith("return softplus(odds_against(logits, target))\n")


# The runner, over a study that trains nothing.


@pytest.fixture
def study(results, monkeypatch):
    made = []

    def once(method, seed, scale="pocket", regime="clean", **_):
        made.append((method, seed, regime))
        config = studies.described(
            fake.METHODS[method],
            fake.SCALES[scale][regime],
            {"method": method, "scale": scale, "regime": regime},
        )
        return replace(a_run(method, seed), config=config)

    fake = SimpleNamespace(
        METHODS={"softmax": softmax_loss, "wide": partial(large_margin_loss, strength=2.0)},
        SCALES={
            "pocket": {
                "clean": Setting("pocket", "tiny", epochs=1, seeds=(0, 1)),
                "noisy": Setting("pocket", "tiny", epochs=1, noise=0.5, methods=("wide",)),
            },
            "full": {"clean": Setting("cifar100", "cnn13", epochs=50)},
        },
        study=once,
        made=made,
    )
    monkeypatch.setattr(studies, "find", lambda stem: fake)
    monkeypatch.setattr(runner, "COLUMNS", ("error",))
    return fake


def test_the_runner_makes_what_is_lacking_and_nothing_twice(study, capsys):
    assert runner.main(["x"]) == 0
    # Seed by seed, so that an early stop leaves the methods their equal shares.
    assert study.made == [
        ("softmax", 0, "clean"),
        ("wide", 0, "clean"),
        ("wide", 0, "noisy"),
        ("softmax", 1, "clean"),
        ("wide", 1, "clean"),
        ("wide", 1, "noisy"),
        ("wide", 2, "noisy"),
    ]
    assert "10.00 ± 0.00 (n = 2)" in capsys.readouterr().out
    assert runner.main(["x", "--seeds", "0", "1", "2", "--regimes", "clean"]) == 0
    assert study.made[7:] == [("softmax", 2, "clean"), ("wide", 2, "clean")]


def test_a_run_under_other_settings_is_made_again(study):
    runner.main(["x", "--regimes", "noisy", "--seeds", "0"])
    study.SCALES["pocket"]["noisy"] = replace(study.SCALES["pocket"]["noisy"], noise=0.25)
    runner.main(["x", "--regimes", "noisy", "--seeds", "0"])
    study.METHODS["wide"] = partial(large_margin_loss, strength=3.0)
    runner.main(["x", "--regimes", "noisy", "--seeds", "0"])
    assert len(study.made) == 3
    assert len(evidence.recall("x")) == 1


def test_a_dry_run_tells_and_does_nothing(study, results, capsys):
    assert runner.main(["x", "--dry-run", "--seeds", "7"]) == 0
    told = capsys.readouterr().out
    # Nothing is on record, so one step is timed.
    assert re.search(r"3 runs to make, about \d+\.\d minutes and [\d,]+ MiB by a rough guess", told)
    assert "noisy, wide, seed 7" in told
    assert study.made == []
    assert not results.exists()


def test_a_forecast_rests_on_the_runs_that_were_made(study, capsys):
    runner.main(["x", "--seeds", "0"])
    capsys.readouterr()
    runner.main(["x", "--seeds", "1", "--dry-run"])
    # Three runs of one second, which did not tell their memory.
    assert "about 0.1 minutes as measured so far" in capsys.readouterr().out


def test_the_runner_stops_in_time(study, capsys):
    assert runner.main(["x", "--budget", "0", "--seeds", "0"]) == 0
    assert study.made == []
    assert "nothing is kept yet" in capsys.readouterr().out


def test_no_run_is_begun_that_would_end_after_the_budget(study, capsys):
    runner.main(["x", "--regimes", "clean", "--seeds", "0"])
    # The record says one second a run: more than a hundredth of a minute, less than a tenth.
    runner.main(["x", "--regimes", "clean", "--seeds", "1", "--budget", "0.01"])
    assert len(study.made) == 2
    assert "2 runs are still to be made" in capsys.readouterr().out
    runner.main(["x", "--regimes", "clean", "--seeds", "1", "--budget", "0.1"])
    assert len(study.made) == 4
    assert "still to be made" not in capsys.readouterr().out


def test_a_run_that_another_process_is_making_is_left_to_it(study, capsys):
    (first, second) = runner.plan(study, "pocket", [0], regimes=["clean"])
    with evidence.claimed("x", {"config": first.config, "seed": 0}) as mine:
        assert mine
        runner.main(["x", "--regimes", "clean", "--seeds", "0"])
    assert study.made == [(second.method, 0, "clean")]
    assert "1 runs are still to be made" in capsys.readouterr().out
    runner.main(["x", "--regimes", "clean", "--seeds", "0"])
    assert study.made[1:] == [(first.method, 0, "clean")]


def test_the_device_reaches_the_study(study, monkeypatch):
    told, once = [], study.study
    monkeypatch.setattr(study, "study", lambda *a, **o: told.append(o) or once(*a, **o))
    runner.main(["x", "--device", "cpu", "--regimes", "clean", "--seeds", "0"])
    assert told == [{"device": torch.device("cpu")}] * 2
    runner.main(["x", "--device", "cpu", "--compile", "--regimes", "clean", "--seeds", "1"])
    assert told[2:] == [{"device": torch.device("cpu"), "compiled": True}] * 2


# A study of eight runs that take a fifth of a second each, and a runner for it.
SLOW = """
import sys, time
from dataclasses import replace
sys.path.insert(0, {tests!r})
import test_lab as t
from marginlib.lab import __main__ as runner, studies

def once(method, seed, scale, regime, **_):
    time.sleep(0.2)
    print("made", seed, flush=True)
    config = studies.described(fake.METHODS[method], fake.SCALES[scale][regime],
                               {{"method": method, "scale": scale, "regime": regime}})
    return replace(t.a_run(method, seed), config=config)

fake = t.SimpleNamespace(
    METHODS={{"softmax": t.softmax_loss}},
    SCALES={{"pocket": {{"clean": t.Setting("pocket", "tiny", 1, seeds=tuple(range(8)))}}}},
    study=once,
)
studies.find = lambda stem: fake
runner.COLUMNS = ("error",)
print("ready", flush=True)
sys.stdin.readline()
sys.exit(runner.main(["x"]))
"""


@pytest.fixture
def runners(results):
    """Two processes that wait for a word to run the same study into the same record."""
    script = SLOW.format(tests=str(Path(__file__).parent))
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    both = [subprocess.Popen([sys.executable, "-c", script], text=True, **pipes) for _ in range(2)]
    for process in both:
        assert process.stdout.readline() == "ready\n"
    yield both
    for process in both:
        process.kill()
        process.communicate()


def test_two_runners_share_the_runs_and_spoil_no_record(runners):
    for process in runners:
        process.stdin.write("go\n")
        process.stdin.flush()
    outs = [process.communicate(timeout=60)[0] for process in runners]
    made = [line for out in outs for line in out.splitlines() if line.startswith("made")]
    assert sorted(made) == [f"made {seed}" for seed in range(8)]  # none by both
    assert all("made" in out for out in outs)
    assert sorted(run.seed for run in evidence.recall("x").runs) == list(range(8))


def test_a_killed_runner_leaves_what_it_finished_and_another_goes_on(runners):
    first, second = runners
    first.stdin.write("go\n")
    first.stdin.flush()
    while first.stdout.readline() != "made 2\n":
        assert first.poll() is None
    first.kill()
    first.wait()
    kept = [run.seed for run in evidence.recall("x").runs]
    assert kept in ([0, 1], [0, 1, 2])  # the kill came before or after the third was kept
    out, _ = second.communicate("go\n", timeout=60)
    made = [line for line in out.splitlines() if line.startswith("made")]
    assert made == [f"made {seed}" for seed in range(len(kept), 8)]
    assert sorted(run.seed for run in evidence.recall("x").runs) == list(range(8))


# Forecasts.


def test_a_guess_grows_with_the_epochs_the_images_and_the_batch():
    cpu = torch.device("cpu")
    setting = Setting("pocket", "tiny", epochs=1, batch=50, validation=0.0)
    one, ten = (forecast.from_one_step(replace(setting, epochs=e), cpu) for e in (1, 10))
    half = forecast.from_one_step(replace(setting, fraction=0.5), cpu)
    wide = forecast.from_one_step(replace(setting, batch=100), cpu)
    assert ten.seconds == pytest.approx(10 * one.seconds)
    assert half.seconds == pytest.approx(one.seconds / 2)
    assert ten.memory == one.memory
    assert one.memory - half.memory == pytest.approx(forecast.COPIES * 1250 * 784 / 2**20)
    assert wide.memory > one.memory
    assert not one.measured


def test_what_a_step_keeps_is_about_what_flows_between_its_layers():
    flowing = []
    net = nets.build("tiny", 1, 28)
    for layer in net.body:
        layer.register_forward_hook(lambda _, __, out: flowing.append(out.nbytes))
    net(torch.zeros(16, 1, 28, 28))
    _, saved, weights = forecast.one_step(16, "tiny", 1, 28, 10, 1.0, False, torch.device("cpu"))
    # A layer's output is saved by itself or by the next; pooling saves its indices too, twice as
    # wide, and the weights are saved with the rest.
    assert sum(flowing) / 2 < saved < 3 * sum(flowing) + weights
    assert weights == 4 * sum(p.numel() for p in net.parameters()) + 4 * (64 * 10 + 10)


def test_a_folder_is_counted_and_one_that_is_missing_is_said_to_be(tmp_path, monkeypatch):
    monkeypatch.setenv("MARGINLIB_DATA", str(tmp_path))
    setting = Setting("imagenet", "tiny", epochs=1, size=16, validation=0.0)
    assert forecast.shape_of(setting) is None
    assert forecast.told([None]) == "1 run to make; 1 of images that are not here"
    for label in "abc":
        (tmp_path / "imagenet" / "train" / label).mkdir(parents=True)
        for i in range(4):
            (tmp_path / "imagenet" / "train" / label / f"{i}.jpeg").touch()
    assert forecast.shape_of(setting) == (3, 16, 3, 12)


def test_a_set_that_is_kept_here_is_counted_by_its_labels(tmp_path, monkeypatch):
    monkeypatch.setenv("MARGINLIB_DATA", str(tmp_path))
    whole = Setting("omniglot", "tiny", epochs=1, validation=0.0)
    assert forecast.shape_of(whole) == (1, 35, 964, 14_460)
    np.savez(tmp_path / "omniglot.npz", label_names=["a", "b"], train_labels=[0, 0, 1, 1, 1])
    assert forecast.shape_of(whole) == (1, 35, 2, 5)


def test_the_embedded_set_is_what_a_forecast_thinks_it_is(pocket):
    here = (pocket.channels, pocket.size, pocket.classes, len(pocket.train_images))
    assert forecast.SHAPES["pocket"] == here


def test_what_another_process_made_meanwhile_is_not_made_again(study):
    once = study.study

    def beside(method, seed, *place, **options):
        if method == "softmax":
            evidence.keep("x", once("wide", seed, *place))
        return once(method, seed, *place, **options)

    study.study = beside
    runner.main(["x", "--regimes", "clean", "--seeds", "0"])
    assert study.made == [("wide", 0, "clean"), ("softmax", 0, "clean")]


def test_ctrl_c_keeps_what_was_finished(study, capsys):
    once = study.study

    def stopped_at_the_second(*args, **options):
        if len(study.made) == 1:
            raise KeyboardInterrupt
        return once(*args, **options)

    study.study = stopped_at_the_second
    assert runner.main(["x"]) == runner.STOPPED
    assert len(evidence.recall("x")) == 1
    assert "every finished run is kept" in capsys.readouterr().err


def test_without_a_name_the_runner_lists_the_studies(capsys):
    assert runner.main([]) == 0
    assert capsys.readouterr().out.split() == studies.names()


@pytest.mark.parametrize("stem", studies.names())
def test_every_study_has_methods_scales_and_one_function(stem):
    study = studies.find(stem)
    assert "pocket" in study.SCALES
    assert set(study.SCALES) <= {"pocket", "desk", "colab", "full"}
    for scale, regimes in study.SCALES.items():
        for regime, setting in regimes.items():
            assert set(setting.methods) <= set(study.METHODS), (scale, regime)
            assert setting.seeds
    for regime, setting in study.SCALES["pocket"].items():
        assert setting.data == "pocket", f"{regime} would need a download"
    assert callable(study.study)


def test_the_pocket_study_of_large_margin_runs_and_its_record_names_the_loss():
    run = large_margin.study("disagreement-0.3", seed=0, scale="pocket")
    assert run.ended == "finished"
    expected = {"loss": "large_margin_loss", "divergence": "disagreement", "strength": 0.3}
    assert expected.items() <= run.config.items()
    assert run.test["disagreement"] > 0


def test_methods_of_one_seed_start_from_the_same_weights_and_images():
    setting = Setting("pocket", "tiny", epochs=1, per_class=20, batch=20)
    named = {"method": "m", "scale": "pocket", "regime": "clean"}
    # A loss of zero moves no weight (and no decay): what is measured is the start.
    start = replace(setting, rate=(1e-30, 1e-30), decay=0.0)
    first, second = (
        studies.run(loss, start, 4, named=named)
        for loss in (softmax_loss, partial(large_margin_loss, strength=9.0))
    )
    assert first.test == second.test
    assert first.measures["validation"] == second.measures["validation"]


def test_a_method_may_be_a_head_of_its_own():
    setting = Setting("pocket", "tiny", epochs=1, per_class=20, batch=20)
    named = {"method": "m", "scale": "pocket", "regime": "clean"}
    loss, recipe = softmax_loss, partial(LinearHead, loss=softmax_loss)
    first, second = (studies.run(method, setting, 4, named=named) for method in (loss, recipe))
    assert first.measures == second.measures
    assert second.config["head"] == "LinearHead(loss=softmax_loss)"


def test_a_head_is_written_with_all_that_was_fixed():
    base = partial(large_margin_loss, strength=0.5)
    written = studies.parameters(partial(LinearHead, loss=base, bias=False))
    assert written == {"head": "LinearHead(loss=large_margin_loss(strength=0.5), bias=False)"}
    assert studies.parameters(LinearHead) == {"head": "LinearHead"}


# A report of an experiment.


def a_report(gaps=(-2.0, -1.0, -1.5), verdict="improves", **parts):
    runs = [a_run("softmax", seed, 10.0) for seed in range(len(gaps))]
    runs += [a_run("mine", seed, 10.0 + gap) for seed, gap in enumerate(gaps)]
    whole = {
        "expected": "The error falls.",
        "refuted_by": "An interval that holds zero.",
        "runs": evidence.Record("exercise", tuple(runs)),
        "said": {QUESTION: verdict},
    }
    return report.Report(**(whole | parts))


QUESTION = ("mine", "softmax", "error")


@pytest.mark.parametrize(
    ("gaps", "said"),
    [
        ((-2.0, -1.0, -1.5), "improves"),
        ((2.0, 1.0, 1.5), "worsens"),
        ((-2.0, 1.0, 0.5), "no detectable effect"),
    ],
)
def test_a_report_is_right_whatever_came_out_if_it_says_what_the_interval_says(gaps, said):
    assert report.review(a_report(gaps, said), QUESTION) == "right"
    for other in {"improves", "worsens", "no detectable effect"} - {said}:
        assert "the interval says otherwise" in report.review(a_report(gaps, other), QUESTION)


@pytest.mark.parametrize(
    ("lacks", "told"),
    [
        ({"expected": " "}, "before the runs"),
        ({"refuted_by": ""}, "before the runs"),
        ({"refuted_by": "the  error falls."}, "cannot be what refutes it"),
        ({"said": {}}, "nothing is said about error of 'mine'"),
    ],
)
def test_a_report_without_one_of_its_parts_is_sent_back(lacks, told):
    assert told in report.review(a_report(**lacks), QUESTION)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda runs: runs[:3], "there is no run of 'mine'"),
        (lambda runs: runs[:5], "'mine' needs 3 seeds or more"),
        (lambda runs: [*runs[:5], a_run("mine", 7)], "differ in more than the method"),
        (lambda runs: [*runs[:5], a_run("mine", 2, regime="noisy")], "differ in more than"),
        (
            lambda runs: [*runs[:5], replace(runs[5], ended="diverged at epoch 1")],
            "a run of 'mine' diverged",
        ),
        (
            lambda runs: [*runs[:5], replace(runs[5], measures={"test": {"nll": 1.0}})],
            "a run of 'mine' has not measured 'error'",
        ),
    ],
)
def test_runs_that_are_no_pairs_are_sent_back(change, told):
    runs = evidence.Record("exercise", tuple(change(list(a_report().runs.runs))))
    assert told in report.review(a_report(runs=runs), QUESTION)


# --- Refused ------------------------------------------------------------------------------


def test_a_set_that_cannot_be_had_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv("MARGINLIB_DATA", str(tmp_path))

    def unreachable(*_):
        raise OSError("no route to host")

    monkeypatch.setattr(data, "_torchvision", unreachable)
    with pytest.raises(ConnectionError) as refusal:
        data.load("cifar100")
    for said in ("'cifar100'", str(tmp_path), "no route to host", "MARGINLIB_DATA", "pocket"):
        assert said in str(refusal.value)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda d: data.load("cifar1000"), "the sets are pocket, mnist"),
        (lambda d: d.fewer(), "either per_class or fraction"),
        (lambda d: d.fewer(5, fraction=0.5), "either per_class or fraction"),
        (lambda d: d.fewer(251), "has 250 training images; 251 were asked for"),
        (lambda d: d.fewer(fraction=0.0), "above 0 and at most at 1; got 0.0"),
        (lambda d: d.held_out(1.5), "above 0 and at most at 1; got 1.5"),
        (lambda d: d.noisy(1.1), "between 0 and 1; got 1.1"),
        (lambda d: studies.find("margins"), "there are .*large_margin"),
    ],
)
def test_a_bad_name_or_number_is_told_the_good_ones(pocket, call, says):
    with pytest.raises(ValueError, match=says):
        call(pocket)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["x", "--scale", "huge"], "there are pocket, full"),
        (["x", "--methods", "soft"], "there are softmax, wide"),
        (["x", "--regimes", "dirty"], "it has clean, noisy"),
        (["x", "--device", "gpu"], "no device 'gpu' here; there are cpu"),
    ],
)
def test_the_runner_refuses_unknown_names(study, capsys, words, says):
    with pytest.raises(SystemExit):
        runner.main(words)
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda e: e.pop("commit"), "needs 'commit'"),
        (lambda e: e.update(source=""), "'source' of a run must be a non-empty"),
        (lambda e: e.update(seed="0"), "'seed'"),
        (lambda e: e.update(seed=True), "'seed'"),
        (lambda e: e.update(mood="good"), "no field mood"),
        (lambda e: e["config"].pop("method"), "config of a run needs 'method'"),
        (lambda e: e.update(versions={"python": "3"}), "name torch"),
        (lambda e: e.update(date="yesterday"), "Invalid isoformat"),
        (lambda e: e.update(ended="well"), "finished or diverged"),
        (lambda e: e["measures"].pop("train"), "measures are of train"),
        (lambda e: e["measures"].update(test={}), "just when it finished"),
        (lambda e: e["measures"]["test"].update(error=math.nan), "finite"),
        (lambda e: e["measures"]["train"]["error"].append(math.inf), "finite"),
    ],
)
def test_a_record_is_whole_or_refused(change, says):
    entry = evidence.plain(asdict(a_run()))
    evidence.check(entry)
    change(entry)
    with pytest.raises(ValueError, match=says):
        evidence.check(entry)


def test_pairs_that_are_no_pairs_are_refused():
    runs = (a_run("a"), a_run("a", regime="noisy"), a_run("b"))
    with pytest.raises(ValueError, match="select a scale and a regime"):
        evidence.Record("x", runs).paired("a", "b")
    with pytest.raises(ValueError, match=r"share 1 seed\(s\)"):
        evidence.Record("x", (a_run("a"), a_run("b"))).paired("a", "b")


def test_a_missing_record_says_how_to_make_it(results):
    with pytest.raises(FileNotFoundError, match=r"python -m marginlib\.lab softmax makes one"):
        evidence.recall("softmax")


def test_missing_arrays_are_told(results):
    with pytest.raises(FileNotFoundError, match="no arrays of 'softmax'"):
        evidence.recall_arrays("softmax")


def test_selecting_by_an_unknown_setting_is_refused():
    with pytest.raises(ValueError, match="no run has size"):
        evidence.Record("x", (a_run(),)).select(size=3)


def test_more_lines_than_can_be_told_apart_are_refused():
    runs = tuple(a_run(str(i)) for i in range(7))
    with pytest.raises(ValueError, match="at most 6 lines"):
        show.curves(evidence.Record("x", runs), "error")
