"""Secure decoding aggregation: passages are read apart, and their next tokens are added up.

Reference: Xiang et al. 2024, *Certifiably Robust RAG against Retrieval Corruption*,
arXiv:2405.15556, algorithms 2 and 4.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from robustlab.data.records import content_hash
from robustlab.defense.certificates import Case, Certificate, Corruption
from robustlab.defense.isolation import REFUSAL, Alone, as_votes, combined, read_alone
from robustlab.defense.protocols import Vote
from robustlab.errors import UserError
from robustlab.models.target import Next, NextTokens
from robustlab.rag.context import Generator
from robustlab.rag.pipeline import RagAnswer, RagPipeline
from robustlab.retrieval import Hit

__all__ = ["DecodingAggregation", "Stepwise", "reachable_tokens"]

Mass: TypeAlias = NDArray[np.float64]
"""Summed next-token probabilities, shape (vocabulary,)."""

Tokens: TypeAlias = tuple[int, ...]

# A distribution may differ in its last bits from one batch to another. What is nearer than this
# to a border is certified as if it lay on either side.
_SLACK = 1e-4

# Rows of next-token distributions held at a time: each is as long as the vocabulary.
_ROWS = 512


@runtime_checkable
class Stepwise(Generator, Protocol):
    """A generator that answers :class:`Next` and spells the tokens that were chosen."""

    def spell(self, prompts: Sequence[str], outputs: Sequence[Sequence[int]]) -> list[str]:
        """The texts of output tokens."""


class DecodingAggregation:
    """Writes the answer token by token from the passages' summed distributions.

    Let v_j be the distribution of the next token behind passage j alone and the answer so far, and
    s = Σ_j v_j over the passages that are not silent. If the best token leads the second best in s
    by more than ``lead``, it is taken; else the token that the generator would write without any
    passage. Without a passage that speaks the answer is ``no answer``.

    The answer is spelled without looking at passages, so that none of them has a say in it.

    Args:
        name: what it is called.
        doubt: a passage is silent if it gives ``no answer`` a probability above this.
        lead: η of the paper; 0 takes the best token always.
        branches: the most beginnings of answers that a certificate follows; with more it is given
            up.
    """

    def __init__(self, name: str, *, doubt: float, lead: float, branches: int) -> None:
        self.name = name
        self._doubt = doubt
        self._lead = lead
        self._branches = branches

    def describe(self) -> Mapping[str, Any]:
        """Name and numbers."""
        return {
            "name": self.name,
            "kind": "decoding-aggregation",
            "doubt": self._doubt,
            "lead": self._lead,
            "branches": self._branches,
        }

    def fingerprint(self) -> str:
        """Hash of what decides its answers."""
        return content_hash(["decoding-aggregation", repr(self._doubt), repr(self._lead)])

    @staticmethod
    def check(generator: Generator) -> None:
        """Refuse, with a :class:`UserError`, a generator that gives no next-token probabilities."""
        _stepwise(generator)

    def read(
        self, pipeline: RagPipeline, questions: Sequence[str], ranked: Sequence[Sequence[Hit]]
    ) -> list[RagAnswer]:
        """Answers, written together step by step."""
        read = read_alone(pipeline, questions, ranked, self._doubt)
        return self._written(pipeline, list(zip(questions, read, strict=True)))

    def votes(self, pipeline: RagPipeline, question: str, hits: Sequence[Hit]) -> tuple[Vote, ...]:
        """Each passage's own answer."""
        (alone,) = read_alone(pipeline, [question], [hits], self._doubt)
        (answer,) = self._written(pipeline, [(question, alone)])
        return as_votes(alone, answer.answer)

    def certify(
        self,
        pipeline: RagPipeline,
        questions: Sequence[str],
        ranked: Sequence[Sequence[Hit]],
        corruption: Corruption,
    ) -> list[Certificate]:
        """Follow every beginning of an answer that an adversary can bring about.

        By induction over the tokens: if the answer so far is one of those followed, so is the
        answer with the next token, because :func:`reachable_tokens` holds every token that can be
        next for the clean passages that are left; the passages that are left are the same
        throughout an answer, so each beginning carries those of the cases in which it can arise.
        """
        read = read_alone(pipeline, questions, ranked, self._doubt)
        return self._certified(pipeline, list(zip(questions, read, strict=True)), corruption)

    def _written(
        self, pipeline: RagPipeline, asked: Sequence[tuple[str, list[Alone]]]
    ) -> list[RagAnswer]:
        oracle = _Oracle(pipeline, asked)
        states = [_State() for _ in asked]
        for _ in range(pipeline.max_new_tokens):
            open_ = [i for i, state in enumerate(states) if oracle.speaks(i) and not state.ended]
            if not open_:
                break
            places = [(i, tuple(states[i].tokens)) for i in open_]
            masses = oracle.masses(places)
            sums = {i: mass.sum(axis=0) for i, mass in zip(open_, masses, strict=True)}
            unsure = [place for place in places if not _leads(sums[place[0]], self._lead)]
            blind = dict(zip(unsure, oracle.blind(unsure), strict=True))
            for place in places:
                states[place[0]].take(
                    sums[place[0]], blind.get(place), self._lead, len(oracle.spoken[place[0]]),
                    oracle.ends,
                )  # fmt: skip
        texts = oracle.spell([(i, tuple(state.tokens)) for i, state in enumerate(states)])
        return [
            combined(
                question,
                alone,
                text if oracle.speaks(i) else REFUSAL,
                log_prob=state.log_prob,
                tokens=max(1, state.steps),
                margin=state.margin,
            )
            for i, ((question, alone), text, state) in enumerate(
                zip(asked, texts, states, strict=True)
            )
        ]

    def _certified(
        self,
        pipeline: RagPipeline,
        asked: Sequence[tuple[str, list[Alone]]],
        corruption: Corruption,
    ) -> list[Certificate]:
        oracle = _Oracle(pipeline, asked)
        trees = [
            _Tree.start(corruption.cases(len(alone)), oracle.rows(i))
            for i, (_, alone) in enumerate(asked)
        ]
        for _ in range(pipeline.max_new_tokens):
            places = [(i, tokens) for i, tree in enumerate(trees) for tokens in tree.open]
            if not places:
                break
            masses = oracle.masses(places)
            nexts = [
                trees[i].possible(tokens, mass, self._lead)
                for (i, tokens), mass in zip(places, masses, strict=True)
            ]
            unsure = [
                place
                for place, found in zip(places, nexts, strict=True)
                if found is not None and any(not tokens.sure for tokens in found)
            ]
            blind = dict(zip(unsure, oracle.blind(unsure), strict=True))
            for (i, tokens), found in zip(places, nexts, strict=True):
                trees[i].grow(tokens, found, blind.get((i, tokens)), oracle.ends, self._branches)
        return [
            Certificate(None)
            if tree.lost
            else Certificate.of(
                [
                    *oracle.spell([(i, tokens) for tokens in (*tree.done, *tree.open)]),
                    *([REFUSAL] if tree.silent else []),
                ]
            )
            for i, tree in enumerate(trees)
        ]


@dataclass(frozen=True, slots=True)
class _Possible:
    """Tokens that can be next in one case; not ``sure`` if the blind token can be, too."""

    case: int
    tokens: tuple[int, ...]
    sure: bool


def reachable_tokens(clean: Mass, added: int, lead: float) -> tuple[tuple[int, ...] | None, bool]:
    """The tokens that can be taken when ``added`` passages more say what they like, or nothing.

    ``clean``: the sum over the clean passages, (vocabulary,). Returns the tokens, or None if any
    can be, and whether the generator's own token without passages can come in their place.

    The new passages add w with w ≥ 0 and Σ w ≤ m = ``added``. A token t is taken if
    s_t + w_t − max over u ≠ t of (s_u + w_u) > η. The left side is at most
    s_t + m − max over u ≠ t of s_u, so t can be taken only if that exceeds η. No token is taken if
    the lead of the best over the second best is at most η; w lowers that lead by at most m, so that
    it can happen only if p₁ − p₂ − m ≤ η, where p₁ ≥ p₂ are the largest of s.
    """
    best = int(clean.argmax())
    first, second = (float(value) for value in -np.partition(-clean, 1)[:2])
    border = first + lead - _SLACK - added
    unsure = first - second - added <= lead + _SLACK
    if border < 0:
        return None, unsure
    others = np.flatnonzero(clean > border).tolist()
    tokens = [token for token in others if token != best]
    if first + added - second > lead - _SLACK:
        tokens.insert(0, best)
    return tuple(tokens), unsure


class _Tree:
    """The beginnings of one question's answer that can arise, each with the cases it can arise in.

    ``lost``: the answer can be anything; ``silent``: it can be that nobody speaks.
    """

    def __init__(
        self, cases: Sequence[Case], rows: Mapping[int, int], start: set[int], silent: bool
    ) -> None:
        self._cases = cases
        self._rows = rows
        self.open: dict[Tokens, set[int]] = {(): start} if start else {}
        self.done: set[Tokens] = set()
        self.lost = False
        self.silent = silent

    @classmethod
    def start(cls, cases: Sequence[Case], rows: Mapping[int, int]) -> _Tree:
        """``rows``: the places of the passages that speak, and their rows among these."""
        speaking = {n for n, case in enumerate(cases) if any(p in rows for p in case.kept)}
        tree = cls(cases, rows, speaking, len(speaking) < len(cases))
        if any(cases[n].added for n in range(len(cases)) if n not in speaking):
            tree._give_up()
        return tree

    def possible(self, tokens: Tokens, mass: Mass, lead: float) -> list[_Possible] | None:
        """What can follow ``tokens``, by case; None if anything can. ``mass``: (spoken, V)."""
        found = []
        for number in sorted(self.open[tokens]):
            case = self._cases[number]
            rows = [self._rows[place] for place in case.kept if place in self._rows]
            taken, unsure = reachable_tokens(mass[rows].sum(axis=0), case.added, lead)
            if taken is None:
                return None
            found.append(_Possible(number, taken, not unsure))
        return found

    def grow(
        self,
        tokens: Tokens,
        found: Sequence[_Possible] | None,
        blind: int | None,
        ends: Sequence[int],
        most: int,
    ) -> None:
        """Replace a beginning by its continuations; ``blind``: the token without passages."""
        if self.lost:
            return
        del self.open[tokens]
        if found is None:
            self._give_up()
            return
        for possible in found:
            following = set(possible.tokens)
            if not possible.sure:
                assert blind is not None
                following.add(blind)
            for token in following:
                if token in ends:
                    self.done.add(tokens)
                else:
                    self.open.setdefault((*tokens, token), set()).add(possible.case)
        if len(self.open) + len(self.done) > most:
            self._give_up()

    def _give_up(self) -> None:
        self.lost = True
        self.open.clear()


class _State:
    """One answer while it is written."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.ended = False
        self.steps = 0
        self.log_prob = 0.0
        self.margin = math.inf

    def take(
        self, mass: Mass, blind: int | None, lead: float, spoken: int, ends: Sequence[int]
    ) -> None:
        """The next token: ``blind`` where it is given. Probabilities are means over passages."""
        token = int(mass.argmax()) if blind is None else blind
        first, second = (float(value) for value in -np.partition(-mass, 1)[:2])
        floor = 1e-30
        self.steps += 1
        self.log_prob += math.log(max(float(mass[token]) / spoken, floor))
        gap = math.log(max(first, floor)) - math.log(max(second, floor))
        self.margin = min(self.margin, gap)
        if lead:
            self.margin = min(self.margin, abs(first - second - lead) / spoken)
        self.ended = token in ends
        if not self.ended:
            self.tokens.append(token)


class _Oracle:
    """The generator behind each passage of a few questions."""

    def __init__(self, pipeline: RagPipeline, asked: Sequence[tuple[str, list[Alone]]]) -> None:
        self._generator = _stepwise(pipeline.generator)
        self._places = [
            [p for p, item in enumerate(alone) if not item.silent] for _, alone in asked
        ]
        self.spoken = [
            [alone[place].answer.prompt for place in places]
            for (_, alone), places in zip(asked, self._places, strict=True)
        ]
        self._closed = [pipeline.prompt(question, ()) for question, _ in asked]
        self.ends: tuple[int, ...] = ()

    def speaks(self, question: int) -> bool:
        """Whether any of its passages does."""
        return bool(self.spoken[question])

    def rows(self, question: int) -> dict[int, int]:
        """Places of passages that speak -> their rows in :meth:`masses`."""
        return {place: row for row, place in enumerate(self._places[question])}

    def masses(self, places: Sequence[tuple[int, Tokens]]) -> Iterator[Mass]:
        """Next-token probabilities (passages that speak, V) at each (question, beginning)."""
        start = 0
        while start < len(places):
            stop, rows = start, 0
            while stop < len(places) and (stop == start or rows < _ROWS):
                rows += len(self.spoken[places[stop][0]])
                stop += 1
            part = places[start:stop]
            found = self._ask([(prompt, tokens) for i, tokens in part for prompt in self.spoken[i]])
            row = 0
            for i, _ in part:
                yield found[row : row + len(self.spoken[i])]
                row += len(self.spoken[i])
            start = stop

    def blind(self, places: Sequence[tuple[int, Tokens]]) -> list[int]:
        """The best next token without any passage."""
        if not places:
            return []
        found = self._ask([(self._closed[i], tokens) for i, tokens in places])
        return [int(token) for token in found.argmax(axis=1)]

    def spell(self, outputs: Sequence[tuple[int, Tokens]]) -> list[str]:
        """Texts of answers."""
        prompts = [self._closed[i] for i, _ in outputs]
        return self._generator.spell(prompts, [tokens for _, tokens in outputs])

    def _ask(self, items: Sequence[tuple[str, Tokens]]) -> Mass:
        unique = {item: row for row, item in enumerate(dict.fromkeys(items))}
        prompts, outputs = zip(*unique, strict=True)
        response = self._generator.answer(Next(prompts, outputs))
        assert isinstance(response, NextTokens)
        self.ends = response.ends
        rows = [unique[item] for item in items]
        return np.exp(response.log_probs[rows].astype(np.float64))


def _stepwise(generator: Generator) -> Stepwise:
    if Next not in generator.answers or not isinstance(generator, Stepwise):
        raise UserError(
            f"decoding aggregation adds up next-token probabilities, and {generator.spec} gives "
            "none; choose keyword-aggregation or majority-vote with --defense"
        )
    return generator


def _leads(mass: Mass, lead: float) -> bool:
    first, second = -np.partition(-mass, 1)[:2]
    return bool(first - second > lead)
