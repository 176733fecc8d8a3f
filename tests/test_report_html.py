from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import browser
import pytest
from report_runs import SCRIPT, make_run, make_suite, outcome

from robustlab.errors import UserError
from robustlab.report import write_report, write_suite_report
from robustlab.runs import RunDirectory


def attack_page(folder: Path, outcomes: list[dict[str, Any]], **options: Any) -> str:
    run = make_run(folder, outcomes, **options)
    path = write_report(run)
    assert path == folder / "report.html"
    return path.read_text(encoding="utf-8")


class _Page(HTMLParser):
    """Tags with their attributes, the visible text, and what stands in style and script."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.raw = {"style": "", "script": ""}
        self._inside = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag
        self.text += " "

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""
        self.text += " "

    def handle_data(self, data: str) -> None:
        if self._inside in self.raw:
            self.raw[self._inside] += data
        else:
            self.text += data


def parsed(page: str) -> _Page:
    reader = _Page()
    reader.feed(page)
    return reader


def text_of(page: str) -> str:
    return re.sub(r"\s+", " ", parsed(page).text)


# --- what stands on a page


def test_a_page_shows_numbers_threat_model_outcomes_and_manifest(tmp_path: Path) -> None:
    page = attack_page(
        tmp_path / "run",
        [
            outcome(),
            outcome("r2", "failed", perturbed="a fine film"),
            outcome("r3", "skipped", original_output={"label": "negative", "probability": 0.6}),
            outcome("r4", "error", error="ValueError: too long"),
        ],
        summary={"queries_mean": 12.0, "unverified": 0},
    )
    assert "<mark>fine</mark>" in page
    assert '<mark class="after">fime</mark>' in page
    text = text_of(page)
    for shown in (
        "builtin:classifier on reviews",
        "Recipe deepwordbug – Misspells words",
        "split test 4 of 250 fp32 on cpu seed 0 2026-01-01 00:00 UTC robustlab 0.2.0",
        "The attack broke 1 of the 2 examples that the target gets right without it.",
        "attack success rate 50.0 % 95 % interval 9.5 – 90.5, n = 2",
        "robust accuracy 33.3 %",
        "mean queries 12.0",
        "mean words changed 1.0",
        "query budget 500",
        "positive 0.90 → negative 0.80, 1 word changed, 12 queries",
        "negative 0.60, truth positive, 1 query",
        "Could not be attacked or judged: ValueError: too long",
        "data.fingerprint def456",
        "versions.torch 2.13.0",
        "robustlab attack --limit 3 --data 'my set'",
        "1 broken: the attack succeeded",
        "Success against queries",
        "Success against words changed",
    ):
        assert shown in text, shown
    assert "not confirmed" not in text
    assert page.index("r1</span>") < page.index("r2</span>") < page.index("r4</span>")


def test_what_does_not_count_is_said_where_it_stands(tmp_path: Path) -> None:
    text = text_of(
        attack_page(
            tmp_path / "run",
            [
                outcome("r1", "failed", unverified=True),
                outcome("r2", "failed", broken_constraint="max_edits (3 > 2)"),
                outcome("r3", embedded=True, perturbed="a stand-in", edits=0),
            ],
        )
    )
    assert "Not confirmed: the attack claimed success" in text
    assert "Breaks a constraint against the original: max_edits (3 > 2)" in text
    assert "Not realisable as text: the perturbation lies in embedding space" in text
    assert "Not realisable as text: this recipe perturbs embeddings" in text
    assert "a stand-in" not in text  # no text does this


def test_generated_outputs_stand_before_and_after(tmp_path: Path) -> None:
    text = text_of(
        attack_page(
            tmp_path / "run",
            [
                outcome(
                    original="Who climbed it?",
                    perturbed="Who climbed it? zx",
                    truth=["Edward Whymper", "Whymper"],
                    original_output={"text": "Edward Whymper", "f1": 1.0},
                    perturbed_output={"text": "nobody knows", "f1": 0.0},
                ),
                outcome(
                    "r2",
                    original_output={"text": "Bern", "wanted": "I obey"},
                    perturbed_output={"text": "I obey you", "wanted": "I obey"},
                ),
            ],
        )
    )
    assert "f1 1.00 → 0.00, 1 word changed" in text
    assert "output Edward Whymper output after nobody knows" in text
    assert "truth Edward Whymper | Whymper" in text
    assert "output Bern output after I obey you wanted I obey" in text


def test_audit_items_carry_verdict_and_evidence(tmp_path: Path) -> None:
    audit = [
        {"check": "doubling queries", "verdict": "warn", "evidence": "95 → 97 %"},
        {"check": "gradient health", "verdict": "not applicable", "evidence": SCRIPT},
    ]
    page = attack_page(tmp_path / "run", [outcome()], summary={"audit": audit})
    assert '<span class="pill warn">warn</span>' in page
    text = text_of(page)
    assert "warn doubling queries 95 → 97 %" in text
    assert SCRIPT in text
    assert "audit" not in text.partition("Everything in summary.json")[2]


def test_pairs_of_texts_unfinished_runs_and_missing_results(tmp_path: Path) -> None:
    page = attack_page(
        tmp_path / "run",
        [
            outcome(original=["same first", "old second"], perturbed=["same first", "new second"]),
            outcome("r2", "error", perturbed=None),
        ],
        complete=False,
    )
    assert "not complete" in page
    assert "<mark>old</mark> second" in page
    assert page.count("same first") == 1
    assert "a fine film" in page


def test_a_run_without_an_outcome_has_a_page(tmp_path: Path) -> None:
    assert "No example was attacked" in attack_page(tmp_path / "run", [], complete=False)


def test_a_universal_attack_shows_what_it_learned(tmp_path: Path) -> None:
    learned = {"what": {"trigger": "zoning tapping"}, "queries": 900, "data": {"name": "x"}}
    text = text_of(attack_page(tmp_path / "run", [outcome()], learned=learned))
    assert "learned.what.trigger zoning tapping" in text
    assert "learned.queries 900" in text


def test_many_outcomes_are_cut_and_the_page_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("robustlab.report.html._ROWS", 5)
    page = attack_page(tmp_path / "run", [outcome(f"r{i}") for i in range(8)])
    assert "The first 5 of 8 outcomes; all are in examples.csv." in page
    assert page.count('<mark class="after">fime</mark>') == 5


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
    run_folder = tmp_path / "run"
    page = parsed(
        attack_page(
            run_folder,
            [{"id": "q1", **fields}],
            command="evaluate",
            threat_model=None,
            recipe=None,
            summary={"accuracy": {"value": 0.5, "low": 0.25, "high": 0.75, "n": 20}},
        )
    )
    assert status in page.text
    assert str(fields.get("question", "fine")) in page.text
    assert "50.0 %" in page.text
    assert "attack" not in page.text.partition("Manifest")[0]
    assert not (run_folder / "figures").exists()
    assert not (run_folder / "examples.csv").exists()


# --- suites


SUITE = {
    "strong": [outcome("a", edits=2), outcome("b", edits=4), outcome("c", "skipped")],
    "weak": [outcome("a", edits=1), outcome("b", "failed"), outcome("c", "skipped")],
    "pgd": [
        outcome("a", embedded=True, edits=0),
        outcome("b", embedded=True, edits=0),
        outcome("c", "skipped"),
    ],
}


def test_a_suite_has_a_row_a_recipe_and_the_worst_case_last(tmp_path: Path) -> None:
    path = write_suite_report(make_suite(tmp_path / "suite", SUITE))
    assert path == tmp_path / "suite" / "report.html"
    page = path.read_text(encoding="utf-8")
    rows = [text_of(row) for row in re.findall(r"<tr[^>]*><td><div class=.*?</tr>", page, re.S)]
    assert [row.split()[0] for row in rows] == ["strong", "weak", "pgd", "worst"]
    assert "not realisable as text" in rows[2]
    assert rows[2].rstrip().endswith("–")  # no words are changed
    assert "over all realisable recipes" in rows[3]
    assert "100.0 %" in rows[3]
    assert rows[3].rstrip().endswith("2.5")  # the fewest words: 1 for a, 4 for b
    text = text_of(page)
    assert "At least one recipe broke 2 of the 2 examples" in text
    assert "Suite quick – Some of each" in text
    assert page.count("data-worst") == 3  # one outcome an example; the script is not the page
    assert "suite = []" in page


def test_a_suite_that_was_stopped_shows_what_there_is(tmp_path: Path) -> None:
    folder = make_suite(tmp_path / "suite", SUITE)
    for name in ("summary.json", "outcomes.jsonl"):
        (folder / name).unlink()
    for file in (folder / "runs" / "weak").iterdir():
        file.unlink()
    page = write_suite_report(folder).read_text(encoding="utf-8")
    assert "not complete" in page
    assert '<div class="name">strong</div>' in page
    assert '<div class="name">weak</div>' not in page


def test_recipes_without_a_suite_of_their_own_are_counted(tmp_path: Path) -> None:
    folder = make_suite(tmp_path / "suite", SUITE)
    with RunDirectory.open(folder) as run:
        run.update_manifest(suite=None)
    assert "Suite of 3 recipes" in text_of(write_suite_report(folder).read_text(encoding="utf-8"))


def test_a_run_is_no_suite(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [outcome()])
    with pytest.raises(UserError, match="holds no suite"):
        write_suite_report(run.path)


# --- texts of others


HOSTILE = outcome(
    SCRIPT,
    original=f"{SCRIPT} good",
    perturbed=f'{SCRIPT} <img src=x onerror="alert(1)"> </script><script>alert(2)</script>',
    original_output={"text": f"'\"><svg onload=alert(3)> {SCRIPT}", "f1": 1.0},
    truth=SCRIPT,
    broken_constraint=SCRIPT,
    notes={SCRIPT: SCRIPT},
)


def hostile_suite(folder: Path) -> Path:
    audit = [{"check": SCRIPT, "verdict": SCRIPT, "evidence": SCRIPT}]
    name = "a'\"><b onclick=alert(4)>"
    runs = {name: [HOSTILE], "plain": [outcome()]}
    return write_suite_report(make_suite(folder, runs, audit=audit))


def test_texts_of_others_cannot_become_part_of_the_page(tmp_path: Path) -> None:
    page = parsed(hostile_suite(tmp_path / "suite").read_text(encoding="utf-8"))
    names = [tag for tag, _ in page.tags]
    assert names.count("script") == names.count("style") == 1
    assert not set(names) & {"img", "link", "iframe", "object", "embed", "base"}
    for _, attributes in page.tags:
        assert not {name for name in attributes if name == "src" or name.startswith("on")}
        assert (attributes.get("href") or "#").startswith("#")
    assert page.text.count("<script>") >= 8  # shown as words
    assert "alert" not in page.raw["script"]


def test_the_page_needs_no_other_file_and_allows_none(tmp_path: Path) -> None:
    page = attack_page(tmp_path / "run", [outcome()])
    assert "http://" not in page
    assert "https://" not in page
    reader = parsed(page)
    (policy,) = [a["content"] for _, a in reader.tags if "http-equiv" in a]
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    for part in ("style", "script"):
        digest = hashlib.sha256(reader.raw[part].encode()).digest()
        assert f"{part}-src 'sha256-{base64.b64encode(digest).decode()}'" in policy


def test_control_characters_and_broken_text_are_spelled_out(tmp_path: Path) -> None:
    page = attack_page(tmp_path / "run", [outcome(perturbed="a \u202efi\x00me\ud800 film")])
    assert r"\u202efi\x00me\ud800" in page
    assert not re.search("[\x00-\x09\x0b-\x1f\u202a-\u202e]", page)


# --- in a browser


@pytest.fixture
def page(tmp_path: Path) -> Iterator[browser.Page]:
    """A browser."""
    if browser.PROGRAM is None:
        pytest.skip("no Chromium or Chrome on the PATH")
    with browser.opened(tmp_path / "profile") as opened:
        yield opened


SHOWN = "[...document.querySelectorAll('.entry')].filter(e => !e.hidden).length"


def choose(page: browser.Page, **fields: str) -> tuple[int, str]:
    """Fill the filter, and say how many entries show and what the page says of it."""
    for name, value in fields.items():
        page.value(
            f"(() => {{ const field = document.forms.filter.elements[{name!r}];"
            f"field.value = {value!r};"
            "field.dispatchEvent(new Event('input', {bubbles: true})); })()"
        )
    page.value("new Promise(done => setTimeout(done, 300))")
    return page.value(SHOWN), page.value("document.getElementById('found').textContent")


def test_in_a_browser_hostile_texts_stay_texts(page: browser.Page, tmp_path: Path) -> None:
    page.open(hostile_suite(tmp_path / "suite"))
    assert page.value("document.querySelector('.entries').textContent").count("<script>alert") > 3
    assert page.value("document.querySelectorAll('script, img, svg[onload]').length") == 1
    assert page.value("!document.forms.filter.hidden")  # the policy lets the page's own script run
    assert page.happened("Page.javascriptDialogOpening") == []
    assert [e for e in page.happened("Log.entryAdded") if e["entry"]["level"] == "error"] == []
    assert page.happened("Runtime.exceptionThrown") == []
    requests = [event["request"]["url"] for event in page.happened("Network.requestWillBeSent")]
    assert len(requests) == 1
    assert requests[0].startswith("file://")


def test_in_a_browser_examples_are_filtered_and_paged(page: browser.Page, tmp_path: Path) -> None:
    strong = [outcome(f"e{number:03}", edits=1) for number in range(70)]
    strong[7]["original"] = "A Needle in the hay"
    weak = [outcome(f"e{number:03}", "failed") for number in range(70)]
    page.open(write_suite_report(make_suite(tmp_path / "suite", {"strong": strong, "weak": weak})))
    assert choose(page) == (50, "50 of 140 found")
    page.value("document.querySelector('#more button').click()")
    assert page.value(SHOWN) == 100
    assert choose(page, status="failed") == (50, "50 of 70 found")
    assert choose(page, recipe="=strong") == (0, "0 found")
    assert choose(page, status="") == (50, "50 of 70 found")
    assert choose(page, recipe="worst", search="e00") == (10, "10 found")
    assert choose(page, recipe="", search="a needle") == (1, "1 found")
    assert page.value("document.querySelector('#more').hidden")


def test_in_a_browser_without_scripts_the_whole_list_stands(
    page: browser.Page, tmp_path: Path
) -> None:
    run = make_run(tmp_path / "run", [outcome(f"e{number}") for number in range(70)])
    page.open(write_report(run), scripts=False)
    # Scripts are off for the page; the protocol still may ask.
    assert page.value(SHOWN) == 70
    assert page.value("document.forms.filter.hidden")


def test_in_a_browser_thousands_of_examples_stay_usable(page: browser.Page, tmp_path: Path) -> None:
    text = "The plot is thin, the cast is not, and the songs stay with you for days. " * 3
    run = make_run(tmp_path / "run", [])
    lines = (
        outcome(f"e{number:04}", original=text, perturbed=text.replace("thin", "thni"))
        for number in range(3000)
    )
    run.path.joinpath("outcomes.jsonl").write_bytes(
        "".join(json.dumps(line) + "\n" for line in lines).encode()
    )
    page.open(write_report(run))
    assert choose(page, search="e29")[1] == "50 of 100 found"
    metrics = page.call("Performance.getMetrics")["metrics"]
    busy = next(metric["value"] for metric in metrics if metric["name"] == "TaskDuration")
    assert busy < 5  # seconds of processor time; a quadratic layout takes minutes
