"""A RAG pipeline end to end: what was retrieved, what was answered, what the answer rests on."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustlab.data.records import Question
from robustlab.evaluation._chunks import chunks
from robustlab.evaluation.generation import (
    Written,
    judge_answer,
    score_gold,
    summarise_answers,
)
from robustlab.evaluation.retrieval import DEPTH, ranking, summarise_retrieval
from robustlab.metrics.grounding import groundedness, relevance, supported
from robustlab.metrics.intervals import Estimate, mean_estimate, rate
from robustlab.models.target import Embed, Embeddings, Target
from robustlab.rag.pipeline import RagAnswer, RagHit, RagPipeline
from robustlab.retrieval.index import DenseIndex

__all__ = ["rag_outcomes", "summarise_rag"]


def rag_outcomes(
    pipeline: RagPipeline, judge: Target, questions: Sequence[Question], known: Mapping[str, object]
) -> Iterator[dict[str, Any]]:
    """One outcome for each question.

    Retrieval is judged to the depth of ten whatever ``top_k`` is; the generator gets the first
    ``top_k``. Groundedness and relevance are judged on the passages that it read. A refusal
    claims nothing: it has no groundedness, no support and no relevance to the question.

    Args:
        pipeline: what is evaluated.
        judge: a sentence encoder that relevance is measured with.
        questions: the questions with answers and gold passages.
        known: the ids of the corpus.
    """
    relevances = _Relevance(judge, known_by_score=_scores_are_cosines(pipeline, judge))
    for chunk in chunks(questions):
        texts = [question.text for question in chunk]
        ranked = pipeline.retrieve(texts, max(DEPTH, pipeline.top_k))
        answers = pipeline.read(texts, [hits[: pipeline.top_k] for hits in ranked])
        scored = score_gold(
            pipeline.generator,
            [answer.prompt for answer in answers],
            chunk,
            [Written(answer.answer, answer.log_prob, answer.tokens) for answer in answers],
            pipeline.max_new_tokens,
        )
        records = [
            {
                "id": question.id,
                "question": question.text,
                **judge_answer(question, answer.answer),
                "log_prob": answer.log_prob,
                "tokens": answer.tokens,
                "confidence": answer.confidence,
                **gold,
                **ranking(question, hits, known),
                "in_context": [hit.passage.id for hit in answer.hits if hit.in_context],
            }
            for question, answer, gold, hits in zip(chunk, answers, scored, ranked, strict=True)
        ]
        for record, answer in zip(records, answers, strict=True):
            if not record["refused"]:
                share = groundedness(answer.answer, answer.context)
                record["groundedness"] = None if math.isnan(share) else share
                record["supported"] = supported(answer.answer, answer.context)
        relevances.add(records, answers)
        yield from records


def summarise_rag(outcomes: Sequence[Mapping[str, Any]], top_k: int) -> dict[str, Estimate]:
    """The measures of answers and of retrieval, and those that join the two.

    ``groundedness``: mean share of the words of an answer that stand in the passages read;
    ``hallucination_rate``: share of the answers that stand in none of these passages;
    ``question_passage_relevance`` and ``answer_question_relevance``: mean cosine of embeddings.
    All four leave refusals out where there is no answer to judge, and ``n`` says what remains.
    """
    given = [outcome["supported"] for outcome in outcomes if "supported" in outcome]

    def mean(name: str) -> Estimate:
        values = [outcome.get(name) for outcome in outcomes]
        return mean_estimate([value for value in values if value is not None])

    return {
        **summarise_answers(outcomes),
        **summarise_retrieval(outcomes, top_k),
        "groundedness": mean("groundedness"),
        "hallucination_rate": rate(given.count(False), len(given)),
        "question_passage_relevance": mean("question_passage_relevance"),
        "answer_question_relevance": mean("answer_question_relevance"),
    }


def _scores_are_cosines(pipeline: RagPipeline, judge: Target) -> bool:
    """Whether a hit's score is what the judge would say of question and passage."""
    retriever = pipeline.retriever
    return (
        isinstance(retriever, DenseIndex)
        and retriever.encoder is judge
        and retriever.kind != "ivfpq"  # which scores passages by quantised vectors
    )


class _Relevance:
    """Cosines between questions, answers and passages; a passage is embedded once in a run.

    With ``known_by_score`` a passage that was read whole is not embedded at all: its hit's score
    is the cosine.
    """

    def __init__(self, judge: Target, *, known_by_score: bool) -> None:
        self._judge = judge
        self._known_by_score = known_by_score
        self._vectors: dict[str, NDArray[np.float32]] = {}

    def add(self, records: Sequence[dict[str, Any]], answers: Sequence[RagAnswer]) -> None:
        """Put both relevances into the records of a chunk."""
        spoken = [not record["refused"] for record in records]
        unknown = [self._unknown(answer) for answer in answers]
        self._embed(
            [answer.question for answer in answers]
            + [answer.answer for answer, says in zip(answers, spoken, strict=True) if says]
            + [text for texts in unknown for text in texts]
        )
        for record, answer, says, texts in zip(records, answers, spoken, unknown, strict=True):
            cosines = [hit.score for hit in answer.hits if self._known(hit)]
            if texts:
                cosines += self._cosines([answer.question] * len(texts), texts)
            if cosines:
                record["question_passage_relevance"] = sum(cosines) / len(cosines)
            if says:
                record["answer_question_relevance"] = self._cosines(
                    [answer.answer], [answer.question]
                )[0]

    def _known(self, hit: RagHit) -> bool:
        return self._known_by_score and hit.shown == hit.passage.text

    def _unknown(self, answer: RagAnswer) -> tuple[str, ...]:
        """The texts that were read and have no known cosine."""
        return tuple(hit.contents for hit in answer.hits if hit.in_context and not self._known(hit))

    def _embed(self, texts: Sequence[str]) -> None:
        new = tuple(text for text in dict.fromkeys(texts) if text not in self._vectors)
        if new:
            response = self._judge.answer(Embed(new))
            assert isinstance(response, Embeddings)
            self._vectors.update(zip(new, response.vectors, strict=True))

    def _cosines(self, left: Sequence[str], right: Sequence[str]) -> list[float]:
        found = relevance(
            np.stack([self._vectors[text] for text in left]),
            np.stack([self._vectors[text] for text in right]),
        )
        return [float(value) for value in found]
