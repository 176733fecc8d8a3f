from __future__ import annotations

import numpy as np
import pytest
from planted import recipe

from robustlab.attack.neighbours import Neighbours
from robustlab.attack.perturbations import (
    DeleteWord,
    Drawn,
    Synonyms,
    build_perturbations,
    homoglyphs,
    invisible_characters,
    keyboard_typos,
    reorderings,
)
from robustlab.attack.recipe import Recipe
from robustlab.attack.words import Words
from robustlab.errors import UserError
from robustlab.metrics.robustness import changed_words


def test_homoglyphs_change_one_letter_for_one_that_looks_the_same() -> None:
    spellings = list(homoglyphs("ape"))
    assert spellings == [
        "\N{CYRILLIC SMALL LETTER A}pe",
        "a\N{CYRILLIC SMALL LETTER ER}e",
        "ap\N{CYRILLIC SMALL LETTER IE}",
    ]
    assert list(homoglyphs("T")) == ["\N{CYRILLIC CAPITAL LETTER TE}"]
    assert list(homoglyphs("24")) == ["24", "24"]  # digits have no look-alike


def test_invisible_characters_stand_inside() -> None:
    assert list(invisible_characters("ab")) == ["a\u200bb", "a\u200cb", "a\u200db"]
    assert list(invisible_characters("a")) == ["a\u200b", "a\u200c", "a\u200d"]
    assert all(len(changed_words("ab", word)) == 1 for word in invisible_characters("ab"))


def test_reordered_letters_are_displayed_in_order() -> None:
    spellings = list(reorderings("odd"))
    assert spellings == ["\u202edo\u202cd"]  # the two d's may be swapped without anybody noticing
    for word in reorderings("plain"):
        before, _, rest = word.partition("\u202e")
        reversed_, _, after = rest.partition("\u202c")
        assert before + reversed_[::-1] + after == "plain"


@pytest.mark.parametrize("word", ["don't", "24", "שלום", "cafe\u0301"])
def test_words_that_the_controls_would_garble_are_left(word: str) -> None:
    assert list(reorderings(word)) == []


def test_typos_are_slips_on_a_keyboard() -> None:
    typos = list(keyboard_typos("ab"))
    assert typos == [
        "qb", "wb", "sb", "zb",  # around a
        "b", "aab", "ba",
        "ag", "ah", "av", "an",  # around b
        "a", "abb",
    ]  # fmt: skip
    assert "" not in keyboard_typos("a")
    assert list(keyboard_typos("P"))[:2] == ["O", "L"]
    assert list(keyboard_typos("7")) == ["77"]


def test_draws_are_different_and_the_seed_decides_them() -> None:
    words = Words.of("a wonderful day")
    draw = Drawn(keyboard_typos, per_word=5)
    drawn = draw(words, 1, np.random.default_rng(1))
    assert len(set(drawn)) == 5
    assert "wonderful" not in drawn
    assert set(drawn) <= set(keyboard_typos("wonderful"))
    assert drawn == draw(words, 1, np.random.default_rng(1))
    assert drawn != draw(words, 1, np.random.default_rng(2))


def test_draws_end_with_what_there_is() -> None:
    few = Drawn(reorderings, per_word=5)(Words.of("odd"), 0, np.random.default_rng(0))
    assert few == ["\u202edo\u202cd"]
    none = Drawn(homoglyphs, per_word=5)(Words.of("24"), 0, np.random.default_rng(0))
    assert none == []


def test_synonyms_are_capitalised_like_the_word() -> None:
    synonyms = Synonyms(Neighbours(k=1, min_cosine=0.5))
    rng = np.random.default_rng(0)
    words = Words.of("terrible Terrible TERRIBLE")
    assert [list(synonyms(words, place, rng)) for place in range(3)] == [
        ["horrible"], ["Horrible"], ["HORRIBLE"],
    ]  # fmt: skip
    assert synonyms(Words.of("qwxyz"), 0, rng) == []


def _recipe(transformations: str) -> Recipe:
    return recipe("greedy", "", constraints=transformations)


def test_every_kind_is_read() -> None:
    tables = "".join(
        f'[[transformation]]\nkind = "{kind}"\nper_word = 2\n'
        for kind in ("homoglyph", "invisible-character", "reordering", "keyboard-typo")
    )
    built, notes = build_perturbations(
        _recipe(
            tables
            + '[[transformation]]\nkind = "delete-word"\n'
            + '[[transformation]]\nkind = "minilm-neighbours"\n'
            + 'k = 3\nmin_cosine = 0.5\nantonyms = "keep"'
        ),
        frozenset({"the"}),
    )
    makers = (homoglyphs, invisible_characters, reorderings, keyboard_typos)
    assert built == (
        *(Drawn(maker, 2) for maker in makers),
        DeleteWord(),
        Synonyms(Neighbours(3, 0.5, "keep", frozenset({"the"}))),
    )
    assert notes == {"antonyms": "kept"}


@pytest.mark.parametrize(
    ("transformations", "message"),
    [
        ("", r"lacks a \[\[transformation\]\]"),
        ('[[transformation]]\nkind = "upper"', r"transformation\[1\]\.kind: there is no"),
        ('[[transformation]]\nkind = "homoglyph"', r"lacks a key: transformation\[1\]\.per_word"),
        ('[[transformation]]\nkind = "delete-word"\nper_word = 1', "unknown key"),
        (
            '[[transformation]]\nkind = "minilm-neighbours"\nk = 1\nmin_cosine = 0.5\n'
            'antonyms = "no"',
            r"transformation\[1\]\.antonyms",
        ),
    ],
)
def test_what_is_wrong_is_named(transformations: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_perturbations(_recipe(transformations), frozenset())
