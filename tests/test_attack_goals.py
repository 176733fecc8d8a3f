"""What counts as success, and what guides the way there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from robustlab.attack.goals import (
    ChangeAnswer,
    ForceOutput,
    Frame,
    Look,
    TargetedClassification,
    UntargetedClassification,
)
from robustlab.models.target import (
    Generate,
    Generations,
    Gradient,
    Gradients,
    Predict,
    Predictions,
    Request,
    Response,
    Score,
    Scores,
    TokenGradient,
)

FRAME = Frame("who? [SEP] ", " end")


def drive(search: Any, answer: Callable[[Request], Response]) -> tuple[Any, list[Request]]:
    """Run a coroutine on a function; its result and what it asked."""
    asked: list[Request] = []
    try:
        request = next(search)
        while True:
            asked.append(request)
            request = search.send(answer(request))
    except StopIteration as end:
        return end.value, asked


def generator(log_probs: dict[str, float], outputs: dict[str, str]) -> Callable[..., Response]:
    """A generator by tables: the log-probability of any output, and the output, by prompt."""

    def answer(request: Request) -> Response:
        if isinstance(request, Score):
            values = np.float32([log_probs[prompt] for prompt in request.prompts])
            return Scores(values, np.ones(len(values), dtype=np.int64))
        assert isinstance(request, Generate)
        zeros = np.zeros(len(request.prompts), dtype=np.float32)
        texts = tuple(outputs[prompt] for prompt in request.prompts)
        return Generations(texts, zeros, zeros.astype(np.int64), zeros)

    return answer


@pytest.mark.parametrize(
    ("probabilities", "truth", "met"),
    [
        ([0.4, 0.6], 0, True),
        ([0.6, 0.4], 0, False),
        ([0.5, 0.5], 0, False),  # of equals the first class counts
        ([0.5, 0.5], 1, True),
        ([0.2, 0.3, 0.5], 1, True),
        ([0.2, 0.5, 0.3], 1, False),
    ],
)
def test_untargeted_means_any_other_class(
    probabilities: list[float], truth: int, met: bool
) -> None:
    assert UntargetedClassification(truth).is_met(np.float32(probabilities)) is met


@pytest.mark.parametrize(("shape", "truth"), [((1, 2), 0), ((2,), 2), ((2,), -1)])
def test_what_it_cannot_judge_is_refused(shape: tuple[int, ...], truth: int) -> None:
    with pytest.raises(ValueError, match="is not judged by"):
        UntargetedClassification(truth).is_met(np.zeros(shape, dtype=np.float32))


def test_targeted_means_that_class_alone() -> None:
    goal = TargetedClassification(truth=0, wanted=2)
    assert goal.is_met(np.float32([0.2, 0.3, 0.5]))
    assert not goal.is_met(np.float32([0.2, 0.5, 0.3]))


def test_a_look_at_classes_ranks_and_decides_with_one_request() -> None:
    def answer(request: Request) -> Response:
        return Predictions(np.float32([[0.7, 0.3], [0.4, 0.6], [0.1, 0.9]]))

    look, asked = drive(UntargetedClassification(0).look(["a", "b", "c"]), answer)
    assert asked == [Predict(("a", "b", "c"))]
    np.testing.assert_allclose(look.scores, [0.3, 0.6, 0.9], atol=1e-6)
    assert look.met.tolist() == [False, True, True]
    assert look.best == 1  # the first that meets the goal


def test_the_best_of_none_that_meets_is_the_first_best() -> None:
    assert Look(np.array([0.1, 0.5, 0.5]), np.zeros(3, dtype=bool)).best == 1


@pytest.mark.parametrize(
    ("goal", "wanted_class", "sign"),
    [(UntargetedClassification(1), 1, -1.0), (TargetedClassification(1, 0), 0, 1.0)],
)
def test_slopes_descend_towards_the_goal(goal: Any, wanted_class: int, sign: float) -> None:
    item = TokenGradient(0.5, np.array([7]), ((0, 1),), np.float32([[1.0, -2.0]]))
    shifts = (np.zeros((1, 2), dtype=np.float32),)
    found, asked = drive(goal.slopes(["a"], shifts), lambda request: Gradients((item,)))
    assert asked == [Gradient(("a",), (wanted_class,), shifts)]
    assert found.items[0].loss == sign * 0.5
    np.testing.assert_array_equal(found.items[0].gradient, sign * item.gradient)


@pytest.mark.parametrize(
    ("output", "met"),
    [
        ("Lake Baikal", True),
        ("the lake baikal, in Siberia", True),
        ("Lake", False),
        ("In Lake Baikal", False),
        ("Lake Baikalsk", False),
    ],
)
def test_a_forced_output_begins_with_what_is_wanted(output: str, met: bool) -> None:
    assert ForceOutput(FRAME, "Lake Baikal").judge(output).met is met


@pytest.mark.parametrize(
    ("measure", "output", "value"),
    [
        ("f1", "Edward Whymper", 1.0),
        ("f1", "Whymper", 2 / 3),
        ("f1", "John Ball", 0.0),
        ("bleu", "Edward Whymper", 1.0),
        ("rouge-l", "Whymper", 2 / 3),
    ],
)
def test_an_answer_is_changed_when_little_of_it_is_left(
    measure: Any, output: str, value: float
) -> None:
    goal = ChangeAnswer(FRAME, ("Edward Whymper",), measure, at_most=0.5)
    assert goal.resemblance(output) == pytest.approx(value)
    assert goal.judge(output).met is (value <= 0.5)


def test_a_look_at_outputs_generates_only_for_the_best() -> None:
    prompts = {text: f"who? [SEP] {text} end" for text in "abc"}
    answer = generator(
        {prompts["a"]: -3.0, prompts["b"]: -1.0, prompts["c"]: -2.0},
        {prompts["b"]: "lake baikal"},
    )
    goal = ForceOutput(FRAME, "Lake Baikal", max_new_tokens=8)
    look, asked = drive(goal.look(["a", "b", "c"]), answer)
    assert [type(request) for request in asked] == [Score, Generate]
    assert asked[1] == Generate((prompts["b"],), 8)
    assert look.best == 1
    assert look.met.tolist() == [False, True, False]


def test_a_changed_answer_is_ranked_by_how_improbable_the_right_one_is() -> None:
    prompts = {text: f"who? [SEP] {text} end" for text in "ab"}
    answer = generator({prompts["a"]: -3.0, prompts["b"]: -1.0}, {prompts["a"]: "Whymper"})
    goal = ChangeAnswer(FRAME, ("Whymper", "Edward Whymper"))
    look, asked = drive(goal.look(["a", "b"]), answer)
    assert isinstance(asked[0], Score)
    assert asked[0].outputs == ("Whymper", "Whymper")
    assert look.scores.tolist() == [3.0, 1.0]
    assert not look.met.any()


def test_no_candidates_cost_no_generation() -> None:
    look, asked = drive(ForceOutput(FRAME, "x").look([]), generator({}, {}))
    assert asked == [Score((), ())]
    assert len(look.scores) == 0


def test_a_pair_has_no_place_in_a_prompt() -> None:
    with pytest.raises(TypeError, match="not a pair"):
        FRAME.fill(("a", "b"))
