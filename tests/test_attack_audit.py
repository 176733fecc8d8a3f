"""What a reviewer asks, and models whose robustness is known."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from attack_fakes import REVIEWS, WordTarget

from robustlab.attack import campaign as campaigns
from robustlab.attack.audit import audit
from robustlab.attack.campaign import Campaign
from robustlab.attack.engine import Search
from robustlab.attack.examples import classification_set
from robustlab.attack.known import Brittle, Unbreakable
from robustlab.attack.method import Found, Method, Start
from robustlab.attack.recipe import Recipe, parse_recipe
from robustlab.models.target import Predict, Predictions, TextInput
from robustlab.runs import RunDirectory

RECIPE = """
name    = "blank"
summary = "Takes one word after another away"
paper   = "none"
[threat]
goal      = "untargeted-classification"
knowledge = "score"
surface   = "words"
[budget]
{budget}
[search]
method = "{method}"
"""


class Blank:
    """Blanks words from the left until the goal is met; ``lies`` claims success without a look."""

    def __init__(self, words: int, lies: bool) -> None:
        self.words = words
        self.lies = lies

    def broken(self, original: TextInput, perturbed: TextInput) -> Search[str | None]:
        return None
        yield  # a coroutine that asks nothing

    def attack(self, start: Start, rng: np.random.Generator) -> Search[Found]:
        words = str(start.text).split()
        for place in range(min(self.words, len(words))):
            words[place] = "x"
            text = " ".join(words)
            look = yield from start.goal.look([text])
            if look.met[0] or self.lies:
                return Found(text, claims_success=True)
        return Found(" ".join(words), claims_success=False)


def build(recipe: Recipe) -> Method:
    words = {"blank": 20, "timid": 0}.get(recipe.search.kind, 1)
    return Blank(words, recipe.search.kind == "liar")


@pytest.fixture(autouse=True)
def _with_blank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(campaigns, "build_method", build)


def audited(
    folder: Path, *, method: str = "blank", budget: str = "queries = 50"
) -> dict[str, dict[str, str]]:
    recipe = parse_recipe(RECIPE.format(method=method, budget=budget), "blank.toml")
    assert isinstance(recipe, Recipe)
    target = WordTarget()
    examples = classification_set(target, REVIEWS, recipe, data_spec="m", limit=None, seed=1)
    campaign = Campaign(target, examples, recipe, seed=1)
    with RunDirectory.create(folder, campaign.manifest(arguments={})) as run:
        campaign.run(run)
    checks = audit(folder, {"blank": campaign}, {"blank": run}, examples=4)
    return {entry["check"]: entry for entry in checks}


def verdicts(checks: dict[str, dict[str, str]], words: str) -> tuple[str, str]:
    (found,) = (entry for name, entry in checks.items() if words in name)
    return found["verdict"], found["evidence"]


def test_a_sound_attack_passes(tmp_path: Path) -> None:
    checks = audited(tmp_path / "run")
    warned = {name for name, entry in checks.items() if entry["verdict"] == "warn"}
    assert warned <= {"success reaches nearly everything when the budget is unbounded"}
    assert verdicts(checks, "planted weakness")[0] == "pass"
    assert verdicts(checks, "cannot be broken") == ("pass", "none by blank")
    assert verdicts(checks, "weights are fixed")[0] == "pass"
    assert verdicts(checks, "eval mode")[0] == "pass"
    assert verdicts(checks, "gradients")[0] == "not applicable"
    assert verdicts(checks, "worst case")[0] == "not applicable"
    assert (tmp_path / "run" / "audit" / "brittle-blank" / "outcomes.jsonl").is_file()


def test_an_attack_that_does_nothing_is_found_out(tmp_path: Path) -> None:
    checks = audited(tmp_path / "run", method="timid")
    assert verdicts(checks, "planted weakness") == ("warn", "blank breaks only 0%")
    assert verdicts(checks, "unbounded")[0] == "warn"
    verdict, evidence = verdicts(checks, "random changes")
    assert (verdict, "blank 0%" in evidence) == ("warn", True)


def test_claims_that_do_not_hold_are_found_out(tmp_path: Path) -> None:
    checks = audited(tmp_path / "run", method="liar")
    verdict, evidence = verdicts(checks, "judged anew")
    assert verdict == "warn"
    assert "claimed and not confirmed" in evidence
    # The campaign judges anew, so that not even a liar succeeds on what cannot be broken.
    assert verdicts(checks, "cannot be broken")[0] == "pass"


def test_no_budget_is_no_threat_model(tmp_path: Path) -> None:
    checks = audited(tmp_path / "run", budget="")
    assert verdicts(checks, "threat model")[0] == "warn"
    assert verdicts(checks, "doubling")[0] == "not applicable"


def test_an_audit_that_was_cut_off_goes_on(tmp_path: Path) -> None:
    first = audited(tmp_path / "run")
    recipe = parse_recipe(RECIPE.format(method="blank", budget="queries = 50"), "blank.toml")
    assert isinstance(recipe, Recipe)
    target = WordTarget()
    examples = classification_set(target, REVIEWS, recipe, data_spec="m", limit=None, seed=1)
    campaign = Campaign(target, examples, recipe, seed=1)
    run = RunDirectory.open(tmp_path / "run")
    again = audit(tmp_path / "run", {"blank": campaign}, {"blank": run}, examples=4)
    assert {entry["check"]: entry for entry in again} == first


def labels(target: Any, texts: Sequence[str]) -> list[int]:
    answer = target.answer(Predict(tuple(texts)))
    assert isinstance(answer, Predictions)
    np.testing.assert_allclose(answer.probabilities.sum(axis=1), 1, atol=1e-6)
    return [int(label) for label in answer.labels]


def test_known_models_are_what_they_are_called() -> None:
    target = WordTarget()
    assert labels(Unbreakable(target, 0), ["good", "bad"]) == [0, 0]
    brittle = Brittle(target, 1, 0, ["good"])
    assert labels(brittle, ["good", "good!", "bad"]) == [1, 0, 0]
    assert brittle.fingerprint() == target.fingerprint()
    assert brittle.describe()["spec"] == "brittle(fake:words)"
