"""Rates and means with 95 % confidence intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["Estimate", "Z", "clustered_rate", "lower_bound", "mean_estimate", "rate"]

Z = 1.959963984540054
"""The 97.5 % point of the standard normal distribution."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A measured value with its 95 % interval and the number of observations.

    ``value``, ``low`` and ``high`` are ``nan`` when ``n`` is zero: a rate over nothing is
    unknown, not zero.
    """

    value: float
    low: float
    high: float
    n: int

    def as_json(self) -> dict[str, float | int | None]:
        """The object that goes into ``summary.json``; unknown values become null."""

        def known(number: float) -> float | None:
            return None if math.isnan(number) else number

        return {
            "value": known(self.value),
            "low": known(self.low),
            "high": known(self.high),
            "n": self.n,
        }

    def percent(self) -> str:
        """For people: ``81.3 % [76.5, 85.3]``."""
        if self.n == 0:
            return "–"
        return f"{100 * self.value:.1f} % [{100 * self.low:.1f}, {100 * self.high:.1f}]"


def rate(successes: int, n: int) -> Estimate:
    """Binomial proportion with Wilson's score interval (Wilson 1927).

    With p = successes / n and z = 1.96 the interval is
    (p + z²/2n ± z √(p(1−p)/n + z²/4n²)) / (1 + z²/n); unlike the normal approximation it stays
    inside [0, 1] and is not empty at p = 0 or 1.
    """
    if n < 0 or not 0 <= successes <= max(n, 0):
        raise ValueError(f"no such proportion: {successes} of {n}")
    if n == 0:
        return Estimate(math.nan, math.nan, math.nan, 0)
    return _wilson(successes / n, n)


def clustered_rate(successes: int, n: int, clusters: int) -> Estimate:
    """Like :func:`rate`, for observations that come in groups of which each is much alike.

    The interval is Wilson's for as many observations as there are groups, ``Estimate.n``: exact
    where the members of a group are all the same, and too wide where they are not.
    """
    if not 0 <= successes <= n or not min(n, 1) <= clusters <= n:
        raise ValueError(f"no such proportion: {successes} of {n} in {clusters} groups")
    return rate(0, 0) if n == 0 else _wilson(successes / n, clusters)


def _wilson(p: float, n: int) -> Estimate:
    scale = 1 + Z**2 / n
    centre = (p + Z**2 / (2 * n)) / scale
    half = Z * math.sqrt(p * (1 - p) / n + Z**2 / (4 * n * n)) / scale
    low = 0.0 if p == 0 else max(0.0, centre - half)
    high = 1.0 if p == 1 else min(1.0, centre + half)
    return Estimate(p, low, high, n)


def lower_bound(successes: int, n: int, error: float) -> float:
    """The least proportion that is compatible with so many successes (Clopper & Pearson 1934).

    One-sided: the p at which P(X ≥ successes) = ``error`` for X ~ Binomial(n, p); 0 without a
    success. The true proportion lies below it with probability at most ``error``.
    """
    if not 0 <= successes <= n or not 0 < error < 1:
        raise ValueError(f"no such bound: {successes} of {n} with error {error}")
    if successes == 0:
        return 0.0
    below, above = 0.0, successes / n
    while above - below > 1e-12:
        middle = (below + above) / 2
        if _tail(successes, n, middle) > error:
            above = middle
        else:
            below = middle
    return below


def _tail(successes: int, n: int, p: float) -> float:
    """P(X ≥ successes) for X ~ Binomial(n, p), 0 < p < 1."""
    counts = np.arange(successes, n + 1)
    choose = [
        math.lgamma(n + 1) - math.lgamma(count + 1) - math.lgamma(n - count + 1)
        for count in counts.tolist()
    ]
    return float(
        np.exp(np.array(choose) + counts * math.log(p) + (n - counts) * math.log1p(-p)).sum()
    )


def mean_estimate(values: Sequence[float], *, resamples: int = 2000, seed: int = 0) -> Estimate:
    """Mean with a percentile bootstrap interval (Efron 1979) over the observations.

    For scores between the extremes, such as token F1 or nDCG, where a binomial interval would
    be wrong. Deterministic for a given ``seed``.
    """
    n = len(values)
    if n == 0:
        return Estimate(math.nan, math.nan, math.nan, 0)
    data = np.asarray(values, dtype=np.float64)
    generator = np.random.default_rng(seed)
    # Drawn in blocks: resamples x n doubles at once would be gigabytes for large sets.
    means = np.empty(resamples)
    block = max(1, 4_000_000 // n)
    for start in range(0, resamples, block):
        stop = min(start + block, resamples)
        means[start:stop] = data[generator.integers(0, n, size=(stop - start, n))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return Estimate(float(data.mean()), float(low), float(high), n)
