"""What a search gives back, and how results are ordered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from robustlab.data.records import Passage
from robustlab.errors import UserError

__all__ = ["Hit", "best", "check_search"]


@dataclass(frozen=True, slots=True)
class Hit:
    """A passage found, its score (cosine or BM25, higher is better) and its rank from 1."""

    passage: Passage
    score: float
    rank: int


def best(scores: NDArray[np.floating], positions: NDArray[np.int64], k: int) -> NDArray[np.int64]:
    """Indices of the k best candidates: by falling score, and by position where scores tie.

    ``scores`` and ``positions`` have shape (candidates,).
    """
    if len(scores) > k:
        # All candidates as good as the k-th take part, so that ties at the border are settled
        # by position and not by the order in which a partial sort leaves them.
        border = np.partition(scores, len(scores) - k)[len(scores) - k]
        kept = np.flatnonzero(scores >= border)
    else:
        kept = np.arange(len(scores))
    order = np.lexsort((positions[kept], -scores[kept]))[:k]
    return np.asarray(kept[order], dtype=np.int64)


def check_search(questions: Sequence[str], k: int) -> None:
    """Raise :class:`UserError` for an empty question or a k below 1."""
    if k < 1:
        raise UserError(f"--top-k must be at least 1, not {k}")
    for number, question in enumerate(questions, start=1):
        if not question.strip():
            which = "the question" if len(questions) == 1 else f"question {number}"
            raise UserError(f"{which} is empty")
