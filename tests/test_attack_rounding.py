from __future__ import annotations

import math

import numpy as np
import pytest

from robustlab.attack.rounding import (
    MARGIN_NOISE,
    MARGIN_STEP,
    NOISE,
    STEP,
    TOKEN_NOISE,
    TOKEN_STEP,
    Rounded,
    log_odds,
    moved,
    round_response,
)
from robustlab.models.target import Generations, Predictions, Scores


def pair(log_odds_of_first: float) -> list[float]:
    """Probabilities of two classes, of which the first is less probable by that much."""
    first = math.exp(log_odds_of_first)
    return [first / (1 + first), 1 / (1 + first)]


def predictions(*rows: list[float]) -> Predictions:
    return Predictions(np.array(rows, dtype=np.float32))


def rounded_rows(*rows: list[float]) -> np.ndarray:
    response = round_response(predictions(*rows)).response
    assert isinstance(response, Predictions)
    return response.probabilities


def scores(*values: float, tokens: int = 1) -> Scores:
    return Scores(np.array(values, dtype=np.float32), np.full(len(values), tokens))


def generations(
    *margins: float, log_prob: float = -1.0, text: str = "yes", tokens: int = 2
) -> Generations:
    count = len(margins)
    return Generations(
        (text,) * count,
        np.full(count, log_prob, dtype=np.float32),
        np.full(count, tokens),
        np.array(margins, dtype=np.float32),
    )


def test_log_odds_are_rounded_to_whole_steps() -> None:
    raw = predictions(pair(-1.00012), pair(-1.00035), pair(0.0))
    rounded = round_response(raw)
    assert isinstance(rounded.response, Predictions)
    expected = predictions(pair(-1.0), pair(-1.0005), pair(0.0)).probabilities
    np.testing.assert_array_equal(rounded.response.probabilities, expected)
    assert rounded.response.probabilities.dtype == np.float32
    assert not rounded.doubtful.any()


def test_values_near_a_border_are_doubtful() -> None:
    border = -1.0 - STEP / 2
    rounded = round_response(
        predictions(
            pair(border - NOISE / 2), pair(border + NOISE / 2), pair(border - 3 * NOISE), pair(-1.0)
        )
    )
    assert rounded.doubtful.tolist() == [True, True, False, False]


def test_small_probabilities_keep_their_order_and_zero_is_allowed() -> None:
    raw = [[1e-9, 1 - 1e-9], [2e-9, 1 - 2e-9], [0.0, 1.0]]
    rounded = rounded_rows(*raw)
    assert rounded[2, 0] < rounded[0, 0] < rounded[1, 0]
    np.testing.assert_allclose(rounded, np.float32(raw), rtol=1e-3, atol=1e-30)


def test_rows_sum_to_one_as_closely_as_textattack_wants() -> None:
    logits = np.random.default_rng(0).normal(size=(50, 20)) * 3
    raw = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    rounded = rounded_rows(*raw.tolist())
    assert np.abs(rounded.sum(axis=1, dtype=np.float32) - 1).max() < 1e-6
    assert np.abs(rounded - raw).max() < STEP / 4 + 1e-7


def test_log_odds_are_against_the_most_probable_class() -> None:
    np.testing.assert_allclose(
        log_odds(np.float32([[0.2, 0.8], [0.5, 0.5]])), [[math.log(0.25), 0], [0, 0]], atol=1e-6
    )


@pytest.mark.parametrize("value", [-0.3, -2.7, -11.2])
def test_rounding_twice_changes_nothing(value: float) -> None:
    once = rounded_rows(pair(value))
    np.testing.assert_array_equal(rounded_rows(*once.tolist()), once)


def test_log_probabilities_are_rounded_as_means_over_their_tokens() -> None:
    # 4 tokens: steps of 0.004, borders at -3.002, -3.006, …
    rounded = round_response(scores(-3.0007, -3.0015, -3.0025, tokens=4))
    assert isinstance(rounded.response, Scores)
    np.testing.assert_array_equal(rounded.response.log_probs, np.float32([-3.0, -3.0, -3.004]))
    assert rounded.response.log_probs.dtype == np.float32
    np.testing.assert_array_equal(rounded.response.tokens, [4, 4, 4])
    assert not rounded.doubtful.any()


@pytest.mark.parametrize("tokens", [1, 4, 20])
def test_the_noise_of_a_sum_grows_with_its_tokens(tokens: int) -> None:
    border = -(1.0 + TOKEN_STEP / 2) * tokens
    noise = TOKEN_NOISE * tokens
    rounded = round_response(
        scores(border - noise / 2, border + noise / 2, border + 2 * noise, tokens=tokens)
    )
    assert rounded.doubtful.tolist() == [True, True, False]


def test_what_is_impossible_stays_so_and_is_beyond_doubt() -> None:
    rounded = round_response(scores(-math.inf, -1.0))
    assert isinstance(rounded.response, Scores)
    assert rounded.response.log_probs.tolist() == [-math.inf, -1.0]
    assert not rounded.doubtful.any()


def test_texts_that_hung_on_a_small_lead_are_doubtful() -> None:
    rounded = round_response(generations(0.0, MARGIN_NOISE * 0.9, MARGIN_NOISE * 3, 0.5, math.inf))
    assert rounded.doubtful.tolist() == [True, True, False, False, False]


def test_generations_are_rounded_and_doubtful_at_borders_of_either_number() -> None:
    rounded = round_response(generations(0.123, 0.12 + MARGIN_STEP / 2, log_prob=-1.0003))
    assert isinstance(rounded.response, Generations)
    assert rounded.response.texts == ("yes", "yes")
    np.testing.assert_array_equal(rounded.response.log_probs, np.float32([-1.0, -1.0]))
    np.testing.assert_allclose(rounded.response.margins[0], 0.12, rtol=1e-6)
    assert rounded.doubtful.tolist() == [False, True]
    border = round_response(generations(0.5, log_prob=-1.0 - TOKEN_STEP))
    assert border.doubtful.tolist() == [True]


def test_movement_is_told_in_units_of_the_noise_allowed_for() -> None:
    merged = predictions([0.5, 0.5], pair(-1.0 - 2 * NOISE))
    assert moved(merged, 1, predictions(pair(-1.0))) == pytest.approx(2, rel=0.05)
    merged_scores = scores(-9.0, -8.0 - 3 * 4 * TOKEN_NOISE, tokens=4)
    assert moved(merged_scores, 1, scores(-8.0, tokens=4)) == pytest.approx(3, rel=0.05)
    by_margin = moved(generations(0.5 + 2 * MARGIN_NOISE), 0, generations(0.5))
    assert by_margin == pytest.approx(2, rel=0.05)
    by_log_prob = moved(generations(0.5, log_prob=-1.0 - 2 * 3 * TOKEN_NOISE), 0, generations(0.5))
    assert by_log_prob == pytest.approx(3, rel=0.05)
    turned = moved(
        generations(MARGIN_NOISE), 0, generations(3 * MARGIN_NOISE, text="no", log_prob=-7.0)
    )
    assert turned == pytest.approx(4, rel=0.05)


def test_impossible_outputs_have_not_moved() -> None:
    assert moved(scores(-math.inf), 0, scores(-math.inf)) == 0.0


def test_no_items_are_no_trouble() -> None:
    empty: list[Rounded] = [
        round_response(Predictions(np.zeros((0, 2), dtype=np.float32))),
        round_response(scores()),
        round_response(generations()),
    ]
    assert [len(rounded.doubtful) for rounded in empty] == [0, 0, 0]
