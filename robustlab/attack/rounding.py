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
no more than :data:`NOISE`. It moved those of the built-in classifier by 7e-6 at the most in fp32
(300 texts, passes of 128 to 8192 tokens against one text a pass), and by 6e-2 in bf16: what is
promised here holds for fp32.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from robustlab.models.target import FloatArray

__all__ = ["NOISE", "STEP", "Rounded", "log_odds", "round_probabilities"]

STEP = 5e-4
"""Log-odds are rounded to multiples of this. It moves the probability of a class by less than
7e-5 if there are two, and is fine enough to leave the order of almost all candidates as it was."""

NOISE = 1e-5
"""How far batching may move log-odds in fp32. Within ± NOISE of a border lie 2 · NOISE / STEP = 4 %
of all values of a binary classifier: what the second look costs."""

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
        np.asarray((from_border <= NOISE).any(axis=1)),
    )
