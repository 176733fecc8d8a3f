"""Answers: SQuAD's normalisation, exact match and token F1."""

from __future__ import annotations

import pytest

from robustlab.metrics import contains_answer, exact_match, normalise, token_f1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  Eiffel Tower!", "eiffel tower"),
        ("an apple, a pear and the plum", "apple pear and plum"),
        ("U.S.", "us"),
        ("well-known", "wellknown"),
        ("Theatre anthem", "theatre anthem"),
        ("ÉCOLE", "école"),
        ("The", ""),
        (" \t\n", ""),
    ],
)
def test_normalise(text: str, expected: str) -> None:
    assert normalise(text) == expected


def test_exact_match_takes_any_answer() -> None:
    assert exact_match("the Taiping rebellion.", ["Boxer Rebellion", "Taiping Rebellion"])
    assert not exact_match("Taiping", ["Taiping Rebellion"])


def test_f1_by_hand() -> None:
    # 2 of 3 predicted words are right (P = 2/3), 2 of 4 wanted ones found (R = 1/2): F = 4/7.
    assert token_f1("blue river town", ["old blue mountain river"]) == pytest.approx(4 / 7)


def test_f1_counts_repeated_words() -> None:
    # "ha" stands three times in one and once in the other: one in common, P = 1/3, R = 1.
    assert token_f1("ha ha ha", ["ha"]) == pytest.approx(0.5)


def test_f1_is_the_best_over_the_answers() -> None:
    assert token_f1("Percy Shelley", ["Byron", "Percy Bysshe Shelley"]) == pytest.approx(0.8)
    assert token_f1("Percy Shelley", ["Byron"]) == 0.0


@pytest.mark.parametrize("prediction", ["", " ", "the", "..."])
def test_unanswerable_is_met_by_an_empty_prediction(prediction: str) -> None:
    assert exact_match(prediction, [])
    assert token_f1(prediction, []) == 1.0
    assert contains_answer(prediction, [])


def test_unanswerable_is_missed_by_any_other() -> None:
    assert not exact_match("Paris", [])
    assert token_f1("Paris", []) == 0.0
    assert not contains_answer("Paris", [])


def test_empty_prediction_misses_an_answer() -> None:
    assert not exact_match("", ["Paris"])
    assert token_f1("", ["Paris"]) == 0.0
    assert not contains_answer("", ["Paris"])


def test_contains_whole_words_in_a_row() -> None:
    assert contains_answer("It is in New York, I think.", ["new york"])
    assert not contains_answer("concatenate", ["cat"])
    assert not contains_answer("new in York", ["New York"])
    assert contains_answer("It was 1858.", ["1857", "1858"])


def test_an_answer_of_articles_alone_is_not_everywhere() -> None:
    assert not contains_answer("Vitamin C", ["A"])
    assert exact_match("A", ["A"])
    assert contains_answer("A", ["A"])
