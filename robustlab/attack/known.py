"""Classifiers whose robustness is known, to see whether an attack tells the truth about them.

:class:`Unbreakable` gives every text one class, so that an attack that claims to have changed it
has a fault. :class:`Brittle` gives that class to the originals and another one to every other text,
so that an attack that finds no success has one. Gradients and tokens are those of the target that
they stand for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from robustlab.models.target import (
    FloatArray,
    Predict,
    Predictions,
    Request,
    Response,
    Target,
    TextInput,
    Vocabulary,
    WhiteBox,
)

__all__ = ["Brittle", "Unbreakable"]

_SURE = 0.9


class Unbreakable:
    """One class for every text.

    Args:
        target: what it stands for.
        right: the class, as the target numbers it.
    """

    name = "unbreakable"

    def __init__(self, target: Target, right: int) -> None:
        self._target = target
        self._right = right
        self.kind = target.kind
        self.answers = target.answers
        self.label_names = target.label_names
        self.spec = f"{self.name}({target.spec})"

    def answer(self, request: Request) -> Response:
        """Classes by the rule; gradients of the target itself."""
        if isinstance(request, Predict):
            rows = [self._sure_of(self.label_of(text)) for text in request.texts]
            return Predictions(np.array(rows).reshape(-1, len(self.label_names)))
        return self._target.answer(request)

    def label_of(self, text: TextInput) -> int:
        """The class of a text."""
        return self._right

    def vocabulary(self) -> Vocabulary:
        """That of the target."""
        assert isinstance(self._target, WhiteBox)
        return self._target.vocabulary()

    def fingerprint(self) -> str:
        """That of the target."""
        return self._target.fingerprint()

    def describe(self) -> Mapping[str, Any]:
        """The target's own description under this name."""
        return {**self._target.describe(), "spec": self.spec}

    def _sure_of(self, label: int) -> FloatArray:
        classes = len(self.label_names)
        row = np.full(classes, (1 - _SURE) / max(1, classes - 1), dtype=np.float32)
        row[label] = _SURE
        return row


class Brittle(Unbreakable):
    """One class for the originals, another for every other text.

    Args:
        target: what it stands for.
        right: the class of the originals, as the target numbers it.
        wrong: that of all other texts.
        originals: the texts to be read rightly.
    """

    name = "brittle"

    def __init__(
        self, target: Target, right: int, wrong: int, originals: Iterable[TextInput]
    ) -> None:
        super().__init__(target, right)
        self._wrong = wrong
        self._originals = frozenset(originals)

    def label_of(self, text: TextInput) -> int:
        """The class of a text."""
        return self._right if text in self._originals else self._wrong
