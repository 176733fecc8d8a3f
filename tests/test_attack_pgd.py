from __future__ import annotations

import numpy as np
import pytest
from planted import UNBREAKABLE, PlantedTarget, begin, builtin, drive, recipe

from robustlab.attack.goals import UntargetedClassification
from robustlab.attack.method import Found
from robustlab.attack.pgd import pgd_method
from robustlab.errors import UserError

SEARCH = """
norm = "l2"
radius = 0.5
steps = 4
step_size = 0.5
restarts = 2
"""


def _attack(
    target: PlantedTarget, search: str = SEARCH, *, queries: int | None = None, seed: int = 0
) -> tuple[Found, int]:
    method = pgd_method(recipe("pgd", search))
    start = begin(target, "the food", UntargetedClassification(0), queries=queries)
    return drive(method.attack(start, np.random.default_rng(seed)), target, queries=queries)


def _unit(target: PlantedTarget) -> float:
    return float(np.linalg.norm(target.vocabulary().embeddings, axis=1).mean())


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_the_radius_decides(norm: str) -> None:
    # Of 3 tokens 2 are the adversary's. The model sees one coordinate only, in which an l2 ball is
    # as wide as its radius, and a cube as wide as radius / sqrt(width): the logit moves by 2/3 of
    # that.
    target = PlantedTarget(bias=-1.0)
    reach = 2 / 3 * _unit(target) / (1.0 if norm == "l2" else np.sqrt(5))
    for factor, succeeds in [(1.02, True), (0.98, False)]:
        search = SEARCH.replace('"l2"', f'"{norm}"').replace(
            "0.5\nsteps", f"{factor / reach}\nsteps"
        )
        found, _ = _attack(target, search)
        assert found.claims_success is succeeds
        assert found.embedded
        assert found.text == "the food"
        assert found.notes is not None
        assert found.notes["output"]["label"] == int(succeeds)


def test_shifts_stay_in_the_ball() -> None:
    target = PlantedTarget(bias=UNBREAKABLE)
    found, queries = _attack(target, SEARCH.replace("step_size = 0.5", "step_size = 9.0"))
    assert not found.claims_success
    assert found.notes is not None
    assert found.notes["largest_shift"] == pytest.approx(0.5 * _unit(target), rel=1e-5)
    assert queries == 2 * (4 + 1)


@pytest.mark.parametrize("queries", [0, 1, 7])
def test_the_budget_is_kept(queries: int) -> None:
    found, spent = _attack(PlantedTarget(bias=UNBREAKABLE), queries=queries)
    assert spent == queries
    assert not found.claims_success


def test_the_same_seed_gives_the_same_result() -> None:
    target = PlantedTarget(bias=-3.0)
    assert _attack(target, seed=1) == _attack(target, seed=1)


def test_generated_text_is_refused() -> None:
    with pytest.raises(UserError, match="attacks classifiers only"):
        pgd_method(recipe("pgd", SEARCH, goal="force-output"))


def test_constraints_on_the_text_are_refused() -> None:
    with pytest.raises(UserError, match=r"bounded by search\.radius"):
        pgd_method(recipe("pgd", SEARCH, constraints='[[constraint]]\nkind = "max-edits"'))


def test_the_built_in_classifier_is_broken_within_a_small_ball() -> None:
    target = builtin("classifier")
    goal = UntargetedClassification(0)
    start = begin(target, "The soup was cold and the waiter was rude.", goal)
    assert not goal.verdicts(start.answer)[0].met
    for radius, succeeds in [(0.5, True), (0.001, False)]:
        method = pgd_method(recipe("pgd", SEARCH.replace("0.5\nsteps", f"{radius}\nsteps")))
        found, _ = drive(method.attack(start, np.random.default_rng(0)), target)
        assert found.claims_success is succeeds
