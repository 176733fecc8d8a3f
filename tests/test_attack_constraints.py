from __future__ import annotations

import itertools

import numpy as np
import pytest
from planted import recipe

from robustlab.attack.constraints import Constraints, _levenshtein, build_constraints
from robustlab.attack.engine import Search
from robustlab.errors import UserError
from robustlab.models.target import Embed, Embeddings, Request

VECTORS = {
    "good food": (1.0, 0.0),
    "fine food": (0.8, 0.6),
    "good meal": (0.6, 0.8),
    "bad food": (-1.0, 0.0),
}


def run(search: Search[object]) -> tuple[object, list[Request]]:
    """What a search returns, and what it asked of an encoder that knows ``VECTORS``."""
    asked: list[Request] = []
    try:
        request = next(search)
        while True:
            assert isinstance(request, Embed)
            asked.append(request)
            vectors = np.array([VECTORS[text] for text in request.texts], dtype=np.float32)
            request = search.send(Embeddings(vectors))
    except StopIteration as end:
        return end.value, asked


def allowed(constraints: Constraints, original: object, texts: list[object], **more: int) -> list:
    value, _ = run(constraints.allows(original, texts, **more))
    return value.tolist()


def reason(constraints: Constraints, original: object, text: object) -> object:
    return run(constraints.broken(original, text))[0]


def test_without_constraints_everything_goes_and_nothing_is_asked() -> None:
    value, asked = run(Constraints().allows("a", ["b", "c d e"]))
    assert value.tolist() == [True, True]
    assert asked == []
    assert reason(Constraints(), "a", "x y z") is None


def test_no_texts() -> None:
    value, asked = run(Constraints(min_cosine=0.9).allows("a", []))
    assert value.shape == (0,)
    assert asked == []


@pytest.mark.parametrize(
    ("rate", "words", "limit"),
    [(0.2, 10, 2), (0.2, 9, 1), (0.2, 3, 1), (0.29, 100, 29), (1.0, 7, 7), (0.1, 30, 3)],
)
def test_a_rate_counts_whole_words_and_at_least_one(rate: float, words: int, limit: int) -> None:
    assert Constraints(max_edit_rate=rate).edit_limit("w " * words) == limit


def test_the_tightest_limit_of_edits_holds() -> None:
    constraints = Constraints(max_edits=3, max_edit_rate=0.5)
    assert constraints.edit_limit("a b c d") == 2
    assert constraints.edit_limit("a b c d e f g h") == 3
    assert constraints.edit_limit("a b c d e f g h", max_edits=1) == 1
    assert Constraints().edit_limit("a b") is None
    assert allowed(constraints, "a b c d", ["x b c d", "x y c d", "x y z d"]) == [True, True, False]
    assert allowed(constraints, "a b c d", ["x b c d", "x y c d"], max_edits=1) == [True, False]
    assert reason(constraints, "a b c d", "x y z d") == "3 words changed, at most 2"


def test_both_texts_of_a_pair_count_together() -> None:
    constraints = Constraints(max_edits=1)
    pair = ("a b", "c d")
    assert allowed(constraints, pair, [("a x", "c d"), ("a x", "y d")]) == [True, False]
    assert reason(Constraints(max_edit_distance=2), pair, ("a xx", "y d")) == (
        "edit distance above 2 characters"
    )
    assert reason(Constraints(max_edit_distance=3), pair, ("a xx", "y d")) is None


def test_character_edits() -> None:
    constraints = Constraints(max_edit_distance=3)
    # kitten -> sitting takes three.
    assert allowed(constraints, "kitten", ["sitting", "sittings"]) == [True, False]


def test_levenshtein_is_the_distance_or_says_that_it_is_more() -> None:
    def table(one: str, other: str) -> int:
        row = list(range(len(other) + 1))
        for i, a in enumerate(one, 1):
            last, row = row, [i]
            for j, b in enumerate(other, 1):
                row.append(min(last[j] + 1, row[-1] + 1, last[j - 1] + (a != b)))
        return row[-1]

    words = ["".join(letters) for n in range(5) for letters in itertools.product("ab", repeat=n)]
    for one, other in itertools.product(words, words):
        distance = table(one, other)
        for at_most in (0, 1, 2, 5):
            assert _levenshtein(one, other, at_most) == min(distance, at_most + 1), (one, other)


def test_stopwords_stay_where_they_stand() -> None:
    constraints = Constraints(stopwords=frozenset({"the", "not"}))
    texts = ["the good film", "teh bad film", "the bad", "a the bad film", "bad film"]
    assert allowed(constraints, "the bad film", texts) == [True, False, True, True, False]
    assert reason(constraints, "not/good", "not/bad") is None
    assert reason(constraints, "not/good", "nod/good") == "the protected word 'not' was changed"


def test_case_of_stopwords() -> None:
    minds = Constraints(stopwords=frozenset({"the"}))
    ignores = Constraints(stopwords=frozenset({"the"}), ignore_case=True)
    assert minds.may_change(["The", "the", "film"]).tolist() == [True, False, True]
    assert ignores.may_change(["The", "the", "film"]).tolist() == [False, False, True]
    assert reason(minds, "The film", "A film") is None
    assert reason(ignores, "The film", "A film") == "the protected word 'The' was changed"


def test_short_words_stay() -> None:
    constraints = Constraints(min_word_length=3)
    assert constraints.may_change(["ab", "abc", "abcd"]).tolist() == [False, True, True]
    assert allowed(constraints, "so bad", ["so good", "sow bad"]) == [True, False]


def test_similarity_is_to_the_original_and_the_limit_counts_as_kept() -> None:
    constraints = Constraints(min_cosine=0.8)
    texts = ["fine food", "good meal", "bad food"]
    value, asked = run(constraints.allows("good food", texts))
    assert value.tolist() == [True, False, False]  # 0.8 in single precision is a little more
    assert asked == [Embed(("good food", *texts))]
    assert reason(constraints, "good food", "fine food") is None
    assert reason(constraints, "good food", "good meal") == (
        "sentence similarity 0.6000, at least 0.8"
    )


def test_the_last_bits_of_an_encoder_break_nothing_that_the_search_allowed() -> None:
    assert allowed(Constraints(min_cosine=0.800001), "good food", ["fine food"]) == [False]
    assert reason(Constraints(min_cosine=0.800001), "good food", "fine food") is None
    assert reason(Constraints(min_cosine=0.8001), "good food", "fine food") is not None


def test_only_what_keeps_the_other_constraints_is_encoded() -> None:
    constraints = Constraints(max_edits=1, min_cosine=0.5)
    value, asked = run(constraints.allows("good food", ["fine meal", "good meal"]))
    assert value.tolist() == [False, True]
    assert asked == [Embed(("good food", "good meal"))]


def test_each_text_of_a_pair_has_to_be_similar() -> None:
    constraints = Constraints(min_cosine=0.5)
    pair = ("good food", "good meal")
    good, bad = ("fine food", "good meal"), ("good food", "bad food")
    assert allowed(constraints, pair, [good, bad]) == [True, False]


ALL = """
[[constraint]]
kind = "sentence-similarity"
encoder = "builtin:retriever"
min_cosine = 0.84
[[constraint]]
kind = "max-edits"
max_edits = 3
[[constraint]]
kind = "max-edit-rate"
max_edit_rate = 0.2
[[constraint]]
kind = "levenshtein-edit-distance"
max_edit_distance = 30
[[constraint]]
kind = "stopwords"
stopwords = ["The", "and"]
ignore_case = true
[[constraint]]
kind = "min-word-length"
min_length = 3
"""


def test_every_kind_is_read_and_the_budget_holds_too() -> None:
    built = build_constraints(recipe("x", "", constraints=ALL))
    assert built == Constraints(3, 0.2, 30, frozenset({"the", "and"}), True, 3, 0.84)
    budget = "max_edits = 2\nmax_edit_rate = 0.3"
    built = build_constraints(recipe("x", "", constraints=ALL, budget=budget))
    assert (built.max_edits, built.max_edit_rate) == (2, 0.2)


@pytest.mark.parametrize(
    ("constraints", "message"),
    [
        ('[[constraint]]\nkind = "perplexity"', r"constraint\[1\]\.kind: there is no constraint"),
        ('[[constraint]]\nkind = "max-edits"', r"lacks a key: constraint\[1\]\.max_edits"),
        ('[[constraint]]\nkind = "max-edits"\nmax_edits = 0', "at least 1"),
        ('[[constraint]]\nkind = "max-edits"\nmax_edits = 1\nmore = 1', "unknown key"),
        ('[[constraint]]\nkind = "max-edits"\nmax_edits = 1\n' * 2, "stands there twice"),
        (
            '[[constraint]]\nkind = "sentence-similarity"\nencoder = "use"\nmin_cosine = 0.8',
            "builtin:retriever",
        ),
    ],
)
def test_what_is_wrong_is_named(constraints: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_constraints(recipe("x", "", constraints=constraints))
