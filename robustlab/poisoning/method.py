"""What a poisoning method is given, and what it must come to.

A method writes passages. It is a coroutine for one question, as in :mod:`robustlab.attack`: it
yields requests and is resumed with their responses; the engine merges those of all questions.

Requests go to what the adversary sees: the pipeline as it is deployed, with its defences, where
the attack is adaptive, and the undefended pipeline where it is not. The final passages are judged
anew on the deployed one either way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from robustlab.attack.engine import Search
from robustlab.data.records import Passage, Question
from robustlab.models.prompt import PromptTemplate
from robustlab.models.target import Reply, Target, Vocabulary

__all__ = ["Knowledge", "Poison", "PoisonMethod", "PoisonStart", "SharedPoisonMethod"]


@dataclass(frozen=True, slots=True)
class Knowledge:
    """What holds for all questions of a run, and what the adversary knows of the pipeline.

    ``top_k``: how many passages are retrieved for a question. ``passages``: how many the
    adversary may write for one question, or in all where they are shared. ``template`` and
    ``corpus`` let an adversary who knows them write down a whole prompt (for ``Gradient`` and
    ``Score(inside=True)``, whose texts are prompts). The vocabularies, of the retriever's sentence
    encoder and of the generator, are functions because a large one takes a moment; each gives
    None where the model is closed. ``target`` is who answers the requests: to be looked at (its
    ``answers``, and its defences where it is a ``DefendedRag`` and the attack is ``adaptive``),
    never to be asked past the engine.
    """

    top_k: int
    passages: int
    template: PromptTemplate
    corpus: Mapping[str, Passage]
    retriever_vocabulary: Callable[[], Vocabulary | None]
    generator_vocabulary: Callable[[], Vocabulary | None]
    target: Target
    adaptive: bool = False


@dataclass(frozen=True, slots=True)
class PoisonStart:
    """Where the attack on one question begins.

    ``wrong`` is the answer that the adversary wants; None where the goal wants none.
    ``texts`` are adversarial texts that state it, from a file or from a generator; a method may
    have its own where there are none. ``clean`` is the pipeline's reply without poison: the
    question's first query, None when a shared poison is fitted. ``queries_left`` is the budget
    after it, None for no limit.
    """

    question: Question
    knowledge: Knowledge
    wrong: str | None = None
    texts: tuple[str, ...] = ()
    clean: Reply | None = None
    queries_left: int | None = None


@dataclass(frozen=True, slots=True)
class Poison:
    """The passages that a method came to, at most ``knowledge.passages``.

    ``claims_success`` is what the method believes; the campaign judges the passages anew.
    ``notes`` go into the outcome, e.g. ``{"steps": 12, "loss": 0.3}``.
    """

    passages: tuple[str, ...]
    claims_success: bool = False
    notes: Mapping[str, Any] | None = None


@runtime_checkable
class PoisonMethod(Protocol):
    """One attack, ready to be started on any question."""

    def attack(self, start: PoisonStart, rng: np.random.Generator) -> Search[Poison]:
        """Write passages that stand in this question's corpus alone."""


@runtime_checkable
class SharedPoisonMethod(Protocol):
    """An attack that is fitted once, on training questions, and then poisons all others alike."""

    def fit(self, starts: Sequence[PoisonStart], rng: np.random.Generator) -> Search[Poison]:
        """Write passages that stand in the corpus of every question; there is no query budget.

        ``knowledge`` is the same in all starts.
        """
