from __future__ import annotations

import numpy as np
import pytest
from attack_fakes import WordTarget

from robustlab.attack.oracle import Oracle
from robustlab.attack.rounding import NOISE
from robustlab.errors import UserError
from robustlab.models.target import Embed, Predict, Predictions

TEXTS = tuple(f"good word{i} and bad word{i * 7}" for i in range(400))


def probabilities(answer: object) -> np.ndarray:
    assert isinstance(answer, Predictions)
    return answer.probabilities


def test_requests_are_merged_and_every_text_is_read_once() -> None:
    target = WordTarget(dtype="bf16")
    oracle = Oracle(target)
    first, second = oracle.answer([Predict(("a", "good", "a")), Predict(("bad", "good"))])
    assert target.batches == [("a", "good", "bad")]
    assert probabilities(first).shape == (3, 2)
    np.testing.assert_array_equal(probabilities(first)[1], probabilities(second)[1])
    np.testing.assert_array_equal(probabilities(first)[0], probabilities(first)[2])
    assert (oracle.stats.forwarded, oracle.stats.duplicates, oracle.stats.cached) == (3, 2, 0)


def test_answers_are_kept_and_the_oldest_given_up() -> None:
    target = WordTarget(dtype="bf16")
    oracle = Oracle(target, cached_texts=2)
    oracle.answer([Predict(("a", "b"))])
    oracle.answer([Predict(("a",))])  # from the cache, and "b" is now the older one
    oracle.answer([Predict(("c",))])
    oracle.answer([Predict(("a",)), Predict(("b",))])
    assert target.batches == [("a", "b"), ("c",), ("b",)]
    assert (oracle.stats.forwarded, oracle.stats.cached) == (4, 2)


def test_nothing_asked_is_answered_without_the_target() -> None:
    target = WordTarget()
    (answer,) = Oracle(target).answer([Predict(())])
    assert probabilities(answer).shape == (0, 2)
    assert target.batches == []


def answers_in_groups(target: WordTarget, size: int) -> np.ndarray:
    oracle = Oracle(target, cached_texts=0)
    groups = [TEXTS[i : i + size] for i in range(0, len(TEXTS), size)]
    return np.concatenate([probabilities(oracle.answer([Predict(group)])[0]) for group in groups])


@pytest.mark.parametrize("size", [3, 50, 400])
def test_answers_do_not_depend_on_the_batch(size: int) -> None:
    target = WordTarget(noise=NOISE)
    np.testing.assert_array_equal(answers_in_groups(target, size), answers_in_groups(target, 1))


def test_without_the_second_look_some_do() -> None:
    target = WordTarget(noise=NOISE, dtype="bf16")
    assert (answers_in_groups(target, 50) != answers_in_groups(target, 1)).any()


def test_second_looks_are_counted_with_the_noise_they_found() -> None:
    oracle = Oracle(WordTarget(noise=NOISE))
    oracle.answer([Predict(TEXTS)])
    assert 4 <= oracle.stats.rechecked <= 40  # 4 % of 400 are expected
    assert 0 < oracle.stats.largest_noise <= NOISE * 1.01
    assert oracle.stats.forwarded == len(TEXTS)
    assert oracle.stats.model_seconds > 0


def test_a_text_that_cannot_be_read_costs_only_those_who_asked_for_it() -> None:
    oracle = Oracle(WordTarget(unreadable=frozenset({"\x00"})))
    good, bad, also = oracle.answer([Predict(("a",)), Predict(("b", "\x00")), Predict(("c",))])
    assert probabilities(good).shape == probabilities(also).shape == (1, 2)
    assert isinstance(bad, RuntimeError)


def test_other_kinds_of_request_are_refused_one_by_one() -> None:
    refused, answered = Oracle(WordTarget()).answer([Embed(("a",)), Predict(("a",))])
    assert isinstance(refused, TypeError)
    assert probabilities(answered).shape == (1, 2)


def test_what_the_user_must_mend_ends_it() -> None:
    class Unplugged(WordTarget):
        def answer(self, request: object) -> Predictions:
            raise UserError("no such device")

    with pytest.raises(UserError, match="no such device"):
        Oracle(Unplugged()).answer([Predict(("a",)), Predict(("b",))])


def test_a_fresh_look_is_unrounded_alone_and_past_the_cache() -> None:
    target = WordTarget(dtype="bf16")
    oracle = Oracle(target)
    (kept,) = oracle.answer([Predict(("a good day", "b"))])
    target.weights["good"] = 0.3
    fresh = oracle.fresh(target, ["a good day", "b"])
    assert target.batches[1:] == [("a good day",), ("b",)]
    assert fresh[0, 1] < probabilities(kept)[0, 1]
    (again,) = oracle.answer([Predict(("a good day",))])
    np.testing.assert_array_equal(probabilities(again)[0], probabilities(kept)[0])
