"""Probabilities that do not depend on what a text was batched with.

The shape of a batch decides how a matrix product is split up, and with it the last bits of every
result. A search compares scores, so these bits would choose between texts that the model reads as
the same, and the outcome would depend on the batch size. Attacks are therefore given rounded
values, in two steps:

1. Log-odds against the most probable class are rounded to multiples of :data:`STEP`. Log-odds,
   because noise is about equally large everywhere on that scale, while a sure classifier's
   probabilities differ only far behind the point. Texts of the same tokens become exact ties,
   which every search breaks by order.
2. Rounding alone only moves the problem to values on the border of two steps. So a value within
   :data:`NOISE` of a border is asked for again with the text alone in its batch, where no
   neighbour can change it.

What an attack sees is then a function of the text alone, as long as batching moves log-odds by
no more than :data:`NOISE`. In fp32 it moved those of a MiniLM classifier by 1e-5 at the most, in
bf16 by 5e-2: what is promised here holds for fp32.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from robustlab.models.target import FloatArray

__all__ = ["NOISE", "STEP", "Rounded", "log_odds", "round_probabilities"]

STEP = 2e-4
"""Log-odds are rounded to multiples of this: probabilities change by less than 5e-5."""

NOISE = 1e-5
"""How far batching may move log-odds in fp32. Borders ± NOISE are 2 · NOISE / STEP = 10 % of all
values of a binary classifier: what the second look costs."""

_SMALLEST = float(np.finfo(np.float32).tiny)


class Rounded(NamedTuple):
    """Rounded probabilities, and which rows lie too near a border to be sure of."""

    probabilities: FloatArray
    """Shape (texts, classes); rows sum to one."""
    doubtful: NDArray[np.bool_]
    """Shape (texts,)."""


def log_odds(probabilities: FloatArray) -> NDArray[np.float64]:
    """Logarithm of each probability over the row's largest; same shape, all at most 0."""
    logs = np.log(np.maximum(probabilities.astype(np.float64), _SMALLEST))
    return np.asarray(logs - logs.max(axis=1, keepdims=True))


def round_probabilities(probabilities: FloatArray) -> Rounded:
    """Round the log-odds of each row, shape (texts, classes), and tell which are doubtful."""
    steps = log_odds(probabilities) / STEP
    whole = np.rint(steps)
    from_border = (0.5 - np.abs(steps - whole)) * STEP
    odds = np.exp(whole * STEP)
    return Rounded(
        (odds / odds.sum(axis=1, keepdims=True)).astype(np.float32),
        (from_border <= NOISE).any(axis=1),
    )
