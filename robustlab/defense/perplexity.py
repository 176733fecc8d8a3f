"""The perplexity filter: passages that read unlike text are left out.

Jain et al. 2023, arXiv:2309.00614, and Alon & Kamfonas 2023, arXiv:2308.14132, for prompts. The
suspicion of a text is the largest perplexity of any window of W tokens in it: a nonsense of ten
words hardly shows in the mean over a passage of eighty.

Without a model of the user's own the perplexity is that of a small model of words and spelling
(:mod:`robustlab.defense.ngram`) fitted on the clean corpus, by folds, so that a passage is never
judged by a model that read it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from robustlab.data.records import Corpus
from robustlab.defense.crossfit import clean_sample, folds_of, threshold_at
from robustlab.defense.detector import ThresholdDetector
from robustlab.defense.ngram import TextModel
from robustlab.models.target import Score, Scores, Target

__all__ = ["PerplexityFilter", "fit_model_filter", "fit_ngram_filter"]

Suspicion: TypeAlias = Callable[[Sequence[str]], NDArray[np.float64]]


class PerplexityFilter(ThresholdDetector):
    """Leaves out passages with a window of higher perplexity than the threshold.

    Made by :func:`fit_ngram_filter` or :func:`fit_model_filter`.
    """

    def __init__(
        self, name: str, threshold: float, numbers: Mapping[str, Any], perplexity: Suspicion
    ) -> None:
        super().__init__(name, threshold, numbers)
        self._perplexity = perplexity

    def suspicion(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """The largest perplexity of a window of each text, shape (texts,)."""
        return self._perplexity(texts)


def fit_ngram_filter(
    corpus: Corpus,
    *,
    name: str,
    false_positive_rate: float,
    window: int,
    words: int,
    characters: int,
    folds: int,
    sample: int,
    seed: int,
) -> PerplexityFilter:
    """A filter by a model of words and spelling, fitted on at most ``sample`` clean passages.

    Args:
        corpus: the clean passages.
        name: what ``--defense`` calls it.
        false_positive_rate: the share of clean passages that it may leave out.
        window: tokens (words and punctuation marks) in a window.
        words: the order of the model of words.
        characters: the order of the model of their spelling.
        folds: how many models are fitted, each without one fold of the texts.
        sample: the most passages that are read, drawn by ``seed``.
        seed: see ``sample``.
    """
    places = clean_sample(corpus, sample, seed, name)
    clean = [corpus.passages[place].contents for place in places]
    own = folds_of(clean, folds)
    models = [
        TextModel(
            [text for text, its in zip(clean, own, strict=True) if its != fold],
            words=words,
            characters=characters,
        )
        for fold in range(folds)
    ]

    def perplexity(texts: Sequence[str]) -> NDArray[np.float64]:
        return np.array(
            [
                _worst_window(models[fold].log_probs(text), window)
                for text, fold in zip(texts, folds_of(texts, folds), strict=True)
            ],
            dtype=np.float64,
        )

    numbers = {
        "language_model": "word n-grams over spelling n-grams, Kneser-Ney, by folds",
        "false_positive_rate": false_positive_rate,
        "window": window,
        "words": words,
        "characters": characters,
        "folds": folds,
        "clean_passages": len(clean),
        "corpus_fingerprint": corpus.fingerprint(),
        "seed": seed,
    }
    threshold = threshold_at(perplexity(clean), false_positive_rate)
    return PerplexityFilter(name, threshold, numbers, perplexity)


def fit_model_filter(
    corpus: Corpus,
    model: Target,
    *,
    name: str,
    false_positive_rate: float,
    window: int,
    sample: int,
    seed: int,
) -> PerplexityFilter:
    """A filter by a causal language model; the corpus only sets the threshold.

    A window is here ``window`` words between spaces, and windows overlap by half. The perplexity
    is that of its tokens and the end token, after a line break.
    """
    places = clean_sample(corpus, sample, seed, name)
    clean = [corpus.passages[place].contents for place in places]

    def perplexity(texts: Sequence[str]) -> NDArray[np.float64]:
        pieces = [_pieces(text, window) for text in texts]
        flat = [piece for parts in pieces for piece in parts]
        response = model.answer(Score(("\n",) * len(flat), tuple(flat)))
        assert isinstance(response, Scores)
        found = np.exp(-response.log_probs.astype(np.float64) / response.tokens)
        ends = np.cumsum([len(parts) for parts in pieces])
        starts = [0, *ends[:-1].tolist()]
        return np.array(
            [found[start:end].max() for start, end in zip(starts, ends, strict=True)],
            dtype=np.float64,
        )

    numbers = {
        "language_model": dict(model.describe()),
        "fingerprint": model.fingerprint(),
        "false_positive_rate": false_positive_rate,
        "window": window,
        "clean_passages": len(clean),
        "corpus_fingerprint": corpus.fingerprint(),
        "seed": seed,
    }
    threshold = threshold_at(perplexity(clean), false_positive_rate)
    return PerplexityFilter(name, threshold, numbers, perplexity)


def _worst_window(log_probs: Sequence[float], window: int) -> float:
    """The largest exp(-mean log p) of ``window`` neighbours, or of all where there are fewer.

    A text without tokens says nothing and has a perplexity of 1.
    """
    if not log_probs:
        return 1.0
    size = min(window, len(log_probs))
    sums = np.cumsum([0.0, *log_probs])
    lowest = float((sums[size:] - sums[:-size]).min())
    # exp(700) is near the largest float.
    return float(np.exp(min(700.0, -lowest / size)))


def _pieces(text: str, window: int) -> list[str]:
    """Overlapping windows of words; the text itself where it has no more than one."""
    words = text.split()
    if len(words) <= window:
        return [text]
    step = max(1, window // 2)
    starts = [*range(0, len(words) - window, step), len(words) - window]
    return [" ".join(words[start : start + window]) for start in starts]
