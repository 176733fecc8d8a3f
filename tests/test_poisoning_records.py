"""The poison file: read strictly, and refused where it does not fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from poison_fakes import QUESTIONS, yard

from robustlab.errors import UserError
from robustlab.poisoning.records import (
    check_fit,
    check_questions,
    load_poison,
    poison_fingerprint,
    questions_of,
)

GOOD = {
    "query_id": "q1",
    "question": "Who hoots?",
    "correct_answers": ["the owl"],
    "incorrect_answer": "a fox",
    "adversarial_texts": ["It is a fox.", "Foxes hoot."],
}
BY_ID = {question.id: question for question in QUESTIONS}


def write(folder: Path, *rows: dict[str, Any] | str) -> Path:
    file = folder / "poison.jsonl"
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def test_a_file_is_read_and_fits(tmp_path: Path) -> None:
    (record,) = load_poison(write(tmp_path, GOOD, ""))
    assert (record.query_id, record.incorrect_answer) == ("q1", "a fox")
    assert record.adversarial_texts == ("It is a fox.", "Foxes hoot.")
    check_questions([record], BY_ID)
    check_fit([record], yard())
    (question,) = questions_of([record])
    assert (question.id, question.answers, question.gold) == ("q1", ("the owl",), ())


def test_the_fingerprint_is_of_what_is_said(tmp_path: Path) -> None:
    before = poison_fingerprint(load_poison(write(tmp_path, GOOD)))
    other = {**GOOD, "adversarial_texts": ["It is a fox.", "Foxes hoot!"]}
    assert poison_fingerprint(load_poison(write(tmp_path, GOOD))) == before
    assert poison_fingerprint(load_poison(write(tmp_path, other))) != before


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "is empty"),
        (["{"], r"line 1: not JSON"),
        ([GOOD, "[]"], r"line 2: not a JSON object"),
        ([{**GOOD, "incorrect_answer": "The OWL!"}], r"line 1: .*'The OWL!' is a right one"),
        ([GOOD, GOOD], r"line 2: a second record of the question 'q1'"),
        ([{**GOOD, "adversarial_texts": []}], r"line 1: 'adversarial_texts' must be a list"),
        ([{**GOOD, "adversarial_texts": [" "]}], r"line 1: 'adversarial_texts' must be a list"),
        ([{**GOOD, "score": 1}], r"line 1: unknown field 'score'"),
        ([{"query_id": "q1"}], r"line 1: 'question' is missing"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(
    tmp_path: Path, rows: list[Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        load_poison(write(tmp_path, *rows))


def test_no_file_and_another_kind_of_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot read"):
        load_poison(tmp_path / "none.jsonl")
    with pytest.raises(UserError, match=r"are read from a \.jsonl file"):
        load_poison(tmp_path / "poison.csv")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query_id": "q9"}, r"line 1: the corpus has no question with the id 'q9'"),
        ({"question": "Who barks?"}, r"line 1: the question 'q1' of the corpus is another one"),
        (
            {"correct_answers": ["bird"], "incorrect_answer": "owl"},
            r"line 1: the incorrect answer 'owl' is a right one",
        ),
    ],
)
def test_a_file_for_another_corpus_is_refused(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    records = load_poison(write(tmp_path, {**GOOD, **change}))
    with pytest.raises(UserError, match=message):
        check_questions(records, BY_ID)


def test_a_text_longer_than_the_context_is_refused(tmp_path: Path) -> None:
    records = load_poison(write(tmp_path, {**GOOD, "adversarial_texts": ["short", "fox " * 60]}))
    with pytest.raises(UserError, match=r"line 1: adversarial text 2 is longer than the context"):
        check_fit(records, yard())
