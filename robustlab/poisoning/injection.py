"""Prompt injection: instructions in a retrieved passage that speak to the reader itself.

References:
    Greshake et al. 2023, "Not what you've signed up for: Compromising Real-World LLM-Integrated
    Applications with Indirect Prompt Injection", arXiv:2302.12173
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from robustlab.attack.engine import BudgetExhaustedError, Search
from robustlab.attack.recipe import Options, Recipe
from robustlab.poisoning.blackbox import asks, says_wrong
from robustlab.poisoning.method import Poison, PoisonStart
from robustlab.poisoning.texts import Payload, load_payloads

__all__ = ["PromptInjection", "injection_method"]


@dataclass(frozen=True, slots=True)
class PromptInjection:
    """Tries payload after payload behind the question, until one is obeyed.

    Of several passages each carries another payload, the next ones in the file's order; after the
    last comes the first again. Where none is obeyed, the passages are those tried first.
    """

    name: str
    payloads: tuple[Payload, ...]

    def attack(self, start: PoisonStart, rng: np.random.Generator) -> Search[Poison]:
        """At most one query for each payload."""
        assert start.wrong is not None
        wrong, question = start.wrong, start.question.text
        written = [f"{question} {payload.write(question, wrong)}" for payload in self.payloads]
        turns = [
            tuple(
                written[(turn + place) % len(written)] for place in range(start.knowledge.passages)
            )
            for turn in range(len(written))
        ]
        for payload, passages in zip(self.payloads, turns, strict=True):
            try:
                reply = yield from asks(start, passages)
            except BudgetExhaustedError:
                break
            if says_wrong(start, reply):
                return Poison(passages, True, {"payload": payload.name})
        return Poison(turns[0])


def injection_method(recipe: Recipe) -> PromptInjection:
    """The method that a recipe with ``method = "prompt-injection"`` describes.

    Raises:
        UserError: an option that is wrong.
    """
    options = Options(recipe, "search", recipe.search)
    method = PromptInjection(recipe.name, load_payloads(options.text("payloads")))
    options.finish()
    return method
