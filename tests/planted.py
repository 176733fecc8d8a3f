"""A white box whose weakness is planted, so that the best attack on it is known by hand.

It is linear in the mean of its token embeddings, and every token's embedding is known: the token
``weak`` points where the model can be pushed, all others point nowhere near as far.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Mapping, Sequence
from functools import cache
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np

from robustlab.attack.engine import QueryBudgetExhaustedError
from robustlab.attack.goals import Goal
from robustlab.attack.method import Start
from robustlab.attack.recipe import Recipe, parse_recipe
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
    TextInput,
    TokenGradient,
    Vocabulary,
)

ResultT = TypeVar("ResultT")

PUSH = {"fair": 0.2, "mild": 0.1, "plain": 0.0, "steady": -0.1, "weak": 4.0, "strong": -4.0}
"""How far each word pushes the logit of the second class; all other words by nothing."""

WORDS = ["the", "film", "was", "good", "and", "long", "view", "food", "room", *PUSH]


class PlantedTarget:
    """Two classes, p(1) = sigmoid(bias + sum of pushes / tokens), or a generator.

    The generator says ``"yes"`` where p(1) is above one half, and ``"no"`` elsewhere. Words that
    are not in the list are read as two tokens that push nothing. ``bias`` decides what no
    push can change.
    """

    label_names = ("no", "yes")
    spec = "fake:planted"

    def __init__(self, *, bias: float = -0.5, kind: str = "classifier") -> None:
        self.kind = kind
        self.answers: frozenset[type[Request]] = frozenset(
            {Predict, Gradient} if kind == "classifier" else {Generate, Score, Gradient}
        )
        self._bias = bias
        rng = np.random.default_rng(0)
        embeddings = rng.standard_normal((len(WORDS) + 3, 5)).astype(np.float32)
        embeddings[:, 0] = [0.0, *(PUSH.get(word, 0.0) for word in WORDS), 0.0, 9.0]
        self._embeddings = embeddings
        self._numbers = {word: number for number, word in enumerate(WORDS, start=1)}

    def vocabulary(self) -> Vocabulary:
        """Row 0 is unknown, the last ones continue a word and cannot be used."""
        spellings = ("", *(f" {word}" for word in WORDS), "ing", "")
        usable = np.array([False, *(True for _ in WORDS), True, False])
        return Vocabulary(self._embeddings, spellings, usable)

    def answer(self, request: Request) -> Response:
        if isinstance(request, Predict):
            return Predictions(np.array([_pair(self._logit(str(t))) for t in request.texts]))
        if isinstance(request, Gradient):
            shifts = request.shifts or (None,) * len(request.texts)
            items = zip(request.texts, request.goals, shifts, strict=True)
            return Gradients(tuple(self._gradient(str(t), g, s) for t, g, s in items))
        if isinstance(request, Score):
            pairs = zip(request.prompts, request.outputs, strict=True)
            values = [-_loss(self._logit(p), int(o.startswith("yes"))) for p, o in pairs]
            return Scores(np.array(values, dtype=np.float32), np.ones(len(values), dtype=np.int64))
        if isinstance(request, Generate):
            texts = tuple("yes" if self._logit(prompt) > 0 else "no" for prompt in request.prompts)
            zeros = np.zeros(len(texts), dtype=np.float32)
            return Generations(texts, zeros, np.ones(len(texts), dtype=np.int64), zeros)
        if isinstance(request, Embed):
            return Embeddings(np.array([_letters(text) for text in request.texts]))
        raise TypeError(type(request).__name__)

    def fingerprint(self) -> str:
        return "planted"

    def describe(self) -> Mapping[str, Any]:
        return {"spec": self.spec, "kind": self.kind, "dtype": "fp32"}

    def _read(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        ids, spans = [0], [(0, 0)]
        for match in re.finditer(r"\w+|[^\w\s]", text):
            start, end = match.span()
            number = self._numbers.get(match.group().lower(), 0)
            cuts = [start, end] if number or end - start < 2 else [start, start + 1, end]
            for left, right in pairwise(cuts):
                ids.append(number)
                spans.append((left, right))
        return ids, spans

    def _logit(self, text: str) -> float:
        ids, _ = self._read(text)
        return self._bias + float(self._embeddings[ids, 0].sum()) / len(ids)

    def _gradient(self, text: str, goal: int | str, shift: Any) -> TokenGradient:
        ids, spans = self._read(text)
        moved = 0.0 if shift is None else float(shift[:, 0].sum()) / len(ids)
        logit = self._logit(text) + moved
        probabilities = _pair(logit)
        wanted = int(goal.startswith("yes")) if isinstance(goal, str) else goal
        gradient = np.zeros((len(ids), self._embeddings.shape[1]), dtype=np.float32)
        # d(-log p_wanted) / d logit = p(1) - wanted, and d logit / d embedding = 1 / tokens.
        gradient[:, 0] = (probabilities[1] - wanted) / len(ids)
        return TokenGradient(
            loss=_loss(logit, wanted),
            token_ids=np.array(ids, dtype=np.int64),
            offsets=tuple(spans),
            gradient=gradient,
            probabilities=probabilities if self.kind == "classifier" else None,
        )


def _pair(logit: float) -> Any:
    positive = 1 / (1 + np.exp(-logit))
    return np.array([1 - positive, positive], dtype=np.float32)


def _loss(logit: float, wanted: int) -> float:
    """-log p(wanted)."""
    return float(np.logaddexp(0.0, -logit if wanted else logit))


def _letters(text: str) -> Any:
    """Counts of letters as a sentence embedding, of unit length."""
    counts = np.array([1 + text.lower().count(letter) for letter in "abcdefghijklmnopqrstuvwxyz"])
    return (counts / np.linalg.norm(counts)).astype(np.float32)


def drive(
    search: Generator[Request, Response, ResultT],
    target: Any,
    *,
    queries: int | None = None,
) -> tuple[ResultT, int]:
    """Run one coroutine against a target; what it returned, and the queries it spent.

    A request beyond ``queries`` fails the test: the searches are told their budget.
    """
    spent = 0
    try:
        request = next(search)
        while True:
            size = size_of(request)
            if queries is not None and spent + size > queries:
                raise QueryBudgetExhaustedError(size, queries - spent)
            spent += size
            request = search.send(target.answer(request))
    except StopIteration as end:
        return end.value, spent


def size_of(request: Request) -> int:
    """Queries, as threat models count them."""
    if isinstance(request, Embed):
        return 0
    asked: Sequence[Any] = (
        request.prompts if isinstance(request, Generate | Score) else request.texts
    )
    return len(asked)


UNBREAKABLE = -9.0
"""A bias that no push can change, since their mean is at most 4."""


@cache
def builtin(name: str) -> Any:
    """A built-in model, loaded once for all tests."""
    from robustlab.models.load import load_target

    return load_target(f"builtin:{name}", device="cpu", dtype="fp32")


def recipe(
    method: str,
    search: str,
    *,
    goal: str = "untargeted-classification",
    budget: str = "",
    constraints: str = "",
) -> Recipe:
    """A white-box recipe of which a test writes what it is about."""
    part = 'part = "context"' if goal in ("force-output", "change-answer") else ""
    parsed = parse_recipe(
        f"""
name = "mine"
summary = "what it does"
paper = "Nobody 2000"
[threat]
goal = "{goal}"
knowledge = "white-box"
surface = "input-tokens"
{part}
[budget]
{budget}
{constraints}
[search]
method = "{method}"
{search}
""",
        "mine.toml",
    )
    assert isinstance(parsed, Recipe)
    return parsed


def begin(
    target: Any, text: TextInput, goal: Goal, *, queries: int | None = None, **more: Any
) -> Start:
    """A start as the campaign makes it, after the query that it counts."""
    answer = target.answer(goal.question([text]))
    return Start(text, goal, answer, queries, target.vocabulary(), **more)
