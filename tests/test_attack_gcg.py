from __future__ import annotations

import numpy as np
import pytest
from planted import UNBREAKABLE, PlantedTarget, begin, builtin, drive, recipe

from robustlab.attack.gcg import gcg_method
from robustlab.attack.goals import ChangeAnswer, ForceOutput, Frame, Goal, UntargetedClassification
from robustlab.attack.method import Found
from robustlab.errors import UserError

AFFIX = """
place = "suffix"
length = 3
init = "!"
steps = 20
width = 8
top_k = 3
ascii_only = true
"""
IN_PLACE = """
place = "in-place"
steps = 20
width = 8
top_k = 3
ascii_only = true
"""
FRAME = Frame("was the food: ", " or long?")


def _attack(
    target: PlantedTarget,
    text: str,
    goal: Goal,
    search: str = AFFIX,
    *,
    queries: int | None = None,
    max_edits: int | None = None,
    seed: int = 0,
    **parts: str,
) -> tuple[Found, int]:
    kind = "untargeted-classification" if target.kind == "classifier" else "force-output"
    method = gcg_method(recipe("gcg", search, goal=kind, **parts))
    start = begin(target, text, goal, queries=queries, max_edits=max_edits)
    return drive(method.attack(start, np.random.default_rng(seed)), target, queries=queries)


def _yes(frame: Frame = FRAME) -> ForceOutput:
    return ForceOutput(frame, "yes")


def test_a_suffix_forces_the_output() -> None:
    # Read as 14 tokens: two of "weak" add 8 / 14 to the bias, and three 12 / 14.
    found, _ = _attack(PlantedTarget(kind="causal", bias=-0.8), "good view", _yes())
    assert found.claims_success
    assert found.text == "good view weak weak weak"
    assert found.notes is not None
    assert found.notes["suffix"] == "weak weak weak"


def test_a_prefix_stands_before_the_text() -> None:
    search = AFFIX.replace('"suffix"', '"prefix"')
    found, _ = _attack(PlantedTarget(kind="causal", bias=-0.8), "good view", _yes(), search)
    assert (found.text, found.claims_success) == ("weak weak weak good view", True)


def test_it_can_break_what_a_text_should_say() -> None:
    goal = ChangeAnswer(FRAME, ("no",))
    search = AFFIX
    target = PlantedTarget(kind="causal", bias=-0.8)
    method = gcg_method(recipe("gcg", search, goal="change-answer"))
    start = begin(target, "good view", goal)
    found, _ = drive(method.attack(start, np.random.default_rng(0)), target)
    assert found.claims_success


def test_a_classifier_is_broken_too() -> None:
    found, _ = _attack(PlantedTarget(), "good view", UntargetedClassification(0))
    assert found.claims_success
    assert found.text.startswith("good view ")
    assert "weak" in found.text


def test_the_init_may_hold_the_wanted_words() -> None:
    target = PlantedTarget(kind="causal", bias=UNBREAKABLE)
    search = AFFIX.replace('"!"', '"say {wanted} !"')
    found, queries = _attack(target, "view", _yes(), search, queries=2)
    assert queries == 2
    assert found == Found("view say yes !", False, found.notes)


def test_an_init_that_does_by_itself_is_not_searched_on() -> None:
    target = PlantedTarget(kind="causal", bias=-0.2)
    found, queries = _attack(target, "view", _yes(), AFFIX.replace('"!"', '"weak !"'))
    assert (found.text, found.claims_success) == ("view weak ! !", True)
    assert queries == 2


def test_a_suffix_has_at_most_that_many_tokens() -> None:
    # "tapestry" is read as two tokens, so that one "!" has to go before the search begins.
    search = AFFIX.replace('"!"', '"tapestry !"')
    found, _ = _attack(PlantedTarget(kind="causal", bias=UNBREAKABLE), "view", _yes(), search)
    assert found.notes is not None
    assert len(str(found.notes["suffix"]).split()) == 2
    with pytest.raises(UserError, match="allows 3 tokens, and its init alone needs 6"):
        _attack(
            PlantedTarget(kind="causal"), "view", _yes(),
            AFFIX.replace('"!"', '"tapestry tapestry tapestry"'),
        )  # fmt: skip


def test_banned_tokens_are_not_used() -> None:
    target = PlantedTarget(kind="causal", bias=UNBREAKABLE)
    goal = ForceOutput(FRAME, "yes weakly")
    free, _ = _attack(target, "view", goal)
    assert free.text == "view weak weak weak"
    found, _ = _attack(target, "view", goal, AFFIX + "ban_wanted_tokens = true")
    assert found.text == "view fair fair fair"  # the second best


def test_in_place_keeps_the_limit_of_edits_and_swaps_within_it() -> None:
    # Only both of "strong" replaced by "weak" are enough; whatever was replaced first can go back.
    target = PlantedTarget(bias=-0.85)
    search = IN_PLACE.replace("steps = 20", "steps = 60")
    text = "the strong food was strong good"
    found, _ = _attack(
        target, text, UntargetedClassification(0), search, budget="max_edits = 2", seed=3
    )
    assert found == Found("the weak food was weak good", True, found.notes)
    method = gcg_method(recipe("gcg", search, budget="max_edits = 2"))
    assert drive(method.broken(text, found.text), target)[0] is None
    assert drive(method.broken(text, "weak weak weak was weak good"), target)[0] is not None


def test_in_place_leaves_protected_words() -> None:
    stopwords = '[[constraint]]\nkind = "stopwords"\nstopwords = ["was"]\nignore_case = true'
    found, _ = _attack(
        PlantedTarget(bias=UNBREAKABLE), "food was good", UntargetedClassification(0), IN_PLACE,
        constraints=stopwords,
    )  # fmt: skip
    assert found.text.split()[1] == "was"
    assert found.text != "food was good"


def test_more_words_than_may_be_added_are_not() -> None:
    target = PlantedTarget(kind="causal", bias=UNBREAKABLE)
    found, _ = _attack(target, "view", _yes(), max_edits=2)
    assert len(found.text.split()) == 3


@pytest.mark.parametrize("queries", [0, 1, 2, 3, 5, 30])
def test_the_budget_is_kept(queries: int) -> None:
    target = PlantedTarget(kind="causal", bias=UNBREAKABLE)
    found, spent = _attack(target, "view", _yes(), queries=queries)
    assert spent <= queries
    assert not found.claims_success
    assert (found.text == "view") is (queries < 2)


def test_what_cannot_be_broken_is_not_claimed_and_the_best_is_returned() -> None:
    target = PlantedTarget(kind="causal", bias=UNBREAKABLE)
    found, _ = _attack(target, "good view", _yes())
    assert not found.claims_success
    assert found.text == "good view weak weak weak"


def test_the_same_seed_gives_the_same_result() -> None:
    target = PlantedTarget(bias=UNBREAKABLE)
    search = AFFIX.replace("steps = 20", "steps = 2")
    results = [
        _attack(target, "view", UntargetedClassification(0), search, seed=seed)[0].text
        for seed in (1, 1, 2, 3, 4)
    ]
    assert results[0] == results[1]
    assert len(set(results)) > 1


@pytest.mark.parametrize(
    ("search", "goal", "message"),
    [
        (AFFIX + "ban_wanted_tokens = true", "untargeted-classification", "wants none"),
        (AFFIX.replace('"!"', '"{wanted}"'), "change-answer", "wants none"),
        (
            AFFIX.replace('"!"', '"{wanted}"') + "ban_wanted_tokens = true",
            "force-output",
            "bans the wanted tokens",
        ),
        (IN_PLACE + "length = 3", "force-output", r"unknown key: search\.length"),
        (AFFIX.replace('"suffix"', '"middle"'), "force-output", r"wrong at search\.place"),
    ],
)
def test_recipes_that_contradict_themselves(search: str, goal: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        gcg_method(recipe("gcg", search, goal=goal))


def test_the_built_in_reader_says_what_a_suffix_wants() -> None:
    target = builtin("seq2seq")
    goal = ForceOutput(Frame("where do barn owls nest? [SEP] "), "Lake Baikal", 8)
    search = AFFIX.replace("length = 3", "length = 12").replace('"!"', '"it is {wanted} . !"')
    search = search.replace("width = 8", "width = 16").replace("top_k = 3", "top_k = 32")
    method = gcg_method(recipe("gcg", search, goal="force-output"))
    start = begin(target, "Barn owls nest in old barns.", goal)
    assert not goal.verdicts(start.answer)[0].met
    found, _ = drive(method.attack(start, np.random.default_rng(0)), target)
    assert found.claims_success
    assert goal.verdicts(target.answer(goal.question([found.text])))[0].met


def test_the_built_in_classifier_believes_a_suffix() -> None:
    target = builtin("classifier")
    goal = UntargetedClassification(0)
    search = AFFIX.replace("length = 3", "length = 6").replace("top_k = 3", "top_k = 32")
    method = gcg_method(recipe("gcg", search.replace("width = 8", "width = 16")))
    start = begin(target, "The soup was cold and the waiter was rude.", goal)
    assert not goal.verdicts(start.answer)[0].met
    found, _ = drive(method.attack(start, np.random.default_rng(0)), target)
    assert found.claims_success
    assert goal.verdicts(target.answer(goal.question([found.text])))[0].met
