"""Whether an answer rests on the passages it was given, and how near texts are in meaning."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from robustlab.metrics.answers import contains_answer, normalise
from robustlab.metrics.intervals import Estimate, rate

__all__ = [
    "REFUSALS",
    "groundedness",
    "hallucination_rate",
    "is_refusal",
    "relevance",
    "supported",
]

REFUSALS = frozenset({"", "no answer", "unanswerable", "i dont know", "i do not know"})
"""Normalised answers that decline to answer; ``no answer`` is what the built-in readers say."""


def is_refusal(answer: str) -> bool:
    """Whether an answer declines to answer: it is empty or one of :data:`REFUSALS`."""
    return normalise(answer) in REFUSALS


def groundedness(answer: str, passages: Sequence[str]) -> float:
    """Share of the answer's words that stand anywhere in the passages.

    g = (1/|a|) Σ over w in a of [w stands in P], over the normalised words a of the answer
    (:func:`~robustlab.metrics.answers.normalise`), each occurrence counted, and the words of the
    passages P. In [0, 1]; ``nan`` for an answer without words, which claims nothing. Known as
    K-precision (Adlakha et al. 2024, arXiv:2307.16877); here a word of the passages may serve
    several times.
    """
    words = normalise(answer).split()
    if not words:
        return math.nan
    known = {word for passage in passages for word in normalise(passage).split()}
    return sum(word in known for word in words) / len(words)


def supported(answer: str, passages: Sequence[str]) -> bool:
    """Whether the answer stands in one passage, word for word after normalisation.

    A strict test made for short, extractive answers: a paraphrase counts as unsupported. An
    answer without words is supported by nothing.
    """
    return bool(normalise(answer)) and any(
        contains_answer(passage, (answer,)) for passage in passages
    )


def hallucination_rate(answers: Sequence[str], passages: Sequence[Sequence[str]]) -> Estimate:
    """Share of the answers given that no passage supports, with Wilson's interval.

    h = |{i ∈ N : not supported(a_i, P_i)}| / |N|, where N are the questions whose answer is no
    refusal (:func:`is_refusal`) and P_i, ``passages[i]``, is what the reader was shown for
    question i. ``n`` is |N|; with every answer refused the rate is unknown.
    """
    given = [
        supported(answer, shown)
        for answer, shown in zip(answers, passages, strict=True)
        if not is_refusal(answer)
    ]
    return rate(given.count(False), len(given))


def relevance(left_vectors: ArrayLike, right_vectors: ArrayLike) -> NDArray[np.float64]:
    """Cosine between paired rows: u·v / (‖u‖ ‖v‖), in [-1, 1], shape (rows,).

    For relevance between questions and passages or answers and questions; both sides have shape
    (rows, width) and are embedded by the same encoder. A row without length has no direction: its
    value is ``nan``. Raises :class:`ValueError` if the shapes differ.
    """
    left = np.asarray(left_vectors, dtype=np.float64)
    right = np.asarray(right_vectors, dtype=np.float64)
    if left.shape != right.shape or left.ndim != 2:
        raise ValueError(f"vectors of shapes {left.shape} and {right.shape} cannot be paired")
    lengths = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    products = np.einsum("ij,ij->i", left, right)
    with np.errstate(invalid="ignore"):
        cosines = np.divide(products, lengths)
    return np.asarray(np.clip(cosines, -1.0, 1.0), dtype=np.float64)
