"""Targets for attack tests that answer at once and say what they were asked."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from robustlab.data import LabelledExample, LabelledSet
from robustlab.models.target import Predict, Predictions, Request, Response

WEIGHTS = {
    "good": 1.5,
    "great": 2.0,
    "fine": 0.8,
    "lovely": 1.2,
    "bad": -1.5,
    "awful": -2.0,
    "dull": -0.9,
    "poor": -1.1,
    "very": 6.0,  # a stopword, which attacks may not touch
}

REVIEWS = LabelledSet(
    "tiny reviews",
    "test",
    ("negative", "positive"),
    tuple(
        LabelledExample(f"t{number}", text, label)
        for number, (text, label) in enumerate(
            [
                ("the food was good and the view great", 1),
                ("a lovely room with a fine bath", 1),
                ("awful noise all night", 0),
                ("dull film with a poor and bad end", 0),
                ("nothing here was good", 0),  # the classifier is wrong on this one
                ("a very fine day out", 1),
                ("a bad and awful trip", 0),
                ("not one good word but a fine walk", 1),
            ]
        )
    ),
)
"""Seven examples that :class:`WordTarget` gets right, and one that it does not."""


class WordTarget:
    """A classifier by weights of words: p(positive) = 1 / (1 + exp(-sum of weights)).

    ``noise`` moves log-odds up and down as batching does: by an amount that depends on the text
    and on how many others are in the batch, and that is 0 for a text alone. ``unreadable`` texts
    raise :class:`RuntimeError`.
    """

    kind = "classifier"
    label_names = ("negative", "positive")
    spec = "fake:words"

    def __init__(
        self,
        *,
        dtype: str = "fp32",
        noise: float = 0.0,
        unreadable: frozenset[str] = frozenset(),
        answers: frozenset[type[Request]] = frozenset({Predict}),
    ) -> None:
        self.answers = answers
        self.batches: list[tuple[Any, ...]] = []
        self.weights = dict(WEIGHTS)
        self._dtype = dtype
        self._noise = noise
        self._unreadable = unreadable

    def answer(self, request: Request) -> Response:
        assert isinstance(request, Predict)
        self.batches.append(request.texts)
        unread = self._unreadable & set(request.texts)
        if unread:
            raise RuntimeError(f"cannot read {min(unread)}")
        odds = np.array([self._log_odds(text, len(request.texts)) for text in request.texts])
        positive = 1 / (1 + np.exp(-odds))
        return Predictions(np.stack([1 - positive, positive], axis=1).astype(np.float32))

    def _log_odds(self, text: Any, neighbours: int) -> float:
        words = (text if isinstance(text, str) else " ".join(text)).lower().split()
        # An own small weight for every word keeps different texts apart.
        value = sum(self.weights.get(word, _hash(word) * 0.05) for word in words)
        if neighbours > 1:
            value += self._noise * _hash(f"{text}{neighbours}")
        return value

    def fingerprint(self) -> str:
        return hashlib.sha256(repr(sorted(self.weights.items())).encode()).hexdigest()

    def describe(self) -> Mapping[str, Any]:
        return {"spec": self.spec, "kind": self.kind, "dtype": self._dtype}


def _hash(text: str) -> float:
    """A number between -1 and 1 that looks random and is not."""
    number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little")
    return math.sin(number)
