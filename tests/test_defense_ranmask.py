"""Randomised masking: votes, and how many words may be replaced."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from robustlab.data.records import LabelledExample
from robustlab.defense import defend
from robustlab.defense.certify import certify_classifier, summarise_classifier
from robustlab.defense.ranmask import RanMask, RanMaskTarget, changed_share
from robustlab.errors import UserError
from robustlab.metrics.intervals import lower_bound
from robustlab.models.target import Generate, Predict, Predictions, Request, Response


class Counter:
    """Positive if the visible words hold more ``good`` than ``bad``; a pair counts together."""

    spec = "counter"
    kind = "classifier"
    label_names = ("negative", "positive")
    answers: frozenset[type[Request]] = frozenset({Predict})

    def __init__(self) -> None:
        self.read = 0

    def answer(self, request: Request) -> Response:
        assert isinstance(request, Predict)
        self.read += len(request.texts)
        rows = []
        for text in request.texts:
            words = " ".join((text,) if isinstance(text, str) else text).split()
            positive = words.count("good") > words.count("bad")
            rows.append([0.1, 0.9] if positive else [0.8, 0.2])
        return Predictions(np.array(rows, dtype=np.float32))

    def fingerprint(self) -> str:
        return "counter"

    def describe(self) -> Mapping[str, Any]:
        return {"spec": self.spec, "kind": self.kind}


def smoothed(**changes: Any) -> RanMaskTarget:
    numbers: dict[str, Any] = {
        "kept": 0.25, "copies": 40, "samples": 300, "error": 0.01, "mask": "[MASK]", "seed": 3,
    }  # fmt: skip
    return RanMask("ranmask", **(numbers | changes)).wrap(Counter())


def label(target: RanMaskTarget, text: Any) -> int:
    response = target.answer(Predict((text,)))
    assert isinstance(response, Predictions)
    return int(response.labels[0])


def test_masks_depend_on_the_length_alone() -> None:
    target = smoothed()
    masks = target.masks(8)
    assert masks.shape == (40, 8)
    assert (masks.sum(axis=1) == 2).all()
    assert (masks == smoothed().masks(8)).all()
    assert not (masks == smoothed(seed=4).masks(8)).all()
    assert target.masks(1).all()  # one word is always kept


def test_shares_of_votes_are_the_probabilities() -> None:
    target = smoothed()
    text = "good good plot and film but it is"
    kept = target.masks(8)
    votes = sum(bool(row[:2].any()) for row in kept)
    response = target.answer(Predict((text,)))
    assert isinstance(response, Predictions)
    assert response.probabilities[0].tolist() == pytest.approx([1 - votes / 40, votes / 40])
    with pytest.raises(TypeError, match="does not answer Generate"):
        target.answer(Generate(("a",)))


def test_pairs_are_masked_together() -> None:
    target = smoothed()
    assert label(target, ("good good good good", "good good good bad")) == 1
    assert label(target, ("good\n good", "")) == 1
    assert label(target, "") == 0


def test_copies_that_are_alike_are_read_once() -> None:
    target = smoothed()
    label(target, "good good good good")
    assert isinstance(target.undefended, Counter)
    assert target.undefended.read == 4


def test_no_replacement_within_the_radius_changes_the_label() -> None:
    """Every set of so many words, each replaced by every word that matters."""
    target = smoothed(samples=2000)
    rng = random.Random(1)
    radii = []
    for _ in range(12):
        size = rng.randint(4, 7)
        words = ["good" if rng.random() < 0.9 else "plot" for _ in range(size)]
        (certificate,) = target.certify([" ".join(words)])
        radii.append(certificate.voted)
        assert label(target, " ".join(words)) == certificate.label
        for places in itertools.combinations(range(size), max(0, certificate.voted)):
            for new in itertools.product(("good", "bad", "plot"), repeat=len(places)):
                changed = list(words)
                for place, word in zip(places, new, strict=True):
                    changed[place] = word
                assert label(target, " ".join(changed)) == certificate.label
    assert max(radii) >= 1


def test_the_smoothed_radius_is_that_of_all_ways_of_masking() -> None:
    target = smoothed(samples=3000)
    words = ["good"] * 10
    (certificate,) = target.certify([" ".join(words)])
    # Two of ten words are kept: C(9, 2) / C(10, 2) = 36/45 of the ways miss a given word.
    assert changed_share(10, 2, 1) == pytest.approx(9 / 45)
    assert certificate.share == pytest.approx(0.01 ** (1 / 3000))
    # 1 - Δ(d) > ½: Δ(2) = 17/45, Δ(3) = 24/45.
    assert certificate.smoothed == 2
    assert certificate.radius == min(certificate.smoothed, certificate.voted)

    def share(text: list[str]) -> float:
        ways = list(itertools.combinations(range(10), 2))
        good = sum(
            sum(text[p] == "good" for p in kept) > sum(text[p] == "bad" for p in kept)
            for kept in ways
        )
        return good / len(ways)

    assert share(["bad"] * 2 + words[2:]) > 0.5
    assert share(["bad"] * 4 + words[4:]) < 0.5


def test_a_text_without_a_majority_is_certain_of_nothing() -> None:
    target = smoothed(samples=50)
    (certificate,) = target.certify(["good bad good bad plot plot plot plot"])
    assert certificate.smoothed == -1 or certificate.share > 0.5
    assert certificate.radius <= 1


@pytest.mark.parametrize(
    ("successes", "n", "error", "expected"),
    [(10, 10, 0.05, 0.05 ** (1 / 10)), (0, 10, 0.05, 0.0), (1, 3, 0.3, 1 - 0.7 ** (1 / 3))],
)
def test_lower_bound(successes: int, n: int, error: float, expected: float) -> None:
    assert lower_bound(successes, n, error) == pytest.approx(expected, abs=1e-9)


def test_lower_bound_has_the_tail_it_promises() -> None:
    low = lower_bound(37, 50, 0.01)
    tail = sum(math.comb(50, x) * low**x * (1 - low) ** (50 - x) for x in range(37, 51))
    assert tail == pytest.approx(0.01, abs=1e-9)
    with pytest.raises(ValueError, match="no such bound"):
        lower_bound(4, 3, 0.05)


def test_outcomes_and_summary() -> None:
    target = smoothed()
    examples = [
        LabelledExample("sure", "good " * 20, 1),
        LabelledExample("wrong", "good " * 20, 0),
        LabelledExample("unsure", "good plot plot plot plot plot", 1),
    ]
    outcomes = list(certify_classifier(target, examples, ("negative", "positive"), 1))
    assert [outcome["certified"] for outcome in outcomes] == [True, False, False]
    assert outcomes[0]["radius"] >= 1
    summary = summarise_classifier(outcomes)
    assert summary["certified_accuracy"].value == pytest.approx(1 / 3)
    assert summary["clean_accuracy"].value >= summary["certified_accuracy"].value
    assert summary["certified_words"].value == pytest.approx(
        sum(max(0, o["radius"]) / o["words"] for o in outcomes if o["correct"]) / 3
    )


def test_the_shipped_defence_wraps_classifiers_only() -> None:
    target = defend(Counter(), ["ranmask"], seed=5)
    assert isinstance(target, RanMaskTarget)
    assert target.describe()["defenses"][0]["seed"] == 5
    assert target.fingerprint() != defend(Counter(), ["ranmask"], seed=6).fingerprint()

    class Writer(Counter):
        answers = frozenset({Generate})

    with pytest.raises(UserError, match="is for classifiers"):
        defend(Writer(), ["ranmask"])
    with pytest.raises(UserError, match="is for RAG pipelines"):
        defend(Counter(), ["majority-vote"])
