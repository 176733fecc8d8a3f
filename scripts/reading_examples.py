"""Training examples for the built-in readers: a question, passages, and the span that answers it.

Sources are BEIR folders (SQuAD pieces, the almanac, the train split of our field guide). Three
stages: ``read`` (one passage a question, a third of them cloze questions that need no labels),
``retrieve`` (the gold passage among others that do not hold the answer, and now and then without
it, when the right answer is :data:`NO_ANSWER`) and ``adapt`` (the gold passage among its whole
neighbourhood, whatever that states, which is what a retriever brings). Examples of chunk c depend
on (seed, stage, c) alone, so that a resumed run sees what an uninterrupted one would have seen.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robustlab.data import load_corpus
from robustlab.models.reader_backend import find_tokens

__all__ = ["NO_ANSWER", "Example", "Probe", "ReadingData", "Source", "batches", "probes"]

NO_ANSWER = "no answer"

MAX_ANSWER = 14  # tokens; longer spans are sentences, not answers
MAX_PASSAGE = 256  # tokens; a longer passage is cropped around the answer


@dataclass(frozen=True, slots=True)
class Example:
    """Token ids without special tokens: question, passages in order, answer."""

    question: list[int]
    passages: list[list[int]]
    answer: list[int]

    @property
    def length(self) -> int:
        """Tokens of the whole input, separators included."""
        return len(self.question) + 3 + sum(len(passage) + 1 for passage in self.passages)


@dataclass(frozen=True, slots=True)
class _Item:
    question: list[int]
    gold: tuple[int, ...]  # passage numbers
    answers: tuple[list[int], ...]
    answerable: bool


@dataclass(frozen=True, slots=True)
class Probe:
    """An example to measure a reader by, and all answers that count as right."""

    example: Example
    answers: tuple[list[int], ...]


def _unanswerable(folder: Path) -> list[dict[str, str]]:
    """Questions that their passage does not answer, where the folder has such."""
    path = folder / "unanswerable.jsonl"
    if not path.exists():
        return []
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


class Source:
    """One BEIR folder, tokenised: passages in file order, questions of one split."""

    def __init__(self, folder: Path, tokenizer: Any, *, split: str = "train") -> None:
        def tokens(texts: list[str]) -> list[list[int]]:
            if not texts:
                return []
            ids: list[list[int]] = tokenizer(texts, add_special_tokens=False, verbose=False)[
                "input_ids"
            ]
            return ids

        corpus = load_corpus(str(folder))
        questions = corpus.questions[split]
        used = {key for question in questions for key in question.gold}
        # Passages of other splits must not be seen in training, not even as distractors.
        passages = [passage for passage in corpus.passages if passage.id in used]
        number = {passage.id: i for i, passage in enumerate(passages)}
        self.texts = [passage.contents for passage in passages]
        self.passages = tokens(self.texts)
        self.words = [re.findall(r"\w+|[^\w\s]", text) for text in self.texts]
        asked = tokens([question.text for question in questions])
        answers = [tokens(list(question.answers)) for question in questions]
        self.items = []
        for ids, given, question in zip(asked, answers, questions, strict=True):
            places = tuple(number[key] for key in question.gold)
            found = tuple(
                answer
                for answer in given
                if 0 < len(answer) <= MAX_ANSWER
                and any(find_tokens(self.passages[place], answer) >= 0 for place in places)
            )
            if found and len(ids) <= 64:
                self.items.append(_Item(ids, places, found, answerable=True))
        refused = [row for row in _unanswerable(folder) if row["corpus_id"] in number]
        self.refused = [
            _Item(ids, (number[row["corpus_id"]],), (), answerable=False)
            for ids, row in zip(tokens([r["text"] for r in refused]), refused, strict=True)
            if len(ids) <= 64
        ]


class ReadingData:
    """Draws chunks of examples from weighted sources."""

    def __init__(
        self,
        sources: Sequence[tuple[Source, float]],
        tokenizer: Any,
        seed: int,
        *,
        swap: float = 0.0,
    ) -> None:
        """``swap``: how often an answer is exchanged for another one, in question's passage too.

        It makes the reader read, because what it may remember is then wrong (entity-based
        knowledge conflicts, Longpre et al. 2021, arXiv:2109.05052).
        """
        self._swap = swap
        self._sources = [source for source, _ in sources]
        self._weights = [weight for _, weight in sources]
        self._tokenizer = tokenizer
        self._refusal: list[int] = tokenizer(NO_ANSWER, add_special_tokens=False)["input_ids"]
        self._seed = seed

    def chunk(self, stage: str, number: int, size: int) -> list[Example]:
        """``size`` examples of one stage, the same for the same arguments."""
        dice = random.Random(f"{self._seed}:{stage}:{number}")
        examples: list[Example] = []
        while len(examples) < size:
            source = dice.choices(self._sources, self._weights)[0]
            example = self._draw(source, stage, dice)
            if example is not None:
                examples.append(example)
        return examples

    def _draw(self, source: Source, stage: str, dice: random.Random) -> Example | None:
        luck = dice.random()
        if stage == "read":
            if luck < 0.3:
                return self._cloze(source, dice)
            if luck < 0.33 and source.refused:
                return self.assemble(source, dice.choice(source.refused), dice, others=0)
            return self.assemble(source, dice.choice(source.items), dice, others=0)
        if luck < 0.05 and source.refused:
            return self.assemble(source, dice.choice(source.refused), dice, others=1)
        shares = [1, 1, 2, 3, 4] if stage == "adapt" else [2, 2, 3, 3, 2]
        others = dice.choices([0, 1, 2, 3, 4], shares)[0]
        missing = others > 0 and luck > 0.96
        item = dice.choice(source.items)
        strict = missing or stage == "retrieve"
        return self.assemble(source, item, dice, others, missing=missing, strict=strict)

    def assemble(
        self,
        source: Source,
        item: _Item,
        dice: random.Random,
        others: int,
        *,
        missing: bool = False,
        strict: bool = True,
    ) -> Example:
        """Gold passage among ``others`` of its neighbourhood, in random order.

        ``strict`` keeps out every other passage that holds the answer; ``missing`` the gold too.
        """
        gold = dice.choice(item.gold)
        answers = [a for a in item.answers if find_tokens(source.passages[gold], a) >= 0]
        answer = answers[0] if answers else self._refusal
        # With several passages each is cut shorter, to keep a batch affordable.
        limit = MAX_PASSAGE if others == 0 else 128
        passages = [] if missing else [self._crop(source.passages[gold], answer, limit, dice)]
        taken = set(item.gold) if strict else {gold}
        for _ in range(4 * others):
            if len(passages) >= others + (not missing):
                break
            near = dice.random() < 0.6
            place = (
                gold + dice.choice([-4, -3, -2, -1, 1, 2, 3, 4])
                if near
                else dice.randrange(len(source.passages))
            )
            if not 0 <= place < len(source.passages) or place in taken:
                continue
            taken.add(place)
            other = source.passages[place]
            if strict and item.answerable and any(find_tokens(other, a) >= 0 for a in item.answers):
                continue
            passages.append(self._crop(other, [], limit, dice))
        if answers and not missing and dice.random() < self._swap:
            other_answer = dice.choice(dice.choice(source.items).answers)
            answer, passages = self._swapped(answer, other_answer, item, passages)
        dice.shuffle(passages)
        if missing or not item.answerable:
            answer = self._refusal
        return Example(item.question, passages, answer)

    def _swapped(
        self, answer: list[int], other: list[int], item: _Item, passages: list[list[int]]
    ) -> tuple[list[int], list[list[int]]]:
        """The answer and the gold passage (the first) with ``other`` in the answer's place.

        Left as they are where that would make no sense: a number for a name, an answer that the
        question holds, or another passage that states the old one.
        """
        tokens = self._tokenizer.convert_ids_to_tokens
        alike = any(t[0].isdigit() for t in tokens(answer)) == any(
            t[0].isdigit() for t in tokens(other)
        )
        holds = [text for text in passages[1:] if find_tokens(text, answer) >= 0]
        if not alike or holds or other == answer or find_tokens(item.question, other) >= 0:
            return answer, passages
        gold = passages[0]
        changed: list[int] = []
        place = 0
        while (found := find_tokens(gold[place:], answer)) >= 0:
            changed += gold[place : place + found] + other
            place += found + len(answer)
        return other, [changed + gold[place:], *passages[1:]]

    @staticmethod
    def _crop(passage: list[int], answer: list[int], limit: int, dice: random.Random) -> list[int]:
        """At most ``limit`` tokens, a random window that keeps the answer."""
        if len(passage) <= limit:
            return passage
        place = max(find_tokens(passage, answer), 0) if answer else dice.randrange(len(passage))
        first = max(0, min(place + len(answer) - limit, len(passage) - limit))
        last = min(place, len(passage) - limit)
        start = dice.randint(min(first, last), max(first, last))
        return passage[start : start + limit]

    def _cloze(self, source: Source, dice: random.Random) -> Example | None:
        """A sentence with a span replaced by "what" and words dropped; the span answers it."""
        number = dice.randrange(len(source.passages))
        words = source.words[number]
        if len(words) < 12:
            return None
        start = dice.randrange(len(words))
        end = start + dice.choices([1, 2, 3, 4], [4, 3, 2, 1])[0]
        span = words[start:end]
        if len(span) < end - start or not all(w[0].isalnum() for w in span):
            return None
        telling = any(w[0].isupper() or w[0].isdigit() for w in span)
        if not telling and dice.random() < 0.8:
            return None
        left = max(0, start - dice.randint(3, 12))
        right = min(len(words), end + dice.randint(3, 12))
        drop = dice.choice([0.1, 0.3, 0.5])
        kept = [w for w in words[left:start] if dice.random() > drop]
        tail = [w for w in words[end:right] if dice.random() > drop]
        if len(kept) + len(tail) < 4:
            return None
        texts = [" ".join([*kept, "what", *tail]), " ".join(span)]
        question, answer = self._tokenizer(texts, add_special_tokens=False)["input_ids"]
        passage = source.passages[number]
        if len(answer) > MAX_ANSWER or find_tokens(passage, answer) < 0:
            return None
        return Example(question, [self._crop(passage, answer, 160, dice)], answer)


def probes(source: Source, data: ReadingData, *, others: int, most: int) -> list[Probe]:
    """The first ``most`` questions of a source, the gold passage among ``others`` near it."""
    dice = random.Random(0)
    return [
        Probe(
            data.assemble(source, item, dice, others, strict=False),
            item.answers,
        )
        for item in source.items[:most]
    ]


def batches(
    examples: Sequence[Example], tokens: int, dice: random.Random
) -> Iterator[list[Example]]:
    """Length-bucketed batches of at most ``tokens`` padded tokens, in random order."""
    ordered = sorted(examples, key=lambda example: example.length)
    groups: list[list[Example]] = []
    group: list[Example] = []
    for example in ordered:
        if group and example.length * (len(group) + 1) > tokens:
            groups.append(group)
            group = []
        group.append(example)
    if group:
        groups.append(group)
    dice.shuffle(groups)
    yield from groups
