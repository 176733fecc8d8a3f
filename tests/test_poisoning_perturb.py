"""Attacks on the question of a pipeline: their goals, their recipes, their examples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from poison_fakes import CORPUS, QUESTIONS, yard

from robustlab.attack.campaign import Campaign
from robustlab.attack.goals import Goal, Look
from robustlab.attack.recipe import Recipe, load_recipe
from robustlab.errors import UserError
from robustlab.models.target import Ask, Embed, Embeddings, Request, Response, Retrieve
from robustlab.poisoning.perturb import FlipReply, HideGold, on_questions, perturbation_set
from robustlab.runs import RunDirectory

PASSAGES = {passage.id: passage for passage in CORPUS.passages}
OWL = QUESTIONS[0]
DATA = {"spec": "yard", "name": "yard", "split": "test", "items": 3, "available": 3,
        "fingerprint": "yard"}  # fmt: skip


def recipe(name: str) -> Recipe:
    found = load_recipe(name)
    assert isinstance(found, Recipe)
    return found


def look(goal: Goal, *texts: str, top_k: int = 1) -> tuple[Look, list[Request]]:
    """What a goal finds of candidates, and what it asked."""
    pipeline = yard(top_k=top_k)
    search = goal.look(texts)
    asked: list[Request] = [next(search)]
    while True:
        try:
            asked.append(search.send(pipeline.answer(asked[-1])))
        except StopIteration as end:
            return end.value, asked


def test_a_flipped_reply() -> None:
    found, asked = look(FlipReply(OWL, PASSAGES), "who hoots?", "who hxxts?")
    assert [type(request) for request in asked] == [Ask]
    assert found.met.tolist() == [False, True]
    assert found.best == 1
    # 1 - F1, and a hundredth of the reply's doubt: exp(-0.5) a token, nothing known being one.
    doubt = 0.01 * (1 - np.exp(-0.5))
    np.testing.assert_allclose(found.scores, [doubt, 1 + doubt])


def test_hidden_gold() -> None:
    found, asked = look(HideGold(OWL, PASSAGES, top_k=1), "who hoots?", "who hxxts?")
    assert [type(request) for request in asked] == [Retrieve]
    assert found.met.tolist() == [False, True]
    np.testing.assert_allclose(found.scores, [0.0, 0.1])  # owl second: 0.9 - 0.8
    goal = HideGold(OWL, PASSAGES, top_k=1)
    verdict = goal.verdicts(yard(top_k=1).answer(goal.question(["who hxxts?"])))[0]
    assert verdict.met
    assert verdict.output["gold_retrieved"] is False
    assert verdict.output["retrieved"] == ["cow"]
    assert "wanted" not in verdict.output


def test_a_pipeline_has_no_slopes() -> None:
    with pytest.raises(TypeError, match="no gradient"):
        next(iter(FlipReply(OWL, PASSAGES).slopes(["x"])))


def test_any_recipe_on_characters_or_words_attacks_questions() -> None:
    taken = on_questions(recipe("bad-characters"))
    assert (taken.threat.goal, taken.threat.part) == ("change-answer", "question")
    assert taken.goal.options == {"measure": "f1", "at_most": 0.0}
    assert taken.text == recipe("bad-characters").text
    hidden = on_questions(recipe("query-perturbation"), "hide-gold")
    assert (hidden.threat.goal, dict(hidden.goal.options)) == ("hide-gold", {})
    assert on_questions(recipe("hide-gold")).threat.goal == "hide-gold"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gcg-suffix", "changes context"),
        ("pgd", "changes embeddings"),
        ("hotflip", "needs a classifier's scores or gradients"),
        ("deepwordbug", "needs a classifier's scores or gradients"),
    ],
)
def test_recipes_that_cannot(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        on_questions(recipe(name))


def test_questions_that_cannot_be_judged_are_left_out() -> None:
    bare = replace(OWL, id="q9", answers=(), gold=("nowhere",))
    asked = [*QUESTIONS, bare]
    plan = on_questions(recipe("query-perturbation"))
    found = perturbation_set(plan, asked, PASSAGES, DATA, top_k=1)
    assert [example.id for example in found.examples] == ["q1", "q2", "q3"]
    assert (found.data["items"], found.data["left_out"]) == (3, 1)
    with pytest.raises(UserError, match="no question has a gold passage in the corpus"):
        perturbation_set(on_questions(plan, "hide-gold"), [bare], PASSAGES, DATA, top_k=1)


class Unmoved:
    """A sentence encoder to which all texts are alike."""

    spec = "unmoved"
    kind = "retriever"
    label_names = ()
    answers = frozenset({Embed})

    def answer(self, request: Request) -> Response:
        assert isinstance(request, Embed)
        return Embeddings(np.ones((len(request.texts), 1), dtype=np.float32))

    def fingerprint(self) -> str:
        return "unmoved"

    def describe(self) -> Mapping[str, Any]:
        return {}


@pytest.mark.parametrize("name", ["query-perturbation", "hide-gold"])
def test_a_campaign_on_questions(tmp_path: Path, name: str) -> None:
    pipeline = yard(top_k=1)
    plan = on_questions(recipe(name))
    made = Campaign(
        pipeline,
        perturbation_set(plan, QUESTIONS, PASSAGES, DATA, top_k=1),
        plan,
        seed=0,
        encoder=Unmoved(),
    )
    run = RunDirectory.create(tmp_path / "run", made.manifest(arguments={}))
    made.run(run)
    outcomes = {one["id"]: one for one in run.outcomes()}
    # A mistyped question brings the cow: what was asked about the owl and the hen is lost.
    assert outcomes["q1"]["status"] == outcomes["q2"]["status"] == "succeeded"
    assert outcomes["q1"]["perturbed"] != outcomes["q1"]["original"]
    assert outcomes["q1"]["original_output"]["gold_retrieved"] is True
    assert outcomes["q1"]["perturbed_output"]["gold_retrieved"] is False
    assert outcomes["q3"]["status"] == ("skipped" if name == "query-perturbation" else "failed")
