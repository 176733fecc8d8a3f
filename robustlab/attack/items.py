"""How requests fall apart into items, and how responses are put together again.

An item is what can be asked, answered and remembered by itself: a text, a prompt with the length
of its output, a prompt with an output, a text with a goal. The :class:`Kind` of a request takes
it apart, and makes one request of the items of many.
"""

from __future__ import annotations

import copy
import sys
from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from robustlab.models.target import (
    Ask,
    Embed,
    Embeddings,
    FloatArray,
    Generate,
    Generations,
    Gradient,
    Gradients,
    Next,
    NextTokens,
    Predict,
    Predictions,
    Replies,
    Reply,
    Request,
    Response,
    Retrieval,
    Retrievals,
    Retrieve,
    Score,
    Scores,
    TokenGradient,
)

__all__ = ["Kind", "bytes_of", "kind_of", "queries_of"]


class Kind(ABC):
    """Requests that can be merged with each other.

    Items are hashable, and equal items have equal answers. An answer has arrays of its own: a
    view would keep a whole batch in memory.
    """

    request_type: ClassVar[type[Request]]
    response_type: ClassVar[type[Response]]

    @property
    def key(self) -> Hashable:
        """Equal for requests that can be merged, different for all others."""
        return self.request_type.__name__

    @property
    def asked_alone(self) -> bool:
        """Whether each item is a request of its own to the target."""
        return False

    @property
    def remembered(self) -> bool:
        """Whether answers are kept for later."""
        return True

    @abstractmethod
    def items(self, request: Any) -> Sequence[Hashable]:
        """The items of a request, in order.

        Raises:
            ValueError: a request whose parts are not equally many.
        """

    @abstractmethod
    def request(self, items: Sequence[Any]) -> Request:
        """One request for these items."""

    @abstractmethod
    def count(self, response: Any) -> int:
        """How many items a response answers."""

    @abstractmethod
    def answers(self, response: Any) -> list[Any]:
        """What a response says of each of its items."""

    @abstractmethod
    def response(self, answers: Sequence[Any]) -> Response:
        """The response that says this of its items. It shares no array with the answers."""


class _PredictKind(Kind):
    """Item: a text or a pair. Answer: its probabilities."""

    request_type = Predict
    response_type = Predictions

    def __init__(self, classes: int) -> None:
        self._classes = classes

    def items(self, request: Predict) -> Sequence[Hashable]:
        return request.texts

    def request(self, items: Sequence[Any]) -> Predict:
        return Predict(tuple(items))

    def count(self, response: Predictions) -> int:
        return len(response.probabilities)

    def answers(self, response: Predictions) -> list[Any]:
        return [row.copy() for row in response.probabilities]

    def response(self, answers: Sequence[Any]) -> Predictions:
        return Predictions(_stack(answers, self._classes))


class _GenerateKind(Kind):
    """Item: a prompt. Answer: text, log-probability, tokens and margin of the output."""

    request_type = Generate
    response_type = Generations

    def __init__(self, max_new_tokens: int) -> None:
        self._max_new_tokens = max_new_tokens

    @property
    def key(self) -> Hashable:
        return ("Generate", self._max_new_tokens)

    def items(self, request: Generate) -> Sequence[Hashable]:
        return request.prompts

    def request(self, items: Sequence[Any]) -> Generate:
        return Generate(tuple(items), self._max_new_tokens)

    def count(self, response: Generations) -> int:
        return len(response.texts)

    def answers(self, response: Generations) -> list[Any]:
        numbers = (response.log_probs, response.tokens, response.margins)
        return list(zip(response.texts, *(column.tolist() for column in numbers), strict=True))

    def response(self, answers: Sequence[Any]) -> Generations:
        return Generations(
            tuple(answer[0] for answer in answers),
            np.array([answer[1] for answer in answers], dtype=np.float32),
            np.array([answer[2] for answer in answers], dtype=np.int64),
            np.array([answer[3] for answer in answers], dtype=np.float32),
        )


class _ScoreKind(Kind):
    """Item: a prompt and an output. Answer: log-probability and tokens of the output."""

    request_type = Score
    response_type = Scores

    def __init__(self, *, inside: bool) -> None:
        self._inside = inside

    @property
    def key(self) -> Hashable:
        return ("Score", self._inside)

    def items(self, request: Score) -> Sequence[Hashable]:
        return _paired(prompts=request.prompts, outputs=request.outputs)

    def request(self, items: Sequence[Any]) -> Score:
        return Score(
            tuple(item[0] for item in items), tuple(item[1] for item in items), self._inside
        )

    def count(self, response: Scores) -> int:
        return len(response.log_probs)

    def answers(self, response: Scores) -> list[Any]:
        return list(zip(response.log_probs.tolist(), response.tokens.tolist(), strict=True))

    def response(self, answers: Sequence[Any]) -> Scores:
        return Scores(
            np.array([answer[0] for answer in answers], dtype=np.float32),
            np.array([answer[1] for answer in answers], dtype=np.int64),
        )


class _NextKind(Kind):
    """Item: a prompt and the tokens behind it. Answer: the next token's row, and the ends."""

    request_type = Next
    response_type = NextTokens

    def items(self, request: Next) -> Sequence[Hashable]:
        return _paired(prompts=request.prompts, outputs=request.outputs)

    def request(self, items: Sequence[Any]) -> Next:
        return Next(tuple(item[0] for item in items), tuple(item[1] for item in items))

    def count(self, response: NextTokens) -> int:
        return len(response.log_probs)

    def answers(self, response: NextTokens) -> list[Any]:
        return [(row.copy(), response.ends) for row in response.log_probs]

    def response(self, answers: Sequence[Any]) -> NextTokens:
        return NextTokens(_stack([row for row, _ in answers], 0), answers[0][1] if answers else ())


class _EmbedKind(Kind):
    """Item: a text. Answer: its vector."""

    request_type = Embed
    response_type = Embeddings

    def __init__(self, *, questions: bool) -> None:
        self._questions = questions

    @property
    def key(self) -> Hashable:
        return ("Embed", self._questions)

    def items(self, request: Embed) -> Sequence[Hashable]:
        return request.texts

    def request(self, items: Sequence[Any]) -> Embed:
        return Embed(tuple(items), self._questions)

    def count(self, response: Embeddings) -> int:
        return len(response.vectors)

    def answers(self, response: Embeddings) -> list[Any]:
        return [row.copy() for row in response.vectors]

    def response(self, answers: Sequence[Any]) -> Embeddings:
        return Embeddings(_stack(answers, 0))


class _RetrieveKind(Kind):
    """Item: a question and its poison. Answer: a Retrieval."""

    request_type = Retrieve
    response_type = Retrievals

    def __init__(self, k: int) -> None:
        self._k = k

    @property
    def key(self) -> Hashable:
        return ("Retrieve", self._k)

    def items(self, request: Retrieve) -> Sequence[Hashable]:
        return _poisoned(request)

    def request(self, items: Sequence[Any]) -> Retrieve:
        return Retrieve(tuple(item[0] for item in items), tuple(i[1] for i in items), self._k)

    def count(self, response: Retrievals) -> int:
        return len(response.items)

    def answers(self, response: Retrievals) -> list[Any]:
        return list(response.items)

    def response(self, answers: Sequence[Retrieval]) -> Retrievals:
        return Retrievals(tuple(answers))


class _AskKind(Kind):
    """Item: a question and its poison. Answer: a Reply."""

    request_type = Ask
    response_type = Replies

    def items(self, request: Ask) -> Sequence[Hashable]:
        return _poisoned(request)

    def request(self, items: Sequence[Any]) -> Ask:
        return Ask(tuple(item[0] for item in items), tuple(item[1] for item in items))

    def count(self, response: Replies) -> int:
        return len(response.items)

    def answers(self, response: Replies) -> list[Any]:
        return list(response.items)

    def response(self, answers: Sequence[Reply]) -> Replies:
        return Replies(tuple(answers))


@dataclass(frozen=True, slots=True, eq=False)
class _Shift:
    """A perturbation of embeddings; it is like no other, because comparing would not pay."""

    array: FloatArray


class _GradientKind(Kind):
    """Item: a text, a goal, and a shift if there is one. Answer: a TokenGradient."""

    request_type = Gradient
    response_type = Gradients

    def __init__(self, *, shifted: bool) -> None:
        self._shifted = shifted

    @property
    def key(self) -> Hashable:
        return ("Gradient", self._shifted)

    @property
    def asked_alone(self) -> bool:
        # Neighbours in a batch move the last bits of a gradient. A search takes the best few of
        # many thousand products with it, and these bits would choose among those that are nearly
        # equal; rounding does not help, because each product sums over the whole width.
        return True

    @property
    def remembered(self) -> bool:
        # No shift comes twice.
        return not self._shifted

    def items(self, request: Gradient) -> Sequence[Hashable]:
        if not self._shifted:
            return _paired(texts=request.texts, goals=request.goals)
        shifts = [_Shift(array) for array in request.shifts]
        return _paired(texts=request.texts, goals=request.goals, shifts=shifts)

    def request(self, items: Sequence[Any]) -> Gradient:
        return Gradient(
            tuple(item[0] for item in items),
            tuple(item[1] for item in items),
            tuple(item[2].array for item in items) if self._shifted else (),
        )

    def count(self, response: Gradients) -> int:
        return len(response.items)

    def answers(self, response: Gradients) -> list[Any]:
        return list(response.items)

    def response(self, answers: Sequence[TokenGradient]) -> Gradients:
        return Gradients(tuple(map(copy.deepcopy, answers)))


def kind_of(request: Request, classes: int) -> Kind:
    """The kind of a request; ``classes`` is how many the target distinguishes.

    Raises:
        TypeError: no request at all.
    """
    if isinstance(request, Predict):
        return _PredictKind(classes)
    if isinstance(request, Generate):
        return _GenerateKind(request.max_new_tokens)
    if isinstance(request, Score):
        return _ScoreKind(inside=request.inside)
    if isinstance(request, Next):
        return _NextKind()
    if isinstance(request, Embed):
        return _EmbedKind(questions=request.questions)
    if isinstance(request, Gradient):
        return _GradientKind(shifted=bool(request.shifts))
    if isinstance(request, Retrieve):
        return _RetrieveKind(request.k)
    if isinstance(request, Ask):
        return _AskKind()
    raise TypeError(f"an attack yielded a {type(request).__name__}, which is no request")


def queries_of(request: Request) -> int:
    """What a request costs: its texts, prompts or questions, as the threat model counts them.

    Embed costs nothing: the encoder is the adversary's own.
    """
    if isinstance(request, Predict | Gradient):
        return len(request.texts)
    if isinstance(request, Generate | Score | Next):
        return len(request.prompts)
    if isinstance(request, Retrieve | Ask):
        return len(request.questions)
    return 0


_ARRAY_BYTES = sys.getsizeof(np.zeros(0))


def bytes_of(value: Any) -> int:
    """What an item or an answer weighs in memory, roughly."""
    if isinstance(value, np.ndarray):
        return value.nbytes + _ARRAY_BYTES
    if isinstance(value, tuple):
        return sys.getsizeof(value) + sum(map(bytes_of, value))
    if isinstance(value, TokenGradient):
        return sum(map(bytes_of, (value.token_ids, value.offsets, value.gradient)))
    if isinstance(value, Retrieval):
        return sum(map(bytes_of, (value.ids, value.scores)))
    if isinstance(value, Reply):
        return sum(map(bytes_of, (value.text, value.retrieved, value.read)))
    return sys.getsizeof(value)


def _poisoned(request: Retrieve | Ask) -> Sequence[Hashable]:
    """Questions with the passages that stand in the corpus of each."""
    poisons = request.poisons or ((),) * len(request.questions)
    return _paired(questions=request.questions, poisons=poisons)


def _paired(**parts: Sequence[Any]) -> Sequence[Hashable]:
    """Items of several parts each."""
    if len({len(part) for part in parts.values()}) > 1:
        counts = " and ".join(f"{len(part)} {name}" for name, part in parts.items())
        raise ValueError(f"a request pairs {counts}")
    return list(zip(*parts.values(), strict=True))


def _stack(rows: Sequence[FloatArray], width: int) -> FloatArray:
    """Rows as one array of their own; no rows are an array of the right width all the same."""
    return np.array(rows) if rows else np.zeros((0, width), dtype=np.float32)
