from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from report_runs import SCRIPT, make_run, make_suite, outcome

from robustlab.errors import UserError
from robustlab.report import print_run, print_suite, run_object, suite_object, write_suite_report
from robustlab.runs import RunDirectory

AUDIT = [
    {"check": "query budget", "verdict": "pass", "evidence": "71.6 → 95.8 %, rising"},
    {"check": "doubling queries", "verdict": "warn", "evidence": "2 of 50 more \x1b[31mfell"},
    {"check": "gradient health", "verdict": "not applicable", "evidence": "no gradients"},
]


def run_lines(run: RunDirectory) -> list[str]:
    file = io.StringIO()
    print_run(run, file)
    return file.getvalue().splitlines()


def suite_lines(folder: Path) -> list[str]:
    file = io.StringIO()
    print_suite(folder, file)
    return file.getvalue().splitlines()


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """Three recipes, one of them on embeddings."""
    runs = {
        "textfooler-minilm": [outcome("a", edits=2), outcome("b", edits=3, queries=1812)],
        "weak[red]": [outcome("a", edits=1), outcome("b", "failed")],
        "pgd": [outcome("a", embedded=True, edits=0), outcome("b", embedded=True, edits=0)],
    }
    return make_suite(tmp_path / "suite", runs, audit=AUDIT)


def test_a_suite_is_a_table_with_the_worst_case_last(suite: Path) -> None:
    lines = suite_lines(suite)
    assert lines[0] == "builtin:classifier on reviews, split test, 4 of 250, suite quick"
    cells = {line.split("  ")[0]: line.split()[-6:] for line in lines[4:] if " %  " in line}
    assert list(cells) == ["textfooler-minilm", "weak[red]", "pgd *", "worst case"]
    assert lines.index(next(line for line in lines if line.startswith("* not realisable"))) > 5
    # success, interval low – high; robust accuracy, mean queries, mean words changed
    assert cells["textfooler-minilm"][-4:] == ["0.0", "%", "912.0", "2.5"]
    assert cells["weak[red]"][-4:] == ["50.0", "%", "12.0", "1.0"]
    assert cells["pgd *"][-4:] == ["0.0", "%", "12.0", "–"]
    assert cells["worst case"][-4:] == ["0.0", "%", "912.0", "2.0"]


def test_a_suite_is_readable_at_80_columns(suite: Path) -> None:
    lines = suite_lines(suite)
    table = lines[: next(n for n, line in enumerate(lines) if line.startswith("worst case")) + 1]
    assert max(map(len, table)) <= 80


def test_the_audit_is_counted_and_listed(suite: Path) -> None:
    lines = suite_lines(suite)
    start = lines.index("audit  1 pass, 1 warn, 1 not applicable")
    assert lines[start + 1 : start + 7] == [
        "  pass  query budget",
        "        71.6 → 95.8 %, rising",
        "  warn  doubling queries",
        r"        2 of 50 more \x1b[31mfell",
        "  n/a   gradient health",
        "        no gradients",
    ]


def test_the_places_are_named_last(suite: Path) -> None:
    write_suite_report(suite)
    assert suite_lines(suite)[-2:] == [f"suite   {suite}", f"report  {suite / 'report.html'}"]


def test_a_suite_that_was_stopped_says_so(suite: Path) -> None:
    for name in ("summary.json", "outcomes.jsonl"):
        (suite / name).unlink()
    lines = suite_lines(suite)
    assert "not complete: there is no worst case yet" in lines
    assert any(line.startswith("textfooler-minilm") for line in lines)


def test_a_suite_as_an_object(suite: Path) -> None:
    made = suite_object(suite)
    assert made["run"] == str(suite)
    assert made["attack_success_rate"]["value"] == 1.0
    assert made["audit"][0]["verdict"] == "pass"
    assert made["data"]["name"] == "reviews"
    json.dumps(made, allow_nan=False)


def test_a_run_is_no_suite(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [outcome()])
    for function in (suite_object, lambda folder: print_suite(folder, io.StringIO())):
        with pytest.raises(UserError, match="holds no suite"):
            function(run.path)


def test_a_run_shows_numbers_threat_model_and_examples(tmp_path: Path) -> None:
    run = make_run(
        tmp_path / "run",
        [outcome(), outcome("r2", "failed", edits=None)],
        summary={"queries_mean": 12.0, "queries_total": 24, "audit": AUDIT[:1]},
    )
    lines = run_lines(run)
    assert lines[0] == "builtin:classifier on reviews, split test, 4 of 250, recipe deepwordbug"
    measures = [line.split("  ")[0] for line in lines[2:10]]
    assert measures[2:] == [
        "clean accuracy",
        "robust accuracy",
        "attack success rate",
        "mean queries",
        "mean words changed",
        "queries in all",
    ]
    assert "r1  positive 0.90 → negative 0.80, 1 word changed, 12 queries" in lines
    assert "  before  a [[fine]] film" in lines
    assert "  after   a [[fime]] film" in lines
    assert "audit  1 pass" in lines
    assert not any("not realisable" in line for line in lines)


def test_a_run_on_embeddings_says_what_its_numbers_are_worth(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [outcome(embedded=True, edits=0)])
    lines = run_lines(run)
    assert any(line.startswith("not realisable as text") for line in lines)
    assert not any(line.startswith(("  before", "  after")) for line in lines)


def test_a_run_on_a_generator_shows_its_outputs(tmp_path: Path) -> None:
    run = make_run(
        tmp_path / "run",
        [
            outcome(
                original_output={"text": "Bern", "f1": 1.0},
                perturbed_output={"text": f"\x1b[2J{SCRIPT}", "f1": 0.0},
                truth=["Bern"],
            )
        ],
    )
    lines = run_lines(run)
    assert "  before       a [[fine]] film" in lines
    assert "  output       Bern" in lines
    assert rf"  output after \x1b[2J{SCRIPT}" in lines


def test_a_run_as_an_object_is_where_it_lies_and_its_summary(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [outcome()], summary={"queries_mean": 12.0})
    made = run_object(run)
    assert made["run"] == str(run.path)
    assert made["queries_mean"] == 12.0
    assert made["threat_model"]["query_budget"] == 500
