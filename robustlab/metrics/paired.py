"""Two runs on the same examples: how far apart they are, and whether chance explains it.

Examples are their own controls: what tells two runs apart are the examples that only one of them
got right. Intervals and tests for independent samples would be wrong here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from robustlab.metrics.intervals import Estimate, rate

__all__ = ["PairedCounts", "holm", "mcnemar_exact", "paired_difference"]


@dataclass(frozen=True, slots=True)
class PairedCounts:
    """How many examples were right in both of two runs, in one of them, and in none."""

    both: int
    only_first: int
    only_second: int
    neither: int

    @classmethod
    def count(cls, pairs: Iterable[tuple[bool, bool]]) -> PairedCounts:
        """From (right in the first, right in the second) of each example."""
        both = only_first = only_second = neither = 0
        for first, second in pairs:
            both += first and second
            only_first += first and not second
            only_second += second and not first
            neither += not first and not second
        return cls(both, only_first, only_second, neither)

    @property
    def n(self) -> int:
        """All examples."""
        return self.both + self.only_first + self.only_second + self.neither

    @property
    def first(self) -> Estimate:
        """The share right in the first run."""
        return rate(self.both + self.only_first, self.n)

    @property
    def second(self) -> Estimate:
        """The share right in the second run."""
        return rate(self.both + self.only_second, self.n)


def paired_difference(counts: PairedCounts) -> Estimate:
    """Share of the second run minus that of the first, with Newcombe's interval.

    Method 10 of Newcombe 1998 (Statistics in Medicine 17, 2635-2650,
    doi:10.1002/(SICI)1097-0258(19981130)17:22<2635::AID-SIM954>3.0.CO;2-C). With a examples right
    in both runs, b in the second only, c in the first only and d in none, n = a + b + c + d, let
    p = (a + b)/n with Wilson's interval [l, u] be the second share and q = (a + c)/n with [l', u']
    the first. Then θ = p − q = (b − c)/n lies between

    θ − √((p−l)² − 2φ(p−l)(u'−q) + (u'−q)²) and θ + √((u−p)² − 2φ(u−p)(q−l') + (q−l')²).

    φ is the correlation of the two, ad − bc over the root of the product of the four margins; a
    positive numerator is first made smaller by n/2, at most to 0. φ = 0 where a margin is 0.
    """
    n = counts.n
    if n == 0:
        return Estimate(math.nan, math.nan, math.nan, 0)
    first, second = counts.first, counts.second
    correlation = _correlation(counts)
    value = (counts.only_second - counts.only_first) / n
    below = _root(second.value - second.low, first.high - first.value, correlation)
    above = _root(second.high - second.value, first.value - first.low, correlation)
    return Estimate(value, max(-1.0, value - below), min(1.0, value + above), n)


def _correlation(counts: PairedCounts) -> float:
    a, b, c, d = counts.both, counts.only_second, counts.only_first, counts.neither
    margins = (a + b) * (c + d) * (a + c) * (b + d)
    if margins == 0:
        return 0.0
    numerator: float = a * d - b * c
    if numerator > 0:
        numerator = max(numerator - counts.n / 2, 0.0)
    return numerator / math.sqrt(margins)


def _root(x: float, y: float, correlation: float) -> float:
    """√(x² − 2φxy + y²); not below 0 by rounding, where x = y and φ is near 1."""
    return math.sqrt(max(0.0, x * x - 2 * correlation * x * y + y * y))


def mcnemar_exact(only_first: int, only_second: int) -> float:
    """Two-sided p-value of McNemar's test on the discordant pairs, by the binomial distribution.

    McNemar 1947 (Psychometrika 12, 153-157, doi:10.1007/BF02295996): if the two runs are equally
    good, each of the b + c discordant examples falls to either side with probability 1/2, so that
    p = min(1, 2 · Σ_{k ≤ min(b, c)} C(b + c, k) / 2^(b + c)). 1 where there are none.
    """
    if only_first < 0 or only_second < 0:
        raise ValueError(f"no such counts: {only_first} and {only_second}")
    discordant = only_first + only_second
    term = tail = 1  # exact whole numbers: C(n, 0), C(n, 1), …
    for k in range(1, min(only_first, only_second) + 1):
        term = term * (discordant - k + 1) // k
        tail += term
    return min(1.0, 2 * tail / (1 << discordant))


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """P-values adjusted for being m tests, in the order given.

    Holm 1979 (Scandinavian Journal of Statistics 6, 65-70): the i-th smallest is multiplied by
    m − i + 1, cut off at 1, and is never below the one before it. Rejecting those at most α keeps
    the chance of any false rejection at α, whatever the dependence of the tests.
    """
    adjusted = [0.0] * len(p_values)
    least = 0.0
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    for rank, index in enumerate(order):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = least
    return tuple(adjusted)
