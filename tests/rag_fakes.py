"""A generator and a retriever whose every answer a test can write down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from robustlab.data.records import Passage, content_hash
from robustlab.models.target import Generate, Generations, Request, Response, Score, Scores
from robustlab.retrieval import Hit


class FixedGenerator:
    """Answers by the first line of the prompt; a token is a word, and no token is special.

    Every generated token, the end among them, has log-probability -0.5 and leads by 1; every
    scored one has -2.
    """

    spec = "fixed"
    kind = "seq2seq"
    label_names = ()
    prompt_style = "reader"

    def __init__(
        self, answers: Mapping[str, str], *, limit: int = 1000, scores: bool = True
    ) -> None:
        self.answers = frozenset({Generate, Score} if scores else {Generate})
        self.limit = limit
        self.requests: list[Request] = []
        self.count_calls = 0
        self._answers = answers

    def answer(self, request: Request) -> Response:
        self.requests.append(request)
        if isinstance(request, Score):
            lengths = [len(output.split()) + 1 for output in request.outputs]
            return Scores(
                np.array([-2.0 * n for n in lengths], dtype=np.float32), np.array(lengths)
            )
        assert isinstance(request, Generate)
        texts = tuple(self._answers[prompt.split("\n")[0]] for prompt in request.prompts)
        lengths = [len(text.split()) + 1 for text in texts]
        return Generations(
            texts,
            np.array([-0.5 * n for n in lengths], dtype=np.float32),
            np.array(lengths),
            np.ones(len(texts), dtype=np.float32),
        )

    def input_limit(self, max_new_tokens: int) -> int:
        return self.limit - max_new_tokens

    def count_tokens_many(self, texts: Sequence[str]) -> list[int]:
        self.count_calls += 1
        return [len(text.split()) for text in texts]

    def fingerprint(self) -> str:
        return content_hash(["fixed"])

    def describe(self) -> Mapping[str, Any]:
        return {"spec": self.spec, "kind": self.kind}


class FixedRetriever:
    """Finds the passages that a test lists for each question, with scores 0.9, 0.8, …"""

    def __init__(self, found: Mapping[str, Sequence[Passage]]) -> None:
        self._found = found

    def search(self, questions: Sequence[str], k: int) -> list[list[Hit]]:
        return [
            [
                Hit(passage, 1 - rank / 10, rank)
                for rank, passage in enumerate(self._found[question][:k], 1)
            ]
            for question in questions
        ]

    def search_with(
        self, questions: Sequence[str], added: Sequence[Sequence[Passage]], k: int
    ) -> list[list[Hit]]:
        """What is added comes first, with score 1."""
        return [
            [
                Hit(passage, score, rank)
                for rank, (passage, score) in enumerate(
                    [*((p, 1.0) for p in new), *((h.passage, h.score) for h in hits)][:k], 1
                )
            ]
            for new, hits in zip(added, self.search(questions, k), strict=True)
        ]

    def fingerprint(self) -> str:
        return content_hash(["listed", *self._found])

    def describe(self) -> Mapping[str, Any]:
        return {"kind": "listed"}
