"""The page of the sources' tables quotes them right, and says of ours what the records hold."""

import ast
import importlib.util
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from marginlib.lab import nets, studies
from marginlib.lab.evidence import Record, Run

ROOT = Path(__file__).parent.parent

spec = importlib.util.spec_from_file_location("tables", ROOT / "book/tools/tables.py")
tables = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tables)

SOURCES = tables.read()
BY_NAME = {table.name: table for table in SOURCES.tables}
ITEMS = [(t, item) for t in SOURCES.tables for item in (*t.columns, *t.claims)]
PAGE = (ROOT / "book/tables.md").read_text(encoding="utf-8")
# Every table and figure of the five sources that reports a training.
ALL = {
    "002": "1 2 3a 3b 4 figure-3",
    "001": "1 2 3 4 5 figure-1 figure-2",
    "003": "mnist figure-6 figure-7 5",
    "004": "3 4 6 figure-1 figure-3 figure-4",
    "000": "1a 1b-type-1 1b-type-2 2 3a 3b 4 figure-3 figure-4",
}


def a_run(method, seed, error, scale="desk", **measures):
    epochs = measures.pop("epochs", [error + 2, error + 1])
    return Run(
        config={"method": method, "scale": scale, "regime": "r", "data": "mnist", "net": "tiny"}
        | {"width": 1.0, "images": 100, "epochs": 2, "augment": False, "noise": 0.0},
        seed=seed,
        measures={
            "train": {"error": epochs, "bias": epochs},
            "validation": {"error": epochs, "bias": epochs},
            "test": {"error": error, **measures},
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


@pytest.fixture
def made(monkeypatch):
    """Lay runs of our own under every study."""

    def lay(*runs):
        monkeypatch.setattr(tables, "recalled", lambda stem: Record(stem, runs))

    return lay


TOLD = {
    "source": "002",
    "place": "Table 9, section 9",
    "title": "A question?",
    "about": "What it says.",
    "baseline": "Softmax",
    "n": 3,
    "columns": [{"name": "A", "set": "MNIST", "full": "x/r", "desk": ["x/r"]}],
    "rows": [["Softmax", "softmax", "10.0±0.1"], ["New", "new", "9.0±0.1"]],
}


def a_table(**changes):
    return tables.read_table("t", TOLD | changes)


def judged(table, scale="desk"):
    return list(tables.lines(SOURCES, table, 0, "x/r", scale))


def claim(**told):
    return tables.Claim(says="so it is", **{"measure": "error", "desk": ("x/r",)} | told)


# --- Claimed and proved: the page of this repository -----------------------------------------


def test_the_page_is_up_to_date_or_make_pages_was_forgotten():
    assert tables.page() == PAGE


def test_every_table_and_figure_that_reports_a_training_has_its_section():
    for source, named in ALL.items():
        found = [table.name for table in SOURCES.tables if table.source == source]
        kind = [n if n.startswith(("figure", "mnist")) else f"table-{n}" for n in named.split()]
        assert sorted(found) == sorted(f"{source}-{name}" for name in kind)
    for table in SOURCES.tables:
        assert PAGE.count(f"(tables-{table.name})=\n") == 1


@pytest.mark.parametrize(("table", "item"), ITEMS, ids=lambda i: getattr(i, "name", "claim"))
def test_what_a_column_or_claim_names_is_a_regime_of_a_study(table, item):
    for scale, places in (("full", [item.full] if item.full else []), ("desk", item.desk)):
        for place in places:
            stem, _, regime = place.partition("/")
            assert regime in studies.find(stem).SCALES[scale], place


@pytest.mark.parametrize("table", SOURCES.tables, ids=lambda table: table.name)
def test_the_source_s_protocol_trains_every_method_that_the_table_compares(table):
    for index, column in enumerate(table.columns):
        stem, _, regime = column.full.partition("/")
        if not stem:
            continue
        study = studies.find(stem)
        methods = set(study.SCALES["full"][regime].methods or study.METHODS)
        for row in table.rows:
            if row.method and row.numbers[index] != "-":
                assert methods & set(tables.names_of(SOURCES, row.method, stem)), row.label
    for said in table.claims:
        for place in (said.full, *said.desk):
            methods = studies.find(place.partition("/")[0]).METHODS
            assert {name for name in (said.first, said.second, said.of) if name} <= set(methods)


def test_a_net_of_the_source_s_protocol_can_be_built():
    for table in SOURCES.tables:
        for place in (item.full for item in (*table.columns, *table.claims) if item.full):
            stem, _, regime = place.partition("/")
            setting = studies.find(stem).SCALES["full"][regime]
            known = setting.net in nets.NETS or setting.net.startswith(nets.TORCHVISION)
            assert known, (place, setting.net)


def test_a_column_without_a_protocol_says_why():
    for table in SOURCES.tables:
        for column in table.columns:
            assert column.full or column.why or column.set in SOURCES.sets, column.name


def test_every_method_that_a_source_compares_is_on_record_beside_its_rivals():
    # A method's key, and the studies in which it stands beside the baseline, at a desk.
    beside = {}
    for table in SOURCES.tables:
        for index, place, _, found in tables.judged_lines(SOURCES, table):
            labels = {line.cells[0].partition(": `")[0] for line in found if line.verdict}
            for row in table.rows:
                if row.label in labels and row.label != table.baseline:
                    beside.setdefault(row.method, set()).add((table.columns[index].name, place))
    wanted = (
        "dense-hinge soft-margin lgm l-softmax disagreement-0.3 soft-margin-disagreement "
        "super-symmetry smoothing-0.1 center a-softmax n-softmax hinge e-softmax em-softmax "
        "sigsoftmax noisy-0.1 virtual dropout-0.2 dropout-0.5 adversarial type-1 type-2"
    )
    assert not set(wanted.split()) - set(beside)


# --- Computed and compared: two who copied the same table agree ------------------------------


def literal(path, name):
    """A dictionary that a test file types, read from its text."""
    tree = ast.parse((ROOT / "tests" / path).read_text(encoding="utf-8"))
    (value,) = [
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name
    ]
    return ast.literal_eval(value)


@pytest.mark.parametrize(
    ("path", "name", "table"),
    [
        ("test_ensemble.py", "TABLE_1", "001-table-1"),
        ("test_perturbed.py", "TABLE_2", "000-table-2"),
        ("test_perturbed.py", "TABLE_4", "000-table-4"),
    ],
)
def test_the_numbers_are_those_that_another_hand_copied(path, name, table):
    theirs = literal(path, name)
    ours = [
        tuple(number and number[0] for number in map(tables.quoted, row.numbers))
        for row in BY_NAME[table].rows
    ]
    assert [ours.index(row) for row in theirs.values()] == list(range(len(theirs)))


def test_every_number_with_a_spread_that_a_chapter_quotes_stands_in_the_file():
    known = {
        tables.quoted(number)
        for table in SOURCES.tables
        for row in table.rows
        for number in row.numbers
    }
    quotes = 0
    for path in sorted((ROOT / "chapters").glob("*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        for cell in cells:
            if cell["cell_type"] == "code":
                for text in re.findall(r"\d+\.\d+ ?± ?\d+\.\d+", "".join(cell["source"])):
                    assert tables.quoted(text) in known, (path.name, text)
                    quotes += 1
    assert quotes > 20


@pytest.mark.parametrize(
    ("span", "theirs", "scale", "said"),
    [
        ((-3, -1), -2, "full", ("reproduced", "")),
        ((-3, -1), -2, "desk", ("direction only", "")),
        ((-3, -1), -4, "full", ("direction only", "")),
        ((-3, -1), 2, "full", ("not reproduced", "the other way")),
        ((1, 3), 2, "full", ("reproduced", "")),
        ((1, 3), -2, "desk", ("not reproduced", "the other way")),
        ((-3, 1), -2, "full", ("not reproduced", "undecided")),
        ((-3, 0), -2, "full", ("not reproduced", "undecided")),
    ],
)
def test_the_rule_of_the_verdict(span, theirs, scale, said):
    found = tables.Found(sum(span) / 2, *span, n=3)
    assert tables.judge(found, theirs, scale) == said


@pytest.mark.parametrize(
    ("span", "said"),
    [
        ((-0.4, 0.3), ("direction only", "")),
        ((-0.6, 0.3), ("not reproduced", "undecided")),
        ((0.6, 0.9), ("not reproduced", "the other way")),
    ],
)
def test_alike_is_shown_only_where_the_whole_interval_says_so(span, said):
    found = tables.Found(sum(span) / 2, *span, n=3)
    alike = claim(first="a", second="b", side="same", within=0.5)
    assert tables.judge_claim(found, alike) == said


def test_a_figure_that_prints_no_number_is_never_reproduced():
    found = tables.Found(-2.0, -3.0, -1.0, n=3)
    less = claim(first="a", second="b", side="less")
    assert tables.judge_claim(found, less) == ("direction only", "")
    assert tables.judge_claim(found, replace(less, side="more"))[1] == "the other way"


def test_our_difference_is_that_of_the_record():
    runs = [a_run("new", s, e) for s, e in enumerate((9.0, 9.5, 8.7))]
    runs += [a_run("softmax", s, e) for s, e in enumerate((10.0, 10.1, 9.9))]
    record = Record("x", tuple(runs))
    first, second = (tables.by_seed(record, name, "error") for name in ("new", "softmax"))
    found, theirs = tables.difference(first, second), record.paired("new", "softmax")
    assert (found.mean, found.low, found.high, found.n) == (
        theirs.mean,
        theirs.low,
        theirs.high,
        theirs.n,
    )


def test_only_seeds_that_both_have_are_paired():
    first, second = {0: 1.0, 1: 2.0, 2: 9.0}, {1: 1.0, 0: 0.0, 7: 5.0}
    found = tables.difference(first, second)
    assert (found.mean, found.n) == (1.0, 2)
    assert tables.difference({0: 1.0}, {0: 2.0}) is None


def test_accuracies_become_errors():
    table = a_table(printed="accuracy")
    new = table.rows[1]
    assert tables.theirs(a_table(), new, 0) == pytest.approx(-1)
    assert tables.theirs(table, new, 0) == pytest.approx(1)


def test_a_dagger_marks_what_the_source_s_own_spread_leaves_open():
    # Welch by hand for three runs each: a difference of 1, standard error sqrt(2 s^2 / 3), four
    # degrees of freedom, where Student's 97.5 % point is 2.776: it is passed below s = 0.441.
    for spread, open_ in ((0.43, False), (0.45, True)):
        rows = [
            ["Softmax", "softmax", f"10.0±{spread}"],
            ["New", "new", f"9.0±{spread}"],
        ]
        table = a_table(rows=rows)
        assert tables.within_its_spread(table, table.rows[1], 0) is open_


def test_what_is_measured_besides_the_error():
    run = a_run("new", 0, 9.0, epochs=[5.0, 3.0, 4.0, 7.0], shares=[0.5, 0.0, 0.0, 0.5])
    assert tables.measured(run, "gap") == 2.0
    assert tables.measured(run, "shares") == 0.5
    parts = [tables.change(run, "bias", part) for part in tables.PARTS]
    assert parts == [2.0, -1.0, 3.0]


def test_where_no_image_is_held_out_the_training_curve_serves():
    run = a_run("new", 0, 9.0, epochs=[5.0, 3.0])
    bare = replace(run, measures=run.measures | {"validation": {}})
    assert tables.change(bare, "bias", "whole") == -2.0


# --- Told and checked ------------------------------------------------------------------------


def test_a_full_run_is_judged_by_the_source_s_number_and_a_desk_is_not(made):
    # Paired differences of about -1, as the source's; the baseline's mean is about its 10.
    runs = [a_run("new", s, 9 + 0.1 * s, "full") for s in range(3)]
    runs += [a_run("softmax", s, 10 + 0.12 * s, "full") for s in range(3)]
    made(*runs)
    base, new = judged(a_table(), "full")
    assert base.verdict == new.verdict == "reproduced"
    assert judged(a_table(), "desk") == []
    made(*(replace(r, config=r.config | {"scale": "desk"}) for r in runs))
    base, new = judged(a_table())
    assert (base.verdict, new.verdict) == ("", "direction only")


def test_a_baseline_beside_another_number_is_not_reproduced(made):
    made(*(a_run("softmax", s, 11 + 0.1 * s, "full") for s in range(3)))
    (base,) = judged(a_table(), "full")
    assert (base.verdict, base.reason) == ("not reproduced", "another number")
    # 89 % right is 11 % wrong.
    rows = [["Softmax", "softmax", "88.9"], ["New", "new", "91.0"]]
    (base,) = judged(a_table(printed="accuracy", rows=rows), "full")
    assert base.verdict == "reproduced"


def test_a_column_that_was_run_is_no_longer_untestable(made):
    made()
    table = a_table()
    assert tables.untested(table) == 2
    assert "the source's protocol needs a GPU" in tables.section(SOURCES, table, ROOT)
    made(
        *(
            a_run(m, s, e + 0.1 * s, "full")
            for m, e in (("new", 9), ("softmax", 10))
            for s in (0, 1)
        )
    )
    assert tables.untested(table) == 0
    text = tables.section(SOURCES, table, ROOT)
    assert "not testable here" not in text
    assert "**x, r** (*full*) · mnist, `tiny` · about 100 images" in text


def test_scales_never_share_a_line(made):
    made(
        *(a_run("new", s, 9.0 + s, "full") for s in (0, 1)),
        *(a_run("softmax", s, 10.0, "desk") for s in (0, 1)),
    )
    (line,) = judged(a_table(), "full")
    assert line.verdict == "not testable here"
    assert line.reason == "fewer than two pairs of runs"


def test_a_method_that_diverged_is_said_to(made):
    lost = replace(a_run("new", 0, 9.0), ended="diverged at epoch 1")
    made(lost, a_run("softmax", 0, 10.0), a_run("softmax", 1, 10.5))
    assert "diverged" in str(judged(a_table())[1])


def test_a_column_may_leave_rows_to_another(made):
    made(*(a_run(m, s, 9.0 + s) for m in ("new", "softmax") for s in (0, 1)))
    columns = [TOLD["columns"][0] | {"only": ["Softmax"]}]
    assert [line.cells[0] for line in judged(a_table(columns=columns))] == ["Softmax: `softmax`"]


def test_a_claim_without_runs_says_why(made):
    made()
    (line,) = tables.claim_lines(claim(first="a", second="b", side="less"))
    assert (line.verdict, line.reason) == ("not testable here", "no such runs are on record")


def test_a_claim_within_a_training_is_judged_by_its_change(made):
    made(*(a_run("new", s, 9.0, epochs=[5.0 + 0.1 * s, 3.0, 1.0]) for s in (0, 1)))
    (line,) = tables.claim_lines(claim(measure="bias", of="new", part="whole", side="less"))
    assert line.verdict == "direction only"
    assert line.cells[2].startswith("−4.05")


def test_the_summary_counts_the_lines_of_the_page():
    said = [line for line in PAGE.splitlines() if line.startswith("| all |")]
    totals = [int(cell) for cell in said[0].split("|")[2:-1]]
    ends = [line.rstrip(" |") for line in PAGE.splitlines() if line.startswith("|")]
    undecided = sum(end.endswith("(undecided)") for end in ends)
    opposite = sum(end.endswith("(the other way)") for end in ends)
    direction = sum(end.endswith("| direction only") for end in ends)
    assert totals[1:4] == [direction, undecided, opposite]


FOLDERS = sorted(
    {
        setting.data
        for stem in studies.names()
        for setting in studies.find(stem).SCALES.get("full", {}).values()
        if setting.size
    }
)


def test_the_sets_that_cannot_be_had_are_read_as_folders():
    assert FOLDERS == [
        "caltech-256", "food-101", "imagenet", "imagenet32", "places365", "sun-397",
    ]  # fmt: skip


@pytest.mark.parametrize("name", FOLDERS)
def test_a_protocol_trains_on_a_tiny_folder_in_that_layout(tmp_path, monkeypatch, name):
    from PIL import Image

    monkeypatch.setenv("MARGINLIB_DATA", str(tmp_path))
    for split in ("train", "val"):
        for k, label in enumerate(("first", "second")):
            (tmp_path / name / split / label).mkdir(parents=True)
            for i in range(4):
                picture = Image.new("RGB", (40 + i, 30), (60 * k + 10 * i, 90, 120))
                picture.save(tmp_path / name / split / label / f"{i}.jpeg")
    (setting, *_) = [
        setting
        for stem in studies.names()
        for setting in studies.find(stem).SCALES.get("full", {}).values()
        if setting.data == name and setting.classes is None
    ]
    # The protocol as it stands, but for the network, its length, and the size of the images.
    tiny = replace(setting, net="tiny", epochs=1, batch=4, size=16, width=1.0)
    from marginlib import softmax_loss

    named = {"method": "softmax", "scale": "full", "regime": "folder"}
    run = studies.run(softmax_loss, tiny, 0, named=named)
    assert run.ended == "finished"
    assert run.source == f"folder {name}, 16 x 16"
    assert run.config["images"] == 8
    assert run.config["size"] == 16


# --- Refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"mood": "good"}, "unexpected keyword argument 'mood'"),
        ({"rows": [["Softmax", "softmax", "1.0", "2.0"]]}, "has 2 numbers; expected 1"),
        ({"rows": [["Softmax", "softmax", "many"]]}, "could not convert"),
        ({"baseline": "Hinge"}, "'Hinge' is none of the rows"),
        ({"source": "007"}, "'007'"),
        ({"printed": "score"}, "'score' is unknown"),
        ({"claims": [{"says": "so"}]}, "'so' compares nothing"),
        (
            {
                "claims": [
                    {"says": "so", "measure": "e", "first": "a", "second": "b", "side": "same"}
                ]
            },
            "needs within just when",
        ),
    ],
)
def test_a_table_that_says_too_little_or_too_much_is_refused(tmp_path, change, says):
    with pytest.raises((TypeError, ValueError), match=says):
        a_table(**change)


def test_the_file_s_error_names_the_table(tmp_path):
    (tmp_path / "book").mkdir()
    text = '[methods]\n[sets]\n[tables.one]\nsource = "002"\nabout = ""\n'
    (tmp_path / "book/tables.toml").write_text(text)
    with pytest.raises(ValueError, match=r"\[tables.one\]: .*missing"):
        tables.read(tmp_path)


def test_a_difference_of_zero_has_no_side():
    with pytest.raises(ValueError, match="say what it claims as a claim"):
        tables.judge(tables.Found(1.0, 0.5, 1.5, 3), 0.0, "full")


def test_a_page_out_of_date_is_told_and_left(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    monkeypatch.setattr(tables, "page", lambda: "new\n")
    monkeypatch.setattr("sys.argv", ["tables.py", "--check"])
    with pytest.raises(SystemExit) as status:
        tables.main()
    assert status.value.code == 1
    assert "out of date: book/tables.md" in capsys.readouterr().out
    assert not (tmp_path / "book").exists()
