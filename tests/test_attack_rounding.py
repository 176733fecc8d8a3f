from __future__ import annotations

import math

import numpy as np
import pytest

from robustlab.attack.rounding import NOISE, STEP, log_odds, round_probabilities


def pair(log_odds_of_first: float) -> list[float]:
    """Probabilities of two classes, of which the first is less probable by that much."""
    first = math.exp(log_odds_of_first)
    return [first / (1 + first), 1 / (1 + first)]


def rows(*values: list[float]) -> np.ndarray:
    return np.array(values, dtype=np.float32)


def test_log_odds_are_rounded_to_whole_steps() -> None:
    rounded = round_probabilities(rows(pair(-1.00012), pair(-1.00035), pair(0.0)))
    expected = rows(pair(-1.0), pair(-1.0005), pair(0.0))
    np.testing.assert_array_equal(rounded.probabilities, expected)
    assert rounded.probabilities.dtype == np.float32
    assert not rounded.doubtful.any()


def test_values_near_a_border_are_doubtful() -> None:
    border = -1.0 - STEP / 2
    rounded = round_probabilities(
        rows(
            pair(border - NOISE / 2), pair(border + NOISE / 2), pair(border - 3 * NOISE), pair(-1.0)
        )
    )
    assert rounded.doubtful.tolist() == [True, True, False, False]


def test_small_probabilities_keep_their_order_and_zero_is_allowed() -> None:
    raw = rows([1e-9, 1 - 1e-9], [2e-9, 1 - 2e-9], [0.0, 1.0])
    rounded = round_probabilities(raw).probabilities
    assert rounded[2, 0] < rounded[0, 0] < rounded[1, 0]
    np.testing.assert_allclose(rounded, raw, rtol=1e-3, atol=1e-30)


def test_rows_sum_to_one_as_closely_as_textattack_wants() -> None:
    logits = np.random.default_rng(0).normal(size=(50, 20)) * 3
    raw = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    rounded = round_probabilities(raw.astype(np.float32)).probabilities
    assert np.abs(rounded.sum(axis=1, dtype=np.float32) - 1).max() < 1e-6
    assert np.abs(rounded - raw).max() < STEP / 4 + 1e-7


def test_log_odds_are_against_the_most_probable_class() -> None:
    np.testing.assert_allclose(
        log_odds(rows([0.2, 0.8], [0.5, 0.5])), [[math.log(0.25), 0], [0, 0]], atol=1e-6
    )


@pytest.mark.parametrize("value", [-0.3, -2.7, -11.2])
def test_rounding_twice_changes_nothing(value: float) -> None:
    once = round_probabilities(rows(pair(value))).probabilities
    np.testing.assert_array_equal(round_probabilities(once).probabilities, once)
