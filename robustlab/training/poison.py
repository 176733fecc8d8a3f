"""Adversarial training of RAG's parts by poison, for readers and retrievers.

References:
    Zou et al. 2024, PoisonedRAG, arXiv:2402.07867 (what the poison is like)
    Zhong et al. 2023, Poisoning Retrieval Corpora, arXiv:2310.19156 (gradient-made passages)
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from robustlab.attack.tokens import cheapest_tokens, first_order, word_tokens
from robustlab.data.records import Passage
from robustlab.errors import UserError
from robustlab.metrics.answers import contains_answer
from robustlab.models.target import Direction, Gradient, Gradients
from robustlab.training.inner import Backward, Update, check_options
from robustlab.training.poisons import HELD_OUT, poison_texts, trained_kinds, wrong_answers
from robustlab.training.tasks import Batch, Task

if TYPE_CHECKING:
    from robustlab.retrieval.encoder import SentenceEncoder
    from robustlab.training.readers import Encoded, ReaderTask
    from robustlab.training.retrievers import RetrieverTask

__all__ = ["ReaderPoison", "RetrieverPoison", "flipped_passages", "make"]

_MOST_POISON = 5
_TOP_K = 5

_KEEPS_GOLD = 0.5
"""Share of the poisoned contexts that hold the gold passage; the others support no answer."""


class ReaderPoison:
    """Contexts with poison beside the gold passage or instead of it.

    ``strength`` is the share of the contexts that are poisoned, drawn anew each epoch. Each gets
    one to five passages of one kind and one wrong answer, among the passages it had. In half of
    them the gold passage stays and so does the answer; from the others every passage that holds
    the answer goes, and the right answer is "no answer". Kinds in ``held_out`` are not trained on.
    """

    def __init__(self, strength: float, held_out: str | None = HELD_OUT) -> None:
        self.name = "poison"
        self.strength = strength
        self._kinds = trained_kinds(held_out)
        self._encoded: dict[int, Encoded] = {}

    def update(self, task: Task, batch: Batch, backward: Backward, *, seed: int) -> Update:
        """One pass on the batch, its share of contexts poisoned."""
        reader = _reader(task)
        clean = reader.tokens(batch.rows)
        encoded = [self._encoded.get(row, own) for row, own in zip(batch.rows, clean, strict=True)]
        loss, _ = task.loss(reader.assemble(batch.rows, encoded))
        backward(loss)
        return Update(loss.detach(), 1, 1)

    def state(self) -> Mapping[str, Any]:
        """The tokens of this epoch's poisoned examples."""
        return {str(row): [one.prompt, one.answer] for row, one in self._encoded.items()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take them up again."""
        from robustlab.training.readers import Encoded

        self._encoded = {int(row): Encoded(*pair) for row, pair in state.items()}

    def begin_epoch(self, task: Task, *, seed: int, epoch: int) -> None:
        """Write this epoch's poison."""
        from robustlab.training.readers import NO_ANSWER

        reader = _reader(task)
        wrong = wrong_answers([reading.question for reading in reader.readings], 0)
        rows: list[int] = []
        contexts: list[list[Passage]] = []
        answers: list[str] = []
        for row, reading in enumerate(reader.readings):
            dice = random.Random(f"poison:{seed}:{epoch}:{reading.question.id}")
            aim = wrong.get(reading.question.id)
            if dice.random() >= self.strength or aim is None:
                continue
            count = dice.randint(1, _MOST_POISON)
            texts = poison_texts(
                dice.choice(self._kinds),
                reading.question,
                aim,
                reading.gold,
                use="train",
                count=count,
                seed=dice.randrange(2**32),
            )
            keeps_gold = dice.random() < _KEEPS_GOLD
            kept = [p for p in reading.context if p.id != reading.gold[0].id]
            if keeps_gold:
                kept = [reading.gold[0], *kept]
            else:
                kept = [
                    p for p in kept if not contains_answer(p.contents, reading.question.answers)
                ]
            context = [Passage(f"poison:{i}", "", text) for i, text in enumerate(texts)]
            context += kept[: max(_TOP_K - len(context), int(keeps_gold))]
            dice.shuffle(context)
            rows.append(row)
            contexts.append(context)
            answers.append(_answer(reading) if keeps_gold else NO_ANSWER)
        self._encoded = dict(zip(rows, reader.encode(rows, contexts, answers), strict=True))


def _answer(reading: Any) -> str:
    """An answer that stands in the first gold passage, if one does."""
    text = reading.gold[0].contents
    answers: Sequence[str] = reading.question.answers
    return next((answer for answer in answers if contains_answer(text, (answer,))), answers[0])


class RetrieverPoison:
    """Adversarial passages as further negatives.

    ``strength`` is the share of the questions that bring one, drawn anew each epoch; all questions
    of a batch have to tell it from their gold passages. Half are poison as PoisonedRAG writes it
    for the question, half come from the gradient: words flipped one by one towards the question's
    embedding under the model as it is when the epoch begins.
    """

    def __init__(self, strength: float, held_out: str | None = HELD_OUT, flips: int = 12) -> None:
        self.name = "poison"
        self.strength = strength
        self._kinds = trained_kinds(held_out)
        self._flips = flips
        self._texts: dict[int, str] = {}

    def update(self, task: Task, batch: Batch, backward: Backward, *, seed: int) -> Update:
        """One pass over the gold passages and the adversarial ones."""
        texts = [self._texts[row] for row in batch.rows if row in self._texts]
        loss, _ = task.loss(_retriever(task).with_negatives(batch, texts))
        backward(loss)
        return Update(loss.detach(), 1, 1)

    def state(self) -> Mapping[str, Any]:
        """This epoch's adversarial passages."""
        return {str(row): text for row, text in self._texts.items()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take them up again."""
        self._texts = {int(row): str(text) for row, text in state.items()}

    def begin_epoch(self, task: Task, *, seed: int, epoch: int) -> None:
        """Write this epoch's adversarial passages."""
        retriever = _retriever(task)
        pairs = retriever.pairs
        wrong = wrong_answers([pair.question for pair in pairs], 0)
        self._texts = {}
        flipped: list[int] = []
        for row, pair in enumerate(pairs):
            dice = random.Random(f"poison:{seed}:{epoch}:{pair.question.id}")
            if dice.random() >= self.strength:
                continue
            aim = wrong.get(pair.question.id)
            if aim is None or dice.random() < 0.5:
                flipped.append(row)
                continue
            (self._texts[row],) = poison_texts(
                dice.choice(self._kinds),
                pair.question,
                aim,
                [pair.passage],
                use="train",
                count=1,
                seed=dice.randrange(2**32),
            )
        if flipped:
            encoder: SentenceEncoder = retriever.target()
            wanted = encoder.encode([pairs[row].question.text for row in flipped], role="query")
            texts = flipped_passages(
                encoder, wanted, words=20, flips=self._flips, seed=f"{seed}:{epoch}"
            )
            self._texts |= dict(zip(flipped, texts, strict=True))


def flipped_passages(
    encoder: SentenceEncoder,
    directions: NDArray[np.float32],
    *,
    words: int,
    flips: int,
    seed: str,
    tried: int = 1,
) -> list[str]:
    """Passages whose embeddings point where they should, by flips of one word at a time.

    Every passage begins as random words. A flip takes the position that stands next in a random
    order and puts there, of the ``tried`` words that the gradient ranks best, the one that really
    serves best. The last state is returned if ``tried`` is 1, where nothing is really tried; else
    flips that do not help are not made.

    Args:
        encoder: what the adversary sees through.
        directions: unit vectors (N, width), one for each passage.
        words: how many a passage has.
        flips: how many are made, position after position.
        seed: of the beginnings and of the order.
        tried: see above.

    Returns:
        N passages.
    """
    dice = np.random.default_rng(list(seed.encode("utf-8")))
    vocabulary = encoder.vocabulary()
    allowed = word_tokens(vocabulary, letters_only=True, ascii_only=True)
    able = np.flatnonzero(allowed)
    passages = [
        [vocabulary.spellings[token][1:] for token in dice.choice(able, words)] for _ in directions
    ]
    order = np.concatenate([dice.permutation(words) for _ in range(flips // words + 1)])[:flips]
    goals = tuple(Direction(vector) for vector in directions)
    for position in order.tolist():
        texts = tuple(" ".join(passage) for passage in passages)
        response = encoder.answer(Gradient(texts, goals))
        assert isinstance(response, Gradients)
        rows = []
        for passage, item in zip(passages, response.items, strict=True):
            start = sum(len(word) + 1 for word in passage[:position])
            rows.append(
                next(i for i, span in enumerate(item.offsets) if span[0] == start != span[1])
            )
        slopes = np.stack([i.gradient[row] for i, row in zip(response.items, rows, strict=True)])
        found = [
            vocabulary.spellings[token][1:]
            for part in np.array_split(slopes, -(-len(slopes) // 256))
            for ranked in cheapest_tokens(first_order(part, vocabulary), allowed, tried)
            for token in ranked.tolist()
        ]
        if tried == 1:
            for passage, word in zip(passages, found, strict=True):
                passage[position] = word
            continue
        candidates = [
            [*passage[:position], word, *passage[position + 1 :]]
            for number, passage in enumerate(passages)
            for word in [passage[position], *found[number * tried : (number + 1) * tried]]
        ]
        vectors = encoder.encode([" ".join(candidate) for candidate in candidates], role="document")
        scores = np.einsum(
            "ncw,nw->nc", vectors.reshape(len(passages), tried + 1, -1), directions
        ).argmax(axis=1)
        passages = [candidates[n * (tried + 1) + best] for n, best in enumerate(scores.tolist())]
    return [" ".join(passage) for passage in passages]


def _reader(task: Task) -> ReaderTask:
    from robustlab.training.readers import ReaderTask

    own = getattr(task, "student", task)
    if not isinstance(own, ReaderTask):
        raise TypeError(f"this poison is for readers, not for a {task.kind}")
    return own


def _retriever(task: Task) -> RetrieverTask:
    from robustlab.training.retrievers import RetrieverTask

    own = getattr(task, "student", task)
    if not isinstance(own, RetrieverTask):
        raise TypeError(f"this poison is for retrievers, not for a {task.kind}")
    return own


def make(
    name: str, strength: float, task: Task, options: Mapping[str, Any]
) -> ReaderPoison | RetrieverPoison:
    """``poison`` for a task.

    Args:
        name: the method.
        strength: a share up to 1.
        task: what it will train.
        options: ``held_out``, a kind of poison or ``none``; ``flips`` of the passages that a
            retriever's gradients make.

    Raises:
        UserError: an option that the method does not have, or a value that it does not allow.
    """
    of_reader = task.kind != "retriever"
    check_options(name, options, {"held_out"} if of_reader else {"held_out", "flips"})
    given = dict(options)
    if given.get("held_out") == "none":
        given["held_out"] = None
    if strength > 1:
        raise UserError(f"the strength of poison is a share of the examples, not {strength:g}")
    if int(given.get("flips", 1)) < 1:
        raise UserError(f"poison needs at least one flip, not {given['flips']}")
    return ReaderPoison(strength, **given) if of_reader else RetrieverPoison(strength, **given)
