"""Attacks: the engine that runs them, the recipes that describe them, the campaigns they make."""

from __future__ import annotations

from robustlab.attack.campaign import AttackSummary, Campaign, Progress
from robustlab.attack.entry import AttackResult, attack
from robustlab.attack.recipe import Recipe, load_recipe

__all__ = [
    "AttackResult",
    "AttackSummary",
    "Campaign",
    "Progress",
    "Recipe",
    "attack",
    "load_recipe",
]
