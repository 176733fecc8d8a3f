"""A small language model of words and their spelling, fitted in a moment on clean passages.

Interpolated Kneser-Ney smoothing with one discount D (Ney, Essen & Kneser 1994; Chen & Goodman
1999). For a sequence w with history h, and h' the history without its first element,

    p(w | h) = max(c(h w) - D, 0) / c(h) + D N(h) / c(h) · p(w | h'),

where c counts occurrences at the highest order and different left neighbours below it, and N(h) is
the number of different continuations of h. Below the unigrams stands a distribution that gives
something to everything: for words the probability of their spelling by the same kind of model of
characters, fitted on the vocabulary; for characters 1 / 1,114,112, the code points of Unicode. So
every text has a probability above zero and all of them together have one of 1.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

__all__ = ["KneserNey", "TextModel", "tokens_of"]

_START = ""
"""Stands before the beginning of a sequence; no element is empty."""
_END = "\n"
"""Ends the spelling of a word; no word has a line break in it."""
_DISCOUNT = 0.75
_CODE_POINTS = 0x110000
_TOKEN = re.compile(r"\w+|[^\w\s]")


class KneserNey:
    """An n-gram model of sequences of strings.

    Args:
        sequences: what it is fitted on.
        order: the longest n-gram, at least 1.
        below: the probability of an element with nothing known of it.
    """

    def __init__(
        self, sequences: Iterable[Sequence[str]], order: int, below: Callable[[str], float]
    ) -> None:
        self._order = order
        self._below = below
        counts: Counter[tuple[str, ...]] = Counter()
        for sequence in sequences:
            counts.update(_grams(sequence, order))
        # _levels[n - 1] serves histories of n - 1 elements.
        self._levels: list[_Level] = []
        for _ in range(order):
            self._levels.insert(0, _Level(counts))
            # One left neighbour for each kind of n-gram, however often it occurs.
            counts = Counter(gram[1:] for gram in counts)

    def log_probs(self, sequence: Sequence[str]) -> list[float]:
        """log p of each element after those before it."""
        return [math.log(self._p(gram[:-1], gram[-1])) for gram in _grams(sequence, self._order)]

    def _p(self, history: tuple[str, ...], element: str) -> float:
        probability = self._below(element)
        for length in range(self._order):
            known = history[len(history) - length :]
            probability = self._levels[length].p(known, element, probability)
        return probability


class _Level:
    """Counts of n-grams, of one n, by history."""

    def __init__(self, counts: Counter[tuple[str, ...]]) -> None:
        self._counts = counts
        self._totals: Counter[tuple[str, ...]] = Counter()
        self._kinds: Counter[tuple[str, ...]] = Counter()
        for gram, count in counts.items():
            self._totals[gram[:-1]] += count
            self._kinds[gram[:-1]] += 1

    def p(self, history: tuple[str, ...], element: str, lower: float) -> float:
        """p(element | history), with ``lower`` its probability after the shorter history."""
        total = self._totals.get(history, 0)
        if not total:
            return lower
        count = self._counts.get((*history, element), 0)
        rest = _DISCOUNT * self._kinds[history]
        return (max(count - _DISCOUNT, 0.0) + rest * lower) / total


class TextModel:
    """Probabilities of the words and punctuation marks of a text, in lower case.

    Args:
        texts: clean texts.
        words: the order of the model of words.
        characters: the order of the model of their spelling.
    """

    def __init__(self, texts: Sequence[str], *, words: int, characters: int) -> None:
        sequences = [tokens_of(text) for text in texts]
        vocabulary = sorted({token for sequence in sequences for token in sequence})
        spellings = [[*token, _END] for token in vocabulary]
        self._spelling = KneserNey(spellings, characters, lambda _: 1 / _CODE_POINTS)
        # Only words that were read are remembered: an adversary's are without number.
        self._spelled: dict[str, float] = {}
        self._spelled |= {token: self._spelling_of(token) for token in vocabulary}
        self._words = KneserNey(sequences, words, self._spelling_of)

    def log_probs(self, text: str) -> list[float]:
        """log p of each token of a text (see :func:`tokens_of`)."""
        return self._words.log_probs(tokens_of(text))

    def _spelling_of(self, token: str) -> float:
        known = self._spelled.get(token)
        if known is not None:
            return known
        # A token of hundreds of letters would be too improbable for a float.
        log_prob = max(sum(self._spelling.log_probs([*token, _END])), -600.0)
        return math.exp(log_prob)


def tokens_of(text: str) -> list[str]:
    """Runs of letters and digits, and every other visible character by itself, in lower case."""
    return _TOKEN.findall(text.lower())


def _grams(sequence: Sequence[str], order: int) -> Iterator[tuple[str, ...]]:
    """The n-gram that ends at each element."""
    padded = [_START] * (order - 1) + list(sequence)
    return zip(*(padded[place:] for place in range(order)), strict=False)
