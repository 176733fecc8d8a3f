"""Jamming: a blocker passage that makes the reader refuse, or answer nothing.

References:
    Shafran et al. 2024, "Machine Against the RAG: Jamming Retrieval-Augmented Generation with
    Blocker Documents", arXiv:2406.05870
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from robustlab.attack.engine import BudgetExhaustedError, Search
from robustlab.attack.recipe import Options, Recipe
from robustlab.errors import UserError
from robustlab.models.target import Ask, Replies, Reply
from robustlab.poisoning.adaptive import Watch, meets, poison_read
from robustlab.poisoning.method import Poison, PoisonStart

__all__ = ["Jamming", "jamming_method"]

_GOAL = "no-answer"
_QUESTION = "{question}"


@dataclass(frozen=True, slots=True)
class Jamming:
    """Tries blocker texts, then exchanges words of the best one by asking.

    A passage is the question, by which it is retrieved, and a blocker text. Every blocker is tried
    first. From the one that left the reader least sure of its answer (the geometric mean of its
    token probabilities) the search goes on: a step asks about ``width`` passages, each with one
    word of the blocker drawn and exchanged for one of ``words``, and goes on from the best unless
    it is worse. The paper exchanges tokens as well, and compares the answer's embedding with a
    refusal's; where answers are short spans the reader's own sureness tells more.

    Nothing but questions to the pipeline is needed. If more than one passage may be written, the
    others are the blockers that follow in the list. A ``{question}`` in a blocker is the question.
    """

    name: str
    blockers: tuple[str, ...]
    words: tuple[str, ...]
    steps: int
    width: int

    def attack(self, start: PoisonStart, rng: np.random.Generator) -> Search[Poison]:
        """Search until the pipeline refuses, or no step or query is left."""
        asker = _Asker(start)
        best = yield from asker.ask([_Blocker.of(self._texts(n, start)) for n in self._order()])
        step = 0
        while best is not None and not best.met and step < self.steps:
            moved = best.blocker.neighbours(self.words, self.width, rng)
            found = yield from asker.ask(moved)
            step += 1
            if found is None:
                break
            if found.met or found.value >= best.value:
                best = found
        if best is None:
            first = _Blocker.of(self._texts(0, start))
            return Poison(first.passages(start), False, {"reason": "no query left"})
        notes = {"steps": step, "sureness": -best.value[1]}
        return Poison(best.blocker.passages(start), best.met, notes)

    def _order(self) -> range:
        return range(len(self.blockers))

    def _texts(self, first: int, start: PoisonStart) -> tuple[str, ...]:
        """As many blockers as passages may be written, from a number on, round and round."""
        numbers = range(first, first + start.knowledge.passages)
        return tuple(
            self.blockers[number % len(self.blockers)].replace(_QUESTION, start.question.text)
            for number in numbers
        )


@dataclass(frozen=True, slots=True)
class _Blocker:
    """The words that are exchanged, those of the first blocker, and the other blockers."""

    words: tuple[str, ...]
    others: tuple[str, ...]

    @classmethod
    def of(cls, texts: Sequence[str]) -> _Blocker:
        return cls(tuple(texts[0].split()), tuple(texts[1:]))

    def passages(self, start: PoisonStart) -> tuple[str, ...]:
        question = start.question.text
        return tuple(f"{question} {text}" for text in (" ".join(self.words), *self.others))

    def neighbours(
        self, pool: Sequence[str], count: int, rng: np.random.Generator
    ) -> list[_Blocker]:
        """Blockers with one word exchanged, each once."""
        places = rng.integers(len(self.words), size=count).tolist()
        chosen = rng.integers(len(pool), size=count).tolist()
        made = [
            _Blocker((*self.words[:p], pool[w], *self.words[p + 1 :]), self.others)
            for p, w in zip(places, chosen, strict=True)
        ]
        return [blocker for blocker in dict.fromkeys(made) if blocker != self]


@dataclass(frozen=True, slots=True)
class _Judged:
    """A blocker and what the pipeline said to it.

    ``value``: first how far it is from being read at all (0 if it is), then how unsure the reader
    is of its answer; larger is better.
    """

    blocker: _Blocker
    met: bool
    value: tuple[float, float]


class _Asker:
    """Asks about blockers for as long as there are queries."""

    def __init__(self, start: PoisonStart) -> None:
        self._start = start
        self._watch = Watch.of(start.knowledge)
        self._left = start.queries_left

    def ask(self, blockers: Sequence[_Blocker]) -> Search[_Judged | None]:
        """The first that meets the goal, else the best; None where none can be asked about.

        What a filter is known to drop is not asked about, unless all of them would be dropped.
        """
        passages = [blocker.passages(self._start) for blocker in blockers]
        excess = [float(self._watch.excess(texts).sum()) for texts in passages]
        rows = [row for row, over in enumerate(excess) if over == 0] or list(range(len(excess)))
        if self._left is not None:
            rows = rows[: self._left]
            self._left -= len(rows)
        if not rows:
            return None
        questions = (self._start.question.text,) * len(rows)
        try:
            response = yield Ask(questions, tuple(passages[row] for row in rows))
        except BudgetExhaustedError:
            return None
        assert isinstance(response, Replies)
        judged = [
            self._judge(blockers[row], excess[row], reply)
            for row, reply in zip(rows, response.items, strict=True)
        ]
        return max(judged, key=lambda one: (one.met, one.value))

    def _judge(self, blocker: _Blocker, excess: float, reply: Reply) -> _Judged:
        sureness = min(1.0, math.exp(reply.log_prob / max(1, reply.tokens)))
        unread = -excess - (poison_read(reply) == 0)
        return _Judged(blocker, meets(self._start, _GOAL, reply), (unread, -sureness))


def jamming_method(recipe: Recipe) -> Jamming:
    """The method that a recipe with ``method = "jamming"`` describes.

    Raises:
        UserError: an option that is wrong.
    """
    options = Options(recipe, "search", recipe.search)
    method = Jamming(
        name=recipe.name,
        blockers=options.texts("blockers"),
        words=options.texts("words"),
        steps=options.integer("steps"),
        width=options.integer("width", minimum=1),
    )
    options.finish()
    if not all(map(str.split, method.blockers)) or not method.blockers or not method.words:
        raise UserError(
            f"the recipe {recipe.source} needs search.blockers, none of them empty, and "
            "search.words to exchange theirs for"
        )
    return method
