"""The shipped recipes and suites, what they need, and whether this machine has it.

Nothing heavy is imported: a list of names has to appear at once.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from robustlab.attack.recipe import Recipe, Suite, load_recipe
from robustlab.attack.textattack_resources import missing, needs_of
from robustlab.attack.wordnet import find_wordnet
from robustlab.resources import recipe_names

__all__ = ["Catalogue", "ListedRecipe", "ListedSuite", "catalogue"]


@dataclass(frozen=True, slots=True)
class ListedRecipe:
    """A recipe, what it needs besides a target, and what of that is missing here.

    ``missing`` is a sentence that says how to get the first thing missing; None where the recipe
    is ready.
    """

    recipe: Recipe
    needs: tuple[str, ...]
    missing: str | None

    def as_json(self) -> dict[str, Any]:
        """What ``--json`` prints of it."""
        recipe = self.recipe
        return {
            "name": recipe.name,
            "summary": recipe.summary,
            "paper": recipe.paper,
            **asdict(recipe.threat),
            "target": _target(recipe),
            "method": recipe.search.kind,
            "budget": asdict(recipe.budget),
            "needs": list(self.needs),
            "ready": self.missing is None,
            "missing": self.missing,
        }


@dataclass(frozen=True, slots=True)
class ListedSuite:
    """A suite, which is ready if all its recipes are; else ``missing`` is what the first lacks."""

    suite: Suite
    missing: str | None

    def as_json(self) -> dict[str, Any]:
        """What ``--json`` prints of it."""
        return {
            "name": self.suite.name,
            "summary": self.suite.summary,
            "paper": self.suite.paper,
            "recipes": list(self.suite.recipes),
            "ready": self.missing is None,
            "missing": self.missing,
        }


@dataclass(frozen=True, slots=True)
class Catalogue:
    """All shipped recipes and suites, each by name."""

    recipes: tuple[ListedRecipe, ...]
    suites: tuple[ListedSuite, ...]

    def as_json(self) -> dict[str, Any]:
        """What ``--json`` prints."""
        return {
            "recipes": [listed.as_json() for listed in self.recipes],
            "suites": [listed.as_json() for listed in self.suites],
        }


def catalogue() -> Catalogue:
    """Read all shipped files and look for what they need.

    Raises:
        UserError: a file that is no valid recipe, in an installation that was changed.
    """
    found = [load_recipe(name) for name in recipe_names()]
    recipes = {entry.name: _listed(entry) for entry in found if isinstance(entry, Recipe)}
    suites = [entry for entry in found if isinstance(entry, Suite)]
    return Catalogue(
        tuple(recipes.values()),
        tuple(ListedSuite(suite, _lack(suite, recipes)) for suite in suites),
    )


def _target(recipe: Recipe) -> str:
    if recipe.threat.attacks_pipelines:
        return "pipeline"
    return "generator" if recipe.threat.attacks_generators else "classifier"


def _listed(recipe: Recipe) -> ListedRecipe:
    if recipe.search.kind == "textattack":
        resources = dict.fromkeys(map(_in_words, needs_of(recipe)))
        return ListedRecipe(recipe, ("TextAttack", *resources), missing(recipe))
    antonyms = {part.options.get("antonyms") for part in recipe.transformations}
    if "exclude" in antonyms:
        lack = None
        if find_wordnet() is None:
            lack = (
                f"{recipe.name} needs WordNet, which is not on this machine: set NLTK_DATA to a "
                "folder that has corpora/wordnet.zip"
            )
        return ListedRecipe(recipe, ("WordNet",), lack)
    needs = ("WordNet (optional)",) if "exclude-if-known" in antonyms else ()
    return ListedRecipe(recipe, needs, None)


_WORDS = {
    "averaged_perceptron_tagger_eng": "NLTK's tagger",
    "paragramcf": "counter-fitted vectors",
    "stopwords": "NLTK's stopwords",
    "universal_tagset": "NLTK's tagger",
    "wordnet": "WordNet",
}


def _in_words(resource: str) -> str:
    """``WordNet`` for ``nltk:corpora/wordnet``; models and packages by their own names."""
    name = resource.rpartition(":")[2].rpartition("/")[2]
    return _WORDS.get(name, name)


def _lack(suite: Suite, recipes: dict[str, ListedRecipe]) -> str | None:
    lacks = (recipes[name].missing for name in suite.recipes if name in recipes)
    return next((lack for lack in lacks if lack is not None), None)
