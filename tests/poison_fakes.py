"""A pipeline that believes whatever passage says so, for attacks that a test can follow."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rag_fakes import FixedRetriever

from robustlab.data.records import Corpus, Passage, Question, content_hash
from robustlab.models.target import Generate, Generations, Request
from robustlab.rag import RagPipeline, load_prompt

OWL = Passage("owl", "Owl", "The owl hoots at night.")
HEN = Passage("hen", "Hen", "The hen clucks by day.")
COW = Passage("cow", "Cow", "The cow moos all day.")

QUESTIONS = (
    Question("q1", "who hoots?", ("the owl", "owl"), ("owl",)),
    Question("q2", "who clucks?", ("hen",), ("hen",)),
    Question("q3", "who moos?", ("cow",), ("cow",)),
)

CORPUS = Corpus("yard", (OWL, HEN, COW), {"test": QUESTIONS})


class Believer:
    """Says what the first passage with ``the answer is X.`` has for X, else what it knows.

    It knows the owl and the hen, and takes the cow for a horse. A prompt with ``refuse`` in it is
    declined. A token is a word.
    """

    spec = "believer"
    kind = "seq2seq"
    label_names = ()
    answers = frozenset({Generate})

    def __init__(self) -> None:
        self.prompts = 0
        self.weights = "as they were"

    def answer(self, request: Request) -> Generations:
        assert isinstance(request, Generate)
        self.prompts += len(request.prompts)
        texts = tuple(map(self._answer, request.prompts))
        lengths = [len(text.split()) + 1 for text in texts]
        return Generations(
            texts,
            np.array([-0.5 * n for n in lengths], dtype=np.float32),
            np.array(lengths),
            np.ones(len(texts), dtype=np.float32),
        )

    def _answer(self, prompt: str) -> str:
        if "refuse" in prompt:
            return "no answer"
        said = re.search(r"the answer is ([^.]*)\.", prompt, re.IGNORECASE)
        if said is not None:
            return said[1]
        known = {"hoots": "the owl", "clucks": "hen", "moos": "horse"}
        return next((word for verb, word in known.items() if verb in prompt.split("\n")[0]), "")

    def input_limit(self, max_new_tokens: int) -> int:
        return 60 - max_new_tokens

    def count_tokens_many(self, texts: Sequence[str]) -> list[int]:
        return [len(text.split()) for text in texts]

    def fingerprint(self) -> str:
        return content_hash([self.weights])

    def describe(self) -> Mapping[str, Any]:
        return {"spec": self.spec, "kind": self.kind, "dtype": "fp32"}


class YardRetriever(FixedRetriever):
    """Finds the gold passage first; a mistyped question finds the others. Poison stands before."""

    def __init__(self) -> None:
        super().__init__({"who hoots?": [OWL, HEN, COW], "who clucks?": [HEN, OWL, COW],
                          "who moos?": [COW, OWL, HEN]})  # fmt: skip

    def search(self, questions: Sequence[str], k: int):
        known = {question.text for question in QUESTIONS}
        lost = FixedRetriever({q: [COW, OWL, HEN][:k] for q in questions if q not in known})
        return [
            (super(YardRetriever, self) if question in known else lost).search([question], k)[0]
            for question in questions
        ]

    def __len__(self) -> int:
        return 3


def yard(top_k: int = 2, generator: Believer | None = None) -> RagPipeline:
    """The pipeline over the yard."""
    return RagPipeline(
        YardRetriever(),
        generator or Believer(),
        load_prompt("reader"),
        top_k=top_k,
        max_new_tokens=8,
    )
