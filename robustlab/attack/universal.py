"""Universal adversarial triggers: a few words that change the output whatever text they precede.

References:
    Wallace et al. 2019, "Universal Adversarial Triggers for Attacking and Analyzing NLP",
    arXiv:1908.07125
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from robustlab.attack.constraints import Constraints, build_constraints
from robustlab.attack.engine import Search
from robustlab.attack.goals import Goal, TargetedClassification, UntargetedClassification
from robustlab.attack.method import Found, Method, Start
from robustlab.attack.recipe import Options, Recipe
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
from robustlab.models.target import TextInput, Vocabulary

__all__ = ["FittedTrigger", "UniversalTrigger", "universal_method"]

Trigger: TypeAlias = tuple[str, ...]
"""Its words."""


@dataclass(frozen=True, slots=True)
class FittedTrigger:
    """Puts the learned trigger before the text, and looks once.

    ``triggers``: by true class where each has its own, else one under None.
    """

    name: str
    constraints: Constraints
    triggers: Mapping[int | None, str]

    def attack(self, start: Start, rng: np.random.Generator) -> Search[Found]:
        """One query; none, and no success, where the trigger has more words than may be added."""
        text = single_text(start.text, self.name)
        truth = _truth(start.goal)
        trigger = self.triggers.get(truth if None not in self.triggers else None)
        if trigger is None:
            return Found(text, False, {"trigger": None, "reason": "none learned for this class"})
        notes = {"trigger": trigger}
        candidate = f"{trigger} {text}"
        (allowed,) = yield from self.constraints.allows(text, [candidate], start.max_edits)
        if not allowed:
            return Found(text, False, {**notes, "reason": "the constraints do not allow it"})
        look = yield from BudgetedGoal(start.goal, start.queries_left).look([candidate])
        return Found(candidate, look is not None and bool(look.met[0]), notes)

    def broken(self, original: TextInput, perturbed: TextInput) -> Search[str | None]:
        """The first constraint of the recipe that is broken."""
        return self.constraints.broken(original, perturbed)


@dataclass(frozen=True, slots=True)
class UniversalTrigger:
    """Learns a trigger from training examples, by gradients averaged over batches of them.

    For each batch the gradients at the trigger's words are averaged over its texts; at each place
    the ``candidates`` words that the first-order estimate prefers are tried on the batch, place by
    place from left to right, and the ``beam`` best triggers go on. A batch may only improve the
    trigger. After every pass the trigger is measured on all training examples that it is for, and
    the best one of all passes is what is learned.

    ``per_class``: one trigger for each true class, learned from the examples of this class alone
    and later put before texts of this class alone, as in the paper: the adversary has to know the
    class of a text, as it knows it for any untargeted goal. Otherwise one trigger for all. With
    two classes that one can only push every text into one of them, so that about half of them
    become wrong and hardly more.
    """

    name: str
    constraints: Constraints
    length: int
    init: str
    examples: int
    passes: int
    batch: int
    candidates: int
    beam: int
    per_class: bool
    ascii_only: bool

    def fit(self, starts: Sequence[Start], rng: np.random.Generator) -> Search[Mapping[str, Any]]:
        """Learn. The queries are those of training, no example's.

        Returns ``trigger`` (a text; with ``per_class`` one by the number of each true class, as
        text), ``train_success`` (the share of training examples that meet their goal behind their
        trigger) and ``history`` (for every pass: class, pass, trigger and success then).

        Raises:
            UserError: no examples, pairs of texts, or a target that is no white box.
        """
        if not starts:
            raise UserError(
                f"the recipe {self.name} learns its trigger from training examples that the "
                "target gets right, and there are none"
            )
        groups: dict[int | None, list[Start]] = {}
        for start in starts:
            groups.setdefault(_truth(start.goal) if self.per_class else None, []).append(start)
        triggers: dict[int | None, str] = {}
        history: list[dict[str, Any]] = []
        successes = 0.0
        learned_from = 0
        for truth in sorted(groups, key=lambda key: -1 if key is None else key):
            everyone = groups[truth]
            chosen = rng.permutation(len(everyone))[: self.examples]
            group = [everyone[place] for place in sorted(chosen.tolist())]
            learned_from += len(group)
            best = -1.0
            for number in range(self.passes):
                before = tuple(triggers[truth].split()) if number else self._begin()
                trigger = yield from self._pass(group, before, rng)
                (_,), (success,) = yield from _measure(group, [trigger])
                text = " ".join(trigger)
                history.append(
                    {
                        "class": truth,
                        "pass": number + 1,
                        "trigger": text,
                        "success": float(success),
                    }
                )
                if success > best:
                    best, triggers[truth] = float(success), text
            successes += best * len(group)
        single = triggers.get(None)
        return {
            "trigger": {str(key): text for key, text in triggers.items()}
            if single is None
            else single,
            "train_success": successes / learned_from,
            "history": history,
        }

    def fitted(self, learned: Mapping[str, Any]) -> Method:
        """The method with what was learned."""
        trigger = learned["trigger"]
        by_class: dict[int | None, str] = (
            {None: trigger}
            if isinstance(trigger, str)
            else {int(truth): str(text) for truth, text in trigger.items()}
        )
        return FittedTrigger(self.name, self.constraints, by_class)

    def attack(self, start: Start, rng: np.random.Generator) -> Search[Found]:
        """Refused: there is nothing to attack with before :meth:`fit`."""
        raise RuntimeError(f"{self.name} has to be fitted on training examples first")

    def broken(self, original: TextInput, perturbed: TextInput) -> Search[str | None]:
        """The first constraint of the recipe that is broken."""
        return self.constraints.broken(original, perturbed)

    def _begin(self) -> Trigger:
        words = self.init.split()[: self.length]
        return (*words, *words[-1:] * (self.length - len(words)))

    def _pass(
        self, starts: Sequence[Start], trigger: Trigger, rng: np.random.Generator
    ) -> Search[Trigger]:
        """Go once over all examples, in a random order."""
        vocabulary = needed_vocabulary(starts[0], self.name)
        allowed = word_tokens(vocabulary, letters_only=True, ascii_only=self.ascii_only)
        order = rng.permutation(len(starts))
        for first in range(0, len(order), self.batch):
            batch = [starts[place] for place in order[first : first + self.batch].tolist()]
            tokens = yield from self._promising(batch, trigger, vocabulary, allowed)
            front = [trigger]
            for place in range(self.length):
                words = [vocabulary.spellings[token][1:] for token in tokens[place].tolist()]
                # As they were first, so that of equals nothing changes.
                tried = list(front)
                tried += [
                    (*old[:place], word, *old[place + 1 :]) for old in front for word in words
                ]
                tried = list(dict.fromkeys(tried))
                scores, _ = yield from _measure(batch, tried)
                ranked = np.argsort(-scores, kind="stable")[: self.beam]
                front = [tried[number] for number in ranked.tolist()]
            trigger = front[0]
        return trigger

    def _promising(
        self,
        batch: Sequence[Start],
        trigger: Trigger,
        vocabulary: Vocabulary,
        allowed: NDArray[np.bool_],
    ) -> Search[NDArray[np.int64]]:
        """The words that the averaged gradient prefers, shape (length, candidates)."""
        total = np.zeros((self.length, vocabulary.embeddings.shape[1]), dtype=np.float32)
        for goal, originals in _by_goal(batch).items():
            texts = [f"{' '.join(trigger)} {text}" for text in originals]
            items = (yield from goal.slopes(texts)).items
            for text, item in zip(texts, items, strict=True):
                own = OwnTokens.of(item, goal.frame, text)
                end = 0
                for place, word in enumerate(trigger):
                    row = own.first((end, end + len(word)))
                    end += len(word) + 1
                    if row is not None:
                        total[place] += item.gradient[row] / len(batch)
        return cheapest_tokens(first_order(total, vocabulary), allowed, self.candidates)


def _truth(goal: Goal) -> int:
    assert isinstance(goal, UntargetedClassification | TargetedClassification)
    return goal.truth


def _by_goal(starts: Sequence[Start]) -> dict[Goal, list[str]]:
    """The texts of examples that have the same goal, which can be asked about together."""
    groups: dict[Goal, list[str]] = {}
    for start in starts:
        groups.setdefault(start.goal, []).append(single_text(start.text, "universal-trigger"))
    return groups


def _measure(
    starts: Sequence[Start], triggers: Sequence[Trigger]
) -> Search[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Of each trigger the examples' mean score, and the share that meets the goal; (triggers,)."""
    scores, met = np.zeros(len(triggers)), np.zeros(len(triggers))
    for goal, texts in _by_goal(starts).items():
        look = yield from goal.look(
            [f"{' '.join(trigger)} {text}" for trigger in triggers for text in texts]
        )
        scores += look.scores.reshape(len(triggers), len(texts)).sum(axis=1)
        met += look.met.reshape(len(triggers), len(texts)).sum(axis=1)
    return scores / len(starts), met / len(starts)


def universal_method(recipe: Recipe) -> Method:
    """The method that a recipe with ``method = "universal-trigger"`` describes; fit it first.

    Raises:
        UserError: an option or a constraint that is wrong, or a goal on generated text.
    """
    if recipe.threat.attacks_generators:
        raise UserError(
            f"the recipe {recipe.source} asks for a universal trigger on generated text: it is "
            "learned for classes, so it attacks classifiers only"
        )
    options = Options(recipe, "search", recipe.search)
    method = UniversalTrigger(
        name=recipe.name,
        constraints=build_constraints(recipe),
        length=options.integer("length", minimum=1),
        init=options.text("init"),
        examples=options.integer("examples", minimum=1),
        passes=options.integer("passes", minimum=1),
        batch=options.integer("batch", minimum=1),
        candidates=options.integer("candidates", minimum=1),
        beam=options.integer("beam", minimum=1),
        per_class=options.flag("per_class"),
        ascii_only=options.flag("ascii_only"),
    )
    options.finish()
    return method
