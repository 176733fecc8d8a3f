"""Certificates against brute force: whatever corrupted passages say, no answer is outside them."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from rag_fakes import FixedRetriever

from robustlab.data.records import Passage, content_hash
from robustlab.defense.certificates import (
    THREATS,
    Case,
    Certificate,
    CertifiedReader,
    Corruption,
    Threat,
)
from robustlab.defense.decoding import DecodingAggregation, reachable_tokens
from robustlab.defense.keywords import KeywordAggregation, Threshold, reachable_choices
from robustlab.defense.majority import MajorityVote, reachable_winners
from robustlab.defense.pipeline import DefendedRag
from robustlab.errors import UserError
from robustlab.metrics.answers import normalise
from robustlab.models.prompt import load_prompt
from robustlab.models.target import (
    Generate,
    Generations,
    Next,
    NextTokens,
    Request,
    Response,
    Score,
    Scores,
)
from robustlab.rag.pipeline import RagPipeline
from robustlab.retrieval import Hit

WORDS = ("red", "blue", "green", "old", "town")
END = len(WORDS)


class Parrot:
    """Reads prompts of words with weights; says what the passages' own words make likely.

    A passage is a text like ``red:3 blue:1 / town:2``: the weights of the first token, then of
    the second, and so on; where it says nothing more the end is certain. ``none`` refuses. Behind
    several passages it says all their best first words; behind none it says ``green``.
    """

    spec = "parrot"
    kind = "causal"
    label_names = ()
    prompt_style = "reader"
    answers: frozenset[type[Request]] = frozenset({Generate, Score, Next})

    def answer(self, request: Request) -> Response:
        if isinstance(request, Generate):
            texts = tuple(map(self._said, request.prompts))
            size = len(texts)
            return Generations(
                texts,
                np.full(size, -1, np.float32),
                np.full(size, 2, np.int64),
                np.ones(size, np.float32),
            )
        if isinstance(request, Score):
            refused = [0.0 if self._said(p) == "no answer" else -9.0 for p in request.prompts]
            return Scores(np.array(refused, np.float32), np.full(len(refused), 3, np.int64))
        assert isinstance(request, Next)
        rows = [self._next(p, o) for p, o in zip(request.prompts, request.outputs, strict=True)]
        with np.errstate(divide="ignore"):
            return NextTokens(np.log(np.array(rows, np.float32)), (END,))

    def spell(self, prompts: Sequence[str], outputs: Sequence[Sequence[int]]) -> list[str]:
        return [" ".join(WORDS[token] for token in output) for output in outputs]

    def _next(self, prompt: str, output: Sequence[int]) -> list[float]:
        steps = (
            [step.split() for step in _passages(prompt)[0].split("/")]
            if _passages(prompt)
            else [["green:1"]]
        )
        weights = [0.0] * (END + 1)
        if len(output) >= len(steps):
            weights[END] = 1.0
        else:
            for item in steps[len(output)]:
                word, weight = item.split(":")
                weights[END if word == "end" else WORDS.index(word)] += float(weight)
        return [weight / sum(weights) for weight in weights]

    def _said(self, prompt: str) -> str:
        passages = _passages(prompt)
        if not passages:
            return "green"
        if ":" not in passages[0] and passages[0] != "none":
            return " ".join(sorted(passage.split()[-1].strip(".") for passage in passages))
        if passages[0] == "none":
            return "no answer"
        output: list[int] = []
        while True:
            row = self._next(prompt, output)
            best = row.index(max(row))
            if best == END or len(output) > 3:
                return " ".join(WORDS[token] for token in output) or "no answer"
            output.append(best)

    def input_limit(self, max_new_tokens: int) -> int:
        return 1000

    def count_tokens_many(self, texts: Sequence[str]) -> list[int]:
        return [len(text.split()) for text in texts]

    def fingerprint(self) -> str:
        return content_hash(["parrot"])

    def describe(self) -> Mapping[str, Any]:
        return {"spec": self.spec}


def _passages(prompt: str) -> list[str]:
    return [line.removeprefix("[SEP] ") for line in prompt.split("\n")[1:] if line.strip()]


def pipeline(k: int) -> RagPipeline:
    retriever: Any = FixedRetriever({})
    return RagPipeline(retriever, Parrot(), load_prompt("reader"), top_k=k, max_new_tokens=3)


def hits(texts: Sequence[str]) -> list[Hit]:
    return [Hit(Passage(f"p{i}", "", text), 1 - i / 100, i) for i, text in enumerate(texts, 1)]


def random_passage(rng: random.Random) -> str:
    if rng.random() < 0.2:
        return "none"
    steps = []
    for _ in range(rng.randint(1, 2)):
        words = rng.sample(WORDS[:4], rng.randint(1, 2))
        steps.append(" ".join(f"{word}:{rng.randint(1, 3)}" for word in words))
    return " / ".join(steps)


def defences() -> list[CertifiedReader]:
    return [
        MajorityVote("majority-vote", 0.5),
        KeywordAggregation(
            "by count", doubt=0.5, threshold=Threshold(0.4, 2), final="count", branches=64
        ),
        KeywordAggregation(
            "by generator", doubt=0.5, threshold=Threshold(0.5, 3), final="generator", branches=64
        ),
        DecodingAggregation("by token", doubt=0.5, lead=0.0, branches=64),
        DecodingAggregation("by sure token", doubt=0.5, lead=0.7, branches=64),
    ]


@pytest.mark.parametrize("threat", THREATS)
@pytest.mark.parametrize("defence", defences(), ids=lambda d: d.name)
def test_no_attack_leads_outside_the_certificate(defence: CertifiedReader, threat: Threat) -> None:
    """Random passages, random attacks of every kind that the threat allows."""
    rng = random.Random(f"{defence.name} {threat}")
    informative = 0
    for _ in range(40):
        slots = rng.randint(3, 6)
        corruption = Corruption(rng.randint(1, min(2, slots - 1)), slots, threat)
        common = random_passage(rng)
        # Some corpora have fewer passages than slots.
        size = slots if rng.random() < 0.7 else rng.randint(0, slots)
        clean = [common if rng.random() < 0.6 else random_passage(rng) for _ in range(size)]
        rag = pipeline(slots)
        (certificate,) = defence.certify(rag, ["who?"], [hits(clean)], corruption)
        informative += certificate.answers is not None
        attacked = [clean]
        for _ in range(25):
            kept = list(clean)
            added = rng.randint(0, corruption.corrupted)
            if threat == "replacement":
                for _ in range(rng.randint(0, min(corruption.corrupted, len(kept)))):
                    kept.pop(rng.randrange(len(kept)))
            for _ in range(added):
                kept.insert(rng.randint(0, len(kept)), random_passage(rng))
            # What does not fit into the slots: the last clean passages are pushed out.
            while len(kept) > slots:
                last = max(place for place, text in enumerate(kept) if text in clean)
                kept.pop(last)
            attacked.append(kept)
        answers = defence.read(rag, ["who?"] * len(attacked), [hits(texts) for texts in attacked])
        outside = [
            (texts, answer.answer)
            for texts, answer in zip(attacked, answers, strict=True)
            if not certificate.allows(answer.answer)
        ]
        assert not outside, (clean, corruption, certificate, outside[0])
    assert informative > 5, "certificates that say nothing are sound and useless"


def test_winners_by_brute_force() -> None:
    """Every multiset of votes of a few answers, every behaviour of the new voters."""
    names = ("a", "b", "c", None)
    for size in range(5):
        for votes in itertools.combinations_with_replacement(names, size):
            for added in range(3):
                won = set()
                for extra in itertools.product(("a", "b", "c", "new", None), repeat=added):
                    cast = [vote for vote in (*votes, *extra) if vote]
                    most = max(map(cast.count, cast), default=0)
                    won |= {v for v in cast if cast.count(v) == most} or {"no answer"}
                found = reachable_winners(votes, added)
                assert found is None or won <= found
                # Nothing is certified too little where no new answer can win.
                assert (found is None) == ("new" in won)
                if found is not None:
                    assert won == found


def test_choices_by_count_by_brute_force() -> None:
    names = ("a", "b b", "c", "d d d")
    for share, count in ((0.4, 2), (0.0, 1), (1.0, 3)):
        threshold = Threshold(share, count)
        for size in range(5):
            for answers in itertools.combinations_with_replacement(names, size):
                for added in range(3):
                    won = set()
                    pool = (*names, "z z z z z", None)
                    for extra in itertools.product(pool, repeat=added):
                        cast = [answer for answer in (*answers, *extra) if answer]
                        kept = [a for a in cast if cast.count(a) >= threshold(len(cast))]
                        won.add(
                            max(kept, key=lambda a: (cast.count(a), len(a.split()), a))
                            if kept
                            else "no answer"
                        )
                    found = reachable_choices(answers, added, threshold)
                    assert (found is None) == ("z z z z z" in won), (answers, added, share, count)
                    if found is not None:
                        assert found == won


def test_reachable_tokens_at_a_border() -> None:
    clean = np.array([2.5, 1.0, 0.4, 0.0])
    # Lead 1.5: one passage more cannot bring the second one up, nor make the lead vanish.
    assert reachable_tokens(clean, 1, 0.0) == ((0,), False)
    # Two can: the second reaches 3.0 against 2.5; the third only 2.4.
    assert reachable_tokens(clean, 2, 0.0) == ((0, 1), True)
    # Three can take any token at all.
    assert reachable_tokens(clean, 3, 0.0)[0] is None
    # The best must lead by 1: one passage less sure makes it 0.5.
    assert reachable_tokens(clean, 1, 1.0) == ((0,), True)


@pytest.mark.parametrize("lead", [0.0, 0.5])
def test_reachable_tokens_hold_random_attacks(lead: float) -> None:
    rng = np.random.default_rng(4)
    for _ in range(200):
        clean = rng.dirichlet(np.full(6, 0.4), size=rng.integers(1, 6)).sum(axis=0)
        added = int(rng.integers(1, 3))
        found, unsure = reachable_tokens(clean, added, lead)
        for _ in range(40):
            extra = rng.dirichlet(np.full(6, 0.1), size=added).sum(axis=0)
            total = clean + extra
            second, first = np.sort(total)[-2:]
            if first - second > lead:
                assert found is None or int(total.argmax()) in found
            else:
                assert unsure


def test_cases() -> None:
    assert Corruption(1, 3).cases(3) == [Case((0, 1), 1)]
    # A short list has room beside what is there.
    assert Corruption(1, 3).cases(2) == [Case((0, 1), 1), Case((0,), 1)]
    assert Corruption(2, 3).cases(3) == [Case((0,), 2)]
    assert Corruption(1, 3, "replacement").cases(3) == [
        Case((0, 1), 1), Case((0, 2), 1), Case((1, 2), 1),
    ]  # fmt: skip
    assert Corruption(1, 3).cases(0) == [Case((), 1)]


@pytest.mark.parametrize(
    ("corrupted", "sentence"), [(5, "5 corrupted of 5 passages"), (0, "at least 1")]
)
def test_what_cannot_be_certified(corrupted: int, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        Corruption(corrupted, 5)


def test_certificates_are_read_after_normalisation() -> None:
    certificate = Certificate.of(["The Heart"])
    assert certificate.allows("heart.")
    assert not certificate.allows("hearts")
    assert certificate.holds(lambda text: text == normalise("a heart"))
    assert not Certificate(None).holds(lambda text: True)
    assert Certificate.union([frozenset("a"), None]).answers is None


def test_what_the_defences_answer() -> None:
    clean = ["red:3", "red:2 blue:1", "blue:1", "none", "red:1 / town:2"]
    rag = pipeline(5)
    majority, _, _, token, _ = defences()
    said = {d.name: d.read(rag, ["who?"], [hits(clean)])[0] for d in defences()}
    assert said["majority-vote"].answer == "red"
    # In two answers of four, and not "red town", which is one answer more specific.
    assert said["by count"].answer == "red"
    # μ = min(0.5 · 4, 3) = 2: of the keywords red (3), blue (1), town (1), red town (1).
    assert said["by generator"].answer == "red"
    assert said["by generator"].prompt.endswith("[SEP] who? red.")
    # Sums: red 1 + 2/3 + 0 + 1, blue 1/3 + 1; then the end has 3 of 4.
    assert said["by token"].answer == "red"
    share = (1 + 2 / 3 + 1) / 4
    assert said["by token"].log_prob == pytest.approx(math.log(share) + math.log(3 / 4))
    assert [vote.answer for vote in majority.votes(rag, "who?", hits(clean))] == [
        "red", "red", "blue", "", "red town",
    ]  # fmt: skip
    assert [vote.agrees for vote in token.votes(rag, "who?", hits(clean))] == [
        True, True, False, False, True,
    ]  # fmt: skip
    nobody = [d.read(rag, ["who?"], [hits(["none", "none"])])[0].answer for d in defences()]
    assert nobody == ["no answer"] * 5


def test_a_filter_that_compares_passages_leaves_nothing_to_certify() -> None:
    class Comparing:
        name = "comparing"

        def describe(self) -> Mapping[str, Any]:
            return {}

        def fingerprint(self) -> str:
            return ""

        def keep(
            self, questions: Sequence[str], ranked: Sequence[Sequence[Hit]]
        ) -> list[list[bool]]:
            return [[True] * len(hits) for hits in ranked]

    vote = MajorityVote("majority-vote", 0.5)
    with pytest.raises(UserError, match="behind comparing"):
        DefendedRag(pipeline(3), [vote, Comparing()]).certify(["who?"], Corruption(1, 3))
    with pytest.raises(UserError, match="over bm25"):
        DefendedRag(pipeline(3), [vote]).certify(["who?"], Corruption(1, 3))
    with pytest.raises(UserError, match="no defence has no certificate"):
        DefendedRag(pipeline(3), []).certify(["who?"], Corruption(1, 3))


def test_a_short_lead_falls_back_on_the_generator_alone() -> None:
    rag = pipeline(2)
    clean = [hits(["red:3 blue:2", "blue:2 red:2"])]
    plain, careful = (
        DecodingAggregation("d", doubt=0.5, lead=lead, branches=9) for lead in (0.0, 0.5)
    )
    assert plain.read(rag, ["who?"], clean)[0].answer == "red"
    assert careful.read(rag, ["who?"], clean)[0].answer == "green"
