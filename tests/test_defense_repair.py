"""Repair of questions: mistyped words, and characters that are not what they look like."""

from __future__ import annotations

import numpy as np
import pytest

from robustlab.attack.perturbations import (
    homoglyphs,
    invisible_characters,
    keyboard_typos,
    reorderings,
)
from robustlab.defense.protocols import QuestionDefense
from robustlab.defense.repair import TypoRepair, UnicodeRepair

TYPOS = TypoRepair(
    "t", ["The river otter hunts.", "An otter swims under the bridge.", "Offer."], ["order"], 4
)


@pytest.mark.parametrize(
    ("mistyped", "meant"),
    [
        ("Where does the ottr swim?", "Where does the otter swim?"),
        ("ottter", "otter"),
        ("ottwr", "otter"),
        ("otetr", "otter"),
        ("OTETR", "OTTER"),
        ("Brigde's", "Bridge's"),
        ("orxer", "order"),  # known, though not of the corpus
        ("ofter", "otter"),  # offer is as near, otter is commoner
        ("xylophone", "xylophone"),
        ("teh", "teh"),  # shorter than four letters
        ("hunting swims2", "hunting swims2"),
    ],
)
def test_a_word_becomes_the_word_one_slip_away(mistyped: str, meant: str) -> None:
    assert isinstance(TYPOS, QuestionDefense)
    assert TYPOS.repair([mistyped]) == [meant]
    assert TYPOS.repair([meant]) == [meant]


def test_every_keyboard_slip_in_a_long_word_is_repaired() -> None:
    repair = TypoRepair("t", ["Hummingbird migration"], [], 4)
    for word in ("hummingbird", "migration"):
        assert set(repair.repair(list(keyboard_typos(word)))) == {word}


def test_a_fingerprint_tells_words_apart() -> None:
    assert (
        TypoRepair("t", ["a"], [], 4).fingerprint() != TypoRepair("t", ["b"], [], 4).fingerprint()
    )


@pytest.mark.parametrize("perturb", [homoglyphs, invisible_characters, reorderings])
def test_imperceptible_perturbations_are_undone(perturb) -> None:
    repair = UnicodeRepair("u")
    for word in ("Ocean", "spawning", "a"):
        assert set(repair.repair(list(perturb(word)))) <= {word}


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("ﬁsh ① ｆｕｌｌ", "fish 1 full"),
        ("сор or Мир?", "cop or Мир?"),  # nothing but look-alikes; a word with others stays
        ("café Zoë\u0301\u0302\u0303", "café Zo\u00eb\u0301"),
        ("tag\U000e0041s so\u00adft", "tags soft"),
        ("line\nbreak\tand tab", "line\nbreak\tand tab"),
        ("日本語 한국어", "日本語 한국어"),
    ],
)
def test_characters_become_what_they_look_like(text: str, plain: str) -> None:
    assert UnicodeRepair("u").repair([text]) == [plain]
    assert UnicodeRepair("u").repair([plain]) == [plain]


def test_whatever_is_repaired_stays_as_it_is_and_holds_nothing_invisible() -> None:
    rng = np.random.default_rng(0)
    alphabet = ["\u202e", "\u202c", "a", "b", "\u200b", "\u0430", "ﬁ"]
    for _ in range(200):
        noise = "".join(rng.choice(alphabet, 12))
        (once,) = UnicodeRepair("u").repair([noise])
        assert UnicodeRepair("u").repair([once]) == [once]
        assert not set(once) & {"\u202e", "\u202c", "\u200b"}
