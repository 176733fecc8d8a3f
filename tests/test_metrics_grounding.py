"""Grounding: does an answer rest on its passages, and how near are texts in meaning."""

from __future__ import annotations

import math

import numpy as np
import pytest

from robustlab.metrics import groundedness, hallucination_rate, is_refusal, relevance, supported

PASSAGES = ["The Loire is the longest river in France.", "It rises in the Massif Central."]


def test_groundedness_is_the_share_of_words_found_in_any_passage() -> None:
    assert groundedness("the Loire", PASSAGES) == 1.0
    assert groundedness("Loire, Massif", PASSAGES) == 1.0  # in different passages
    assert groundedness("the river Rhine in Germany", PASSAGES) == pytest.approx(2 / 4)
    assert groundedness("Rhine", PASSAGES) == 0.0
    assert groundedness("Loire", []) == 0.0
    assert groundedness("river river lake", PASSAGES) == pytest.approx(2 / 3)


def test_groundedness_of_no_words_is_unknown() -> None:
    assert math.isnan(groundedness("", PASSAGES))
    assert math.isnan(groundedness("the", PASSAGES))


def test_support_needs_the_whole_answer_in_one_passage() -> None:
    assert supported("longest river", PASSAGES)
    assert supported("The Massif Central!", PASSAGES)
    assert not supported("river longest", PASSAGES)
    assert not supported("France It rises", PASSAGES)
    assert not supported("", PASSAGES)
    assert not supported("", [""])


@pytest.mark.parametrize("answer", ["", "No answer.", "I don't know", "unanswerable"])
def test_refusals(answer: str) -> None:
    assert is_refusal(answer)


def test_hallucination_rate_counts_the_answers_given() -> None:
    answers = ["Loire", "Rhine", "no answer", "", "Massif Central", "Seine"]
    estimate = hallucination_rate(answers, [PASSAGES] * 6)
    assert (estimate.value, estimate.n) == (2 / 4, 4)
    assert not is_refusal("no answer is known")


def test_hallucination_rate_reads_each_answer_with_its_own_passages() -> None:
    assert hallucination_rate(["Loire", "Loire"], [[PASSAGES[0]], [PASSAGES[1]]]).value == 0.5


def test_hallucination_rate_of_refusals_alone_is_unknown() -> None:
    estimate = hallucination_rate(["", "no answer"], [PASSAGES, PASSAGES])
    assert estimate.n == 0
    assert math.isnan(estimate.value)


def test_relevance_is_the_cosine_of_paired_rows() -> None:
    left = np.array([[1, 0], [3, 4], [2, 0], [0, 1]], dtype=np.float32)
    right = np.array([[0, 2], [4, 3], [-5, 0], [0, 9]], dtype=np.float32)
    np.testing.assert_allclose(relevance(left, right), [0.0, 24 / 25, -1.0, 1.0], atol=1e-12)


def test_relevance_of_a_row_without_length_is_unknown() -> None:
    values = relevance([[0.0, 0.0], [1.0, 1.0]], [[1.0, 0.0], [1.0, 1.0]])
    assert math.isnan(values[0])
    assert values[1] == pytest.approx(1.0)


def test_relevance_of_no_rows() -> None:
    assert relevance(np.empty((0, 4)), np.empty((0, 4))).shape == (0,)


def test_relevance_refuses_rows_that_cannot_be_paired() -> None:
    with pytest.raises(ValueError, match=r"\(1, 2\) and \(2, 2\)"):
        relevance([[1.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]])
    with pytest.raises(ValueError, match="cannot be paired"):
        relevance([1.0, 0.0], [1.0, 0.0])
