"""Filters of passages: thresholds from clean texts, and what is above them."""

from __future__ import annotations

import numpy as np
import pytest
from retrieval_corpus import PASSAGES

from robustlab.data.records import Corpus, Passage
from robustlab.defense.crossfit import clean_sample, folds_of, threshold_at
from robustlab.defense.duplicates import NearDuplicateFilter, fit_near_duplicate_filter
from robustlab.defense.perplexity import fit_model_filter, fit_ngram_filter
from robustlab.defense.protocols import Detector, PassageDefense
from robustlab.errors import UserError
from robustlab.models.target import Score, Scores
from robustlab.retrieval import Hit

_NOUNS = ("owl", "hen", "fox", "cat", "dog", "bee")
_VERBS = ("sleeps", "hunts", "waits", "sings", "runs")
CLEAN = Corpus(
    "clean",
    tuple(
        Passage(f"{noun}-{verb}", "", f"Every day the {noun} {verb} near the {other} of the town.")
        for noun in _NOUNS
        for verb in _VERBS
        for other in _NOUNS[:2]
    ),
)
NONSENSE = "xqv zzkw jqpt vvx qqzj wxk pzzq kjv xxw qzv jjk wq"


def hits(*texts: str) -> list[Hit]:
    return [Hit(Passage(f"p{i}", "", text), 1.0, i) for i, text in enumerate(texts, 1)]


def ngram_filter(rate: float = 0.05, **changes):
    numbers = {"window": 6, "words": 2, "characters": 3, "folds": 3, "sample": 100, "seed": 0}
    return fit_ngram_filter(CLEAN, name="p", false_positive_rate=rate, **{**numbers, **changes})


@pytest.mark.parametrize(
    ("rate", "expected"), [(0.0, 20.0), (0.05, 19.0), (0.1, 18.0), (0.06, 19.0), (1.0, 1.0)]
)
def test_a_threshold_is_exceeded_by_no_more_than_the_share(rate: float, expected: float) -> None:
    scores = np.arange(20, 0, -1.0)  # 20 … 1
    assert threshold_at(scores, rate) == expected


def test_folds_depend_on_the_text_alone_and_use_all_numbers() -> None:
    texts = [passage.text for passage in CLEAN.passages]
    folds = folds_of(texts, 3)
    assert folds_of(texts[::-1], 3).tolist() == folds.tolist()[::-1]
    assert set(folds.tolist()) == {0, 1, 2}
    assert len(folds_of(["\ud800"], 3)) == 1  # a lone surrogate is no fault


def test_a_sample_is_drawn_by_the_seed_in_the_order_of_the_corpus() -> None:
    places = clean_sample(CLEAN, 25, 1, "p")
    assert places == sorted(set(places))
    assert len(places) == 25
    assert places == clean_sample(CLEAN, 25, 1, "p") != clean_sample(CLEAN, 25, 2, "p")


def test_a_corpus_too_small_for_a_threshold_is_refused() -> None:
    with pytest.raises(UserError, match="at least 20, and the corpus dozen has 12"):
        clean_sample(Corpus("dozen", PASSAGES), 100, 0, "p")


def test_perplexity_leaves_nonsense_out_and_at_most_its_share_of_clean_passages() -> None:
    found = ngram_filter()
    assert isinstance(found, Detector)
    texts = [passage.contents for passage in CLEAN.passages]
    suspicion = found.suspicion(texts)
    assert np.mean(suspicion > found.threshold) <= 0.05
    assert found.suspicion([NONSENSE])[0] > 10 * found.threshold
    assert found.keep(["?"], [hits(texts[0], NONSENSE)]) == [[True, False]]
    assert found.keep([], []) == []
    assert found.describe()["clean_passages"] == 60


def test_a_window_finds_nonsense_that_the_mean_over_a_passage_hides() -> None:
    mixed = " ".join([CLEAN.passages[0].text] * 20) + " " + NONSENSE
    small, whole = ngram_filter(), ngram_filter(window=10_000)
    assert small.suspicion([mixed])[0] > small.suspicion([NONSENSE])[0] * 0.5
    assert whole.suspicion([mixed])[0] < whole.suspicion([NONSENSE])[0] * 0.01
    assert small.suspicion([""])[0] == 1


def test_a_passage_of_the_corpus_is_judged_by_a_model_that_never_saw_it() -> None:
    odd = Passage("odd", "", "Zyzzyva weevils zigzag.")
    corpus = Corpus("odd", (*CLEAN.passages, odd))
    numbers = {"window": 6, "words": 2, "characters": 3, "folds": 3, "sample": 100, "seed": 0}
    found = fit_ngram_filter(corpus, name="p", false_positive_rate=0.05, **numbers)
    assert found.suspicion([odd.text])[0] > found.threshold


class Even:
    """A language model that gives each word of an output the same probability, 1 / its length."""

    kind = "causal"
    answers = frozenset({Score})

    def answer(self, request: Score) -> Scores:
        self.asked = request
        words = [output.split() for output in request.outputs]
        sums = [-sum(np.log(len(word)) for word in row) for row in words]
        return Scores(np.array(sums, dtype=np.float32), np.array([len(row) for row in words]))

    def describe(self) -> dict[str, str]:
        return {"spec": "even"}

    def fingerprint(self) -> str:
        return "even"


def test_a_model_of_ones_own_is_asked_in_overlapping_windows() -> None:
    model = Even()
    found = fit_model_filter(
        CLEAN, model, name="p", false_positive_rate=0.05, window=4, sample=100, seed=0
    )
    (suspicion,) = found.suspicion(["aa aa aa aa bbbb bbbb bbbb bbbb cc"])
    assert model.asked.outputs == (
        "aa aa aa aa", "aa aa bbbb bbbb", "bbbb bbbb bbbb bbbb", "bbbb bbbb bbbb cc",
    )  # fmt: skip
    assert suspicion == pytest.approx(4)  # the window of words of four letters


A = "the quick brown fox jumps over the lazy dog tonight"
B = "the quick brown fox jumps over the lazy cat today"
C = "an owl sits on a branch and waits for a mouse"


def duplicates(spared: int) -> NearDuplicateFilter:
    return NearDuplicateFilter("n", 0.5, 3, spared, {})


def test_overlap_of_shingles_by_hand() -> None:
    # Both have 8 runs of three words; the first 6 are the same, and there are 10 in all.
    assert duplicates(0).overlaps([A, B, C]).tolist() == [0.6, 0.6, 0.0]


@pytest.mark.parametrize(("spared", "kept"), [(0, [False, True, False]), (1, [True, True, False])])
def test_a_cluster_goes_but_for_those_that_are_spared(spared: int, kept: list[bool]) -> None:
    found = duplicates(spared)
    assert isinstance(found, PassageDefense)
    assert not isinstance(found, Detector)
    assert found.keep(["?", "?"], [hits(A, C, B), hits(C)]) == [kept, [True]]


def test_passages_linked_through_a_third_are_one_cluster() -> None:
    chain = ["a b c d e f", "c d e f g h", "e f g h i j"]
    found = NearDuplicateFilter("n", 0.3, 3, 1, {})  # neighbours share 2 of 6, the ends none
    assert found.keep(["?"], [hits(*chain)]) == [[True, False, False]]


def test_the_threshold_of_overlap_comes_from_the_corpus() -> None:
    twins = tuple(Passage(f"t{i}", "", A) for i in range(2))
    rest = tuple(Passage(f"r{i}", "", f"word{i} other{i} third{i} last{i}") for i in range(38))
    numbers = {"name": "n", "shingle": 3, "spared": 0, "sample": 100, "seed": 0}
    found = fit_near_duplicate_filter(
        Corpus("c", twins + rest), false_positive_rate=0.05, **numbers
    )
    assert found.threshold == 0.0  # 2 of 40 are the share that may be above it
    found = fit_near_duplicate_filter(
        Corpus("c", twins + rest), false_positive_rate=0.01, **numbers
    )
    assert found.threshold == 1.0
