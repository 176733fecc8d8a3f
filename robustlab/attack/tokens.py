"""What the gradient attacks share: tokens in the adversary's text, and what to put in their place.

Shapes: T tokens that a target read, P of them that may be replaced, V vocabulary, W width of the
embeddings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from robustlab.attack.engine import BudgetExhaustedError, Search
from robustlab.attack.goals import Frame, Goal, Look
from robustlab.attack.method import Start
from robustlab.errors import UserError
from robustlab.models.target import (
    Ask,
    FloatArray,
    Generate,
    TextInput,
    TokenGradient,
    Vocabulary,
)

__all__ = [
    "BudgetedGoal",
    "OwnTokens",
    "Span",
    "cheapest_tokens",
    "first_order",
    "needed_vocabulary",
    "single_text",
    "word_tokens",
]

Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class OwnTokens:
    """The tokens that lie in the adversary's own text, among all that the target read.

    ``spans``: where each stands in that text, without the space that some tokenizers count in;
    ``rows``: its row in the gradient.
    """

    spans: tuple[Span, ...]
    rows: tuple[int, ...]

    @classmethod
    def of(cls, item: TokenGradient, frame: Frame, text: str) -> OwnTokens:
        """Find them by their character spans, which count over the whole prompt.

        Tokens that the tokenizer added, that are nothing but space, that reach into the frame or
        that were cut off are not among them.
        """
        prompt = frame.fill(text)
        begin = len(frame.before)
        found: list[tuple[Span, int]] = []
        for row, (start, end) in enumerate(item.offsets):
            piece = prompt[start:end]
            start += len(piece) - len(piece.lstrip())
            end = start + len(piece.strip())
            if begin <= start < end <= begin + len(text):
                found.append(((start - begin, end - begin), row))
        return cls(tuple(span for span, _ in found), tuple(row for _, row in found))

    def whole(self, span: Span) -> int | None:
        """The row of the token that spells just this span; None if there is none."""
        return next(
            (row for own, row in zip(self.spans, self.rows, strict=True) if own == span), None
        )

    def first(self, span: Span) -> int | None:
        """The row of the first token in a span; None if the span does not begin with a token."""
        return next(
            (row for own, row in zip(self.spans, self.rows, strict=True) if own[0] == span[0]),
            None,
        )

    def within(self, span: Span) -> int:
        """How many tokens a span is read as."""
        return sum(span[0] <= start and end <= span[1] for start, end in self.spans)


class BudgetedGoal:
    """A goal that asks no more than the example's budget allows.

    What is asked is cut to what there are queries for; the length of the answer says how much that
    was. A look at n texts costs n queries, and one more where only a generated text decides. When
    the example's time is over there is no answer either, so that a search can return its best.
    """

    def __init__(self, goal: Goal, queries: int | None) -> None:
        """``queries``: how many are left, None for no limit."""
        self._goal = goal
        self._left = queries
        self._generates = isinstance(goal.question(()), Generate | Ask)

    def look(self, texts: Sequence[TextInput]) -> Search[Look | None]:
        """A look at the first texts that can be afforded; None if not a single one can."""
        if self._left is not None:
            texts = texts[: max(0, self._left - self._generates)]
            self._left -= len(texts) + self._generates if texts else 0
        if not texts:
            return None
        try:
            return (yield from self._goal.look(texts))
        except BudgetExhaustedError:
            return None

    def slopes(
        self, texts: Sequence[TextInput], shifts: tuple[FloatArray, ...] = ()
    ) -> Search[tuple[TokenGradient, ...]]:
        """Gradients of the first texts that can be afforded, perhaps none."""
        if self._left is not None:
            texts, shifts = texts[: self._left], shifts[: self._left]
            self._left -= len(texts)
        if not texts:
            return ()
        try:
            return (yield from self._goal.slopes(texts, shifts)).items
        except BudgetExhaustedError:
            return ()


def first_order(gradient: FloatArray, vocabulary: Vocabulary) -> FloatArray:
    """How the loss changes with the token, up to a constant of each place: (P, W) -> (P, V).

    The Taylor estimate of replacing token o by n is (e_n - e_o) · gradient (Ebrahimi et al. 2018,
    arXiv:1712.06751); this is its first part, in one matrix product.
    """
    return np.asarray(gradient @ vocabulary.embeddings.T)


def word_tokens(
    vocabulary: Vocabulary, *, letters_only: bool, ascii_only: bool
) -> NDArray[np.bool_]:
    """Tokens that are words by themselves, where space stands on both sides; (V,).

    ``letters_only`` leaves out digits, punctuation and single letters, ``ascii_only`` whatever a
    plain keyboard does not have. The mask is made once for a vocabulary and cannot be written to.
    """
    known = _WORD_TOKENS.setdefault(vocabulary, {})
    if (letters_only, ascii_only) not in known:
        known[letters_only, ascii_only] = _word_tokens(vocabulary, letters_only, ascii_only)
    return known[letters_only, ascii_only]


_WORD_TOKENS: WeakKeyDictionary[Vocabulary, dict[tuple[bool, bool], NDArray[np.bool_]]] = (
    WeakKeyDictionary()
)


def _word_tokens(vocabulary: Vocabulary, letters_only: bool, ascii_only: bool) -> NDArray[np.bool_]:
    mask = vocabulary.begins_word
    for token in np.flatnonzero(mask).tolist():
        word = vocabulary.spellings[token][1:]
        if letters_only and not (word.isalpha() and len(word) > 1):
            mask[token] = False
        if ascii_only and not word.isascii():
            mask[token] = False
    mask.flags.writeable = False
    return mask


def cheapest_tokens(
    values: FloatArray, allowed: NDArray[np.bool_], count: int
) -> NDArray[np.int64]:
    """The ``count`` allowed tokens of the smallest values, (P, V) -> (P, count), smallest first.

    Fewer columns if fewer tokens are allowed. Of equal values the smaller token number comes first.
    """
    tokens = np.flatnonzero(allowed)
    count = min(count, len(tokens))
    values = values[:, tokens]  # (P, allowed)
    if count < len(tokens):
        columns = np.argpartition(values, count, axis=1)[:, :count]
        columns.sort(axis=1)
    else:
        columns = np.broadcast_to(np.arange(count), values.shape)
    chosen = np.take_along_axis(values, columns, axis=1)
    order = np.argsort(chosen, axis=1, kind="stable")
    return np.asarray(tokens[np.take_along_axis(columns, order, axis=1)], dtype=np.int64)


def single_text(text: TextInput, recipe_name: str) -> str:
    """The one text of an example.

    Raises:
        UserError: it is a pair.
    """
    if not isinstance(text, str):
        raise UserError(f"the recipe {recipe_name} attacks single texts, and this data has pairs")
    return text


def needed_vocabulary(start: Start, recipe_name: str) -> Vocabulary:
    """The target's tokens.

    Raises:
        UserError: the target does not show them.
    """
    if start.vocabulary is None:
        raise UserError(
            f"the recipe {recipe_name} needs a white-box target, which shows its gradients and its "
            "token embeddings: a local model that is not behind a pipeline"
        )
    return start.vocabulary
