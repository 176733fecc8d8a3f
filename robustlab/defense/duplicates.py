"""The near-duplicate filter: passages for one question that repeat each other are left out.

Whoever writes several passages for one question to crowd out the rest tends to repeat the question
and the claim in each of them. Two texts are compared by their shingles (runs of n words, Broder
1997) and their resemblance |A ∩ B| / |A ∪ B|; passages above the threshold are linked, and linked
passages form a cluster. How much clean passages resemble each other is learned from the corpus.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustlab.data.records import Corpus, content_hash
from robustlab.defense.crossfit import clean_sample, threshold_at
from robustlab.defense.ngram import tokens_of
from robustlab.retrieval import Hit

__all__ = ["NearDuplicateFilter", "fit_near_duplicate_filter"]

Shingles = frozenset[tuple[str, ...]]


class NearDuplicateFilter:
    """Leaves out clusters of passages that overlap by more than the threshold.

    Args:
        name: what ``--defense`` calls it.
        threshold: the largest overlap that links no two passages.
        shingle: words in a shingle.
        spared: how many passages of a cluster may be read, the best first; 0 for none.
        numbers: what else goes into the manifest.
    """

    def __init__(
        self, name: str, threshold: float, shingle: int, spared: int, numbers: Mapping[str, Any]
    ) -> None:
        self.name = name
        self.threshold = threshold
        self._shingle = shingle
        self._spared = spared
        self._numbers = dict(numbers)

    def keep(self, questions: Sequence[str], ranked: Sequence[Sequence[Hit]]) -> list[list[bool]]:
        """For each question its passages that are in no cluster, and those that are spared."""
        return [self._keep([hit.passage.text for hit in hits]) for hits in ranked]

    def overlaps(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """The largest overlap of each text with another one of these, shape (texts,)."""
        return _largest_overlaps([_shingles(text, self._shingle) for text in texts])

    def describe(self) -> Mapping[str, Any]:
        """Name, threshold and the numbers that it was made with."""
        return {
            "name": self.name,
            "threshold": self.threshold,
            "shingle": self._shingle,
            "spared": self._spared,
            **self._numbers,
        }

    def fingerprint(self) -> str:
        """Hash of its numbers."""
        return content_hash([json.dumps(self.describe(), sort_keys=True)])

    def _keep(self, texts: Sequence[str]) -> list[bool]:
        shingles = [_shingles(text, self._shingle) for text in texts]
        cluster = list(range(len(texts)))
        for left, right in combinations(range(len(texts)), 2):
            if _overlap(shingles[left], shingles[right]) > self.threshold:
                joined, gone = cluster[left], cluster[right]
                cluster = [joined if number == gone else number for number in cluster]
        return [
            cluster.count(number) == 1 or cluster[:place].count(number) < self._spared
            for place, number in enumerate(cluster)
        ]


def fit_near_duplicate_filter(
    corpus: Corpus,
    *,
    name: str,
    false_positive_rate: float,
    shingle: int,
    spared: int,
    sample: int,
    seed: int,
) -> NearDuplicateFilter:
    """A filter whose threshold this share of clean passages exceeds with any other one.

    At most ``sample`` passages, drawn by ``seed``, are compared with each other.
    """
    places = clean_sample(corpus, sample, seed, name)
    clean = [_shingles(corpus.passages[place].text, shingle) for place in places]
    numbers = {
        "false_positive_rate": false_positive_rate,
        "clean_passages": len(clean),
        "corpus_fingerprint": corpus.fingerprint(),
        "seed": seed,
    }
    threshold = threshold_at(_largest_overlaps(clean), false_positive_rate)
    return NearDuplicateFilter(name, threshold, shingle, spared, numbers)


def _shingles(text: str, size: int) -> Shingles:
    """Runs of ``size`` words; a shorter text is one run."""
    words = tokens_of(text)
    if len(words) <= size:
        return frozenset({tuple(words)}) if words else frozenset()
    return frozenset(tuple(words[i : i + size]) for i in range(len(words) - size + 1))


def _overlap(left: Shingles, right: Shingles) -> float:
    """|A ∩ B| / |A ∪ B|; 0 where both are empty."""
    shared = len(left & right)
    return shared / (len(left) + len(right) - shared) if shared else 0.0


def _largest_overlaps(texts: Sequence[Shingles]) -> NDArray[np.float64]:
    """The largest overlap of each with another; only pairs that share a shingle are compared."""
    holders: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)
    for number, shingles in enumerate(texts):
        for shingle in shingles:
            holders[shingle].append(number)
    shared: dict[tuple[int, int], int] = defaultdict(int)
    for numbers in holders.values():
        for pair in combinations(numbers, 2):
            shared[pair] += 1
    largest = np.zeros(len(texts))
    for (left, right), count in shared.items():
        overlap = count / (len(texts[left]) + len(texts[right]) - count)
        largest[left] = max(largest[left], overlap)
        largest[right] = max(largest[right], overlap)
    return largest
