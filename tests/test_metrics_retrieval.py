"""Rankings: recall, success, nDCG and reciprocal rank for each question."""

from __future__ import annotations

import math

import pytest

from robustlab.metrics import (
    RankedQuestion,
    ndcg_at_k,
    recall_at_k,
    reciprocal_rank,
    success_at_k,
)


def ranked(gold: str, passages: str, name: str = "q") -> RankedQuestion:
    """A question from words; the scores fall."""
    ids = tuple(passages.split())
    return RankedQuestion(name, tuple(gold.split()), ids, tuple(-float(n) for n in range(len(ids))))


TWO_GOLD = ranked("a b", "x a y b z")
ONE_GOLD = ranked("g", "g x y")
MISSED = ranked("g", "x y z")
NOTHING = ranked("g", "")
QUESTIONS = [TWO_GOLD, ONE_GOLD, MISSED, NOTHING]


def test_recall_is_the_share_of_the_gold_passages() -> None:
    assert recall_at_k(QUESTIONS, 1) == [0.0, 1.0, 0.0, 0.0]
    assert recall_at_k(QUESTIONS, 3) == [0.5, 1.0, 0.0, 0.0]
    assert recall_at_k(QUESTIONS, 10) == [1.0, 1.0, 0.0, 0.0]


def test_success_wants_one_gold_passage() -> None:
    assert success_at_k(QUESTIONS, 1) == [0.0, 1.0, 0.0, 0.0]
    assert success_at_k(QUESTIONS, 3) == [1.0, 1.0, 0.0, 0.0]


def test_ndcg_by_hand() -> None:
    second, fourth = 1 / math.log2(3), 1 / math.log2(5)
    assert ndcg_at_k(QUESTIONS, 3) == pytest.approx([second / (1 + second), 1.0, 0.0, 0.0])
    assert ndcg_at_k(QUESTIONS, 10)[0] == pytest.approx((second + fourth) / (1 + second))


def test_reciprocal_rank() -> None:
    assert reciprocal_rank(QUESTIONS) == pytest.approx([0.5, 1.0, 0.0, 0.0])


def test_the_order_given_is_the_ranking() -> None:
    # Equal scores, or scores that single precision cannot tell apart, must not reorder: trec_eval
    # would put "z" first.
    for scores in ((1.0, 1.0), (1.0 + 1e-12, 1.0)):
        question = RankedQuestion("q", ("a",), ("a", "z"), scores)
        assert reciprocal_rank([question]) == [1.0]


def test_long_rankings_keep_their_order() -> None:
    passages = " ".join(f"p{n}" for n in range(2000))
    assert reciprocal_rank([ranked("p1499", passages)]) == pytest.approx([1 / 1500])


def test_values_stand_in_the_order_of_the_questions_even_with_equal_ids() -> None:
    questions = [MISSED if n % 3 else ONE_GOLD for n in range(25)]
    assert success_at_k(questions, 1) == [0.0 if n % 3 else 1.0 for n in range(25)]


def test_no_questions_no_values() -> None:
    assert recall_at_k([], 5) == []


def test_refusals() -> None:
    with pytest.raises(ValueError, match="no gold passage"):
        ranked("", "a b")
    with pytest.raises(ValueError, match="ranked twice"):
        ranked("a", "a b a")
    with pytest.raises(ValueError, match="2 passages and 1 scores"):
        RankedQuestion("q", ("a",), ("a", "b"), (1.0,))
    with pytest.raises(ValueError, match="cut-off"):
        recall_at_k([ONE_GOLD], 0)
