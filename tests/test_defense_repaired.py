"""A classifier behind repairs: what it reads, and where an adversary finds its tokens."""

from __future__ import annotations

import numpy as np
import pytest
from planted import PlantedTarget

from robustlab.attack.goals import Frame
from robustlab.attack.tokens import OwnTokens
from robustlab.defense import defend
from robustlab.defense.ranmask import RanMask
from robustlab.defense.repair import TypoRepair, UnicodeRepair
from robustlab.defense.repaired import RepairedClassifier, repaired
from robustlab.errors import UserError
from robustlab.models.target import Generate, Gradient, Gradients, Predict, Predictions, Response

UNICODE = UnicodeRepair("u")
TYPOS = TypoRepair("t", ["the film was good and weak"], ["strong"], 3)
BOTH = RepairedClassifier(PlantedTarget(), [UNICODE, TYPOS])


def probabilities(response: Response) -> list[float]:
    assert isinstance(response, Predictions)
    return [round(float(row[1]), 6) for row in response.probabilities]


def test_every_text_is_read_as_repaired() -> None:
    bare = PlantedTarget()
    raw = ("the film was weka", "the f\N{CYRILLIC SMALL LETTER I}lm was weak", "the film was good")
    meant = ("the film was weak", "the film was weak", "the film was good")
    assert probabilities(BOTH.answer(Predict(raw))) == probabilities(bare.answer(Predict(meant)))
    assert probabilities(BOTH.answer(Predict(raw))) != probabilities(bare.answer(Predict(raw)))
    assert repaired([TYPOS], [("weka", "film"), "flim"]) == [("weak", "film"), "film"]


@pytest.mark.parametrize(
    ("raw", "found"),
    [
        ("the film was weka", {"the": "the", "film": "film", "was": "was", "weak": "weka"}),
        ("the  (flim), was weak.", {"film": "flim", "weak": "weak", ".": ".", "(": "("}),
        ("teh flm was good", {"the": "teh", "film": "flm", "was": "was", "good": "good"}),
        ("the filmm, was xgood", {"film": "filmm", "was": "was", "good": "xgood"}),
        ("the film w\N{ZERO WIDTH SPACE}as wea", {"was": "w\N{ZERO WIDTH SPACE}as", "weak": "wea"}),
    ],
)
def test_tokens_stand_where_they_were_written(raw: str, found: dict[str, str]) -> None:
    response = BOTH.answer(Gradient((raw,), (0,)))
    assert isinstance(response, Gradients)
    (item,) = response.items
    vocabulary = BOTH.vocabulary()
    spelt = {
        vocabulary.spellings[token].strip(): raw[start:end]
        for token, (start, end) in zip(item.token_ids, item.offsets, strict=True)
        if token
    }
    marks = {raw[start:end]: raw[start:end] for start, end in item.offsets if start < end}
    assert {**marks, **spelt}.items() >= found.items()
    own = OwnTokens.of(item, Frame("", ""), raw)
    for word, written in found.items():
        place = raw.index(written)
        row = own.whole((place, place + len(written)))
        assert row is not None, word


def test_a_gradient_is_that_at_the_repaired_text() -> None:
    response = BOTH.answer(Gradient(("the film was weka", "the film"), (0, 1)))
    plain = PlantedTarget().answer(Gradient(("the film was weak", "the film"), (0, 1)))
    assert isinstance(response, Gradients)
    assert isinstance(plain, Gradients)
    for own, other in zip(response.items, plain.items, strict=True):
        np.testing.assert_array_equal(own.gradient, other.gradient)
        assert own.loss == other.loss
    assert response.items[1].offsets == plain.items[1].offsets


def test_tokens_stand_nowhere_where_pieces_were_joined() -> None:
    class Joined:
        name = "joined"

        def repair(self, questions):
            return [question.replace(" ", "") for question in questions]

        def describe(self):
            return {"name": self.name}

        def fingerprint(self):
            return "joined"

    response = RepairedClassifier(PlantedTarget(), [Joined()]).answer(Gradient(("a b",), (0,)))
    assert isinstance(response, Gradients)
    assert set(response.items[0].offsets) == {(0, 0)}


def test_it_says_what_stands_in_front() -> None:
    assert [one["name"] for one in BOTH.describe()["defenses"]] == ["u", "t"]
    prints = {
        RepairedClassifier(PlantedTarget(), repairs).fingerprint()
        for repairs in ([UNICODE], [TYPOS], [UNICODE, TYPOS], [TYPOS, UNICODE])
    }
    assert len(prints) == 4
    with pytest.raises(TypeError, match="does not answer Generate"):
        BOTH.answer(Generate(("the",), 3))
    with pytest.raises(UserError, match="is for classifiers and RAG pipelines"):
        defend(PlantedTarget(kind="causal"), ["unicode-normalise"])


def test_defences_of_a_classifier_are_put_together() -> None:
    def texts() -> list[str]:
        return ["the film was good and weak"]

    found = defend(PlantedTarget(), ["unicode-normalise", "typo-repair"], texts=texts)
    assert isinstance(found, RepairedClassifier)
    assert probabilities(found.answer(Predict(("the film was weka",)))) == probabilities(
        PlantedTarget().answer(Predict(("the film was weak",)))
    )
    with pytest.raises(UserError, match="typo-repair learns from clean texts of the data"):
        defend(PlantedTarget(), ["typo-repair"])
    voted = defend(PlantedTarget(), ["ranmask", "unicode-normalise"])
    assert [one["name"] for one in voted.describe()["defenses"]] == ["unicode-normalise", "ranmask"]
    assert voted.answers == {Predict}
    assert isinstance(voted, RepairedClassifier)
    with pytest.raises(TypeError, match="shows no vocabulary"):
        voted.vocabulary()
    assert isinstance(voted.undefended.defenses[0], RanMask)
