"""The RAG pipeline: questions go in, answers with their passages come out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robustlab.data.records import Corpus, Passage, content_hash
from robustlab.errors import UserError
from robustlab.models.load import load_target
from robustlab.models.prompt import PromptTemplate, default_prompt, load_prompt
from robustlab.models.target import (
    Ask,
    Direction,
    Embed,
    Embeddings,
    Generate,
    Generations,
    Gradient,
    Replies,
    Reply,
    Request,
    Response,
    Retrieval,
    Retrievals,
    Retrieve,
    Score,
)
from robustlab.rag.context import Context, Generator, build_contexts
from robustlab.retrieval import Hit, Retriever, open_retriever
from robustlab.retrieval.encoder import Role, SentenceEncoder
from robustlab.retrieval.index import DenseIndex

__all__ = [
    "POISON_ID",
    "RagAnswer",
    "RagHit",
    "RagPipeline",
    "as_retrieval",
    "load_rag",
    "poison_passages",
]

POISON_ID = "poison:"
"""Begins the ids of passages that stand in the corpus of one question alone."""


@dataclass(frozen=True, slots=True)
class RagHit:
    """A retrieved passage.

    ``rank`` counts from 1; ``shown`` is its text in the prompt: the passage's own, the beginning
    of it where it alone did not fit, or None where there was no room for it.
    """

    passage: Passage
    score: float
    rank: int
    shown: str | None

    @property
    def in_context(self) -> bool:
        """Whether the generator read it."""
        return self.shown is not None

    @property
    def contents(self) -> str:
        """Title and text as the generator read them."""
        return Passage(self.passage.id, self.passage.title, self.shown or "").contents


@dataclass(frozen=True, slots=True)
class RagAnswer:
    """The answer to one question, and what it was made from.

    ``log_prob`` is summed over the ``tokens`` of the answer, its end token included; ``margin`` is
    the smallest lead that one of them had over the second best; ``hits`` are the retrieved
    passages, best first.
    """

    question: str
    answer: str
    log_prob: float
    tokens: int
    margin: float
    hits: tuple[RagHit, ...]
    prompt: str

    @property
    def confidence(self) -> float:
        """exp(L / T): the geometric mean of the probabilities of the answer's T tokens.

        L is ``log_prob``. In [0, 1]; it does not fall with the answer's length, and it is the
        model's own opinion, not a calibrated probability of being right.
        """
        # Rounding may leave a sum of log-probabilities a hair above zero.
        return min(1.0, math.exp(self.log_prob / max(1, self.tokens)))

    @property
    def context(self) -> tuple[str, ...]:
        """Titles and texts of the passages that the generator read, as it read them."""
        return tuple(hit.contents for hit in self.hits if hit.in_context)

    def as_reply(self) -> Reply:
        """The same as an attack sees it."""
        return Reply(
            text=self.answer,
            log_prob=self.log_prob,
            tokens=self.tokens,
            margin=self.margin,
            retrieved=as_retrieval(self.hits),
            read=tuple(hit.passage.id for hit in self.hits if hit.in_context),
        )


def as_retrieval(hits: Sequence[Hit | RagHit]) -> Retrieval:
    """Hits as an attack sees them."""
    return Retrieval(tuple(hit.passage.id for hit in hits), tuple(hit.score for hit in hits))


def poison_passages(poisons: Sequence[Sequence[str]]) -> list[list[Passage]]:
    """The passages of a request's poisons: no title, and ids by their place."""
    return [
        [Passage(f"{POISON_ID}{place}", "", text) for place, text in enumerate(texts)]
        for texts in poisons
    ]


class RagPipeline:
    """Retriever, prompt and generator as one target of kind ``rag``.

    Its prompts are questions: ``Generate`` retrieves, builds the prompts and answers, ``Score``
    gives the log-probability of other answers in the same place. ``Ask`` and ``Retrieve`` take
    questions with passages that stand in the corpus of each alone. Every step takes all questions
    of a request at once. The steps are also there one by one: :meth:`ask` is :meth:`retrieve`
    followed by :meth:`read`.

    To who knows its inside it is open as well: ``Embed`` gives the vectors of passages or of
    questions, ``Gradient`` goes to the retriever's encoder where the goals are directions, and to
    the generator, its texts whole prompts, where they are outputs; so does a ``Score`` that is
    ``inside``.

    Args:
        retriever: finds the passages.
        generator: writes the answers.
        template: the form of the prompt.
        top_k: how many passages are retrieved for a question.
        max_new_tokens: the longest answer, for which room is left in the prompt.
    """

    def __init__(
        self,
        retriever: Retriever,
        generator: Generator,
        template: PromptTemplate,
        *,
        top_k: int = 5,
        max_new_tokens: int = 32,
    ) -> None:
        if top_k < 1:
            raise UserError(f"--top-k must be at least 1, not {top_k}")
        if max_new_tokens < 1:
            raise UserError(f"an answer needs at least one token, not {max_new_tokens}")
        self.retriever = retriever
        self.generator = generator
        self.template = template
        self.top_k = top_k
        self.max_new_tokens = max_new_tokens

    @property
    def spec(self) -> str:
        """Always ``rag``."""
        return "rag"

    @property
    def kind(self) -> str:
        """Always ``rag``."""
        return "rag"

    @property
    def answers(self) -> frozenset[type[Request]]:
        """Ask, Retrieve and Generate, and what else generator and encoder have."""
        own: frozenset[type[Request]] = frozenset({Ask, Retrieve})
        inside: frozenset[type[Request]] = frozenset({Generate, Score, Gradient})
        found = own | (inside & self.generator.answers)
        encoder = self.encoder
        return found if encoder is None else found | encoder.answers

    @property
    def encoder(self) -> SentenceEncoder | None:
        """The encoder of a dense retriever."""
        return self.retriever.encoder if isinstance(self.retriever, DenseIndex) else None

    @property
    def label_names(self) -> tuple[str, ...]:
        """Empty: a pipeline has no classes."""
        return ()

    def with_retriever(self, retriever: Retriever) -> RagPipeline:
        """The same pipeline over another retriever, such as one with poisoned passages.

        Generator and template are shared, not copied.
        """
        return RagPipeline(
            retriever,
            self.generator,
            self.template,
            top_k=self.top_k,
            max_new_tokens=self.max_new_tokens,
        )

    def ask(
        self, questions: Sequence[str], poisons: Sequence[Sequence[str]] = ()
    ) -> list[RagAnswer]:
        """Answer questions, all in one batch, each over the corpus and its own ``poisons``.

        Raises:
            UserError: a blank question, or one too long for the generator.
        """
        return self.read(questions, self.retrieve(questions, None, poisons))

    def retrieve(
        self,
        questions: Sequence[str],
        k: int | None = None,
        poisons: Sequence[Sequence[str]] = (),
    ) -> list[list[Hit]]:
        """The best ``k`` passages for each question, ``top_k`` if not given, best first.

        ``poisons[i]`` are passages that stand in the corpus for question i alone.

        Raises:
            UserError: a blank question.
        """
        wanted = self.top_k if k is None else k
        if not any(poisons):
            return self.retriever.search(questions, wanted)
        return self.retriever.search_with(questions, poison_passages(poisons), wanted)

    def prompt(self, question: str, passages: Sequence[Passage]) -> str:
        """What the generator reads of a question and passages, as far as they fit."""
        (context,) = build_contexts(
            self.template,
            self.generator,
            [question],
            [list(passages)],
            output_tokens=[self.max_new_tokens],
        )
        return context.prompt

    def read(self, questions: Sequence[str], ranked: Sequence[Sequence[Hit]]) -> list[RagAnswer]:
        """Answer questions from passages that were retrieved for them, best first.

        All passages given count, be they more or fewer than ``top_k``.
        """
        contexts = self._contexts(questions, ranked, [self.max_new_tokens] * len(questions))
        prompts = tuple(context.prompt for context in contexts)
        generated = self._generate(Generate(prompts, self.max_new_tokens))
        return [
            RagAnswer(
                question=question,
                answer=generated.texts[i],
                log_prob=float(generated.log_probs[i]),
                tokens=int(generated.tokens[i]),
                margin=float(generated.margins[i]),
                hits=_shown(hits, context),
                prompt=context.prompt,
            )
            for i, (question, hits, context) in enumerate(
                zip(questions, ranked, contexts, strict=True)
            )
        ]

    def answer(self, request: Request) -> Response:
        """Answer a request, its prompts questions but for what goes inside.

        Raises:
            UserError: a blank question, or one too long for the generator.
            TypeError: a kind of request that is not in :attr:`answers`.
        """
        if type(request) in self.answers:
            if isinstance(request, Ask):
                answers = self.ask(request.questions, request.poisons)
                return Replies(tuple(answer.as_reply() for answer in answers))
            if isinstance(request, Retrieve):
                ranked = self.retrieve(request.questions, request.k, request.poisons)
                return Retrievals(tuple(map(as_retrieval, ranked)))
            if isinstance(request, Generate):
                room = [request.max_new_tokens] * len(request.prompts)
                return self._generate(
                    Generate(self._prompts(request.prompts, room), request.max_new_tokens)
                )
            if isinstance(request, Score) and not request.inside:
                # Counted as prompts are, with special tokens, of which an output has one.
                lengths = self.generator.count_tokens_many(request.outputs)
                room = [max(self.max_new_tokens, length + 1) for length in lengths]
                prompts = self._prompts(request.prompts, room)
                return self.generator.answer(Score(prompts, request.outputs))
            if isinstance(request, Embed) and self.encoder is not None:
                role: Role = "query" if request.questions else "document"
                return Embeddings(self.encoder.encode(request.texts, role=role))
            if isinstance(request, Gradient) and any(
                isinstance(goal, Direction) for goal in request.goals
            ):
                if self.encoder is not None:
                    return self.encoder.answer(request)
            else:
                return self.generator.answer(request)
        raise TypeError(f"{self.spec} ({self.kind}) does not answer {type(request).__name__}")

    def fingerprint(self) -> str:
        """SHA-256 over the fingerprints of generator and retriever."""
        return content_hash([self.generator.fingerprint(), self.retriever.fingerprint()])

    def describe(self) -> Mapping[str, Any]:
        """What goes into the manifest: the parts, and how they are joined."""
        return {
            "spec": self.spec,
            "kind": self.kind,
            "generator": self.generator.describe(),
            "retriever": self.retriever.describe(),
            "prompt": self.template.describe(),
            "top_k": self.top_k,
            "max_new_tokens": self.max_new_tokens,
        }

    def _prompts(self, questions: Sequence[str], output_tokens: Sequence[int]) -> tuple[str, ...]:
        contexts = self._contexts(questions, self.retrieve(questions), output_tokens)
        return tuple(context.prompt for context in contexts)

    def _contexts(
        self,
        questions: Sequence[str],
        ranked: Sequence[Sequence[Hit]],
        output_tokens: Sequence[int],
    ) -> list[Context]:
        passages = [[hit.passage for hit in hits] for hits in ranked]
        return build_contexts(
            self.template, self.generator, questions, passages, output_tokens=output_tokens
        )

    def _generate(self, request: Generate) -> Generations:
        response = self.generator.answer(request)
        assert isinstance(response, Generations)
        return response


def load_rag(
    corpus: Corpus,
    retriever_spec: str,
    generator_spec: str,
    *,
    prompt: str | None = None,
    top_k: int = 5,
    max_new_tokens: int = 32,
    index_folder: Path | None = None,
    device: str = "auto",
    dtype: str = "auto",
    batch_tokens: int | None = None,
) -> RagPipeline:
    """Load the parts of a pipeline and join them.

    Args:
        corpus: the passages.
        retriever_spec: ``builtin:retriever``, another sentence encoder, or ``bm25``.
        generator_spec: a seq2seq or causal model, as for
            :func:`~robustlab.models.load.load_target`.
        prompt: a shipped template by name or a file; the one that fits the generator if not
            given.
        top_k: how many passages are retrieved for a question.
        max_new_tokens: the longest answer.
        index_folder: an index of this corpus by this retriever; without it the passages are
            encoded now.
        device: where the models run.
        dtype: their number format.
        batch_tokens: the most tokens in a forward pass of the generator.

    Raises:
        UserError: whatever stands in the way, a generator that does not write text among it.
    """
    template = None if prompt is None else load_prompt(prompt)
    generator = load_target(generator_spec, device=device, dtype=dtype, batch_tokens=batch_tokens)
    if not isinstance(generator, Generator):
        raise UserError(
            f"{generator_spec} is a {generator.kind} and writes no answers; name a seq2seq or a "
            "causal model with --generator"
        )
    retriever = open_retriever(
        retriever_spec, corpus, index_folder=index_folder, device=device, dtype=dtype
    )
    return RagPipeline(
        retriever,
        generator,
        template or default_prompt(generator),
        top_k=top_k,
        max_new_tokens=max_new_tokens,
    )


def _shown(hits: Sequence[Hit], context: Context) -> tuple[RagHit, ...]:
    texts: list[str | None] = [passage.text for passage in context.passages]
    texts += [None] * len(context.dropped)
    return tuple(
        RagHit(hit.passage, hit.score, hit.rank, text)
        for hit, text in zip(hits, texts, strict=True)
    )
