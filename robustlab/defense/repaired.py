"""A classifier that reads every text only after it was repaired."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from robustlab.attack.tokens import Span
from robustlab.attack.words import fields
from robustlab.data.records import content_hash
from robustlab.defense.protocols import QuestionDefense
from robustlab.models.target import (
    Gradient,
    Gradients,
    Predict,
    Request,
    Response,
    Target,
    TextInput,
    Vocabulary,
    WhiteBox,
)

__all__ = ["RepairedClassifier", "repaired"]

_PIECE = re.compile(r"\S+")
_NOWHERE = (0, 0)


class RepairedClassifier:
    """A classifier behind repairs of its input, each of which reads what the one before left.

    :func:`robustlab.defense.load.defend` refuses targets of another kind.

    A gradient is that of the classifier at the repaired text, and its tokens stand where the text
    that they were made from stands in the raw one: the adversary looks through the repair, and
    what it writes is repaired again before it is judged.

    Args:
        target: the classifier.
        defenses: the repairs, in their order.
    """

    kind = "classifier"

    def __init__(self, target: Target, defenses: Sequence[QuestionDefense]) -> None:
        self.undefended = target
        self.defenses = tuple(defenses)

    @property
    def spec(self) -> str:
        """That of the classifier."""
        return self.undefended.spec

    @property
    def answers(self) -> frozenset[type[Request]]:
        """Those of Predict and Gradient that the classifier answers."""
        return self.undefended.answers & {Predict, Gradient}

    @property
    def label_names(self) -> tuple[str, ...]:
        """Those of the classifier."""
        return self.undefended.label_names

    def answer(self, request: Request) -> Response:
        """Repair the texts and hand them on.

        Raises:
            TypeError: a request that is not in :attr:`answers`.
        """
        if type(request) not in self.answers or not isinstance(request, Predict | Gradient):
            raise TypeError(f"{self.spec} ({self.kind}) does not answer {type(request).__name__}")
        texts = repaired(self.defenses, request.texts)
        response = self.undefended.answer(replace(request, texts=tuple(texts)))
        if not isinstance(response, Gradients):
            return response
        return Gradients(
            tuple(
                item if raw == read else replace(item, offsets=_moved(item.offsets, raw, read))
                for item, raw, read in zip(response.items, request.texts, texts, strict=True)
            )
        )

    def vocabulary(self) -> Vocabulary:
        """That of the classifier.

        Raises:
            TypeError: the classifier shows none.
        """
        if not isinstance(self.undefended, WhiteBox):
            raise TypeError(f"{self.spec} ({self.kind}) shows no vocabulary")
        return self.undefended.vocabulary()

    def fingerprint(self) -> str:
        """SHA-256 over the classifier's and the repairs'."""
        return content_hash(
            [self.undefended.fingerprint(), *(defense.fingerprint() for defense in self.defenses)]
        )

    def describe(self) -> Mapping[str, Any]:
        """The classifier, and the repairs with their numbers."""
        behind = self.undefended.describe()
        repairs = [dict(defense.describe()) for defense in self.defenses]
        return {**behind, "defenses": [*repairs, *behind.get("defenses", ())]}


def repaired(repairs: Sequence[QuestionDefense], texts: Sequence[TextInput]) -> list[TextInput]:
    """Texts, or pairs of them, after all repairs."""
    flat = [part for text in texts for part in fields(text)]
    for repair in repairs:
        flat = repair.repair(flat)
    parts = iter(flat)
    return [next(parts) if isinstance(text, str) else (next(parts), next(parts)) for text in texts]


def _moved(offsets: Sequence[Span], raw: TextInput, read: TextInput) -> tuple[Span, ...]:
    """Where tokens of the repaired text stand in the raw one.

    White space divides both texts into the same pieces. Within a piece, what stands before and
    behind the repaired characters has its place; a token with an end among the repaired ones
    stands nowhere, as if the tokenizer had added it. So do all tokens where the repair joined or
    split pieces, and those of a pair, which do not say in which of its texts they are.
    """
    if not isinstance(raw, str) or not isinstance(read, str):
        return tuple(_NOWHERE for _ in offsets)
    written = [match.span() for match in _PIECE.finditer(raw)]
    pieces = [match.span() for match in _PIECE.finditer(read)]
    if len(written) != len(pieces):
        return tuple(_NOWHERE for _ in offsets)
    starts = [start for start, _ in pieces]
    moved = []
    for start, end in offsets:
        start += len(read[start:end]) - len(read[start:end].lstrip())  # a space counted in
        number = bisect_right(starts, start) - 1
        if start >= end or number < 0 or end > pieces[number][1]:
            moved.append(_NOWHERE)
            continue
        (first, last), (begin, stop) = written[number], pieces[number]
        span = _place((start - begin, end - begin), raw[first:last], read[begin:stop])
        moved.append(_NOWHERE if span is None else (first + span[0], first + span[1]))
    return tuple(moved)


def _place(span: Span, written: str, read: str) -> Span | None:
    """Where a span of ``read`` is in ``written``; None if an end of it is among what was repaired.

    Letters that the repair took away at the edge of a token belong to it, between two to both.
    """
    shorter = min(len(written), len(read))
    front = _alike(written, read, shorter)
    back = _alike(written[::-1], read[::-1], shorter - front)
    behind = len(read) - back  # from here on both are the same
    longer = len(written) - len(read)
    start, end = span
    if front < start < behind or front < end < behind:
        return None
    return start if start <= front else start + longer, end + longer if end >= behind else end


def _alike(left: str, right: str, most: int) -> int:
    """How many characters are the same at the beginning, up to ``most``."""
    return next((i for i in range(most) if left[i] != right[i]), most)
