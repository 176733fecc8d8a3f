"""The poisoning methods that a recipe may name, each imported when it is needed."""

from __future__ import annotations

import importlib
from collections.abc import Mapping

from robustlab.attack.recipe import Recipe
from robustlab.errors import UserError
from robustlab.poisoning.method import PoisonMethod, SharedPoisonMethod

__all__ = ["METHODS", "build_poison_method"]

METHODS: Mapping[str, tuple[str, str, tuple[str, ...]]] = {
    "poisonedrag-blackbox": ("blackbox", "blackbox_method", ("wrong-answer",)),
    "poisonedrag-whitebox": ("whitebox", "whitebox_method", ("wrong-answer",)),
    "prompt-injection": ("injection", "injection_method", ("wrong-answer",)),
    "context-order": ("order", "order_method", ("wrong-answer",)),
    "corpus-poisoning": ("corpus", "corpus_method", ("retrieve-poison",)),
    "gcg-passage": ("gcg_passage", "gcg_passage_method", ("wrong-answer", "no-answer")),
    "random-passages": ("corpus", "random_method", ("retrieve-poison",)),
    "jamming": ("jamming", "jamming_method", ("no-answer",)),
}
"""``search.method`` -> module of this room, the function in it that builds the method, and the
goals that it can have."""


def build_poison_method(recipe: Recipe) -> PoisonMethod | SharedPoisonMethod:
    """The method that a recipe describes.

    Raises:
        UserError: there is no such method, the recipe describes it wrongly, or something that it
            needs is missing.
    """
    if recipe.search.kind not in METHODS:
        raise UserError(
            f"the recipe {recipe.source} is wrong at search.method: no method that writes passages "
            f"is called {recipe.search.kind!r}; there are: {', '.join(METHODS)}"
        )
    module, builder, goals = METHODS[recipe.search.kind]
    if recipe.threat.goal not in goals:
        raise UserError(
            f"the recipe {recipe.source} is wrong at threat.goal: the method {recipe.search.kind} "
            f"is for {' or '.join(goals)}, not {recipe.threat.goal}"
        )
    made = getattr(importlib.import_module(f"robustlab.poisoning.{module}"), builder)(recipe)
    assert isinstance(made, PoisonMethod | SharedPoisonMethod)
    return made
