from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from robustlab.attack.recipe import load_recipe, parse_recipe
from robustlab.errors import UserError
from robustlab.resources import recipe_names, recipe_path

RECIPE = """
name    = "mine"
summary = "what it does"
paper   = "Nobody 2000"

[threat]
goal      = "untargeted-classification"
knowledge = "score"
surface   = "characters"

[budget]
queries = 30

[[constraint]]
kind  = "few-words"
most  = 3
words = ["a", "b"]

[[transformation]]
kind = "swap"
rate = 0.5
both = true

[search]
method = "random"
tries  = 7
"""


def test_a_recipe_is_read_whole() -> None:
    recipe = parse_recipe(RECIPE, "here")
    assert (recipe.name, recipe.summary, recipe.paper) == ("mine", "what it does", "Nobody 2000")
    assert recipe.threat.goal == "untargeted-classification"
    assert (recipe.threat.knowledge, recipe.threat.surface) == ("score", "characters")
    assert recipe.query_budget == 30
    (constraint,), (transformation,) = recipe.constraints, recipe.transformations
    assert constraint.kind == "few-words"
    assert dict(constraint.options) == {"most": 3, "words": ("a", "b")}
    assert dict(transformation.options) == {"rate": 0.5, "both": True}
    assert (recipe.search.kind, dict(recipe.search.options)) == ("random", {"tries": 7})
    assert recipe.text == RECIPE
    assert recipe.sha256 == hashlib.sha256(RECIPE.encode()).hexdigest()


def test_budget_and_components_may_be_left_out() -> None:
    short = "\n".join(line for line in RECIPE.splitlines() if line != "queries = 30")
    short = short.replace("[budget]", "").replace("[[constraint]]", "[[transformation]]")
    recipe = parse_recipe(short, "here")
    assert recipe.query_budget is None
    assert recipe.constraints == ()
    assert [part.kind for part in recipe.transformations] == ["few-words", "swap"]


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ('paper   = "Nobody 2000"', "", r"here lacks a key: paper$"),
        ("[threat]", "[thread]", r"lacks a key: threat$"),
        ("[search]", "[[search]]", r"wrong at search: expected a table, \[search\], found \["),
        ("surface ", "surfaces", r"lacks a key: threat\.surface$"),
        ('"score"', '"gray-box"', r'at threat\.knowledge: expected "white-box" or "score" or'),
        ('"score"', "1", r"at threat\.knowledge: .*found 1$"),
        ("queries = 30", "queries = 0", r"at budget\.queries: expected a whole number, at least 1"),
        ("queries = 30", "queries = true", r"at budget\.queries: .* found True$"),
        ("queries = 30", "querys = 30", r"unknown key: budget\.querys; known here: queries$"),
        ('name    = "mine"', 'name = "mine"\nnmae = "x"', r"unknown key: nmae; known here: .*name"),
        ('name    = "mine"', 'name = " "', r"at name: expected a text, found ' '"),
        ('kind  = "few-words"', "", r"lacks a key: constraint\[1\]\.kind$"),
        ("[[constraint]]", "[constraint]", r"at constraint: expected an array of tables"),
        ("rate = 0.5", "rate = 2000-01-01", r"at transformation\[1\]\.rate: expected a text, a"),
        ("tries  = 7", "tries = {a = 1}", r"at search\.tries: expected .* found {'a': 1}"),
        ("tries  = 7", "tries =", r"here is not valid TOML: Invalid value \(at line 26, column"),
    ],
)
def test_what_is_wrong_is_named(before: str, after: str, message: str) -> None:
    assert before in RECIPE
    with pytest.raises(UserError, match=message):
        parse_recipe(RECIPE.replace(before, after), "here")


def test_a_file_of_the_user_s_own(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(RECIPE, encoding="utf-8")
    assert load_recipe(str(file)).source == str(file)
    file.write_bytes(RECIPE.encode("utf-16"))
    with pytest.raises(UserError, match=r"mine\.toml is not UTF-8"):
        load_recipe(str(file))
    with pytest.raises(UserError, match="no recipe 'missing'"):
        load_recipe("missing")


@pytest.mark.parametrize("name", recipe_names())
def test_shipped_recipes_are_called_like_their_files(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name == recipe_path(name).stem
    assert recipe.query_budget is not None
    assert len(recipe.summary) < 80
