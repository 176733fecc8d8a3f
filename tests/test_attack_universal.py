from __future__ import annotations

import json

import numpy as np
import pytest
from planted import UNBREAKABLE, PlantedTarget, begin, builtin, drive, recipe

from robustlab.attack.goals import TargetedClassification, UntargetedClassification
from robustlab.attack.method import Found, Start, UniversalMethod
from robustlab.attack.universal import universal_method
from robustlab.errors import UserError

SEARCH = """
length = 2
init = "the"
examples = 100
passes = 2
batch = 2
candidates = 3
beam = 2
per_class = true
ascii_only = true
"""
NEGATIVE = ["the food", "good view", "the long film", "room"]
POSITIVE = ["weak food", "weak", "a weak film"]


def _method(search: str = SEARCH, **parts: str) -> UniversalMethod:
    method = universal_method(recipe("universal", search, **parts))
    assert isinstance(method, UniversalMethod)
    return method


def _starts(target: PlantedTarget) -> list[Start]:
    negative = [begin(target, text, UntargetedClassification(0)) for text in NEGATIVE]
    return negative + [begin(target, text, UntargetedClassification(1)) for text in POSITIVE]


def test_one_trigger_a_class() -> None:
    target, method = PlantedTarget(), _method()
    learned, _ = drive(method.fit(_starts(target), np.random.default_rng(0)), target)
    assert learned["trigger"] == {"0": "weak weak", "1": "strong strong"}
    assert learned["train_success"] == 1.0
    assert [entry["class"] for entry in learned["history"]] == [0, 0, 1, 1]
    assert json.loads(json.dumps(learned)) == learned
    ready = method.fitted(json.loads(json.dumps(learned)))
    assert not isinstance(ready, UniversalMethod)
    for text, truth, expected in [("long room", 0, "weak weak"), ("weak", 1, "strong strong")]:
        start = begin(target, text, UntargetedClassification(truth))
        found, queries = drive(ready.attack(start, np.random.default_rng(0)), target)
        assert found == Found(f"{expected} {text}", True, {"trigger": expected})
        assert queries == 1


def test_one_trigger_for_all_turns_one_class_only() -> None:
    target = PlantedTarget()
    method = _method(SEARCH.replace("per_class = true", "per_class = false"))
    learned, _ = drive(method.fit(_starts(target), np.random.default_rng(0)), target)
    assert learned["trigger"] == "weak weak"  # there are more texts of class 0
    assert learned["train_success"] == pytest.approx(4 / 7)
    ready = method.fitted(learned)
    start = begin(target, "weak", UntargetedClassification(1))
    found, _ = drive(ready.attack(start, np.random.default_rng(0)), target)
    assert not found.claims_success


def test_targeted() -> None:
    target, method = PlantedTarget(), _method()
    starts = [begin(target, text, TargetedClassification(0, 1)) for text in NEGATIVE]
    learned, _ = drive(method.fit(starts, np.random.default_rng(0)), target)
    assert learned["trigger"] == {"0": "weak weak"}


def test_what_cannot_be_broken_is_not_claimed() -> None:
    target, method = PlantedTarget(bias=UNBREAKABLE), _method()
    starts = [begin(target, text, UntargetedClassification(0)) for text in NEGATIVE]
    learned, _ = drive(method.fit(starts, np.random.default_rng(0)), target)
    assert learned["train_success"] == 0.0
    ready = method.fitted(learned)
    found, _ = drive(ready.attack(starts[0], np.random.default_rng(0)), target)
    assert not found.claims_success


def test_the_same_seed_gives_the_same_trigger() -> None:
    target, method = PlantedTarget(), _method()
    results = [
        drive(method.fit(_starts(target), np.random.default_rng(1)), target)[0] for _ in range(2)
    ]
    assert results[0] == results[1]


@pytest.mark.parametrize(
    ("more", "reason"),
    [({"max_edits": 1}, "the constraints do not allow it"), ({"queries": 0}, None)],
)
def test_limits_hold(more: dict[str, int], reason: str | None) -> None:
    target = PlantedTarget()
    ready = _method().fitted({"trigger": {"0": "weak weak"}})
    start = begin(target, "room", UntargetedClassification(0), **more)
    found, queries = drive(ready.attack(start, np.random.default_rng(0)), target)
    assert (found.claims_success, queries) == (False, 0)
    assert found.notes is not None
    assert found.notes.get("reason") == reason


def test_a_class_without_a_trigger() -> None:
    target = PlantedTarget()
    ready = _method().fitted({"trigger": {"0": "weak weak"}})
    start = begin(target, "weak", UntargetedClassification(1))
    found, queries = drive(ready.attack(start, np.random.default_rng(0)), target)
    assert (found.text, found.claims_success, queries) == ("weak", False, 0)


def test_what_it_refuses() -> None:
    with pytest.raises(UserError, match="attacks classifiers only"):
        _method(goal="force-output")
    with pytest.raises(UserError, match="and there are none"):
        drive(_method().fit([], np.random.default_rng(0)), PlantedTarget())
    start = begin(PlantedTarget(), "room", UntargetedClassification(0))
    with pytest.raises(RuntimeError, match="fitted on training examples first"):
        drive(_method().attack(start, np.random.default_rng(0)), PlantedTarget())


def test_the_built_in_classifier_has_a_trigger() -> None:
    target = builtin("classifier")
    search = SEARCH.replace("length = 2", "length = 3").replace("batch = 2", "batch = 3")
    method = _method(search.replace("candidates = 3", "candidates = 16"))
    goal = UntargetedClassification(0)
    texts = [
        "The soup was cold and the waiter was rude.",
        "It broke on the second day and nobody answers my mails.",
        "A dull film with a thin story.",
    ]
    starts = [begin(target, text, goal) for text in texts]
    learned, _ = drive(method.fit(starts, np.random.default_rng(0)), target)
    ready = method.fitted(learned)
    fresh = "The bed was hard, the room was dirty and it smelled of smoke."
    start = begin(target, fresh, goal)
    assert not goal.verdicts(start.answer)[0].met
    found, _ = drive(ready.attack(start, np.random.default_rng(0)), target)
    assert learned["train_success"] == 1.0
    assert found.claims_success
