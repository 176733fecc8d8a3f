"""Recipes: a TOML file that says everything about an attack, read strictly.

A recipe is read like the appendix of a paper::

    name    = "deepwordbug"
    summary = "one line"
    paper   = "Gao et al. 2018, arXiv:1801.04354"

    [threat]
    goal      = "untargeted-classification"
    knowledge = "score"                  # what the adversary sees of the target
    surface   = "characters"             # what it may change
    part      = "question"               # where, in a generator's prompt; not for classifiers

    [goal]                               # what the goal needs: a class or text that is wanted …
    wanted = "positive"

    [budget]                             # of one example; each may be left out
    queries       = 2000
    max_edits     = 10                   # words that differ from the original
    max_edit_rate = 0.2                  # the same as a share of its words
    seconds       = 60
    passages      = 5                    # that may be written into a corpus

    [[constraint]]                       # any number of them, each with a kind and its numbers
    kind              = "levenshtein-edit-distance"
    max_edit_distance = 30

    [[transformation]]                   # any number of them, for methods that compose some
    kind       = "word-swap-random-character-deletion"
    random_one = true

    [search]
    method = "textattack"                # and all that the method is told

A suite names recipes instead; an example counts as broken if one of them breaks it::

    name    = "quick"
    summary = "one line"
    paper   = "Croce & Hein 2020, arXiv:2003.01690"
    suite   = ["deepwordbug", "hotflip"]

Keys that are unknown, missing or of the wrong type are refused, with the file and the key.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias

from robustlab.errors import UserError
from robustlab.resources import recipe_path

__all__ = [
    "Budget",
    "Component",
    "Option",
    "Options",
    "Recipe",
    "Suite",
    "Threat",
    "load_recipe",
    "parse_recipe",
]

Option: TypeAlias = str | int | float | bool | tuple["Option", ...]
"""A value that a recipe may give to a component: a scalar, or a list of them."""

_GOALS = (
    "untargeted-classification",
    "targeted-classification",
    "force-output",
    "change-answer",
    "hide-gold",
    "wrong-answer",
    "no-answer",
    "retrieve-poison",
)
_KNOWLEDGE = ("white-box", "score", "label", "none")
_SURFACES = ("characters", "words", "input-tokens", "embeddings", "passages")
_POISON_GOALS = ("wrong-answer", "no-answer", "retrieve-poison")
_PARTS = ("question", "context")


@dataclass(frozen=True, slots=True)
class Threat:
    """The threat model: what the adversary wants, sees and may change.

    ``part`` is the part of a generator's prompt that it writes; None for classifiers, and where
    it writes passages or only a retriever is to be fooled.
    """

    goal: str
    knowledge: str
    surface: str
    part: str | None = None

    @property
    def attacks_generators(self) -> bool:
        """Whether the goal is one on generated text."""
        return self.goal in ("force-output", "change-answer")

    @property
    def attacks_pipelines(self) -> bool:
        """Whether the goal is one on a RAG pipeline, and on nothing less."""
        return self.goal == "hide-gold" or self.goal in _POISON_GOALS

    @property
    def poisons(self) -> bool:
        """Whether the adversary writes passages into the corpus of a RAG pipeline."""
        return self.surface == "passages"


@dataclass(frozen=True, slots=True)
class Budget:
    """What may be spent on one example; None for no limit.

    ``max_edits``: words that differ from the original; ``max_edit_rate``: the same as a share of
    the original's words, at least one. ``seconds`` depends on the machine, so a recipe that
    states it gives up reproducible outcomes. ``passages``: how many may be written into the
    corpus for one question, or in all where they are shared by all questions; at least one, and
    None where the adversary writes none.
    """

    queries: int | None = None
    max_edits: int | None = None
    max_edit_rate: float | None = None
    seconds: float | None = None
    passages: int | None = None


@dataclass(frozen=True, slots=True)
class Component:
    """A part of the attack: its kind, and every number it uses by name."""

    kind: str
    options: Mapping[str, Option]


@dataclass(frozen=True, slots=True)
class Recipe:
    """An attack as its file describes it.

    ``search.kind`` is the search method, ``goal.kind`` the threat's goal. ``source`` says where
    the text came from, for messages; ``text`` goes into the run, word for word.
    """

    name: str
    summary: str
    paper: str
    threat: Threat
    goal: Component
    budget: Budget
    constraints: tuple[Component, ...]
    transformations: tuple[Component, ...]
    search: Component
    source: str
    text: str

    @property
    def sha256(self) -> str:
        """Hash of the text as UTF-8."""
        return hashlib.sha256(self.text.encode("utf-8")).hexdigest()

    def describe(self) -> dict[str, str]:
        """What goes into the manifest: name, summary, paper, text and hash."""
        return {
            "name": self.name,
            "summary": self.summary,
            "paper": self.paper,
            "sha256": self.sha256,
            "text": self.text,
        }


@dataclass(frozen=True, slots=True)
class Suite:
    """Recipes that are run together; robust accuracy is over the worst case of each example."""

    name: str
    summary: str
    paper: str
    recipes: tuple[str, ...]
    source: str
    text: str

    def describe(self) -> dict[str, str]:
        """What goes into the manifest."""
        return {
            "name": self.name,
            "summary": self.summary,
            "paper": self.paper,
            "text": self.text,
        }


class Options:
    """A component's options, taken one by one; what is left over in the end was unknown.

    Each method takes the option of that name. Without a ``default`` the option must be there.

    Raises:
        UserError: an option that is missing, of the wrong type or out of range, or unknown.
    """

    def __init__(self, recipe: Recipe, place: str, component: Component) -> None:
        """``place`` says where the component stands, for messages: ``search``."""
        self._recipe = recipe
        self._place = place
        self._values = dict(component.options)
        self._known: list[str] = []

    def integer(self, name: str, default: int | None = None, *, minimum: int = 0) -> int:
        """A whole number."""
        value = self._take(name, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
            raise self._wrong(name, f"a whole number, at least {minimum}", value)
        return value

    def number(
        self, name: str, default: float | None = None, *, low: float = 0.0, high: float = 1.0
    ) -> float:
        """A number from ``low`` to ``high``."""
        value = self._take(name, default)
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise self._wrong(name, "a number", value)
        if not low <= value <= high:
            raise self._wrong(name, f"a number from {low:g} to {high:g}", value)
        return float(value)

    def flag(self, name: str, default: bool | None = None) -> bool:
        """True or false."""
        value = self._take(name, default)
        if not isinstance(value, bool):
            raise self._wrong(name, "true or false", value)
        return value

    def text(self, name: str, default: str | None = None) -> str:
        """A text that is not empty."""
        value = self._take(name, default)
        if not isinstance(value, str) or not value.strip():
            raise self._wrong(name, "a text", value)
        return value

    def choice(self, name: str, choices: Sequence[str], default: str | None = None) -> str:
        """One of several texts."""
        value = self._take(name, default)
        if value not in choices:
            raise self._wrong(name, " or ".join(f'"{choice}"' for choice in choices), value)
        return str(value)

    def texts(self, name: str, default: tuple[str, ...] | None = None) -> tuple[str, ...]:
        """A list of texts."""
        value = self._take(name, default)
        if not isinstance(value, tuple) or not all(isinstance(entry, str) for entry in value):
            raise self._wrong(name, "a list of texts", value)
        return tuple(str(entry) for entry in value)

    def finish(self) -> None:
        """Refuse what has not been taken."""
        if self._values:
            key = next(iter(self._values))
            raise UserError(
                f"the recipe {self._recipe.source} has an unknown key: {self._place}.{key}; "
                f"known here: {', '.join(self._known) or 'none'}"
            )

    def _take(self, name: str, default: Option | None) -> Option:
        self._known.append(name)
        value = self._values.pop(name, default)
        if value is None:
            raise UserError(f"the recipe {self._recipe.source} lacks a key: {self._place}.{name}")
        return value

    def _wrong(self, name: str, expected: str, value: Option) -> UserError:
        return UserError(
            f"the recipe {self._recipe.source} is wrong at {self._place}.{name}: expected "
            f"{expected}, found {value!r}"
        )


def load_recipe(name_or_path: str) -> Recipe | Suite:
    """A shipped recipe or suite by name, or the user's own by the path of its TOML file.

    Raises:
        UserError: no such recipe, or a file that is no valid recipe.
    """
    path = recipe_path(name_or_path)
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"the recipe {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"the recipe {path} is not UTF-8 (byte {error.start})") from None
    return parse_recipe(text, str(path))


def parse_recipe(text: str, source: str) -> Recipe | Suite:
    """A recipe or a suite from its text; ``source`` names it in messages.

    Raises:
        UserError: what is wrong, with the key.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"the recipe {source} is not valid TOML: {error}") from None
    top = _Table(document, source, "")
    if "suite" in document:
        suite = Suite(
            name=top.string("name"),
            summary=top.string("summary"),
            paper=top.string("paper"),
            recipes=top.strings("suite"),
            source=source,
            text=text,
        )
        top.refuse_rest()
        return suite
    threat = top.table("threat")
    goal = threat.choice("goal", _GOALS)
    generates = goal in ("force-output", "change-answer")
    surface = threat.choice("surface", _SURFACES)
    if (surface == "passages") is not (goal in _POISON_GOALS):
        raise UserError(
            f"the recipe {source} is wrong at threat.surface: the goals of who writes passages are "
            f"{', '.join(_POISON_GOALS)}, and these alone; found {goal} and {surface}"
        )
    budget = top.table("budget", required=False)
    recipe = Recipe(
        name=top.string("name"),
        summary=top.string("summary"),
        paper=top.string("paper"),
        threat=Threat(
            goal=goal,
            knowledge=threat.choice("knowledge", _KNOWLEDGE),
            surface=surface,
            part=threat.choice("part", _PARTS) if generates else None,
        ),
        goal=Component(goal, top.table("goal", required=False).options()),
        budget=Budget(
            queries=budget.positive("queries"),
            max_edits=budget.positive("max_edits"),
            max_edit_rate=budget.share("max_edit_rate"),
            seconds=budget.positive("seconds"),
            passages=budget.required("passages") if surface == "passages" else None,
        ),
        constraints=tuple(table.component("kind") for table in top.tables("constraint")),
        transformations=tuple(table.component("kind") for table in top.tables("transformation")),
        search=top.table("search").component("method"),
        source=source,
        text=text,
    )
    for table in (top, threat, budget):
        table.refuse_rest()
    return recipe


class _Table:
    """A TOML table that is read key by key; what is left over in the end was unknown."""

    def __init__(self, values: Mapping[str, Any], source: str, place: str) -> None:
        self._values = dict(values)
        self._known: list[str] = []
        self._source = source
        self._place = place

    def string(self, key: str) -> str:
        value = self._take(key)
        if not isinstance(value, str) or not value.strip():
            raise self._wrong(key, "a text", value)
        return value

    def choice(self, key: str, choices: Sequence[str]) -> str:
        value = self._take(key)
        if value not in choices:
            raise self._wrong(key, " or ".join(f'"{choice}"' for choice in choices), value)
        return str(value)

    def positive(self, key: str) -> int | None:
        value = self._take(key, required=False)
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise self._wrong(key, "a whole number, at least 1", value)
        return value

    def required(self, key: str) -> int:
        """A positive number that must be there."""
        if key not in self._values:
            raise UserError(f"the recipe {self._source} lacks a key: {self._place}{key}")
        found = self.positive(key)
        assert found is not None
        return found

    def share(self, key: str) -> float | None:
        value = self._take(key, required=False)
        if value is None:
            return None
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value <= 1:
            raise self._wrong(key, "a number above 0, at most 1", value)
        return float(value)

    def strings(self, key: str) -> tuple[str, ...]:
        value = self._take(key)
        if not isinstance(value, list) or not value or not all(isinstance(v, str) for v in value):
            raise self._wrong(key, "a list of texts", value)
        return tuple(value)

    def table(self, key: str, *, required: bool = True) -> _Table:
        value = self._take(key, required=required)
        if value is None:
            value = {}
        if not isinstance(value, dict):
            raise self._wrong(key, f"a table, [{key}]", value)
        return _Table(value, self._source, f"{self._place}{key}.")

    def tables(self, key: str) -> list[_Table]:
        value = self._take(key, required=False)
        if value is None:
            return []
        if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
            raise self._wrong(key, f"an array of tables, [[{key}]]", value)
        return [
            _Table(entry, self._source, f"{self._place}{key}[{number}].")
            for number, entry in enumerate(value, start=1)
        ]

    def component(self, kind_key: str) -> Component:
        """The whole of the table: its kind, and every other key as an option."""
        return Component(self.string(kind_key), self.options())

    def options(self) -> Mapping[str, Option]:
        """Whatever has not been read yet."""
        return MappingProxyType(
            {key: self._option(key, value) for key, value in self._values.items()}
        )

    def refuse_rest(self) -> None:
        if self._values:
            key = next(iter(self._values))
            raise UserError(
                f"the recipe {self._source} has an unknown key: {self._place}{key}; "
                f"known here: {', '.join(self._known)}"
            )

    def _option(self, key: str, value: Any) -> Option:
        if isinstance(value, str | int | float):
            return value
        if isinstance(value, list):
            return tuple(self._option(key, entry) for entry in value)
        raise self._wrong(key, "a text, a number, true, false or a list of them", value)

    def _take(self, key: str, *, required: bool = True) -> Any:
        self._known.append(key)
        if key not in self._values and required:
            raise UserError(f"the recipe {self._source} lacks a key: {self._place}{key}")
        return self._values.pop(key, None)

    def _wrong(self, key: str, expected: str, value: Any) -> UserError:
        return UserError(
            f"the recipe {self._source} is wrong at {self._place}{key}: expected {expected}, "
            f"found {value!r}"
        )
