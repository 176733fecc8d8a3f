"""Recipes: a TOML file that says everything about an attack, read strictly.

A recipe is read like the appendix of a paper::

    name    = "deepwordbug"
    summary = "one line"
    paper   = "Gao et al. 2018, arXiv:1801.04354"

    [threat]
    goal      = "untargeted-classification"
    knowledge = "score"                  # what the adversary sees of the target
    surface   = "characters"             # what it may change

    [budget]
    queries = 2000                       # for one example; may be left out

    [[constraint]]                       # any number of them, each with a kind and its numbers
    kind              = "levenshtein-edit-distance"
    max_edit_distance = 30

    [[transformation]]                   # any number of them, for methods that compose some
    kind       = "word-swap-random-character-deletion"
    random_one = true

    [search]
    method = "textattack"                # and all that the method is told

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

__all__ = ["Component", "Option", "Recipe", "Threat", "load_recipe", "parse_recipe"]

Option: TypeAlias = str | int | float | bool | tuple["Option", ...]
"""A value that a recipe may give to a component: a scalar, or a list of them."""

_GOALS = ("untargeted-classification",)
_KNOWLEDGE = ("white-box", "score", "label")
_SURFACES = ("characters", "words", "input-tokens")


@dataclass(frozen=True, slots=True)
class Threat:
    """The threat model: what the adversary wants, sees and may change."""

    goal: str
    knowledge: str
    surface: str


@dataclass(frozen=True, slots=True)
class Component:
    """A part of the attack: its kind, and every number it uses by name."""

    kind: str
    options: Mapping[str, Option]


@dataclass(frozen=True, slots=True)
class Recipe:
    """An attack as its file describes it.

    ``search.kind`` is the search method. ``source`` says where the text came from, for messages;
    ``text`` goes into the run, word for word.
    """

    name: str
    summary: str
    paper: str
    threat: Threat
    query_budget: int | None
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


def load_recipe(name_or_path: str) -> Recipe:
    """A shipped recipe by name, or the user's own by the path of its TOML file.

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


def parse_recipe(text: str, source: str) -> Recipe:
    """A recipe from its text; ``source`` names it in messages.

    Raises:
        UserError: what is wrong, with the key.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"the recipe {source} is not valid TOML: {error}") from None
    top = _Table(document, source, "")
    threat = top.table("threat")
    budget = top.table("budget", required=False)
    recipe = Recipe(
        name=top.string("name"),
        summary=top.string("summary"),
        paper=top.string("paper"),
        threat=Threat(
            goal=threat.choice("goal", _GOALS),
            knowledge=threat.choice("knowledge", _KNOWLEDGE),
            surface=threat.choice("surface", _SURFACES),
        ),
        query_budget=budget.positive("queries"),
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
        kind = self.string(kind_key)
        options = {key: self._option(key, value) for key, value in self._values.items()}
        return Component(kind, MappingProxyType(options))

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
