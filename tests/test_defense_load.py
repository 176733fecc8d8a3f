"""Defences by name, file and table."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from rag_fakes import FixedGenerator, FixedRetriever

from robustlab.data.records import Corpus, Passage
from robustlab.defense import DefendedRag, Detector, defend, defense_names, load_defense
from robustlab.defense.load import Parts, Settings
from robustlab.errors import UserError
from robustlab.rag import RagPipeline, load_prompt

CORPUS = Corpus(
    "c", tuple(Passage(f"p{i}", "", f"Owl number {i} sleeps in tree {i * 7}.") for i in range(30))
)
PRESETS = Path(load_defense.__code__.co_filename).parent / "presets"


class Classifier:
    spec = "mine"
    kind = "classifier"


def rag() -> RagPipeline:
    return RagPipeline(FixedRetriever({}), FixedGenerator({}), load_prompt("reader"))


@pytest.mark.parametrize("name", defense_names())
def test_every_shipped_file_says_what_it_is(name: str) -> None:
    table = tomllib.loads((PRESETS / f"{name}.toml").read_text(encoding="utf-8"))
    assert table["name"] == name
    assert all(table[key].strip() for key in ("kind", "summary", "paper"))


@pytest.mark.parametrize(
    "name",
    ["perplexity", "near-duplicate", "typo-repair", "unicode-normalise", "delimiters",
     "instruction-hierarchy"],
)  # fmt: skip
def test_a_shipped_defence_fits_a_pipeline_and_says_its_name(name: str) -> None:
    found = load_defense(name, rag(), corpus=CORPUS)
    assert found.name == name == found.describe()["name"]
    assert found.fingerprint() == load_defense(name, rag(), corpus=CORPUS).fingerprint()


def test_a_table_replaces_numbers_of_the_file_that_it_names(tmp_path: Path) -> None:
    mine = tmp_path / "mine.toml"
    shipped = (PRESETS / "perplexity.toml").read_text(encoding="utf-8")
    own = shipped.replace('name    = "perplexity"', 'name = "mine"').replace("= 12 ", "= 6 ")
    mine.write_text(own, encoding="utf-8")
    found = load_defense({"name": str(mine), "false_positive_rate": 0.2}, rag(), corpus=CORPUS)
    assert isinstance(found, Detector)
    described = found.describe()
    assert described["name"] == "mine"
    assert (described["window"], described["false_positive_rate"]) == (6, 0.2)


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("perplexty", "the nearest of these is perplexity"),
        ("firewall", "neither a TOML file nor one of the shipped defences: "),
        ({"window": 3}, "lacks its name"),
        ({"name": "perplexity", "windows": 3}, "the defence perplexity knows no 'windows'"),
        ({"name": "perplexity", "window": 0}, "wrong at window: 0 is not a whole number"),
        ({"name": "perplexity", "false_positive_rate": 2}, "2 is not a number from 0 to 1"),
        ({"name": "perplexity", "kind": "vae"}, "cannot be changed"),
        ({"name": "delimiters", "opening": 3}, "3 is not a text"),
        ("vae-denoise", "works on embeddings, and this retriever has none"),
    ],
)
def test_a_defence_that_is_wrong_or_does_not_fit(spec, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        load_defense(spec, rag(), corpus=CORPUS)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("name = ", "is no TOML file"),
        ('kind = "prompt"', "lacks 'name'"),
        ('name = "x"\nkind = "magic"', "there is no 'magic'; there are: perplexity"),
        ('name = "x"\nkind = "typo-repair"', "lacks 'least_length'"),
    ],
)
def test_a_wrong_file(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "x.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=sentence):
        load_defense(str(path), rag(), corpus=CORPUS)


def test_what_learns_needs_a_corpus() -> None:
    with pytest.raises(UserError, match="typo-repair learns from the clean corpus"):
        load_defense("typo-repair", rag())


@pytest.mark.parametrize("name", ["delimiters", "near-duplicate", "perplexity"])
def test_a_classifier_cannot_take_a_defence_of_pipelines(name: str) -> None:
    with pytest.raises(UserError, match=f"{name} is for RAG pipelines; mine is a classifier"):
        defend(Classifier(), [name], corpus=CORPUS)


def test_defences_are_combined_and_none_leaves_the_target_as_it_is() -> None:
    target = rag()
    assert defend(target, []) is target
    found = defend(target, ["perplexity", "delimiters"], corpus=CORPUS)
    assert isinstance(found, DefendedRag)
    assert [defense["name"] for defense in found.describe()["defenses"]] == [
        "perplexity", "delimiters",
    ]  # fmt: skip
    assert found.undefended is target


def test_settings_are_checked_one_by_one() -> None:
    settings = Settings("s", {"name": "s", "kind": "k", "a": 1, "b": "x", "c": True})
    assert (settings.integer("a"), settings.choice("b", ("x", "y"))) == (1, "x")
    for take in (
        lambda: settings.integer("c"),
        lambda: settings.number("b"),
        lambda: settings.choice("b", ("y",)),
        lambda: settings.text("d"),
    ):
        with pytest.raises(UserError):
            take()
    assert not settings.has("d")
    assert Parts(rag(), CORPUS, 0).clean("x") is CORPUS
