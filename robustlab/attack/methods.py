"""The search methods that a recipe may name, each imported when it is needed."""

from __future__ import annotations

import importlib
from collections.abc import Mapping

from robustlab.attack.method import Method
from robustlab.attack.recipe import Recipe
from robustlab.errors import UserError

__all__ = ["METHODS", "build_method"]

METHODS: Mapping[str, tuple[str, str]] = {
    "textattack": ("textattack", "textattack_method"),
    "greedy": ("searches", "native_method"),
    "random": ("searches", "native_method"),
    "noise": ("searches", "native_method"),
    "genetic": ("searches", "native_method"),
    "particle-swarm": ("searches", "native_method"),
    "reduction": ("searches", "native_method"),
    "hotflip": ("hotflip", "hotflip_method"),
    "gcg": ("gcg", "gcg_method"),
    "pgd": ("pgd", "pgd_method"),
    "universal": ("universal", "universal_method"),
}
"""``search.method`` -> module of this room, and the function in it that builds the method."""


def build_method(recipe: Recipe) -> Method:
    """The method that a recipe describes.

    Raises:
        UserError: there is no such method, the recipe describes it wrongly, or something that it
            needs is missing.
    """
    if recipe.search.kind not in METHODS:
        raise UserError(
            f"the recipe {recipe.source} is wrong at search.method: there is no method "
            f"{recipe.search.kind!r}; there are: {', '.join(METHODS)}"
        )
    module, builder = METHODS[recipe.search.kind]
    method: Method = getattr(importlib.import_module(f"robustlab.attack.{module}"), builder)(recipe)
    return method
