from __future__ import annotations

import numpy as np
import pytest
from planted import WORDS, PlantedTarget, begin, drive

from robustlab.attack.engine import TimeBudgetExhaustedError
from robustlab.attack.goals import ForceOutput, Frame, UntargetedClassification
from robustlab.attack.method import Start
from robustlab.attack.tokens import (
    BudgetedGoal,
    OwnTokens,
    cheapest_tokens,
    first_order,
    needed_vocabulary,
    single_text,
    word_tokens,
)
from robustlab.errors import UserError
from robustlab.models.target import Predictions, TokenGradient, Vocabulary


def _item(*offsets: tuple[int, int]) -> TokenGradient:
    count = len(offsets)
    return TokenGradient(
        0.0, np.arange(count), offsets, np.zeros((count, 2), dtype=np.float32), None
    )


def test_own_tokens_lie_in_the_text_and_not_in_the_frame() -> None:
    # "Q: ab cd!" with the adversary's part "ab cd"; the tokenizer counts spaces into words.
    frame = Frame("Q: ", "!")
    item = _item((0, 0), (0, 1), (1, 2), (2, 5), (5, 6), (6, 8), (8, 9), (0, 0))
    own = OwnTokens.of(item, frame, "ab cd")
    assert own.spans == ((0, 2), (3, 5))
    assert own.rows == (3, 5)


def test_a_token_across_the_border_is_not_the_adversarys() -> None:
    assert OwnTokens.of(_item((0, 4), (4, 6)), Frame("a", "z"), "bcdef").spans == ((3, 5),)


def test_words_and_their_tokens() -> None:
    own = OwnTokens.of(_item((0, 2), (2, 5), (6, 9)), Frame(), "unfit day")
    assert own.whole((6, 9)) == 2
    assert own.whole((0, 5)) is None
    assert own.first((0, 5)) == 0
    assert own.first((2, 5)) == 1
    assert own.first((3, 5)) is None
    assert own.within((0, 5)) == 2


def test_first_order_is_the_change_of_a_linear_model() -> None:
    target = PlantedTarget()
    vocabulary = target.vocabulary()
    (item,) = drive(UntargetedClassification(0).slopes(["the good film"]), target)[0].items
    change = first_order(item.gradient[2:3], vocabulary)[0]
    change = change - change[item.token_ids[2]]
    # The loss is -(-log p(0)), its slope in the logit -p(1), and "weak" moves the logit by 4 / 4.
    positive = 1 / (1 + np.exp(0.5))
    assert change[1 + WORDS.index("weak")] == pytest.approx(-positive, rel=1e-5)
    assert change[1 + WORDS.index("fair")] == pytest.approx(-positive / 20, rel=1e-5)
    assert change[1 + WORDS.index("plain")] == pytest.approx(0.0, abs=1e-7)


def test_cheapest_tokens_are_allowed_sorted_and_stable() -> None:
    values = np.array([[5, 1, 1, 0, 7], [0, 3, 2, -9, 2]], dtype=np.float32)
    allowed = np.array([True, True, True, False, True])
    assert cheapest_tokens(values, allowed, 3).tolist() == [[1, 2, 0], [0, 2, 4]]
    assert cheapest_tokens(values, allowed, 9).tolist() == [[1, 2, 0, 4], [0, 2, 4, 1]]


def test_word_tokens() -> None:
    spellings = ("", " word", " x", " 12", " été", "ing", " hidden", " .")
    usable = np.array([False, True, True, True, True, True, False, True])
    vocabulary = Vocabulary(np.zeros((8, 1), dtype=np.float32), spellings, usable)

    def chosen(*, letters_only: bool, ascii_only: bool) -> list[int]:
        mask = word_tokens(vocabulary, letters_only=letters_only, ascii_only=ascii_only)
        return np.flatnonzero(mask).tolist()

    assert chosen(letters_only=False, ascii_only=False) == [1, 2, 3, 4, 7]
    assert chosen(letters_only=True, ascii_only=False) == [1, 4]
    assert chosen(letters_only=False, ascii_only=True) == [1, 2, 3, 7]


def test_a_budget_cuts_what_is_asked() -> None:
    target = PlantedTarget()
    goal = BudgetedGoal(UntargetedClassification(0), 5)
    slopes, spent = drive(goal.slopes(["the", "film"]), target)
    assert (len(slopes), spent) == (2, 2)
    look, spent = drive(goal.look(["good"] * 9), target)
    assert look is not None
    assert (len(look.scores), spent) == (3, 3)
    assert drive(goal.look(["good"]), target) == (None, 0)
    assert drive(goal.slopes(["good"]), target) == ((), 0)


def test_a_look_at_generated_text_costs_one_query_more() -> None:
    target = PlantedTarget(kind="causal")
    goal = BudgetedGoal(ForceOutput(Frame(), "yes"), 4)
    look, spent = drive(goal.look(["good"] * 9), target)
    assert look is not None
    assert (len(look.scores), spent) == (3, 4)
    assert drive(BudgetedGoal(ForceOutput(Frame(), "yes"), 1).look(["good"]), target) == (None, 0)


def test_what_these_attacks_cannot_begin_with() -> None:
    with pytest.raises(UserError, match="mine attacks single texts"):
        single_text(("one", "two"), "mine")
    start = begin(PlantedTarget(), "good", UntargetedClassification(0))
    hidden = Start(start.text, start.goal, Predictions(np.zeros((1, 2), dtype=np.float32)))
    with pytest.raises(UserError, match="mine needs a white-box target"):
        needed_vocabulary(hidden, "mine")


def test_when_the_time_is_over_there_is_no_answer() -> None:
    over = TimeBudgetExhaustedError(2.0, 1.0)
    goal = BudgetedGoal(UntargetedClassification(0), None)
    for search, answer in [(goal.look(["good"]), None), (goal.slopes(["good"]), ())]:
        next(search)
        with pytest.raises(StopIteration) as end:
            search.throw(over)
        assert end.value.value == answer
