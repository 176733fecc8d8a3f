"""Targets for attack tests that answer at once and say what they were asked."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from robustlab.data import LabelledExample, LabelledSet
from robustlab.models.target import (
    Embed,
    Embeddings,
    Generate,
    Generations,
    Gradient,
    Gradients,
    Predict,
    Predictions,
    Request,
    Response,
    Score,
    Scores,
    TokenGradient,
)

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
        value = sum(_word_weight(word, self.weights) for word in words)
        if neighbours > 1:
            value += self._noise * _hash(f"{text}{neighbours}")
        return value

    def fingerprint(self) -> str:
        return hashlib.sha256(repr(sorted(self.weights.items())).encode()).hexdigest()

    def describe(self) -> Mapping[str, Any]:
        return {"spec": self.spec, "kind": self.kind, "dtype": self._dtype}


class WordGenerator:
    """A generator that says "yes" or "no" by weights of words, and how sure it is.

    With x the sum of the weights of a prompt's words, log p(yes) = log 1 / (1 + exp(-x)); every
    output other than "yes" is scored as "no". The gradient at a word is its weight. ``noise``
    works as in :class:`WordTarget`, on x and on gradients. A request that holds a text of
    ``huge``, or more than ``most`` texts, does not fit into memory.
    """

    kind = "causal"
    label_names = ()
    spec = "fake:generator"
    answers: frozenset[type[Request]] = frozenset({Generate, Score, Gradient})

    def __init__(
        self,
        *,
        dtype: str = "fp32",
        noise: float = 0.0,
        most: int | None = None,
        huge: frozenset[str] = frozenset(),
    ) -> None:
        self.requests: list[Request] = []
        self._dtype = dtype
        self._noise = noise
        self._most = most
        self._huge = huge

    def answer(self, request: Request) -> Response:
        self.requests.append(request)
        if isinstance(request, Generate):
            odds = self._odds(request.prompts)
            return Generations(
                tuple("yes" if x > 0 else "no" for x in odds),
                np.float32([-math.log1p(math.exp(-abs(x))) for x in odds]),
                np.full(len(odds), 2),
                np.float32([abs(x) for x in odds]),
            )
        if isinstance(request, Score):
            odds = self._odds(request.prompts)
            signed = [
                x if out == "yes" else -x for x, out in zip(odds, request.outputs, strict=True)
            ]
            tokens = np.array([len(output.split()) + 1 for output in request.outputs])
            return Scores(np.float32([-math.log1p(math.exp(-x)) for x in signed]), tokens)
        if isinstance(request, Gradient):
            texts = [str(text) for text in request.texts]
            return Gradients(
                tuple(
                    _word_gradient(text, x, shift)
                    for text, x, shift in zip(
                        texts,
                        self._odds(texts),
                        request.shifts or [np.float32(0.0)] * len(texts),
                        strict=True,
                    )
                )
            )
        raise TypeError(f"{self.spec} does not answer {type(request).__name__}")

    def _odds(self, texts: Sequence[str]) -> list[float]:
        count = len(texts)
        if (self._most is not None and count > self._most) or self._huge & set(texts):
            raise RuntimeError(f"CUDA out of memory. Tried to allocate {count}.00 GiB")
        return [
            sum(_word_weight(word) for word in text.lower().split())
            + (self._noise * _hash(f"{text}{count}") if count > 1 else 0.0)
            for text in texts
        ]

    def fingerprint(self) -> str:
        return hashlib.sha256(b"yes or no").hexdigest()

    def describe(self) -> Mapping[str, Any]:
        return {"spec": self.spec, "kind": self.kind, "dtype": self._dtype}


class WordEncoder:
    """A sentence encoder: the direction of a text depends on its words, whatever their order."""

    kind = "retriever"
    label_names = ()
    spec = "fake:encoder"
    answers: frozenset[type[Request]] = frozenset({Embed})

    def __init__(self) -> None:
        self.batches: list[tuple[str, ...]] = []

    def answer(self, request: Request) -> Response:
        assert isinstance(request, Embed)
        self.batches.append(request.texts)
        vectors = [
            sum((_direction(word) for word in text.lower().split()), np.full(4, 1e-3))
            for text in request.texts
        ]
        return Embeddings(np.float32([vector / np.linalg.norm(vector) for vector in vectors]))

    def fingerprint(self) -> str:
        return hashlib.sha256(b"directions").hexdigest()

    def describe(self) -> Mapping[str, Any]:
        return {"spec": self.spec, "kind": self.kind, "dtype": "fp32"}


def _word_weight(word: str, weights: Mapping[str, float] = WEIGHTS) -> float:
    # An own small weight for every word keeps different texts apart.
    return weights.get(word, _hash(word) * 0.05)


def _word_gradient(text: str, odds: float, shift: Any) -> TokenGradient:
    """Of width 2, one row a word."""
    words = text.lower().split()
    rows = np.float32([[_word_weight(word), odds] for word in words]).reshape(len(words), 2)
    return TokenGradient(
        loss=math.log1p(math.exp(-odds)) + float(np.sum(shift)),
        token_ids=np.arange(len(words)),
        offsets=tuple((0, 0) for _ in words),
        gradient=rows + shift,
    )


def _direction(word: str) -> np.ndarray:
    return np.array([_hash(f"{word} {axis}") for axis in range(4)])


def _hash(text: str) -> float:
    """A number between -1 and 1 that looks random and is not."""
    number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little")
    return math.sin(number)
