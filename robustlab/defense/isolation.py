"""Reading each passage alone: the first half of isolate-then-aggregate.

Reference: Xiang et al. 2024, *Certifiably Robust RAG against Retrieval Corruption*,
arXiv:2405.15556. A passage that is read alone cannot touch what is said of any other, so that k'
corrupted passages change at most k' of the k things that are aggregated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from robustlab.data.records import Passage
from robustlab.defense.protocols import Vote
from robustlab.errors import UserError
from robustlab.metrics.answers import contains_answer
from robustlab.metrics.grounding import is_refusal
from robustlab.models.target import Score, Scores
from robustlab.rag.pipeline import RagAnswer, RagHit, RagPipeline
from robustlab.retrieval import Hit

__all__ = ["REFUSAL", "Alone", "as_votes", "combined", "read_alone"]

REFUSAL = "no answer"
"""What a reader that was given nothing is to say, and what a defence says for lack of votes."""


@dataclass(frozen=True, slots=True)
class Alone:
    """What one passage said. ``silent``: it is taken to say nothing (an abstention)."""

    answer: RagAnswer
    silent: bool

    @property
    def hit(self) -> RagHit:
        """The passage."""
        return self.answer.hits[0]


def read_alone(
    pipeline: RagPipeline,
    questions: Sequence[str],
    ranked: Sequence[Sequence[Hit]],
    doubt: float,
) -> list[list[Alone]]:
    """Each passage's own answer to its question, in the order given.

    A passage is silent if its answer is a refusal, if it gives :data:`REFUSAL` a probability
    above ``doubt``, or if nothing of it fits into a prompt. All of that depends on question and
    passage alone. The same passage read twice for a question is read once.

    Raises:
        UserError: a generator that does not answer Score.
    """
    generator = pipeline.generator
    if Score not in generator.answers:
        raise UserError(
            f"{generator.spec} gives no log-probabilities, and a defence that reads passages "
            "alone needs them to tell which of them say nothing"
        )
    wanted: dict[tuple[str, Passage], Hit] = {}
    for question, hits in zip(questions, ranked, strict=True):
        for hit in hits:
            wanted.setdefault((question, hit.passage), hit)
    answers = pipeline.read(
        [question for question, _ in wanted], [[hit] for hit in wanted.values()]
    )
    prompts = tuple(answer.prompt for answer in answers)
    refused = generator.answer(Score(prompts, (REFUSAL,) * len(prompts)))
    assert isinstance(refused, Scores)
    known = {
        key: Alone(
            answer,
            answer.hits[0].shown is None
            or is_refusal(answer.answer)
            or math.exp(min(0.0, log_prob)) > doubt,
        )
        for key, answer, log_prob in zip(wanted, answers, refused.log_probs.tolist(), strict=True)
    }
    return [
        [_at(known[question, hit.passage], hit) for hit in hits]
        for question, hits in zip(questions, ranked, strict=True)
    ]


def combined(
    question: str,
    alone: Sequence[Alone],
    answer: str,
    *,
    log_prob: float,
    tokens: int,
    margin: float,
    prompt: str | None = None,
) -> RagAnswer:
    """An answer made of what the passages said.

    ``prompt``: the one that it was written after; the prompts of all passages if there is none.
    ``margin`` is bounded by those of the passages' answers, on which it rests.
    """
    return RagAnswer(
        question=question,
        answer=answer,
        log_prob=log_prob,
        tokens=tokens,
        margin=min([margin, *(item.answer.margin for item in alone)]),
        hits=tuple(item.hit for item in alone),
        prompt="\n\n".join(item.answer.prompt for item in alone) if prompt is None else prompt,
    )


def as_votes(alone: Sequence[Alone], answer: str) -> tuple[Vote, ...]:
    """What each passage said, and whether the answer stands in it or it in the answer."""
    votes = []
    for item in alone:
        said = "" if item.silent else item.answer.answer
        agrees = bool(said) and (
            contains_answer(said, (answer,)) or contains_answer(answer, (said,))
        )
        votes.append(Vote(item.hit.passage.id, said, agrees))
    return tuple(votes)


def _at(alone: Alone, hit: Hit) -> Alone:
    """The same with the score and the rank that the passage has here."""
    if alone.hit.rank == hit.rank and alone.hit.score == hit.score:
        return alone
    own = RagHit(hit.passage, hit.score, hit.rank, alone.hit.shown)
    return replace(alone, answer=replace(alone.answer, hits=(own,)))
