"""Texts: BLEU, ROUGE and perplexity against values worked out by hand."""

from __future__ import annotations

import math

import pytest

from robustlab.metrics import corpus_bleu, perplexity, rouge, sentence_bleu


def test_bleu_by_hand() -> None:
    # 6/7 · 5/6 · 4/5 · 3/4 = 3/7; the prediction is longer, so there is no brevity penalty.
    score = corpus_bleu(["the cat sat on the mat today"], [["the cat sat on the mat"]])
    assert score == pytest.approx(100 * (3 / 7) ** 0.25)


def test_bleu_brevity_penalty() -> None:
    assert corpus_bleu(["k l m n"], [["k l m n o"]]) == pytest.approx(100 * math.exp(1 - 5 / 4))


def test_bleu_pools_counts_over_the_set() -> None:
    # 5 of 10 words, 4 of 8 pairs, 3 of 6 triples and 2 of 4 fours match: every precision is 1/2.
    score = corpus_bleu(["k l m n o", "p q r s t"], [["k l m n o"], ["v w x y z"]])
    assert score == pytest.approx(50)


def test_bleu_with_differing_numbers_of_references() -> None:
    predictions = ["k l m n o", "p q r s t"]
    references = [["e f g h i", "k l m n", "k l m n o"], ["p q r s t"]]
    assert corpus_bleu(predictions, references) == pytest.approx(100)
    assert corpus_bleu(predictions[::-1], references[::-1]) == pytest.approx(100)


def test_sentence_bleu_of_a_short_text_uses_the_orders_it_has() -> None:
    assert sentence_bleu("red house", ["red house"]) == pytest.approx(100)
    # One of two words, and no pair: the pair is smoothed to 1/2, so √(1/2 · 1/2).
    assert sentence_bleu("red barn", ["red house"]) == pytest.approx(50)


def test_bleu_refuses_what_it_is_not_defined_for() -> None:
    with pytest.raises(ValueError, match="0 predictions"):
        corpus_bleu([], [])
    with pytest.raises(ValueError, match="1 predictions and 2"):
        corpus_bleu(["a"], [["a"], ["b"]])
    with pytest.raises(ValueError, match="no reference"):
        corpus_bleu(["a"], [[]])
    with pytest.raises(ValueError, match="no reference"):
        sentence_bleu("a", [])


def test_rouge_by_hand() -> None:
    scores = rouge("sat the cat", ["The cat sat down there."])
    assert scores.rouge1 == pytest.approx(0.75)  # P = 3/3, R = 3/5
    assert scores.rouge2 == pytest.approx(1 / 3)  # "the cat": P = 1/2, R = 1/4
    assert scores.rougeL == pytest.approx(0.5)  # "the cat": P = 2/3, R = 2/5


def test_rouge_takes_the_best_reference_for_each_measure() -> None:
    scores = rouge("k l m", ["m l k", "k l x y z"])
    assert scores.rouge1 == pytest.approx(1.0)  # the first reference
    assert scores.rouge2 == pytest.approx(1 / 3)  # the second: P = 1/2, R = 1/4
    assert scores.rougeL == pytest.approx(0.5)  # the second: P = 2/3, R = 2/5


def test_rouge_of_nothing_in_common_or_nothing_at_all() -> None:
    for prediction in ("other words", "", "…"):
        scores = rouge(prediction, ["the cat"])
        assert (scores.rouge1, scores.rouge2, scores.rougeL) == (0.0, 0.0, 0.0)
    with pytest.raises(ValueError, match="no reference"):
        rouge("the cat", [])


def test_perplexity() -> None:
    # Four tokens of probability 1/8 each: as uncertain as a choice among eight.
    assert perplexity(4 * math.log(1 / 8), 4) == pytest.approx(8)
    assert perplexity(0.0, 3) == 1.0
    assert perplexity(-1e6, 1) == math.inf
    assert perplexity(-math.inf, 2) == math.inf
    with pytest.raises(ValueError, match="0 tokens"):
        perplexity(0.0, 0)
