"""What a search method is given, and what it must come to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from robustlab.attack.engine import Search
from robustlab.attack.goals import Goal
from robustlab.models.target import Response, TextInput, Vocabulary

__all__ = ["Found", "Method", "Start", "UniversalMethod"]


@dataclass(frozen=True, slots=True)
class Start:
    """Where the attack on one example begins.

    ``text``: the original, as far as the adversary may change it (see
    :class:`~robustlab.attack.goals.Frame`). ``answer``: the target's response to
    ``goal.question([text])``, rounded like every answer; it was the example's first query.
    ``queries_left`` is the budget after it, None for no limit. ``vocabulary`` is there for
    white-box recipes. ``max_edits``: the most words that may differ from the original, None for
    no limit but the recipe's own.
    """

    text: TextInput
    goal: Goal
    answer: Response
    queries_left: int | None = None
    vocabulary: Vocabulary | None = None
    max_edits: int | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """The best text that a method came to, and whether it believes to have met the goal.

    Believing is not enough: the campaign judges the text anew. ``notes`` go into the outcome,
    e.g. ``{"suffix": "…", "loss": 0.3}``. ``embedded`` marks what no text realises: the verdict of
    a perturbation in embedding space, which is then the only one there is.
    """

    text: TextInput
    claims_success: bool
    notes: Mapping[str, Any] | None = None
    embedded: bool = False


class Method(Protocol):
    """One attack, ready to be started on any example."""

    def attack(self, start: Start, rng: np.random.Generator) -> Search[Found]:
        """Search on one example."""

    def broken(self, original: TextInput, perturbed: TextInput) -> Search[str | None]:
        """The first constraint that ``perturbed`` breaks against the original, in words, or None.

        The campaign asks this of every final text, whatever the search took care of. Yields
        nothing but Embed requests, which are no queries.
        """


@runtime_checkable
class UniversalMethod(Method, Protocol):
    """A method that is fitted once, on training examples, and then applied to each example."""

    def fit(self, starts: Sequence[Start], rng: np.random.Generator) -> Search[Mapping[str, Any]]:
        """What was learned, as a JSON object that goes into the run."""

    def fitted(self, learned: Mapping[str, Any]) -> Method:
        """The method with what :meth:`fit` returned."""
