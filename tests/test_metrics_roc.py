from __future__ import annotations

import math

import pytest

from robustlab.metrics import auc, clustered_rate, rate, roc_curve
from robustlab.metrics.intervals import Z

CLEAN = [1.0, 2.0, 2.0, 3.0]
POISON = [2.0, 3.0, 5.0]


def test_a_curve_has_a_point_for_each_threshold() -> None:
    curve = roc_curve(CLEAN, POISON)
    assert curve.thresholds.tolist() == [5, 3, 2, 1, -math.inf]
    # What is above: nothing; 5 | 5 and both 3s | ... | all.
    assert curve.false_positive_rates.tolist() == pytest.approx([0, 0, 1 / 4, 3 / 4, 1])
    assert curve.true_positive_rates.tolist() == pytest.approx([0, 1 / 3, 2 / 3, 1, 1])


def test_the_area_counts_pairs_and_ties_half() -> None:
    # 2 against 1, 2, 2, 3: 1 + ½ + ½ + 0 = 2; 3: 1 + 1 + 1 + ½ = 3½; 5: 4. 9½ of 12.
    assert auc(CLEAN, POISON).value == pytest.approx(9.5 / 12)
    assert auc(POISON, CLEAN).value == pytest.approx(2.5 / 12)


def test_the_area_is_that_under_the_curve() -> None:
    curve = roc_curve(CLEAN, POISON)
    x, y = curve.false_positive_rates.tolist(), curve.true_positive_rates.tolist()
    steps = zip(x, y, x[1:], y[1:], strict=False)
    assert sum((b - a) * (u + v) / 2 for a, u, b, v in steps) == pytest.approx(9.5 / 12)


def test_one_of_each_is_a_coin_thrown_once() -> None:
    # With m = n = 1, N = 0 and the interval is Wilson's for one of one: from 1 / (1 + z²).
    found = auc([0.0], [1.0])
    assert (found.value, found.high, found.n) == (1, 1, 2)
    assert found.low == pytest.approx(1 / (1 + Z**2))


def test_the_bounds_solve_the_equation() -> None:
    # m = 3, n = 4, so N = 5/2.
    found = auc(CLEAN, POISON)
    for bound in (found.low, found.high):
        bend = 1 + 2.5 * ((1 - bound) / (2 - bound) + bound / (1 + bound))
        assert (9.5 / 12 - bound) ** 2 == pytest.approx(Z**2 * bound * (1 - bound) * bend / 12)
    assert 0 < found.low < 9.5 / 12 < found.high < 1


def test_a_mirrored_score_has_a_mirrored_interval() -> None:
    there, back = auc(CLEAN, POISON), auc(POISON, CLEAN)
    assert back.low == pytest.approx(1 - there.high)
    assert back.high == pytest.approx(1 - there.low)


def test_copies_say_no_more_than_one_of_them() -> None:
    once, copied = auc(CLEAN, POISON), auc(CLEAN, POISON * 5, clusters=3)
    assert copied == once
    assert auc(CLEAN, POISON * 5).low > once.low
    assert clustered_rate(10, 15, 3) == rate(2, 3)
    assert clustered_rate(15, 15, 3).low == rate(3, 3).low


@pytest.mark.parametrize(("clean", "poison"), [([], [1.0]), ([1.0], []), ([math.nan], [1.0])])
def test_no_curve_of_nothing(clean: list[float], poison: list[float]) -> None:
    with pytest.raises(ValueError, match="both kinds"):
        roc_curve(clean, poison)
    with pytest.raises(ValueError, match="both kinds"):
        auc(clean, poison)


@pytest.mark.parametrize("clusters", [0, 4])
def test_no_more_groups_than_members(clusters: int) -> None:
    with pytest.raises(ValueError, match="groups"):
        auc(CLEAN, POISON, clusters=clusters)
    with pytest.raises(ValueError, match="groups"):
        clustered_rate(2, 3, clusters)
