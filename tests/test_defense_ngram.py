"""The model of words and spelling: probabilities by hand, and that they are probabilities."""

from __future__ import annotations

import math

import pytest

from robustlab.defense.ngram import KneserNey, TextModel, tokens_of


def test_unigrams_by_hand() -> None:
    # c(a) = 2, c(b) = 1, 3 in all of 2 kinds; below is 0.25 for everything, D = 0.75.
    model = KneserNey([["a", "b", "a"]], 1, lambda _: 0.25)
    rest = 0.75 * 2 / 3 * 0.25
    assert [math.exp(p) for p in model.log_probs(["a", "b", "z"])] == pytest.approx(
        [1.25 / 3 + rest, 0.25 / 3 + rest, rest]
    )


def test_bigrams_by_hand() -> None:
    # Bigrams: (start, a), (a, b), (b, a), each once. Left neighbours: a has 2, b has 1.
    model = KneserNey([["a", "b", "a"]], 2, lambda _: 0.25)
    lower = {"a": 1.25 / 3 + 0.125, "b": 0.25 / 3 + 0.125, "z": 0.125}
    found = [math.exp(p) for p in model.log_probs(["a", "b", "z"])]
    # Every history that was seen has one continuation, once: (1 - D) / 1 + D lower.
    assert found == pytest.approx(
        [0.25 + 0.75 * lower["a"], 0.25 + 0.75 * lower["b"], 0.75 * lower["z"]]
    )


def test_an_unknown_history_leaves_the_word_by_itself() -> None:
    model = KneserNey([["a", "b", "a"]], 2, lambda _: 0.25)
    _, after_unknown = model.log_probs(["z", "a"])
    assert math.exp(after_unknown) == pytest.approx(1.25 / 3 + 0.125)


def test_probabilities_after_any_history_add_up_to_one() -> None:
    letters = "abcd"
    model = KneserNey(["abca", "bcad", "aab"], 3, lambda _: 1 / len(letters))
    for history in ("", "a", "ab", "dd", "ca"):
        total = sum(math.exp(model.log_probs([*history, letter])[-1]) for letter in letters)
        assert total == pytest.approx(1)


def test_tokens_are_words_and_marks_in_lower_case() -> None:
    assert tokens_of("The Owl's 2 eggs!") == ["the", "owl", "'", "s", "2", "eggs", "!"]


def test_text_is_likelier_than_its_words_in_disorder_and_these_than_nonsense() -> None:
    texts = ["the owl hunts at night", "the owl sleeps by day", "a hen sleeps at night"]
    model = TextModel(texts, words=3, characters=4)
    order, disorder, nonsense = (
        sum(model.log_probs(text))
        for text in ("the owl sleeps at night", "night at the sleeps owl", "xq zzv kpt wq jjx")
    )
    assert order > disorder > nonsense
    assert math.isfinite(sum(model.log_probs("\u4e00" * 5000)))
