"""Attacks on the question: mistyped or reworded, until the pipeline fails.

The recipes and the search are those of :mod:`robustlab.attack`; what is here are the goals that a
pipeline has, and the examples. Both goals are decided by the pipeline as it is deployed, with one
``Ask``: what is retrieved and what is answered stand in every outcome.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from robustlab.attack.engine import Search
from robustlab.attack.examples import AttackExample, AttackSet
from robustlab.attack.goals import Frame, Look, Verdict
from robustlab.attack.recipe import Component, Options, Recipe
from robustlab.data.records import Passage, Question
from robustlab.errors import UserError
from robustlab.models.target import (
    Ask,
    FloatArray,
    Gradients,
    Replies,
    Reply,
    Response,
    Retrieval,
    Retrievals,
    Retrieve,
    TextInput,
)
from robustlab.poisoning.measures import measure_reply

__all__ = ["FlipReply", "HideGold", "on_questions", "perturbation_set"]

_Passages: TypeAlias = Mapping[str, Passage]


class _OnQuestions(ABC):
    """What both goals share: the texts are questions, and one Ask decides."""

    __slots__ = ()

    asked: Question
    known: _Passages

    @property
    def frame(self) -> Frame:
        """The pipeline builds the prompt itself."""
        return Frame()

    def question(self, texts: Sequence[TextInput]) -> Ask:
        """One query a text."""
        return Ask(_questions(texts))

    def verdicts(self, response: Response) -> tuple[Verdict, ...]:
        """Each reply decides."""
        assert isinstance(response, Replies)
        return tuple(self.judge(reply) for reply in response.items)

    def slopes(
        self, texts: Sequence[TextInput], shifts: tuple[FloatArray, ...] = ()
    ) -> Search[Gradients]:
        """There are none of a question through a whole pipeline."""
        raise TypeError("a pipeline gives no gradient of its answer to a question")

    @abstractmethod
    def judge(self, reply: Reply) -> Verdict:
        """Whether one reply meets the goal."""

    def _measured(self, reply: Reply) -> dict[str, Any]:
        measured = measure_reply(reply, self.asked, None, self.known, 0)
        del measured["wanted"]
        return measured


@dataclass(frozen=True, slots=True)
class FlipReply(_OnQuestions):
    """The reply no longer resembles a right answer: its token F1 is ``at_most`` or below.

    Candidates are ranked by 1 - F1, and among equals by how unsure the reply is: the geometric
    mean of its tokens' probabilities, the smaller the nearer.
    """

    asked: Question
    known: _Passages
    at_most: float = 0.0

    def judge(self, reply: Reply) -> Verdict:
        """Whether the overlap is small enough."""
        measured = self._measured(reply)
        return Verdict(measured["f1"] <= self.at_most, measured)

    def look(self, texts: Sequence[TextInput]) -> Search[Look]:
        """One query a text, and each of them decides."""
        response = yield self.question(texts)
        assert isinstance(response, Replies)
        verdicts = self.verdicts(response)
        scores = [
            1.0 - verdict.output["f1"] + 0.01 * (1.0 - _confidence(reply))
            for verdict, reply in zip(verdicts, response.items, strict=True)
        ]
        met = [verdict.met for verdict in verdicts]
        return Look(np.array(scores, dtype=np.float64), np.array(met, dtype=bool))


@dataclass(frozen=True, slots=True)
class HideGold(_OnQuestions):
    """No gold passage is among the first ``top_k`` any more.

    Candidates are ranked by how far the best gold passage is behind the k-th of all, in the
    retriever's own scores, looking at the first ``depth``.
    """

    asked: Question
    known: _Passages
    top_k: int
    depth: int = 100

    def judge(self, reply: Reply) -> Verdict:
        """Whether gold is out of what was retrieved."""
        measured = self._measured(reply)
        return Verdict(not measured["gold_retrieved"], measured)

    def look(self, texts: Sequence[TextInput]) -> Search[Look]:
        """One query a text: what is retrieved decides."""
        response = yield Retrieve(_questions(texts), k=max(self.depth, self.top_k))
        assert isinstance(response, Retrievals)
        places = [self._behind(found) for found in response.items]
        met = [not set(self.asked.gold) & set(found.ids[: self.top_k]) for found in response.items]
        return Look(np.array(places, dtype=np.float64), np.array(met, dtype=bool))

    def _behind(self, found: Retrieval) -> float:
        """Score of the k-th passage minus that of the best gold one; the last one's if it is
        not even there."""
        gold = [
            score
            for key, score in zip(found.ids, found.scores, strict=True)
            if key in self.asked.gold
        ]
        border = found.scores[min(self.top_k, len(found.scores)) - 1]
        return border - max(gold, default=found.scores[-1])


def on_questions(recipe: Recipe, goal: str | None = None) -> Recipe:
    """A recipe as an attack on the questions of a pipeline.

    Recipes on the characters or words of a classifier's text are taken as they are, with the goal
    of a reply that shares no word with a right answer; ``goal`` is ``change-answer`` or
    ``hide-gold`` where another one is asked for.

    Raises:
        UserError: a recipe that changes something else, or cannot do without a classifier.
    """
    threat = recipe.threat
    if threat.surface not in ("characters", "words") or threat.part == "context":
        raise UserError(
            f"the recipe {recipe.name} changes {threat.part or threat.surface}, and the adversary "
            "of a pipeline writes questions or passages"
        )
    if recipe.search.kind in ("textattack", "universal", "hotflip"):
        raise UserError(
            f"the recipe {recipe.name} needs a classifier's scores or gradients; attack a pipeline "
            "with query-perturbation, or with a recipe of the methods greedy, random, genetic, "
            "particle-swarm"
        )
    if goal is None:
        goal = threat.goal if threat.goal in ("change-answer", "hide-gold") else "change-answer"
    options = dict(recipe.goal.options) if threat.goal == goal else {}
    if goal == "change-answer":
        options = {"measure": "f1", "at_most": 0.0, **options}
    return replace(
        recipe,
        threat=replace(threat, goal=goal, part="question"),
        goal=Component(goal, options),
    )


def perturbation_set(
    recipe: Recipe,
    questions: Sequence[Question],
    corpus: _Passages,
    data: Mapping[str, Any],
    *,
    top_k: int,
) -> AttackSet:
    """Examples for a recipe of :func:`on_questions`.

    Questions without what the goal is judged by, an answer or a gold passage, are left out; the
    manifest says how many.

    Raises:
        UserError: a goal that is described wrongly, or no question is left.
    """
    make = _goal(recipe, corpus, top_k)
    hides = recipe.threat.goal == "hide-gold"
    examples = tuple(
        AttackExample(question.id, question.text, make(question), list(question.answers))
        for question in questions
        if (any(key in corpus for key in question.gold) if hides else question.answers)
    )
    if not examples:
        lack = "a gold passage in the corpus" if hides else "an answer"
        raise UserError(f"no question has {lack}, so {recipe.name} has nothing to attack")
    left_out = len(questions) - len(examples)
    return AttackSet(examples, {**data, "items": len(examples), "left_out": left_out}, {}, {})


def _goal(
    recipe: Recipe, corpus: _Passages, top_k: int
) -> Callable[[Question], FlipReply | HideGold]:
    options = Options(recipe, "goal", recipe.goal)
    if recipe.threat.goal == "hide-gold":
        options.finish()
        return lambda question: HideGold(question, corpus, top_k)
    options.choice("measure", ("f1",))
    at_most = options.number("at_most")
    options.finish()
    return lambda question: FlipReply(question, corpus, at_most)


def _questions(texts: Sequence[TextInput]) -> tuple[str, ...]:
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("a question is one text, not a pair")
    return tuple(str(text) for text in texts)


def _confidence(reply: Reply) -> float:
    return float(np.exp(min(0.0, reply.log_prob / max(1, reply.tokens))))
