"""Attacks: the engine that runs them, the recipes that describe them, the campaigns they make."""

from __future__ import annotations

from robustlab.attack.campaign import AttackSummary, Progress, attack_manifest, run_attack
from robustlab.attack.entry import AttackResult, attack
from robustlab.attack.recipe import Recipe, load_recipe

__all__ = [
    "AttackResult",
    "AttackSummary",
    "Progress",
    "Recipe",
    "attack",
    "attack_manifest",
    "load_recipe",
    "run_attack",
]
