"""What an adversary does about defences that it sees.

An adaptive attack asks the pipeline as it is deployed: its answers went through the defences, and
so did embeddings and gradients where a defence changes those (see
:class:`~robustlab.defense.pipeline.DefendedRag`). Here is what comes on top of that: a
:class:`Watch` over the filters that judge a text by itself, which an adversary can run at home,
and the choice among several poisons by what the defended pipeline answers to them.

Every defence of a pipeline is deterministic once it is built, so that one query is its
expectation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from robustlab.attack.engine import BudgetExhaustedError, Search
from robustlab.defense.pipeline import DefendedRag
from robustlab.defense.protocols import Detector, EmbeddingDetector
from robustlab.models.target import Ask, FloatArray, Replies, Reply
from robustlab.poisoning.measures import goal_met, measure_reply
from robustlab.poisoning.method import Knowledge, Poison, PoisonStart
from robustlab.rag.pipeline import POISON_ID

__all__ = ["Watch", "choose", "defended", "meets", "poison_read"]


@dataclass(frozen=True, slots=True)
class Watch:
    """The filters that a passage must get past; none of them is asked through the engine."""

    detectors: tuple[Detector, ...] = ()

    @classmethod
    def of(cls, knowledge: Knowledge) -> Watch:
        """Those of the pipeline, if the attack is adaptive; otherwise none."""
        pipeline = defended(knowledge)
        return cls() if pipeline is None else cls(pipeline.detectors)

    def excess(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """How far each text is above the thresholds, summed over the filters; (texts,).

        max(0, s - t) / max(1, |t|), with suspicion s and threshold t; 0 where nothing is dropped.
        """
        total = np.zeros(len(texts))
        for detector in self.detectors:
            over = np.maximum(0.0, detector.suspicion(texts) - detector.threshold)
            total += over / max(1.0, abs(detector.threshold))
        return total

    def away(self, text: str, direction: FloatArray) -> FloatArray:
        """A direction that leads off the filters as well, as far as they have slopes; (width,).

        d / |d| - sum of s / |s| over the filters that would drop the text, where s is the slope
        of a filter's suspicion at the text's embedding.
        """
        led = direction / np.linalg.norm(direction)
        for detector in self.detectors:
            if not isinstance(detector, EmbeddingDetector):
                continue
            if float(detector.suspicion([text])[0]) > detector.threshold:
                (slope,) = detector.slopes([text])
                length = float(np.linalg.norm(slope))
                if length > 0:
                    led = led - slope / length
        return np.asarray(led, dtype=np.float32)


def defended(knowledge: Knowledge) -> DefendedRag | None:
    """The defended pipeline that an adaptive adversary sees; None for all others."""
    if knowledge.adaptive and isinstance(knowledge.target, DefendedRag):
        return knowledge.target
    return None


def poison_read(reply: Reply) -> int:
    """How many poison passages the generator read."""
    return sum(id_.startswith(POISON_ID) for id_ in reply.read)


def meets(start: PoisonStart, goal: str, reply: Reply) -> bool:
    """Whether a reply is what a recipe's goal wants, judged as the campaign does in the end."""
    knowledge = start.knowledge
    measured = measure_reply(
        reply, start.question, start.wrong, knowledge.corpus, knowledge.passages
    )
    return goal_met(goal, measured)


def choose(
    start: PoisonStart,
    goal: str,
    variants: Sequence[tuple[str, ...]],
    *,
    queries: int | None,
) -> Search[Poison]:
    """Ask about several poisons and take the first that works, else the one that is read most.

    Each costs a query, and no more of them are asked about than ``queries`` allow; where that is
    none the first is taken unasked. The notes say which ``variant`` it is, from 0.
    """
    asked = list(dict.fromkeys(variants))[:queries]
    unasked = Poison(variants[0], notes={"variant": 0})
    if not asked:
        return unasked
    try:
        response = yield Ask((start.question.text,) * len(asked), tuple(asked))
    except BudgetExhaustedError:
        return unasked
    assert isinstance(response, Replies)
    ranks = [
        (meets(start, goal, reply), poison_read(reply), -place)
        for place, reply in enumerate(response.items)
    ]
    met, _, place = max(ranks)
    return Poison(asked[-place], met, {"variant": variants.index(asked[-place])})
