from __future__ import annotations

import csv
import io
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from report_runs import make_run, make_suite, outcome

from robustlab.report.charts import budget_axis, fates, success_chart
from robustlab.report.curves import Curve, success_curves
from robustlab.report.figures import draw_curves
from robustlab.report.html import write_report
from robustlab.report.results import read_run, read_suite
from robustlab.report.tables import curves_csv, examples_csv

SIX = [
    outcome("a", queries=10, edits=1),
    outcome("b", queries=30, edits=2),
    outcome("c", queries=10, edits=4),
    outcome("d", "failed", queries=50, edits=3),
    outcome("e", "skipped"),
    outcome("f", "error"),
]


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """Two recipes that break different examples, and one that no text realises."""
    return make_suite(
        tmp_path / "suite",
        {
            "one": [
                outcome("a", queries=10, edits=2),
                outcome("b", "failed", queries=20),
                outcome("c", "skipped"),
            ],
            "two": [
                outcome("a", queries=30, edits=1),
                outcome("b", queries=40, edits=3),
                outcome("c", "skipped"),
            ],
            "pgd": [
                outcome("a", queries=2, edits=0, embedded=True),
                outcome("b", queries=2, edits=0, embedded=True),
                outcome("c", "skipped"),
            ],
        },
    )


def test_a_curve_counts_the_broken_among_the_attacked(tmp_path: Path) -> None:
    results = read_run(make_run(tmp_path / "run", SIX))
    (queries,) = success_curves(results, "queries")
    (edits,) = success_curves(results, "edits")
    assert (queries.name, queries.attacked) == ("deepwordbug", 4)
    assert queries.steps == ((10, 2), (30, 3))
    assert edits.steps == ((1, 1), (2, 2), (4, 3))
    assert [(step, estimate.value) for step, estimate in queries.rates()] == [(10, 0.5), (30, 0.75)]
    assert queries.rates()[0][1].low == pytest.approx(0.15, abs=0.005)  # Wilson, 2 of 4


def test_the_worst_case_takes_the_cheapest_of_the_realisable_recipes(suite: Path) -> None:
    results = read_suite(suite)
    queries = {curve.name: curve for curve in success_curves(results, "queries")}
    edits = {curve.name: curve for curve in success_curves(results, "edits")}
    assert list(queries) == ["one", "two", "pgd", "worst case"]
    assert queries["worst case"].steps == ((10, 1), (40, 2))
    assert queries["pgd"].steps == ((2, 2),)
    assert queries["pgd"].embedded
    assert list(edits) == ["one", "two", "worst case"]
    assert edits["worst case"].steps == ((1, 1), (3, 2))
    assert edits["worst case"].worst


def test_nothing_attacked_is_no_curve(tmp_path: Path) -> None:
    results = read_run(make_run(tmp_path / "run", [outcome("e", "skipped")]))
    assert success_curves(results, "queries") == ()
    assert success_chart((), "queries") is None


@pytest.mark.parametrize(
    ("budgets", "axis"),
    [
        ([10, 30], (0, 30, (0, 5, 10, 15, 20, 25, 30), False)),
        ([1], (0, 1, (0, 1), False)),
        ([0], (0, 1, (0, 1), False)),
        ([], (0, 1, (0, 1), False)),
        ([3, 130], (2, 200, (2, 5, 10, 20, 50, 100, 200), True)),
        ([0, 3, 130], (2, 200, (2, 5, 10, 20, 50, 100, 200), True)),
        ([10, 10_000], (10, 10_000, (10, 100, 1000, 10_000), True)),
    ],
)
def test_the_axis_has_room_for_every_step(budgets: list[int], axis: tuple[Any, ...]) -> None:
    made = budget_axis([Curve("x", tuple((budget, 1) for budget in budgets), 9)])
    assert (made.first, made.last, made.ticks, made.logarithmic) == axis


def test_a_chart_steps_where_examples_fall(tmp_path: Path) -> None:
    results = read_run(make_run(tmp_path / "run", SIX))
    chart = success_chart(success_curves(results, "edits"), "edits")
    assert chart is not None
    (line,) = chart.lines
    x = {text: place for place, text in chart.across}
    y = {text: place for place, text in chart.up}
    assert line.path == (
        f"M{x['0']:g} {y['0 %']:g}L{x['1']:g} {y['0 %']:g}L{x['1']:g} {y['25 %']:g}"
        f"L{x['2']:g} {y['25 %']:g}L{x['2']:g} {y['50 %']:g}"
        f"L{x['4']:g} {y['50 %']:g}L{x['4']:g} {y['75 %']:g}L{x['4']:g} {y['75 %']:g}"
    )
    assert line.band.endswith("Z")
    assert line.title.startswith("deepwordbug: 75.0 % [")


def test_fates_stand_in_one_order_for_all_recipes(suite: Path) -> None:
    strips = fates(read_suite(suite))
    assert [(strip.name, strip.cells) for strip in strips] == [
        ("one", ((0, 1, "succeeded"), (1, 1, "failed"), (2, 1, "skipped"))),
        ("two", ((0, 2, "succeeded"), (2, 1, "skipped"))),
        ("pgd", ((0, 2, "succeeded"), (2, 1, "skipped"))),
        ("worst case", ((0, 2, "succeeded"), (2, 1, "skipped"))),
    ]


# --- tables


def rows(content: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(content.decode("utf-8"))))


def test_curves_as_csv(tmp_path: Path) -> None:
    results = read_run(make_run(tmp_path / "run", SIX))
    table = rows(curves_csv(success_curves(results, "queries"), "queries"))
    assert [(row["queries"], row["broken"], row["attacked"]) for row in table] == [
        ("10", "2", "4"),
        ("30", "3", "4"),
    ]
    assert table[1]["success_rate"] == "0.75"
    assert float(table[1]["low"]) < 0.75 < float(table[1]["high"])


def test_examples_as_csv_nest_by_dotted_names(suite: Path) -> None:
    table = rows(examples_csv(read_suite(suite)))
    assert len(table) == 9
    assert (table[0]["recipe"], table[0]["id"], table[0]["status"]) == ("one", "a", "succeeded")
    assert table[0]["original_output.label"] == "positive"
    assert table[0]["perturbed"] == "a fime film"
    assert table[2]["perturbed"] == ""
    assert table[6]["embedded"] == "true"


@pytest.mark.parametrize("sign", ["=", "+", "-", "@", "\t=", "\r=", "＝"])
def test_no_text_becomes_a_formula(tmp_path: Path, sign: str) -> None:
    hostile = f"{sign}HYPERLINK(1)"
    entry = outcome(hostile, original=hostile, perturbed=hostile, similarity=-0.5)
    run = make_run(tmp_path / "run", [{**entry, "notes": {hostile: [hostile]}}])
    content = examples_csv(read_run(run)).decode("utf-8")
    (record,) = csv.DictReader(io.StringIO(content, newline=""))
    assert record["id"] == record["original"] == f"'{hostile}"
    assert record["similarity"] == "-0.5"  # a number, which is no formula
    del record["similarity"]
    assert all(not cell.startswith(sign) for cell in (*record, *record.values()))


def test_texts_come_back_from_csv(tmp_path: Path) -> None:
    text = 'comma, "quote"\nline; Grüße ☃'
    run = make_run(tmp_path / "run", [outcome(original=text), outcome("r2", original=["a", "b"])])
    one, two = csv.DictReader(io.StringIO(examples_csv(read_run(run)).decode("utf-8"), newline=""))
    assert one["original"] == text
    assert two["original"] == '["a", "b"]'


def test_half_a_surrogate_pair_has_no_utf8_and_is_spelled_out(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [outcome(perturbed="x\ud800")])
    assert rows(examples_csv(read_run(run)))[0]["perturbed"] == "x\\ud800"


# --- figures


def test_figures_lie_beside_the_report(suite: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    run = make_run(tmp_path / "run", SIX)
    write_report(run)
    names = sorted(path.name for path in (run.path / "figures").iterdir())
    assert names == [
        f"success-by-{budget}.{kind}"
        for budget in ("edits", "queries")
        for kind in ("csv", "png", "svg")
    ]
    assert (run.path / "figures/success-by-edits.png").read_bytes().startswith(b"\x89PNG\r\n")
    assert (run.path / "examples.csv").is_file()


def test_names_in_figures_are_taken_as_they_are() -> None:
    pytest.importorskip("matplotlib")
    names = ["_hidden", "$x^2$", "<b>&"]
    curves = [Curve(name, ((1, 1), (5, 2)), 4) for name in names]
    drawn = draw_curves(curves, "edits", "a $title$")
    texts = [element.text for element in ET.fromstring(drawn["svg"]).iter() if element.text]
    assert {*names, "a $title$", "words changed, at most"} <= set(texts)
    assert drawn == draw_curves(curves, "edits", "a $title$")


def test_without_matplotlib_the_page_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    run = make_run(tmp_path / "run", SIX)
    page = write_report(run).read_text(encoding="utf-8")
    assert "matplotlib is not installed" in page
    assert sorted(path.suffix for path in (run.path / "figures").iterdir()) == [".csv", ".csv"]
