"""Thresholds that clean passages set, by models that never saw the text that they judge.

A filter that was fitted on the passages of a corpus knows them by heart: every other text would
look strange to it, and its false positives on the corpus would be none. So the corpus is divided
into folds by the hash of each text, one model is fitted without each fold, and *every* text,
be it of the corpus or a stranger, is judged by the model of the fold that its hash falls into.
Passages of the corpus have no advantage then, and the share of them above the threshold is the
share to be expected of clean passages that are still to come.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from robustlab.data.records import Corpus
from robustlab.errors import UserError

__all__ = ["LEAST_PASSAGES", "clean_sample", "folds_of", "threshold_at"]

LEAST_PASSAGES = 20
"""Fewer clean passages than these say nothing about a tail of a few per cent."""


def folds_of(texts: Sequence[str], folds: int) -> NDArray[np.int64]:
    """The fold of each text, from 0 to ``folds`` - 1, shape (texts,)."""
    digests = (hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest() for text in texts)
    return np.array([int.from_bytes(d[:8], "little") % folds for d in digests], dtype=np.int64)


def clean_sample(corpus: Corpus, most: int, seed: int, name: str) -> list[int]:
    """Places of at most ``most`` passages, drawn by the seed, in the order of the corpus.

    Raises:
        UserError: the corpus is too small for the defence ``name`` to set a threshold.
    """
    total = len(corpus.passages)
    if total < LEAST_PASSAGES:
        raise UserError(
            f"the defence {name} learns from clean passages, at least {LEAST_PASSAGES}, and the "
            f"corpus {corpus.name} has {total}"
        )
    if total <= most:
        return list(range(total))
    drawn = np.random.default_rng(seed).choice(total, most, replace=False)
    return sorted(drawn.tolist())


def threshold_at(clean: NDArray[np.float64], false_positive_rate: float) -> float:
    """The smallest score of a clean text that at most this share of clean texts exceeds.

    With n scores it is the one at place ceil((1 - rate) n), counted from 1 upwards.
    """
    ordered = np.sort(clean)
    # A hair less, so that 0.95 times 20 is 19 in floating point too.
    place = math.ceil((1 - false_positive_rate) * len(ordered) - 1e-9)
    return float(ordered[max(1, place) - 1])
