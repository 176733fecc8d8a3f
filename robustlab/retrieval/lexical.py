"""Lexical retrieval: BM25 (Robertson & Zaragoza 2009) through ``bm25s`` (arXiv:2407.03618)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustlab.data.records import Corpus, Passage, content_hash
from robustlab.errors import UserError
from robustlab.retrieval.hits import Hit, best, check_search
from robustlab.retrieval.overlay import Overlay

__all__ = ["LexicalIndex"]

_K1 = 1.5
_B = 0.75


@dataclass(frozen=True)
class _Base:
    """What all views of an index share and none changes."""

    bm25: Any
    vocabulary: Mapping[str, int]
    mean_length: float
    corpus: Corpus
    corpus_fingerprint: str

    @cached_property
    def positions(self) -> Mapping[str, int]:
        """Passage id -> position."""
        return {passage.id: position for position, passage in enumerate(self.corpus.passages)}

    def frequency(self, word: str) -> int:
        """The number of the base's passages that hold a word."""
        column = self.vocabulary.get(word)
        if column is None:
            return 0
        starts = self.bm25.scores["indptr"]
        return int(starts[column + 1] - starts[column])


class LexicalIndex:
    """Passages by BM25 score; the same interface as the dense index.

    Words are lower-cased runs of two or more letters or digits without English stop words. The
    score is Lucene's variant, with k₁ = 1.5 and b = 0.75: over the words w of the question,
    Σ idf(w) · tf / (tf + k₁ (1 − b + b · length / mean length)), where
    idf(w) = ln(1 + (N − df + ½) / (df + ½)).

    In a view with changes the statistics N, df and mean length stay those of the base, so that a
    view costs no more than the passages it adds. For a word that the base lacks, df counts as 1,
    which is exact for the first added passage that brings it.
    """

    def __init__(
        self, base: _Base, overlay: Overlay, added_weights: tuple[Mapping[str, np.float32], ...]
    ) -> None:
        self._base = base
        self._overlay = overlay
        self._added_weights = added_weights  # for each added passage: word -> its score

    @classmethod
    def build(cls, corpus: Corpus) -> LexicalIndex:
        """Index the words of a corpus, in memory."""
        import bm25s

        if not corpus.passages:
            raise UserError(f"the corpus {corpus.name} is empty, so there is nothing to index")
        documents = _words([passage.contents for passage in corpus.passages])
        vocabulary: dict[str, int] = {}
        ids = [[vocabulary.setdefault(w, len(vocabulary)) for w in words] for words in documents]
        if not vocabulary:
            raise UserError(f"the passages of {corpus.name} hold no words that could be looked up")
        bm25 = bm25s.BM25(k1=_K1, b=_B, method="lucene", backend="numpy")
        bm25.index((ids, vocabulary), create_empty_token=False, show_progress=False)
        mean_length = sum(map(len, ids)) / len(ids)
        base = _Base(bm25, vocabulary, mean_length, corpus, corpus.fingerprint())
        return cls(base, Overlay(), ())

    def __len__(self) -> int:
        """The number of passages that can be found."""
        passages = self._base.corpus.passages
        return len(passages) - len(self._overlay.removed) + len(self._overlay.added)

    def with_changes(
        self, *, add: Sequence[Passage] = (), remove: Collection[str] = ()
    ) -> LexicalIndex:
        """A view in which passages are added and the ids ``remove`` are gone.

        The base is neither copied nor changed. Changes to a view add up.
        """
        overlay, kept = self._overlay.changed(self._base.positions, add, remove)
        weights = [self._added_weights[index] for index in kept]
        weights += [self._weights(words) for words in _words([p.contents for p in add])]
        return LexicalIndex(self._base, overlay, tuple(weights))

    def search(self, questions: Sequence[str], k: int) -> list[list[Hit]]:
        """The k passages with the highest scores, best first; ties in order of position.

        A passage that shares no word with the question is not found, so fewer than k, even
        none, may come back.
        """
        check_search(questions, k)
        return [self._search_one(words, k) for words in _words(questions)]

    def search_with(
        self, questions: Sequence[str], added: Sequence[Sequence[Passage]], k: int
    ) -> list[list[Hit]]:
        """As :meth:`search`, each question over the corpus and passages ``added`` for it alone."""
        return [
            (self.with_changes(add=passages) if passages else self).search([question], k)[0]
            for question, passages in zip(questions, added, strict=True)
        ]

    def fingerprint(self) -> str:
        """Hash of all that decides a result: passages and changes."""
        parts = self._overlay.fingerprint_parts()
        return content_hash(("bm25", self._base.corpus_fingerprint, *parts))

    def describe(self) -> Mapping[str, Any]:
        """Corpus, parameters and number of passages, for a manifest."""
        return {
            "kind": "bm25",
            "k1": _K1,
            "b": _B,
            "corpus": self._base.corpus.name,
            "corpus_fingerprint": self._base.corpus_fingerprint,
            "passages": len(self),
            "added": len(self._overlay.added),
            "removed": len(self._overlay.removed),
        }

    def _search_one(self, words: list[str], k: int) -> list[Hit]:
        scores = self._scores(words)
        found = np.flatnonzero(scores > 0)
        chosen = found[best(scores[found], found, k)]
        passages = self._base.corpus.passages
        return [
            Hit(
                passages[place]
                if place < len(passages)
                else self._overlay.added[place - len(passages)],
                float(scores[place]),
                rank,
            )
            for rank, place in enumerate(chosen.tolist(), start=1)
        ]

    def _scores(self, words: list[str]) -> NDArray[np.float32]:
        """Scores of all passages, shape (base + added,); removed ones have 0."""
        known = [self._base.vocabulary[word] for word in words if word in self._base.vocabulary]
        scores: NDArray[np.float32] = self._base.bm25.get_scores_from_ids(known)
        scores[list(self._overlay.removed)] = 0
        added = np.zeros(len(self._added_weights), dtype=np.float32)
        for index, weights in enumerate(self._added_weights):
            # In single precision and in the question's order, as the base is summed: equal
            # texts tie.
            for word in words:
                added[index] += weights.get(word, np.float32(0))
        return np.concatenate([scores, added])

    def _weights(self, words: list[str]) -> dict[str, np.float32]:
        """What each word of an added passage adds to a question's score."""
        total = len(self._base.corpus.passages)
        norm = _K1 * (1 - _B + _B * len(words) / self._base.mean_length)
        weights = {}
        for word, count in Counter(words).items():
            df = max(1, self._base.frequency(word))
            idf = np.float32(math.log(1 + (total - df + 0.5) / (df + 0.5)))
            weights[word] = np.float32(float(idf) * (count / (norm + count)))
        return weights


def _words(texts: Sequence[str]) -> list[list[str]]:
    import bm25s

    words: list[list[str]] = bm25s.tokenize(
        list(texts), stopwords="en", return_ids=False, show_progress=False
    )
    return words
