"""Paired proportions: intervals and tests against published and hand-computed values."""

from __future__ import annotations

import math

import pytest

from robustlab.metrics import PairedCounts, holm, mcnemar_exact, paired_difference


def test_counting_and_shares() -> None:
    counts = PairedCounts.count(
        [(True, True), (True, False), (True, False), (False, True), (False, False)]
    )
    assert counts == PairedCounts(both=1, only_first=2, only_second=1, neither=1)
    assert counts.n == 5
    assert (counts.first.value, counts.second.value) == (3 / 5, 2 / 5)


@pytest.mark.parametrize(
    ("counts", "value", "low", "high"),
    [
        # Tables of Bentur et al. 2009 and Cavo et al. 2012, as analysed by Fagerland, Lydersen and
        # Laake (Statistical Analysis of Contingency Tables, 2017), with the sides exchanged.
        (PairedCounts(1, 7, 1, 12), -6 / 21, -0.5069, -0.0256),
        (PairedCounts(59, 16, 6, 80), -10 / 161, -0.1186, -0.0046),
        # No correlation, since one margin is 0: √(0.0857² + 0.1148²) and √(0.0546² + 0.1298²).
        (PairedCounts(36, 2, 12, 0), 0.2, 0.0569, 0.3404),
    ],
)
def test_published_intervals(counts: PairedCounts, value: float, low: float, high: float) -> None:
    found = paired_difference(counts)
    assert found.value == pytest.approx(value)
    assert (round(found.low, 4), round(found.high, 4)) == (low, high)
    assert found.n == counts.n


def test_an_interval_by_hand() -> None:
    # 4 × 4 − 1 × 1 = 15, less 10/2 is 10, over √(5·5·5·5) = 25: φ = 0.4. Both shares are 1/2, and
    # Wilson's half width is h = 1.96·√(0.025 + 0.0096)/(1 + 0.38415) with z²/4n² = 0.0096036.
    z = 1.959963984540054
    half = z * math.sqrt(0.25 / 10 + z * z / 400) / (1 + z * z / 10)
    found = paired_difference(PairedCounts(4, 1, 1, 4))
    assert found.value == 0.0
    assert found.high == pytest.approx(math.sqrt(2 * half * half * (1 - 0.4)))
    assert found.low == pytest.approx(-found.high)


def test_the_interval_of_exchanged_runs_is_mirrored() -> None:
    one = paired_difference(PairedCounts(30, 3, 9, 8))
    other = paired_difference(PairedCounts(30, 9, 3, 8))
    assert (one.value, one.low, one.high) == pytest.approx((-other.value, -other.high, -other.low))


def test_extremes_stay_inside_and_are_not_empty() -> None:
    same = paired_difference(PairedCounts(50, 0, 0, 0))
    assert same.value == 0.0
    assert same.low < 0 < same.high
    apart = paired_difference(PairedCounts(0, 0, 5, 0))
    assert apart.value == apart.high == 1.0
    assert -1 < apart.low < 1
    agreeing = paired_difference(PairedCounts(500_000, 0, 0, 500_000))
    assert agreeing.low <= 0 <= agreeing.high


def test_over_nothing_it_is_unknown() -> None:
    found = paired_difference(PairedCounts(0, 0, 0, 0))
    assert math.isnan(found.value)
    assert found.n == 0


@pytest.mark.parametrize(
    ("only_first", "only_second", "p"),
    [
        (0, 0, 1.0),
        (1, 0, 1.0),
        (0, 5, 2 / 32),
        (5, 0, 2 / 32),
        (1, 7, 2 * (1 + 8) / 256),
        (3, 4, 1.0),  # 2·(1 + 7 + 21 + 35)/128
        (2, 8, 2 * (1 + 10 + 45) / 1024),
        (4, 4, 1.0),  # 2·163/256 cut off
    ],
)
def test_mcnemar_by_hand(only_first: int, only_second: int, p: float) -> None:
    assert mcnemar_exact(only_first, only_second) == p


def test_mcnemar_with_many_pairs_is_near_the_normal_approximation() -> None:
    # With continuity correction: z = (|b − c| − 1)/√(b + c).
    b, c = 5200, 5000
    z = (b - c - 1) / math.sqrt(b + c)
    assert mcnemar_exact(b, c) == pytest.approx(math.erfc(z / math.sqrt(2)), rel=1e-3)
    assert mcnemar_exact(0, 5000) == 0.0  # 2^-4999, below what a float holds


def test_mcnemar_refuses_negative_counts() -> None:
    with pytest.raises(ValueError, match="-1"):
        mcnemar_exact(-1, 3)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx((0.03, 0.06, 0.06))
    assert holm([0.5, 0.6]) == (1.0, 1.0)
    assert holm([0.02]) == (0.02,)
    assert holm([]) == ()
