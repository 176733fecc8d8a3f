"""Attack outcomes: rates with explicit denominators, and how many words changed."""

from __future__ import annotations

import math
import random

import pytest

from robustlab.metrics import changed_words, edit_rate, robustness_summary


def test_rates_by_hand() -> None:
    statuses = ["succeeded"] * 3 + ["failed"] + ["skipped"]
    summary = robustness_summary(statuses)
    assert (summary.clean_accuracy.value, summary.clean_accuracy.n) == (4 / 5, 5)
    assert (summary.robust_accuracy.value, summary.robust_accuracy.n) == (1 / 5, 5)
    assert (summary.attack_success_rate.value, summary.attack_success_rate.n) == (3 / 4, 4)
    assert summary.errors == 0


def test_errors_are_in_no_denominator() -> None:
    without = robustness_summary(["succeeded", "failed", "skipped"])
    with_errors = robustness_summary(["error", "succeeded", "failed", "error", "skipped"])
    assert with_errors.errors == 2
    assert with_errors.clean_accuracy == without.clean_accuracy
    assert with_errors.robust_accuracy == without.robust_accuracy
    assert with_errors.attack_success_rate == without.attack_success_rate


def test_rates_over_nothing_are_unknown() -> None:
    all_wrong = robustness_summary(["skipped", "skipped"])
    assert all_wrong.clean_accuracy.value == 0.0
    assert math.isnan(all_wrong.attack_success_rate.value)
    assert all_wrong.as_json()["attack_success_rate"] == {
        "value": None,
        "low": None,
        "high": None,
        "n": 0,
    }
    assert math.isnan(robustness_summary(["error"]).clean_accuracy.value)


def test_an_unknown_status_is_refused() -> None:
    with pytest.raises(ValueError, match="'won'"):
        robustness_summary(["succeeded", "won"])


@pytest.mark.parametrize(
    ("original", "perturbed", "expected"),
    [
        ("a good film", "a good film", 0.0),
        ("a good film", "a  good\nfilm ", 0.0),
        ("a good film", "a gOod film", 1 / 3),
        ("a good film", "a film", 1 / 3),
        ("a good film", "a very good film", 1 / 3),
        ("a good film", "a go od film", 2 / 3),
        ("a good film", "", 1.0),
        ("one two three four", "two three four five", 2 / 4),
        ("one", "one two three", 2.0),
        ("", "", 0.0),
        ("", "two words", 2.0),
    ],
)
def test_edit_rate_by_hand(original: str, perturbed: str, expected: float) -> None:
    assert edit_rate(original, perturbed) == pytest.approx(expected)


def marks(original: str, perturbed: str) -> list[tuple[str, str]]:
    """The changes as pairs of texts."""
    return [
        (original[slice(*change.original)], perturbed[slice(*change.perturbed)])
        for change in changed_words(original, perturbed)
    ]


def test_changed_words_stay_paired() -> None:
    assert marks("a truly good film", "a trully bad film") == [("truly", "trully"), ("good", "bad")]


def test_deletions_and_insertions_have_an_empty_side() -> None:
    assert marks("a good film", "a film") == [("good", "")]
    assert marks("a film", "a good film here") == [("", "good"), ("", "here")]
    (insertion,) = changed_words("a film", "a good film")
    assert insertion.original == (1, 1)
    (first,) = changed_words("film", "good film")
    assert (first.original, first.perturbed) == ((0, 0), (0, 4))


def table_distance(left: list[str], right: list[str]) -> int:
    """Levenshtein's distance by the full table, to compare with."""
    row = list(range(len(right) + 1))
    for i, a in enumerate(left, start=1):
        above = row
        row = [i]
        for j, b in enumerate(right, start=1):
            row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (a != b)))
    return row[-1]


def test_the_script_is_shortest_and_leads_to_the_other_text() -> None:
    dice = random.Random(5)
    for _ in range(400):
        left = dice.choices("abcd", k=dice.randrange(9))
        right = dice.choices("abcd", k=dice.randrange(9))
        original, perturbed = " ".join(left), "  ".join(right)
        changes = changed_words(original, perturbed)
        assert len(changes) == table_distance(left, right)
        rebuilt = original
        for change in reversed(changes):
            start, end = change.original
            word = perturbed[slice(*change.perturbed)]
            rebuilt = f"{rebuilt[:start]} {word} {rebuilt[end:]}"
        assert rebuilt.split() == right


def test_counts_serve_as_well_as_statuses() -> None:
    statuses = ["succeeded", "failed", "failed", "skipped", "error"]
    counts = {"succeeded": 1, "failed": 2, "skipped": 1, "error": 1}
    assert robustness_summary(counts) == robustness_summary(statuses)
