"""Intervals: Wilson's for rates, the bootstrap for means; and the room's cheap import."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest

from robustlab.metrics import Estimate, mean_estimate, rate


def test_wilson_by_hand() -> None:
    # 8 of 10 with z² = 3.8415: (0.8 + 0.19207 ± 1.96 √(0.016 + 0.0096036)) / 1.38415.
    estimate = rate(8, 10)
    assert (estimate.value, estimate.n) == (0.8, 10)
    assert estimate.low == pytest.approx(0.4902, abs=1e-4)
    assert estimate.high == pytest.approx(0.9433, abs=1e-4)


def test_wilson_at_the_ends() -> None:
    none, all_of_them = rate(0, 10), rate(10, 10)
    assert none.low == 0.0
    assert none.high == pytest.approx(3.8414588 / 13.8414588)  # z² / (n + z²)
    assert all_of_them.high == 1.0
    assert all_of_them.low == pytest.approx(10 / 13.8414588)


def test_a_rate_over_nothing_is_unknown() -> None:
    estimate = rate(0, 0)
    assert math.isnan(estimate.value)
    assert estimate.as_json() == {"value": None, "low": None, "high": None, "n": 0}


def test_impossible_rates_are_refused() -> None:
    for successes, n in ((3, 2), (-1, 2), (0, -1)):
        with pytest.raises(ValueError, match="no such proportion"):
            rate(successes, n)


def test_bootstrap_of_a_mean() -> None:
    values = [0.0, 1.0] * 200
    estimate = mean_estimate(values)
    assert (estimate.value, estimate.n) == (0.5, 400)
    # The standard error is 0.5 / √400 = 0.025, so the interval is about 0.5 ± 0.049.
    assert estimate.low == pytest.approx(0.451, abs=0.006)
    assert estimate.high == pytest.approx(0.549, abs=0.006)
    assert mean_estimate(values) == estimate
    assert mean_estimate([0.3, 0.3]) == Estimate(0.3, 0.3, 0.3, 2)
    assert math.isnan(mean_estimate([]).value)


def test_percent() -> None:
    assert rate(8, 10).percent() == "80.0 % [49.0, 94.3]"


def test_the_rooms_load_without_their_libraries() -> None:
    heavy = "torch transformers sacrebleu rouge_score nltk ir_measures pytrec_eval"
    code = (
        "import sys, robustlab.metrics, robustlab.runs\n"
        f"print([name for name in {heavy!r}.split() if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert done.stdout.strip() == "[]"
