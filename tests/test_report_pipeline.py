"""Reports of attacks on pipelines: retrieval apart from answers, curves, poison as text."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path
from typing import Any

import pytest
from report_runs import MANIFEST, SCRIPT, make_run

from robustlab.poisoning.measures import summarise, summarise_worst
from robustlab.report import print_run, print_suite, write_report, write_suite_report
from robustlab.report.charts import points_chart
from robustlab.report.curves import success_curves
from robustlab.report.panels import adaptive_beside, alerts, pipeline_panels, worst_panel
from robustlab.report.plots import pipeline_plots
from robustlab.report.results import Results, read_run, read_suite
from robustlab.report.tables import examples_csv, points_csv
from robustlab.runs import RunDirectory

TARGET = {
    "spec": "rag",
    "kind": "rag",
    "top_k": 2,
    "retriever": {"kind": "flat", "encoder": {"spec": "my-encoder"}},
    "generator": {"spec": "my-reader", "dtype": "fp32", "device": "cpu"},
    "defenses": [{"name": "vae"}, {"name": "delimiters"}],
}
THREAT = {
    "goal": "wrong-answer",
    "knowledge": "none",
    "surface": "passages",
    "query_budget": None,
    "passages": 2,
    "top_k": 2,
    "adaptive": False,
    "constraints": [],
}


def reply(text: str, *, right: bool, poison: tuple[int, ...] = (), read: int = 2) -> dict[str, Any]:
    """A reply to "who hoots?"; ``poison`` are the ranks of the adversary's passages, of two."""
    retrieved = [f"poison:{poison.index(r)}" if r in poison else f"p{r}" for r in (1, 2)]
    gold = "p1" in retrieved
    return {
        "text": text,
        "wanted": "a goose",
        "exact_match": right,
        "contains_answer": right,
        "f1": float(right),
        "refused": False,
        "retrieved": retrieved,
        "read": retrieved[:read],
        "recall": float(gold),
        "gold_retrieved": gold,
        "gold_read": gold,
        "targeted": "goose" in text,
        "targeted_exact": text == "a goose",
        "poison_ranks": list(poison),
        "poison_places": [rank for rank in poison if rank <= read],
        "poison_precision": len(poison) / 2,
        "poison_recall": len(poison) / 2,
        "poison_f1": len(poison) / 2,
    }


def question(
    key: str, after: dict[str, Any], *, before: bool = True, poison: str = "It is a goose."
) -> dict[str, Any]:
    status = "skipped" if not before else ("succeeded" if after["targeted"] else "failed")
    point = {k: after[k] for k in ("text", "exact_match", "targeted", "refused", "poison_ranks")}
    spared = {**point, "targeted": False, "exact_match": before, "poison_ranks": []}
    clean = reply("the owl" if before else "a hen", right=before)
    clean = {k: v for k, v in clean.items() if not k.startswith("poison")}
    return {
        "id": key,
        "status": status,
        "original": "who hoots?",
        "perturbed": "who hoots?",
        "poison": [poison, "A second one."],
        "original_output": clean,
        "perturbed_output": after,
        "truth": ["the owl"],
        "queries": 1,
        "edits": None,
        "similarity": None,
        "seconds": 0.5,
        "by_poison_passages": {"1": spared, "2": point},
        "by_top_k": {"1": spared, "2": point},
    }


FOOLED = reply("a goose", right=False, poison=(1, 2))
FIRM = reply("the owl", right=True, poison=(2,))
THREE = [
    question("q1", FOOLED),
    question("q2", FIRM),
    question("q3", reply("a hen", right=False), before=False),
]


def rag_run(folder: Path, outcomes: list[dict[str, Any]], **changes: Any) -> RunDirectory:
    threat = {**THREAT, **changes.pop("threat_model", {})}
    summary = summarise(outcomes, threat["goal"], 2)
    return make_run(
        folder,
        outcomes,
        summary={**summary, **changes.pop("summary", {})},
        target=TARGET,
        threat_model=threat,
        recipe={**MANIFEST["recipe"], "name": changes.pop("name", "poisonedrag-blackbox")},
        **changes,
    )


def rag_suite(folder: Path) -> Path:
    """A recipe that is weaker where it is adaptive."""
    members = {"inject": THREE, "inject-adaptive": [*THREE[1:], question("q1", FIRM)]}
    for name, outcomes in members.items():
        adaptive = {"adaptive": name.endswith("adaptive")}
        rag_run(folder / "runs" / name, outcomes, name=name, threat_model=adaptive)
    rates = {
        way: summarise(members[name], "wrong-answer", 2)["attack_success_rate"]
        for way, name in (("non_adaptive", "inject"), ("adaptive", "inject-adaptive"))
    }
    make_run(
        folder,
        [{**one, "recipe": "inject"} for one in THREE],
        summary={
            **summarise_worst(members),
            "adaptive": {"inject": rates},
            "warnings": ["inject: adaptive (0.0%) is weaker than non-adaptive (50.0%)"],
        },
        command="suite",
        target=TARGET,
        recipe=None,
        recipes=list(members),
        suite=None,
        threat_model={"goal": "wrong-answer", "recipes": {}},
    )
    return folder


@pytest.fixture
def results(tmp_path: Path) -> Results:
    return read_run(rag_run(tmp_path / "run", THREE))


def visible(page: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", page))


def test_retrieval_and_answer_are_told_apart(results: Results) -> None:
    answers, retrieval, success = pipeline_panels(results.whole)
    cells = {row.name: [cell and cell.value for cell in row.cells] for row in answers.rows}
    assert cells["exact match"] == ["66.7 %", "33.3 %"]
    assert cells["recall@2"] == ["100.0 %", "66.7 %"]
    assert "Difference in exact match, paired: −33.3 % [−" in answers.note
    cells = {row.name: [cell and cell.value for cell in row.cells] for row in retrieval.rows}
    assert cells["poison retrieved"] == ["66.7 %"]  # not for q3
    assert cells["poison precision"] == ["50.0 %"]  # of 1, ½ and 0
    assert cells["gold passage retrieved"] == ["66.7 %"]
    cells = {row.name: [cell and cell.value for cell in row.cells] for row in success.rows}
    assert cells["success if poison was retrieved"] == ["50.0 %"]
    assert cells["targeted success, all questions"] == ["33.3 %"]


def test_defences_stand_beside_their_absence(tmp_path: Path) -> None:
    rate = {"value": 1.0, "low": 0.2, "high": 1.0, "n": 2}
    run = rag_run(tmp_path / "run", THREE, summary={"undefended_attack_success_rate": rate})
    panel = pipeline_panels(read_run(run).whole)[-1]
    assert panel.heads == ("without defence", "with defence")
    row = next(row for row in panel.rows if row.name == "attack success rate")
    assert [cell and cell.value for cell in row.cells] == ["100.0 %", "50.0 %"]


@pytest.mark.parametrize(("adaptive", "said"), [(False, 1), (True, 0)])
def test_a_defence_that_nobody_tried_to_get_round(
    tmp_path: Path, adaptive: bool, said: int
) -> None:
    run = rag_run(tmp_path / "run", THREE, threat_model={"adaptive": adaptive})
    assert len(alerts(read_run(run))) == said
    assert write_report(run).read_text().count("never met the defence") == said


def test_curves_and_groups(results: Results) -> None:
    plots = {plot.key: plot for plot in pipeline_plots(results)}
    assert list(plots) == [
        "success-by-rank",
        "success-by-passages-read",
        "by-poison-passages",
        "by-top-k",
    ]
    (by_rank,) = plots["success-by-rank"].series
    assert [(at, rate.value, rate.n) for at, rate in by_rank.points] == [(1, 1.0, 1), (2, 0.0, 1)]
    success, match, retrieved = plots["by-poison-passages"].series
    assert [(at, rate.value) for at, rate in success.points] == [(1, 0.0), (2, 0.5)]
    assert [round(rate.value, 3) for _, rate in match.points] == [0.667, 0.333]
    assert [round(rate.value, 3) for _, rate in retrieved.points] == [0.0, 0.667]
    rows = list(csv.DictReader(io.StringIO(points_csv(plots["by-poison-passages"]).decode())))
    assert rows[1]["line"] == "attack success"
    assert (rows[1]["poison_passages"], rows[1]["rate"], rows[1]["n"]) == ("2", "0.5", "2")


def test_points_lie_where_their_rates_are(results: Results) -> None:
    chart = points_chart(pipeline_plots(results)[0])
    (line,) = chart.lines
    (_, high_y, *_), (_, low_y, low_end, _) = line.marks
    assert (high_y, low_y, low_end) == (chart.top, chart.bottom, chart.bottom)
    assert line.path == ""  # groups of different questions are not joined
    assert [text for _, text in chart.across] == ["1", "2"]


def test_passages_change_no_words(results: Results) -> None:
    assert success_curves(results, "edits") == ()
    assert len(success_curves(results, "queries")) == 1


def test_a_page_tells_all_and_poison_is_text(tmp_path: Path) -> None:
    poisoned = question("q9", FOOLED, poison=f"{SCRIPT} It is A GOOSE.\u202e")
    run = rag_run(tmp_path / "run", [*THREE, poisoned])
    page = write_report(run).read_text(encoding="utf-8")
    assert page.count("<script>") == 1  # our own
    assert "&lt;script&gt;" in page
    text = visible(page)
    for shown in (
        "Poison was retrieved for 3 of 4 questions.",
        "The wrong answer that the adversary wants was given on 2 of the 3 questions",
        "top 2 of my-encoder",
        "read by my-reader (fp32 on cpu)",
        "defended by vae, delimiters",
        "Was the poison retrieved?",
        "success if poison was read",
        "Success by rank of the poison",
        "passages 2",
        "2 of 2 poison passages retrieved, best at rank 1",
        "poison, rank 1",
        "poison, not found",
        "It is A GOOSE .\\u202e",
        "retrieved under attack poison:0, poison:1",
    ):
        assert shown in text, shown
    assert "<mark>A GOOSE</mark>" in page
    assert "Success against words changed" not in text
    for name in ("success-by-rank", "by-top-k"):
        assert {path.suffix for path in (run.path / "figures").glob(f"{name}.*")} >= {".csv"}


def test_only_some_passages_of_a_large_poison_are_shown(tmp_path: Path) -> None:
    one = {**THREE[0], "poison": [f"passage number {n}" for n in range(9)]}
    text = visible(write_report(rag_run(tmp_path / "run", [one])).read_text(encoding="utf-8"))
    assert "passage number 4" in text
    assert "passage number 5" not in text.partition("Manifest")[0]
    assert "… and 4 passages more, in outcomes.jsonl" in text


def test_curves_of_a_question_stay_out_of_the_spreadsheet(results: Results) -> None:
    header = examples_csv(results).decode().splitlines()[0]
    assert "perturbed_output.poison_ranks" in header
    assert "by_top_k" not in header


def test_a_suite_shows_the_worst_case_and_a_weaker_adaptive_attack(tmp_path: Path) -> None:
    folder = rag_suite(tmp_path / "suite")
    found = read_suite(folder)
    panel = adaptive_beside(found)
    assert panel is not None
    assert [cell and cell.value for cell in panel.rows[0].cells] == ["50.0 %", "0.0 %"]
    worst = worst_panel(found)
    assert worst is not None
    cells = {row.name: row.cells[0] for row in worst.rows}
    assert cells["targeted success (contained)"].value == "50.0 %"
    text = visible(write_suite_report(folder).read_text(encoding="utf-8"))
    for shown in (
        "Worst case over recipes",
        "Adaptive and non-adaptive",
        "inject: adaptive (0.0%) is weaker than non-adaptive (50.0%)",
        "All measures of inject-adaptive",
        "Success by number of poison passages",
        "At least one recipe reached its goal on 1 of the 2 questions",
    ):
        assert shown in text, shown
    assert "mean words changed" not in text
    file = io.StringIO()
    print_suite(folder, file)
    lines = file.getvalue().splitlines()
    assert any(line.startswith("warning  inject: adaptive") for line in lines)
    assert any(re.match(r"inject +50\.0 % .* 0\.0 % ", line) for line in lines)


def test_a_run_on_the_terminal(tmp_path: Path) -> None:
    file = io.StringIO()
    print_run(rag_run(tmp_path / "run", [*THREE, question("q0", FOOLED, poison="\x1b[2J")]), file)
    told = file.getvalue()
    assert "\x1b" not in told
    assert "\\x1b[2J" in told
    assert max(map(len, told.splitlines()[:-3])) <= 100
    for shown in (
        "Was the poison retrieved?",
        "success if poison was retrieved",
        "best rank of the poison",
        "writes passages · at most 2 for the top 2, not adaptive",
    ):
        assert shown in told, shown


def test_an_unfinished_run_has_a_page(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", THREE[:1], complete=False, target=TARGET, threat_model=THREAT)
    assert "not complete" in write_report(run).read_text(encoding="utf-8")
