"""Success against budget: how many attacked examples fall to at most so many queries or edits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from robustlab.metrics.intervals import Estimate, rate
from robustlab.report.results import WORST_CASE, RecipeResult, Results

__all__ = ["Budget", "Curve", "success_curves"]

Budget: TypeAlias = Literal["queries", "edits"]


@dataclass(frozen=True, slots=True)
class Curve:
    """A step function: ``steps`` are (budget, examples broken within it), both rising.

    ``attacked`` is the denominator, the same at every budget. ``embedded`` marks a recipe that
    no text realises, ``worst`` the worst case over the others.
    """

    name: str
    steps: tuple[tuple[int, int], ...]
    attacked: int
    embedded: bool = False
    worst: bool = False

    def rates(self) -> tuple[tuple[int, Estimate], ...]:
        """(budget, success rate within it, with Wilson's interval)."""
        return tuple((budget, rate(broken, self.attacked)) for budget, broken in self.steps)


def success_curves(results: Results, budget: Budget) -> tuple[Curve, ...]:
    """A curve a recipe and, for a suite, the worst case: broken by any within the budget of each.

    Recipes that attacked nothing have no curve, and against edits those have none that change no
    text.
    """
    shown = [
        recipe
        for recipe in results.recipes
        if not (budget == "edits" and (recipe.embedded or recipe.writes_passages))
    ]
    curves = [_curve(recipe, budget) for recipe in shown]
    if results.is_suite:
        curves.append(_worst_case(shown, budget))
    return tuple(curve for curve in curves if curve.attacked)


def _curve(recipe: RecipeResult, budget: Budget) -> Curve:
    spent = [outcome.get(budget) for outcome in recipe.broken]
    return Curve(recipe.name, _steps(spent), len(recipe.attacked), embedded=recipe.embedded)


def _worst_case(recipes: Sequence[RecipeResult], budget: Budget) -> Curve:
    attacked: set[str] = set()
    least: dict[str, Any] = {}
    for recipe in recipes:
        if recipe.embedded:
            continue
        attacked.update(outcome["id"] for outcome in recipe.attacked)
        for outcome in recipe.broken:
            spent = outcome.get(budget)
            if spent is not None:
                least[outcome["id"]] = min(spent, least.get(outcome["id"], spent))
    return Curve(WORST_CASE, _steps(least.values()), len(attacked), worst=True)


def _steps(spent: Iterable[Any]) -> tuple[tuple[int, int], ...]:
    """Running totals of how many spent exactly so much; an unknown amount counts nowhere."""
    steps: list[tuple[int, int]] = []
    total = 0
    for budget, number in sorted(Counter(value for value in spent if value is not None).items()):
        total += number
        steps.append((budget, total))
    return tuple(steps)
