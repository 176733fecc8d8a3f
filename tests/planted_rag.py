"""A pipeline small enough to know the best attack on it by hand.

A text's embedding is the sum of its words' own vectors, at unit length; the reader is
:class:`planted.PlantedTarget`, which is pushed by the words of its prompt.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from planted import WORDS, PlantedTarget

from robustlab.attack.recipe import Recipe, load_recipe, parse_recipe
from robustlab.data.records import Passage, Question
from robustlab.models.prompt import PromptTemplate
from robustlab.models.target import (
    Ask,
    Direction,
    Embed,
    Embeddings,
    FloatArray,
    Generate,
    Generations,
    Gradient,
    Gradients,
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
    Vocabulary,
)
from robustlab.poisoning.method import Knowledge, PoisonStart

TEMPLATE = PromptTemplate.parse(
    "--- prompt ---\n{passages}\n{question}\n--- passage ---\n{passage}", "planted"
)
CORPUS = {
    "p0": Passage("p0", "", "the film was long"),
    "p1": Passage("p1", "", "good food and a good view"),
}
_WIDTH = 6


class PlantedRag:
    """Answers what a pipeline answers; ``says`` are its two outputs, below and above zero."""

    spec = "fake:rag"
    kind = "rag"
    label_names = ()

    def __init__(
        self, *, bias: float = -0.5, top_k: int = 2, says: tuple[str, str] = ("no", "yes")
    ) -> None:
        self.top_k = top_k
        self.reader = PlantedTarget(bias=bias, kind="causal")
        self.asked: list[Request] = []
        self._says = says
        own = self.reader.vocabulary()
        vectors = np.random.default_rng(1).standard_normal((len(own.spellings), _WIDTH))
        vectors[0] = 0.0  # unknown words say nothing
        self._vectors = vectors.astype(np.float32)
        self._numbers = {word: number for number, word in enumerate(WORDS, start=1)}

    @property
    def answers(self) -> frozenset[type[Request]]:
        return frozenset({Ask, Retrieve, Embed, Gradient, Score})

    def retriever_vocabulary(self) -> Vocabulary:
        own = self.reader.vocabulary()
        return Vocabulary(self._vectors, own.spellings, own.usable)

    def answer(self, request: Request) -> Response:
        self.asked.append(request)
        if isinstance(request, Embed):
            vectors = [self.embed(text) for text in request.texts]
            return Embeddings(np.array(vectors, dtype=np.float32).reshape(-1, _WIDTH))
        if isinstance(request, Gradient) and isinstance(request.goals[0], Direction):
            pairs = zip(request.texts, request.goals, strict=True)
            return Gradients(tuple(self._gradient(str(text), goal) for text, goal in pairs))
        if isinstance(request, Retrieve):
            asked = zip(request.questions, request.poisons, strict=True)
            return Retrievals(tuple(self._ranked(q, p)[0] for q, p in asked))
        if isinstance(request, Ask):
            poisons = request.poisons or ((),) * len(request.questions)
            pairs = zip(request.questions, poisons, strict=True)
            return Replies(tuple(self._reply(q, p) for q, p in pairs))
        return self.reader.answer(request)

    def fingerprint(self) -> str:
        return "planted"

    def describe(self) -> dict[str, Any]:
        return {"spec": self.spec, "kind": self.kind, "dtype": "fp32"}

    def embed(self, text: str) -> FloatArray:
        summed = self._vectors[[number for number, _ in self._read(text)]].sum(axis=0)
        length = float(np.linalg.norm(summed))
        return np.asarray(summed / length if length else summed, dtype=np.float32)

    def _read(self, text: str) -> list[tuple[int, tuple[int, int]]]:
        found = [(self._numbers.get(m.group().lower(), 0), m.span())
                 for m in re.finditer(r"\w+|[^\w\s]", text)]  # fmt: skip
        return [(0, (0, 0)), *found]

    def _gradient(self, text: str, goal: Any) -> TokenGradient:
        read = self._read(text)
        ids = np.array([number for number, _ in read], dtype=np.int64)
        summed = self._vectors[ids].sum(axis=0).astype(np.float64)
        length = np.linalg.norm(summed)
        unit = summed / length
        # d(-u·d)/dx of u = x / |x|, the same at every token.
        slope = -(goal.vector - unit * (unit @ goal.vector)) / length
        return TokenGradient(
            loss=-float(unit @ goal.vector),
            token_ids=ids,
            offsets=tuple(span for _, span in read),
            gradient=np.tile(slope, (len(ids), 1)).astype(np.float32),
        )

    def _ranked(self, question: str, poison: Sequence[str]) -> tuple[Retrieval, list[Passage]]:
        own = [Passage(f"poison:{place}", "", text) for place, text in enumerate(poison)]
        wanted = self.embed(question)
        scored = [(-float(self.embed(p.text) @ wanted), p) for p in (*CORPUS.values(), *own)]
        scored.sort(key=lambda pair: pair[0])
        kept = scored[: self.top_k]
        ranked = Retrieval(tuple(p.id for _, p in kept), tuple(-score for score, _ in kept))
        return ranked, [p for _, p in kept]

    def _reply(self, question: str, poison: Sequence[str]) -> Reply:
        retrieved, passages = self._ranked(question, poison)
        prompt = TEMPLATE.render(question, passages)
        said = self.reader.answer(Generate((prompt,)))
        assert isinstance(said, Generations)
        text = self._says[said.texts[0] == "yes"]
        sure = self.reader.answer(Score((prompt,), said.texts))
        assert isinstance(sure, Scores)
        return Reply(text, float(sure.log_probs[0]), 1, 1.0, retrieved, retrieved.ids)


def poison_start(
    rag: Any,
    question: str = "was the food good",
    *,
    passages: int = 2,
    wrong: str | None = "yes",
    texts: tuple[str, ...] = ("yes and yes", "the view was yes"),
    queries: int | None = None,
    adaptive: bool = False,
    closed: bool = False,
) -> PoisonStart:
    """A start as the campaign makes it; ``closed`` hides both vocabularies."""
    knowledge = Knowledge(
        top_k=2,
        passages=passages,
        template=TEMPLATE,
        corpus=CORPUS,
        retriever_vocabulary=(lambda: None) if closed else rag.retriever_vocabulary,
        generator_vocabulary=(lambda: None) if closed else rag.reader.vocabulary,
        target=rag,
        adaptive=adaptive,
    )
    return PoisonStart(
        Question("q0", question, ("no",), ("p1",)), knowledge, wrong, texts, None, queries
    )


class NoWord:
    """Suspects texts by how often a word stands in them."""

    name = "no-word"
    threshold = 0.0

    def __init__(self, word: str) -> None:
        self.word = word

    def suspicion(self, texts: Sequence[str]) -> Any:
        return np.array([float(text.split().count(self.word)) for text in texts])

    def keep(self, questions: Sequence[str], ranked: Any) -> list[list[bool]]:
        return [[self.word not in hit.passage.text.split() for hit in hits] for hits in ranked]

    def describe(self) -> Mapping[str, Any]:
        return {"name": self.name}

    def fingerprint(self) -> str:
        return self.word


def shipped(name: str, **changes: str) -> Recipe:
    """A shipped recipe, with pieces of its text changed."""
    made = load_recipe(name)
    assert isinstance(made, Recipe)
    text = made.text
    for before, after in changes.items():
        assert before in text
        text = text.replace(before, after)
    changed = parse_recipe(text, f"{name}.toml")
    assert isinstance(changed, Recipe)
    return changed
