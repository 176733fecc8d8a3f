"""How well a score tells what it should flag from what it should not, at every threshold."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from robustlab.metrics.intervals import Estimate, Z

__all__ = ["RocCurve", "auc", "roc_curve"]


@dataclass(frozen=True, slots=True)
class RocCurve:
    """A receiver operating characteristic: one point for each threshold, from (0, 0) to (1, 1).

    What scores *above* a threshold is flagged. ``thresholds`` falls from the largest score to
    minus infinity; ``false_positive_rates`` is the share of the clean that is flagged there and
    ``true_positive_rates`` that of the others. All three have shape (points,).
    """

    thresholds: NDArray[np.float64]
    false_positive_rates: NDArray[np.float64]
    true_positive_rates: NDArray[np.float64]


def roc_curve(clean: Sequence[float], flagged: Sequence[float]) -> RocCurve:
    """The curve over all scores; ``flagged`` are the scores of what ought to be flagged.

    Raises :class:`ValueError` where either is empty or a score is not a number.
    """
    negative, positive = _sorted(clean), _sorted(flagged)
    scores = np.unique(np.concatenate([negative, positive]))[::-1]
    thresholds = np.append(scores, -math.inf)
    return RocCurve(thresholds, _above(negative, thresholds), _above(positive, thresholds))


def auc(
    clean: Sequence[float], flagged: Sequence[float], *, clusters: int | None = None
) -> Estimate:
    """The area under the curve, with a 95 % interval.

    The area is the probability that one of the flagged scores above one of the clean, ties
    counted half: A = Σ (1[p > c] + ½ 1[p = c]) / (m n) over the m flagged p and n clean c
    (Mann & Whitney 1947). The interval inverts a score test with the variance of Hanley & McNeil
    1982 (doi:10.1148/radiology.143.1.7063747), made symmetric as in method 5 of Newcombe 2006
    (doi:10.1002/sim.2324): all θ with

        (A − θ)² ≤ z² θ (1 − θ) (1 + N ((1 − θ) / (2 − θ) + θ / (1 + θ))) / (m n),

    where N = (m + n) / 2 − 1. It stays inside [0, 1] and is not empty at A = 0 or 1.

    Args:
        clean: scores of what ought to pass.
        flagged: scores of what ought to be flagged.
        clusters: how many independent groups the flagged ones come from, where they are alike
            within a group: m in the interval, which is then wider. ``Estimate.n`` is m + n.

    Raises:
        ValueError: either is empty, a score is not a number, or there are more clusters than
            scores.
    """
    negative, positive = _sorted(clean), _sorted(flagged)
    groups = len(positive) if clusters is None else clusters
    if not 1 <= groups <= len(positive):
        raise ValueError(f"{len(positive)} scores cannot come from {groups} groups")
    below = np.searchsorted(negative, positive, "left")
    up_to = np.searchsorted(negative, positive, "right")
    area = float((below + up_to).sum() / (2 * len(positive) * len(negative)))

    def outside(theta: float) -> bool:
        spread = (groups + len(negative)) / 2 - 1
        variance = theta * (1 - theta) / (groups * len(negative))
        variance *= 1 + spread * ((1 - theta) / (2 - theta) + theta / (1 + theta))
        return (area - theta) ** 2 > Z**2 * variance

    low = 0.0 if area == 0 else _border(outside, 0.0, area)
    high = 1.0 if area == 1 else _border(outside, 1.0, area)
    return Estimate(area, low, high, groups + len(negative))


def _border(outside: Callable[[float], bool], far: float, near: float) -> float:
    """Where what is outside at ``far`` and inside at ``near`` comes in."""
    while abs(far - near) > 1e-12:
        middle = (far + near) / 2
        if outside(middle):
            far = middle
        else:
            near = middle
    return near


def _sorted(scores: Sequence[float]) -> NDArray[np.float64]:
    found = np.sort(np.asarray(scores, dtype=np.float64))
    if not len(found) or bool(np.isnan(found).any()):
        raise ValueError("a ROC curve needs scores of both kinds, all of them numbers")
    return found


def _above(scores: NDArray[np.float64], thresholds: NDArray[np.float64]) -> NDArray[np.float64]:
    share: NDArray[np.float64] = 1 - np.searchsorted(scores, thresholds, "right") / len(scores)
    return share
