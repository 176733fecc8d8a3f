"""The catalogue: every shipped recipe is read, and what it needs is looked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from robustlab.attack import catalogue as listing
from robustlab.attack.catalogue import catalogue
from robustlab.resources import recipe_names

RECIPE = """
name = "{name}"
summary = "Something"
paper = "none"
[threat]
goal = "{goal}"
knowledge = "score"
surface = "words"
{part}
[budget]
queries = 70
[[transformation]]
kind = "swap"
antonyms = "{antonyms}"
[search]
method = "{method}"
attack = "PWWSRen2019"
"""

SUITE = 'name = "both"\nsummary = "Two"\npaper = "none"\nsuite = ["plain", "wordy"]\n'


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A made-up folder of recipes."""

    def recipe(name: str, **values: str) -> None:
        filled = {
            "goal": "untargeted-classification",
            "part": "",
            "antonyms": "keep",
            "method": "greedy",
            **values,
        }
        (tmp_path / f"{name}.toml").write_text(RECIPE.format(name=name, **filled))

    recipe("plain")
    recipe("strict", antonyms="exclude")
    recipe("willing", antonyms="exclude-if-known")
    recipe("reader", goal="change-answer", part='part = "context"')
    recipe("wordy", method="textattack")
    (tmp_path / "both.toml").write_text(SUITE)
    monkeypatch.setattr("robustlab.resources.content_folder", lambda name: tmp_path)
    monkeypatch.setattr(listing, "find_wordnet", lambda: None)
    monkeypatch.setattr(
        listing, "missing", lambda recipe: f"{recipe.name} needs NLTK's wordnet, and so on"
    )
    return tmp_path


def test_needs_and_what_is_missing(shipped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = {entry.recipe.name: entry for entry in catalogue().recipes}
    assert sorted(listed) == ["plain", "reader", "strict", "willing", "wordy"]
    assert (listed["plain"].needs, listed["plain"].missing) == ((), None)
    assert listed["strict"].missing is not None
    assert "strict needs WordNet" in listed["strict"].missing
    assert listed["willing"].needs == ("WordNet (optional)",)
    assert listed["willing"].missing is None
    assert listed["wordy"].needs == ("TextAttack", "NLTK's stopwords", "WordNet")
    assert listed["wordy"].missing == "wordy needs NLTK's wordnet, and so on"
    monkeypatch.setattr(listing, "find_wordnet", lambda: object())
    assert {entry.recipe.name: entry for entry in catalogue().recipes}["strict"].missing is None


def test_a_suite_is_ready_when_its_recipes_are(
    shipped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (suite,) = catalogue().suites
    assert (suite.suite.name, suite.suite.recipes) == ("both", ("plain", "wordy"))
    assert suite.missing == "wordy needs NLTK's wordnet, and so on"
    monkeypatch.setattr(listing, "missing", lambda recipe: None)
    assert catalogue().suites[0].missing is None


def test_as_json(shipped: Path) -> None:
    found = catalogue().as_json()
    plain = next(entry for entry in found["recipes"] if entry["name"] == "plain")
    assert plain["goal"] == "untargeted-classification"
    assert plain["budget"]["queries"] == 70
    assert plain["ready"] is True
    reader = next(entry for entry in found["recipes"] if entry["name"] == "reader")
    assert (reader["part"], reader["target"]) == ("context", "generator")
    assert found["suites"][0]["ready"] is False


def test_every_shipped_file_is_listed_under_its_own_name() -> None:
    found = catalogue()
    names = [entry.recipe.name for entry in found.recipes]
    names += [entry.suite.name for entry in found.suites]
    assert tuple(sorted(names)) == recipe_names()
    for listed in found.suites:
        assert set(listed.suite.recipes) <= {entry.recipe.name for entry in found.recipes}
