from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from robustlab.report import write_report
from robustlab.runs import RunDirectory

SCRIPT = "<script>alert('1')</script>"


def attack_run(folder: Path, outcomes: list[dict[str, Any]], *, complete: bool = True) -> str:
    manifest = {
        "command": "attack",
        "command_line": ["robustlab", "attack", "--limit", "3", "--data", "my set"],
        "seed": 0,
        "target": {"spec": "builtin:classifier", "fingerprint": "abc123"},
        "data": {"name": "reviews", "fingerprint": "def456"},
        "recipe": {"name": "deepwordbug", "text": f"name = 'x'\n# {SCRIPT}\n", "sha256": "99aa"},
        "threat_model": {"goal": "untargeted", "budget": {"queries": 500}},
        "versions": {"torch": "2.13.0"},
        "started": "2026-01-01T00:00:00+00:00",
    }
    with RunDirectory.create(folder, manifest) as run:
        for outcome in outcomes:
            run.append(outcome)
        if complete:
            rate = {"value": 0.5, "low": 0.25, "high": 0.75, "n": 20}
            run.write_summary({"attack_success_rate": rate, "queries_mean": 41.5})
        path = write_report(run)
    assert path == folder / "report.html"
    return path.read_text(encoding="utf-8")


def outcome(**fields: Any) -> dict[str, Any]:
    return {
        "id": "r1",
        "status": "succeeded",
        "original": "a fine film",
        "perturbed": "a fime film",
        "queries": 12,
        **fields,
    }


class _Page(HTMLParser):
    """Tags that could load or run something, and the visible text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_a_page_shows_threat_model_numbers_outcomes_and_manifest(tmp_path: Path) -> None:
    page = attack_run(tmp_path / "run", [outcome()])
    assert "<mark>fine</mark>" in page
    assert "<mark>fime</mark>" in page
    text = re.sub(r"\s+", " ", parsed(page).text)
    for shown in (
        "attack: builtin:classifier on reviews",
        "Recipe deepwordbug · 1 outcome",
        "budget.queries 500",
        "50.0 % 25.0 – 75.0 20",
        "mean queries 41.5",
        "data.fingerprint def456",
        "versions.torch 2.13.0",
        "robustlab attack --limit 3 --data 'my set'",
    ):
        assert shown in text or shown.replace(" ", "") in text.replace(" ", ""), shown


def parsed(page: str) -> _Page:
    reader = _Page()
    reader.feed(page)
    return reader


def test_texts_of_others_cannot_become_part_of_the_page(tmp_path: Path) -> None:
    hostile = outcome(
        id=SCRIPT,
        original=f"{SCRIPT} good",
        perturbed=f'{SCRIPT} <img src=x onerror="alert(1)">',
        original_output=SCRIPT,
        **{SCRIPT: SCRIPT},
    )
    page = parsed(attack_run(tmp_path / "run", [hostile]))
    assert not {tag for tag, _ in page.tags} & {"script", "img", "link", "iframe", "object"}
    for _, attributes in page.tags:
        assert not {"src", "href", "onerror"} & attributes.keys()
    assert page.text.count("<script>") >= 4  # shown as words


def test_the_page_needs_no_other_file(tmp_path: Path) -> None:
    page = attack_run(tmp_path / "run", [outcome()])
    assert "http://" not in page
    assert "https://" not in page
    assert "default-src 'none'" in page


def test_control_characters_and_broken_text_are_spelled_out(tmp_path: Path) -> None:
    page = attack_run(tmp_path / "run", [outcome(perturbed="a \u202efi\x00me\ud800 film")])
    assert r"\u202efi\x00me\ud800" in page
    assert not re.search("[\x00-\x09\x0b-\x1f\u202a-\u202e]", page)


def test_pairs_of_texts_unfinished_runs_and_missing_results(tmp_path: Path) -> None:
    page = attack_run(
        tmp_path / "run",
        [
            outcome(original=["same first", "old second"], perturbed=["same first", "new second"]),
            outcome(id="r2", status="error", perturbed=None),
        ],
        complete=False,
    )
    assert "not complete" in page
    assert "<mark>old</mark> second" in page
    assert page.count("same first") == 1
    assert "a fine film" in page


def test_many_outcomes_are_cut_and_the_page_says_so(tmp_path: Path) -> None:
    page = attack_run(tmp_path / "run", [outcome(id=f"r{i}") for i in range(503)])
    assert "The first 500 of 503" in page
    assert page.count("<mark>fime</mark>") == 500


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"correct": True, "text": "fine"}, "right"),
        ({"exact_match": False, "question": "who?", "prediction": "nobody"}, "wrong"),
        ({"gold_rank": 3, "question": "who?"}, "rank 3"),
        ({"gold_rank": None, "question": "who?"}, "not found"),
    ],
)
def test_outcomes_of_an_evaluation(tmp_path: Path, fields: dict[str, Any], status: str) -> None:
    page = parsed(attack_run(tmp_path / "run", [{"id": "q1", **fields}]))
    assert status in page.text
    assert str(fields.get("question", "fine")) in page.text
