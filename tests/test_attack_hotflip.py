from __future__ import annotations

import numpy as np
import pytest
from planted import UNBREAKABLE, PlantedTarget, begin, builtin, drive, recipe

from robustlab.attack.goals import TargetedClassification, UntargetedClassification
from robustlab.attack.hotflip import hotflip_method
from robustlab.attack.method import Found
from robustlab.attack.words import edits
from robustlab.errors import UserError

SEARCH = """
beam = 2
candidates = 6
per_word = 3
ascii_only = true
"""


def _attack(
    target: PlantedTarget,
    text: str,
    *,
    goal: UntargetedClassification | TargetedClassification | None = None,
    queries: int | None = None,
    max_edits: int | None = None,
    **parts: str,
) -> tuple[Found, int]:
    method = hotflip_method(recipe("hotflip", SEARCH, **parts))
    goal = goal or UntargetedClassification(0)
    start = begin(target, text, goal, queries=queries, max_edits=max_edits)
    return drive(method.attack(start, np.random.default_rng(0)), target, queries=queries)


def test_the_best_substitution_is_found() -> None:
    # Replacing "steady" by "weak" moves the logit by (4 + 0.1) / 5, any other place by 4 / 5.
    found, queries = _attack(PlantedTarget(), "The food, was steady.")
    assert found == Found("The food, was weak.", True)
    # One gradient and one look; of each place only what is expected to help is tried.
    assert queries == 1 + 6


def test_targeted() -> None:
    found, _ = _attack(PlantedTarget(), "the food", goal=TargetedClassification(0, 1))
    assert found == Found("weak food", True)  # of equal places the first


def test_more_words_where_one_is_not_enough() -> None:
    target = PlantedTarget(bias=-1.5)
    found, _ = _attack(target, "the food was good")  # two of "weak" make 8 / 5 = 1.6
    assert found.claims_success
    assert found.text.split().count("weak") == 2


def test_words_of_several_tokens_stay() -> None:
    found, _ = _attack(PlantedTarget(), "unheard tapestry good")
    assert found == Found("unheard tapestry weak", True)


@pytest.mark.parametrize("limits", [{"max_edits": 1}, {"budget": "max_edit_rate = 0.25"}])
def test_the_limit_of_edits_holds(limits: dict[str, object]) -> None:
    target = PlantedTarget(bias=-1.5)
    found, _ = _attack(target, "the food was good", **limits)  # type: ignore[arg-type]
    assert not found.claims_success
    assert found.text.split().count("weak") == 1


def test_constraints_hold() -> None:
    stopwords = '[[constraint]]\nkind = "stopwords"\nstopwords = ["steady"]\nignore_case = true'
    found, _ = _attack(PlantedTarget(), "Steady food", constraints=stopwords)
    assert found == Found("Steady weak", True)
    similar = (
        '[[constraint]]\nkind = "sentence-similarity"\nencoder = "builtin:retriever"\n'
        "min_cosine = 1.0"
    )
    found, queries = _attack(PlantedTarget(), "the food", constraints=similar)
    assert found == Found("the food", False)
    assert queries == 1


@pytest.mark.parametrize("queries", [0, 1, 4, 9])
def test_the_budget_is_kept_and_the_best_returned(queries: int) -> None:
    target = PlantedTarget(bias=-2.9)
    found, spent = _attack(target, "the food was good", queries=queries)
    assert not found.claims_success
    assert spent <= queries
    assert (found.text == "the food was good") is (queries < 2)


def test_what_cannot_be_broken_is_not_claimed() -> None:
    found, _ = _attack(PlantedTarget(bias=UNBREAKABLE), "the food was good")
    assert not found.claims_success


def test_options_are_read_strictly() -> None:
    with pytest.raises(UserError, match=r"lacks a key: search\.per_word"):
        hotflip_method(recipe("hotflip", SEARCH.replace("per_word = 3", "")))
    with pytest.raises(UserError, match=r"unknown key: search\.width"):
        hotflip_method(recipe("hotflip", SEARCH + "width = 3"))


@pytest.mark.parametrize(
    ("text", "truth"),
    [
        ("I love this place, and the soup was wonderful.", 1),
        ("A dull film. The story is thin and the songs are awful.", 0),
    ],
)
def test_the_built_in_classifier_is_broken_with_few_words(text: str, truth: int) -> None:
    target = builtin("classifier")
    goal = UntargetedClassification(truth)
    search = SEARCH.replace("candidates = 6", "candidates = 24")
    method = hotflip_method(recipe("hotflip", search, budget="max_edits = 3"))
    start = begin(target, text, goal)
    assert not goal.verdicts(start.answer)[0].met
    found, _ = drive(method.attack(start, np.random.default_rng(0)), target)
    assert found.claims_success
    assert goal.verdicts(target.answer(goal.question([found.text])))[0].met
    assert edits(text, found.text) <= 3
