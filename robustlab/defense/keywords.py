"""Keyword aggregation: what several passages say apart from each other is what counts.

Reference: Xiang et al. 2024, *Certifiably Robust RAG against Retrieval Corruption*,
arXiv:2405.15556, algorithms 1 and 3.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any, Literal, TypeAlias

from robustlab.data.records import Passage, content_hash
from robustlab.defense.certificates import Certificate, Corruption
from robustlab.defense.isolation import REFUSAL, Alone, as_votes, combined, read_alone
from robustlab.defense.protocols import Vote
from robustlab.metrics.answers import normalise
from robustlab.models.target import Generate, Generations
from robustlab.rag.pipeline import RagAnswer, RagPipeline
from robustlab.retrieval import Hit

__all__ = ["FINALS", "Final", "KeywordAggregation", "Threshold", "keywords", "reachable_choices"]

Final = Literal["count", "generator"]

FINALS: tuple[Final, ...] = ("count", "generator")
"""Who makes the answer of the keywords: their counts, or the generator that reads them."""

Kept: TypeAlias = frozenset[str]


class Threshold:
    """In how many passages a keyword must stand: μ = min(α n, β), where n passages speak."""

    def __init__(self, share: float, count: int) -> None:
        """``share`` is α, ``count`` is β."""
        self.share = share
        self.count = count

    def __call__(self, speaking: int) -> float:
        """μ."""
        return min(self.share * speaking, self.count)


class KeywordAggregation:
    """Each passage answers alone; keywords that stand in enough of the answers are kept.

    The keywords of an answer are the answer as a whole and its single words, all normalised. A
    keyword is kept if it stands in at least μ = min(``share`` · n, ``count``) answers, n being the
    number of passages that are not silent. If none is kept the answer is ``no answer``. Else it is
    made of what was kept in one of two ways:

    - ``generator``, as in the paper: the generator answers the question from the keywords, each
      as a passage of its own that begins with the question, in alphabetical order;
    - ``count``, for generators that copy from sentences and make nothing of a list: the whole
      answer that most passages gave; of several, the one with most words, then the last by the
      alphabet.

    Args:
        name: what it is called.
        doubt: a passage is silent if it gives ``no answer`` a probability above this.
        threshold: when a keyword is kept.
        final: who makes the answer.
        branches: the most sets of keywords that a certificate tries; with more it is given up.
    """

    def __init__(
        self, name: str, *, doubt: float, threshold: Threshold, final: Final, branches: int
    ) -> None:
        self.name = name
        self._doubt = doubt
        self._threshold = threshold
        self._final = final
        self._branches = branches

    def describe(self) -> Mapping[str, Any]:
        """Name and numbers."""
        return {
            "name": self.name,
            "kind": "keyword-aggregation",
            "doubt": self._doubt,
            "share": self._threshold.share,
            "count": self._threshold.count,
            "final": self._final,
            "branches": self._branches,
        }

    def fingerprint(self) -> str:
        """Hash of what decides its answers."""
        numbers = (self._doubt, self._threshold.share, self._threshold.count, self._final)
        return content_hash(["keyword-aggregation", *map(repr, numbers)])

    def read(
        self, pipeline: RagPipeline, questions: Sequence[str], ranked: Sequence[Sequence[Hit]]
    ) -> list[RagAnswer]:
        """Answers from the keywords."""
        read = read_alone(pipeline, questions, ranked, self._doubt)
        if self._final == "generator":
            return self._generated(pipeline, questions, read)
        return [
            self._counted(question, alone) for question, alone in zip(questions, read, strict=True)
        ]

    def votes(self, pipeline: RagPipeline, question: str, hits: Sequence[Hit]) -> tuple[Vote, ...]:
        """Each passage's own answer."""
        (alone,) = read_alone(pipeline, [question], [hits], self._doubt)
        if self._final == "generator":
            (answer,) = self._generated(pipeline, [question], [alone])
        else:
            answer = self._counted(question, alone)
        return as_votes(alone, answer.answer)

    def certify(
        self,
        pipeline: RagPipeline,
        questions: Sequence[str],
        ranked: Sequence[Sequence[Hit]],
        corruption: Corruption,
    ) -> list[Certificate]:
        """Every answer that can be made of keywords which can be kept.

        Let b(w) be in how many clean answers the keyword w stands, and n_B how many clean passages
        speak. If j of the m added passages speak, w stands in b(w) to b(w) + j answers and the
        threshold is μ = min(α (n_B + j), β). So w is certainly kept if b(w) ≥ μ, and may be kept if
        b(w) + j ≥ μ. With j ≥ μ the adversary's own keywords may be.

        - ``generator``: then the answer could be anything. Else the answer depends on the set
          that is kept alone, and each set between the certain and the possible keywords is read.
        - ``count``: see :func:`reachable_choices`.
        """
        read = read_alone(pipeline, questions, ranked, self._doubt)
        if self._final == "count":
            return [
                Certificate.union(
                    reachable_choices(
                        _wholes(alone[place] for place in case.kept), case.added, self._threshold
                    )
                    for case in corruption.cases(len(alone))
                )
                for alone in read
            ]
        sets = [self._possible_sets(alone, corruption) for alone in read]
        wanted = {
            (question, kept): None
            for question, found in zip(questions, sets, strict=True)
            for kept in found or ()
        }
        texts = dict(zip(wanted, self._write(pipeline, list(wanted)).texts, strict=True))
        return [
            Certificate(None)
            if found is None
            else Certificate.of(texts[question, kept] if kept else REFUSAL for kept in found)
            for question, found in zip(questions, sets, strict=True)
        ]

    def _possible_sets(self, alone: Sequence[Alone], corruption: Corruption) -> set[Kept] | None:
        """All sets of keywords that can be kept; None for too many or any."""
        found: set[Kept] = set()
        for case in corruption.cases(len(alone)):
            answers = _wholes(alone[place] for place in case.kept)
            counts = Counter(word for answer in answers for word in keywords(answer))
            for speaking in range(case.added + 1):
                least = self._threshold(len(answers) + speaking)
                if speaking and speaking >= least:
                    return None
                sure = [word for word, count in counts.items() if count >= least]
                open_ = [w for w, count in counts.items() if least > count >= least - speaking]
                if 2 ** len(open_) > self._branches:
                    return None
                for size in range(len(open_) + 1):
                    found |= {frozenset([*sure, *more]) for more in combinations(open_, size)}
                if len(found) > self._branches:
                    return None
        return found

    def _counted(self, question: str, alone: Sequence[Alone]) -> RagAnswer:
        answers = _wholes(alone)
        counts = Counter(answers)
        least = self._threshold(len(answers))
        kept = [answer for answer, count in counts.items() if count >= least]
        if not kept:
            return combined(question, alone, REFUSAL, log_prob=0.0, tokens=1, margin=math.inf)
        best = max(kept, key=lambda answer: _key(counts[answer], answer))
        speaking = [item for item in alone if not item.silent]
        said = speaking[answers.index(best)].answer
        return combined(
            question,
            alone,
            said.answer,
            log_prob=said.log_prob,
            tokens=said.tokens,
            margin=said.margin,
        )

    def _generated(
        self, pipeline: RagPipeline, questions: Sequence[str], read: Sequence[Sequence[Alone]]
    ) -> list[RagAnswer]:
        items = []
        for question, alone in zip(questions, read, strict=True):
            answers = _wholes(alone)
            counts = Counter(word for answer in answers for word in keywords(answer))
            least = self._threshold(len(answers))
            items.append((question, frozenset(w for w, count in counts.items() if count >= least)))
        made = self._write(pipeline, items)
        return [
            combined(
                question,
                alone,
                made.texts[i] if kept else REFUSAL,
                log_prob=float(made.log_probs[i]),
                tokens=int(made.tokens[i]),
                margin=float(made.margins[i]) if kept else math.inf,
                prompt=self._prompt(pipeline, question, kept),
            )
            for i, ((question, kept), alone) in enumerate(zip(items, read, strict=True))
        ]

    def _write(self, pipeline: RagPipeline, items: Sequence[tuple[str, Kept]]) -> Generations:
        prompts = tuple(self._prompt(pipeline, question, kept) for question, kept in items)
        made = pipeline.generator.answer(Generate(prompts, pipeline.max_new_tokens))
        assert isinstance(made, Generations)
        return made

    def _prompt(self, pipeline: RagPipeline, question: str, kept: Kept) -> str:
        passages = [Passage("", "", f"{question} {keyword}.") for keyword in sorted(kept)]
        return pipeline.prompt(question, passages)


def keywords(answer: str) -> frozenset[str]:
    """A normalised answer as a whole, and its words."""
    return frozenset([answer, *answer.split()])


def reachable_choices(
    answers: Sequence[str], added: int, threshold: Threshold
) -> frozenset[str] | None:
    """The answers that can be chosen by count when ``added`` passages more say what they like.

    ``answers``: the clean ones, normalised; None if any answer can be chosen.

    Let j ≤ ``added`` of them speak, b count clean answers, and μ be the threshold with j more
    speaking. An answer w has at most b(w) + j, every other at least its b. So if w is chosen,
    b(w) + j ≥ μ, and by the order of the choice (count, then words, then alphabet) w at b(w) + j
    is not behind any h at b(h) with b(h) ≥ μ, which is kept whatever is added. An answer without a
    clean vote can be chosen if j ≥ μ and j is at least the largest such b(h), being made as long
    as need be. Nothing is chosen only if no b(h) ≥ μ.
    """
    counts = Counter(answers)
    found: set[str] = set()
    for speaking in range(added + 1):
        least = threshold(len(answers) + speaking)
        sure = [_key(count, answer) for answer, count in counts.items() if count >= least]
        most = max(sure, default=(0, 0, ""))
        if speaking and speaking >= least and speaking >= most[0]:
            return None
        if not sure:
            found.add(REFUSAL)
        for answer, count in counts.items():
            if count + speaking >= least and _key(count + speaking, answer) >= most:
                found.add(answer)
    return frozenset(found)


def _key(count: int, answer: str) -> tuple[int, int, str]:
    """The order in which answers are chosen, the largest first."""
    return count, len(answer.split()), answer


def _wholes(alone: Iterable[Alone]) -> list[str]:
    """The normalised answers of the passages that speak."""
    return [normalise(item.answer.answer) for item in alone if not item.silent]
