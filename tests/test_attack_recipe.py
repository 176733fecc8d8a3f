from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from robustlab.attack.recipe import Budget, Options, Recipe, Suite, load_recipe, parse_recipe
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


def parsed(text: str) -> Recipe:
    recipe = parse_recipe(text, "here")
    assert isinstance(recipe, Recipe)
    return recipe


def test_a_recipe_is_read_whole() -> None:
    recipe = parsed(RECIPE)
    assert (recipe.name, recipe.summary, recipe.paper) == ("mine", "what it does", "Nobody 2000")
    assert recipe.threat.goal == "untargeted-classification"
    assert (recipe.threat.knowledge, recipe.threat.surface) == ("score", "characters")
    assert recipe.budget == Budget(queries=30)
    assert (recipe.goal.kind, dict(recipe.goal.options)) == ("untargeted-classification", {})
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
    recipe = parsed(short)
    assert recipe.budget == Budget()
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
        (
            "queries = 30",
            "querys = 30",
            r"unknown key: budget\.querys; known here: queries, max_edits,",
        ),
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
    assert load_recipe(str(file)).name == "mine"
    file.write_bytes(RECIPE.encode("utf-16"))
    with pytest.raises(UserError, match=r"mine\.toml is not UTF-8"):
        load_recipe(str(file))
    with pytest.raises(UserError, match="no recipe 'missing'"):
        load_recipe("missing")


@pytest.mark.parametrize("name", recipe_names())
def test_shipped_recipes_are_called_like_their_files(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name == recipe_path(name).stem
    assert len(recipe.summary) < 100
    if isinstance(recipe, Suite):
        assert set(recipe.recipes) <= set(recipe_names())
    elif recipe.threat.surface != "embeddings" and recipe.threat.goal != "retrieve-poison":
        # What is written for all questions at once has no budget of one.
        assert recipe.budget.queries is not None


GENERATES = RECIPE.replace("untargeted-classification", "change-answer").replace(
    'surface   = "characters"',
    'surface = "words"\npart = "question"\n[goal]\nmeasure = "f1"\nat_most = 0.3',
)


def test_a_goal_on_generated_text_has_a_part_and_numbers() -> None:
    recipe = parsed(GENERATES)
    assert recipe.threat.attacks_generators
    assert recipe.threat.part == "question"
    assert dict(recipe.goal.options) == {"measure": "f1", "at_most": 0.3}
    with pytest.raises(UserError, match=r"lacks a key: threat\.part"):
        parse_recipe(GENERATES.replace('part = "question"', ""), "here")
    with pytest.raises(UserError, match=r"unknown key: threat\.part"):
        parse_recipe(RECIPE.replace("[budget]", 'part = "question"\n[budget]'), "here")


def test_every_budget_is_read() -> None:
    text = RECIPE.replace(
        "queries = 30", "queries = 30\nmax_edits = 4\nmax_edit_rate = 0.2\nseconds = 60"
    )
    assert parsed(text).budget == Budget(30, 4, 0.2, 60)
    for wrong in ("0", "1.5", "true"):
        with pytest.raises(UserError, match=r"budget\.max_edit_rate: expected a number above 0"):
            parse_recipe(RECIPE.replace("queries = 30", f"max_edit_rate = {wrong}"), "here")


def test_a_suite_lists_recipes_and_nothing_else() -> None:
    text = 'name = "s"\nsummary = "two"\npaper = "none"\nsuite = ["a", "b"]\n'
    suite = parse_recipe(text, "here")
    assert isinstance(suite, Suite)
    assert (suite.name, suite.recipes, suite.text) == ("s", ("a", "b"), text)
    with pytest.raises(UserError, match="at suite: expected a list of texts"):
        parse_recipe(text.replace('["a", "b"]', "[]"), "here")
    with pytest.raises(UserError, match="unknown key: search"):
        parse_recipe(text + '[search]\nmethod = "x"\n', "here")


def test_options_are_taken_by_type_and_the_rest_refused() -> None:
    recipe = parsed(RECIPE.replace("tries  = 7", 'tries = 7\nrate = 0.5\nwords = ["a"]\non = true'))
    options = Options(recipe, "search", recipe.search)
    assert options.integer("tries", minimum=7) == 7
    assert options.number("rate") == 0.5
    assert options.texts("words") == ("a",)
    with pytest.raises(UserError, match=r"unknown key: search\.on; known here: tries, rate, words"):
        options.finish()
    assert options.flag("on") is True
    assert options.choice("order", ("up", "down"), "up") == "up"
    options.finish()
    with pytest.raises(UserError, match=r"lacks a key: search\.width"):
        options.integer("width")
    again = Options(recipe, "search", recipe.search)
    with pytest.raises(UserError, match=r"search\.tries: expected a whole number, at least 8"):
        again.integer("tries", minimum=8)
    with pytest.raises(UserError, match=r"search\.rate: expected a number from 0\.6 to 1"):
        again.number("rate", low=0.6)
    with pytest.raises(UserError, match=r'search\.words: expected "a" or "b", found'):
        again.choice("words", ("a", "b"))


POISON = (
    RECIPE.replace("untargeted-classification", "wrong-answer")
    .replace('surface   = "characters"', 'surface = "passages"')
    .replace("[budget]", "[budget]\npassages = 5")
)


def test_passages_have_goals_and_a_budget_of_their_own() -> None:
    recipe = parsed(POISON)
    assert recipe.threat.poisons
    assert recipe.threat.attacks_pipelines
    assert recipe.budget.passages == 5
    assert parsed(RECIPE).budget.passages is None
    with pytest.raises(UserError, match=r"lacks a key: budget\.passages"):
        parse_recipe(POISON.replace("passages = 5", ""), "here")
    with pytest.raises(UserError, match=r"unknown key: budget\.passages"):
        parse_recipe(RECIPE.replace("[budget]", "[budget]\npassages = 5"), "here")
    for text in (
        POISON.replace('"wrong-answer"', '"untargeted-classification"'),
        RECIPE.replace('"untargeted-classification"', '"no-answer"'),
    ):
        with pytest.raises(UserError, match=r"wrong at threat\.surface"):
            parse_recipe(text, "here")
    hidden = parsed(RECIPE.replace("untargeted-classification", "hide-gold"))
    assert hidden.threat.attacks_pipelines
    assert not hidden.threat.poisons
