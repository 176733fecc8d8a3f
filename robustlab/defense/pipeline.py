"""A RAG pipeline with defences in it: the same target, requests and steps as without."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from robustlab.data.records import Passage, content_hash
from robustlab.defense.certificates import Certificate, CertifiedReader, Corruption
from robustlab.defense.denoised import denoised_index
from robustlab.defense.memory import Remembering
from robustlab.defense.protocols import (
    Defense,
    Detector,
    EmbeddingDefense,
    PassageDefense,
    PromptDefense,
    QuestionDefense,
    ReaderDefense,
    TargetDefense,
    Vote,
)
from robustlab.errors import UserError
from robustlab.models.target import (
    Ask,
    Embed,
    Generate,
    Generations,
    Replies,
    Reply,
    Request,
    Response,
    Score,
)
from robustlab.rag.pipeline import RagAnswer, RagHit, RagPipeline, as_retrieval
from robustlab.retrieval import DenseIndex, Hit, Retriever

__all__ = ["DefendedRag", "Dropped", "Explanation", "Repaired"]

_SPARE = 2
"""How many times ``top_k`` passages are fetched where some may be left out."""


@dataclass(frozen=True, slots=True)
class Repaired:
    """What a question became."""

    defense: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Dropped:
    """A passage left out; ``suspicion`` and ``threshold`` where a detector did so."""

    defense: str
    hit: Hit
    suspicion: float | None = None
    threshold: float | None = None


@dataclass(frozen=True, slots=True)
class Explanation:
    """How a defended pipeline comes to its answer to one question.

    ``retrieved``: what the retriever found, best first, those beyond ``top_k`` included that could
    take the place of dropped ones; ``dropped``: what the defences left out of it, in the order in
    which they did; ``votes``: one for each passage read, where a reader defence answers;
    ``repaired``: only changes.
    """

    question: str
    repaired: tuple[Repaired, ...]
    retrieved: tuple[Hit, ...]
    dropped: tuple[Dropped, ...]
    votes: tuple[Vote, ...]
    answer: RagAnswer


class DefendedRag(RagPipeline):
    """A pipeline whose answers go through defences.

    Questions are repaired; questions and all passages are embedded through the denoisers; twice
    ``top_k`` passages are fetched where some may be left out, and the first ``top_k`` that every
    filter keeps are read, through the template and in the way that the defences say. ``Ask``,
    ``Generate`` and ``Score`` go through all of that, ``Retrieve`` through the repair and the
    denoisers; ``Embed`` and ``Gradient`` are those of the encoder with its denoisers, so that a
    white-box adversary attacks what is there.

    Args:
        pipeline: what is defended; it stays as it is.
        defenses: applied in this order within each step.

    Raises:
        UserError: a defence that this pipeline cannot take, or two reader defences.
    """

    def __init__(self, pipeline: RagPipeline, defenses: Sequence[Defense]) -> None:
        steps = _Steps.of(defenses)
        retriever = pipeline.retriever
        if steps.embedding:
            if not isinstance(retriever, DenseIndex):
                raise UserError(
                    f"the defence {steps.embedding[0].name} works on embeddings, and this "
                    "retriever has none; choose a dense one with --retriever"
                )
            retriever = denoised_index(retriever, steps.embedding)
        template = pipeline.template
        for defense in steps.prompt:
            template = defense.template(template)
        super().__init__(
            retriever,
            pipeline.generator,
            template,
            top_k=pipeline.top_k,
            max_new_tokens=pipeline.max_new_tokens,
        )
        self.undefended = pipeline
        self.defenses = tuple(defenses)
        self._steps = steps
        self._remembering = Remembering(self.generator)

    @property
    def reader(self) -> ReaderDefense | None:
        """What answers instead of one prompt with all passages, if anything does."""
        return self._steps.reader

    @property
    def detectors(self) -> tuple[Detector, ...]:
        """The filters that judge a text by itself."""
        return tuple(d for d in self._steps.passage if isinstance(d, Detector))

    def with_retriever(self, retriever: Retriever) -> DefendedRag:
        """The same pipeline, defences included, over another retriever."""
        return DefendedRag(self.undefended.with_retriever(retriever), self.defenses)

    def repair(self, questions: Sequence[str]) -> list[str]:
        """The questions as retriever and generator get them."""
        repaired = list(questions)
        for defense in self._steps.question:
            repaired = defense.repair(repaired)
        return repaired

    def retrieve(
        self,
        questions: Sequence[str],
        k: int | None = None,
        poisons: Sequence[Sequence[str]] = (),
    ) -> list[list[Hit]]:
        """The best ``k`` passages for each repaired question; nothing is left out yet."""
        return super().retrieve(self.repair(questions), k, poisons)

    def keep(self, questions: Sequence[str], ranked: Sequence[Sequence[Hit]]) -> list[list[bool]]:
        """Which of the passages may be read; a filter sees what those before it kept."""
        return self._kept(self.repair(questions), ranked)

    def read(self, questions: Sequence[str], ranked: Sequence[Sequence[Hit]]) -> list[RagAnswer]:
        """Answer questions from those of the passages that every filter keeps, all of these."""
        repaired = self.repair(questions)
        kept = self._kept(repaired, ranked)
        return self._read(questions, repaired, ranked, kept, self._plain(len(questions)))

    def ask(
        self, questions: Sequence[str], poisons: Sequence[Sequence[str]] = ()
    ) -> list[RagAnswer]:
        """Answer questions, each over the corpus with its own ``poisons``, all in one batch.

        Raises:
            UserError: a blank question, or one too long for the generator.
        """
        return self._ask(questions, poisons, self._plain(len(questions)))

    def prompt(self, question: str, passages: Sequence[Passage]) -> str:
        """What the generator reads of a question and passages, repaired and marked."""
        (repaired,) = self.repair([question])
        return super().prompt(repaired, [self._clean(passage) for passage in passages])

    def answer(self, request: Request) -> Response:
        """As :meth:`RagPipeline.answer`, through the defences."""
        if isinstance(request, Ask):
            answers = self.ask(request.questions, request.poisons)
            return Replies(tuple(self._as_reply(answer) for answer in answers))
        if isinstance(request, Generate):
            plain = self._plain(len(request.prompts), request.max_new_tokens)
            answers = self._ask(request.prompts, (), plain)
            return Generations(
                texts=tuple(answer.answer for answer in answers),
                log_probs=np.array([answer.log_prob for answer in answers], dtype=np.float32),
                tokens=np.array([answer.tokens for answer in answers], dtype=np.int64),
                margins=np.array([answer.margin for answer in answers], dtype=np.float32),
            )
        if isinstance(request, Embed) and request.questions:
            return super().answer(replace(request, texts=tuple(self.repair(request.texts))))
        if isinstance(request, Score) and self.reader is not None and not request.inside:
            raise UserError(
                f"the defence {self.reader.name} answers from votes and has no log-probability of "
                "other answers"
            )
        return super().answer(request)

    def explain(self, question: str, poisons: Sequence[str] = ()) -> Explanation:
        """The answer to one question, with what each defence did on the way."""
        repaired = []
        text = question
        for defense in self._steps.question:
            (after,) = defense.repair([text])
            if after != text:
                repaired.append(Repaired(defense.name, text, after))
            text = after
        (hits,) = super().retrieve([text], self._fetched, [poisons])
        kept = [[True] * len(hits)]
        dropped = []
        for filter_ in self._steps.passage:
            for place in _filter(filter_, [text], [hits], kept)[0]:
                dropped.append(_dropped(filter_, hits[place]))
        read = _first(kept, self.top_k)
        plain = self._plain(1)
        (answer,) = self._read([question], [text], [hits], read, plain)
        votes: tuple[Vote, ...] = ()
        if self.reader is not None:
            votes = self.reader.votes(plain, text, self._taken([hits], read)[0])
        return Explanation(question, tuple(repaired), tuple(hits), tuple(dropped), votes, answer)

    def check_certifiable(self) -> CertifiedReader:
        """The reader defence that has certificates, if they hold for the whole pipeline.

        They do if an adversary's passage cannot change which clean passages are read, but for
        pushing the last of them out: nothing but a text itself may decide whether it is left out,
        and the score of a passage may not depend on the others.

        Raises:
            UserError: what stands in the way.
        """
        reader = self.reader
        if not isinstance(reader, CertifiedReader):
            names = ", ".join(defense.name for defense in self.defenses) or "no defence"
            raise UserError(
                f"{names} has no certificate; keyword-aggregation, decoding-aggregation and "
                "majority-vote have one: choose one of them with --defense"
            )
        for defense in self._steps.passage:
            if not isinstance(defense, Detector):
                raise UserError(
                    f"nothing can be certified behind {defense.name}, which judges passages by "
                    "each other: one bad passage can make it leave out any number of good ones"
                )
        if self.encoder is None:
            raise UserError(
                "nothing can be certified over bm25, whose scores of all passages change with "
                "every passage added; choose a dense retriever with --retriever"
            )
        return reader

    @property
    def certifiable(self) -> bool:
        """Whether :meth:`check_certifiable` finds nothing in the way."""
        try:
            self.check_certifiable()
        except UserError:
            return False
        return True

    def certify(self, questions: Sequence[str], corruption: Corruption) -> list[Certificate]:
        """What each answer can become; see :class:`~robustlab.defense.certificates.Certificate`.

        Raises:
            UserError: as :meth:`check_certifiable`.
        """
        reader = self.check_certifiable()
        repaired = self.repair(questions)
        ranked, kept = self._chosen(repaired)
        plain = self._plain(len(questions))
        return reader.certify(plain, repaired, self._taken(ranked, kept), corruption)

    def fingerprint(self) -> str:
        """SHA-256 over the pipeline's own and those of the defences."""
        parts = [defense.fingerprint() for defense in self.defenses]
        return content_hash([super().fingerprint(), *parts])

    def describe(self) -> Mapping[str, Any]:
        """The pipeline, and each defence with its numbers."""
        return {
            **super().describe(),
            "defenses": [dict(defense.describe()) for defense in self.defenses],
        }

    @property
    def _fetched(self) -> int:
        return self.top_k * (_SPARE if self._steps.passage else 1)

    def _plain(self, questions: int, max_new_tokens: int | None = None) -> RagPipeline:
        """Retriever, template and generator of this pipeline without the steps between.

        A reader defence reads the same passages again and again, and remembers them. One question
        by itself is read anew: whoever asks so wants to know what no batch had a part in.
        """
        remembers = self.reader is not None and questions > 1
        return RagPipeline(
            self.retriever,
            self._remembering if remembers else self.generator,
            self.template,
            top_k=self.top_k,
            max_new_tokens=max_new_tokens or self.max_new_tokens,
        )

    def _kept(self, repaired: Sequence[str], ranked: Sequence[Sequence[Hit]]) -> list[list[bool]]:
        kept = [[True] * len(hits) for hits in ranked]
        for defense in self._steps.passage:
            _filter(defense, repaired, ranked, kept)
        return kept

    def _chosen(
        self, repaired: Sequence[str], poisons: Sequence[Sequence[str]] = ()
    ) -> tuple[list[list[Hit]], list[list[bool]]]:
        """What is fetched, and which of it is read: the first ``top_k`` that are kept."""
        ranked = super().retrieve(repaired, self._fetched, poisons)
        return ranked, _first(self._kept(repaired, ranked), self.top_k)

    def _ask(
        self,
        questions: Sequence[str],
        poisons: Sequence[Sequence[str]],
        plain: RagPipeline,
    ) -> list[RagAnswer]:
        repaired = self.repair(questions)
        ranked, kept = self._chosen(repaired, poisons)
        return self._read(questions, repaired, ranked, kept, plain)

    def _read(
        self,
        questions: Sequence[str],
        repaired: Sequence[str],
        ranked: Sequence[Sequence[Hit]],
        kept: Sequence[Sequence[bool]],
        plain: RagPipeline,
    ) -> list[RagAnswer]:
        chosen = self._taken(ranked, kept)
        if self.reader is None:
            answers = plain.read(repaired, chosen)
        else:
            answers = self.reader.read(plain, repaired, chosen)
        return [
            replace(answer, question=question, hits=_all_hits(answer.hits, hits, self.top_k))
            for answer, question, hits in zip(answers, questions, ranked, strict=True)
        ]

    def _taken(
        self, ranked: Sequence[Sequence[Hit]], kept: Sequence[Sequence[bool]]
    ) -> list[list[Hit]]:
        """The passages that are kept, as the generator gets them."""
        return [
            [
                replace(hit, passage=self._clean(hit.passage))
                for hit, stays in zip(hits, flags, strict=True)
                if stays
            ]
            for hits, flags in zip(ranked, kept, strict=True)
        ]

    def _clean(self, passage: Passage) -> Passage:
        """The passage without what could be taken for the template's own marks."""
        title, text = passage.title, passage.text
        for defense in self._steps.prompt:
            title, text = defense.clean(title), defense.clean(text)
        return replace(passage, title=title, text=text)

    def _prompts(self, questions: Sequence[str], output_tokens: Sequence[int]) -> tuple[str, ...]:
        repaired = self.repair(questions)
        ranked, kept = self._chosen(repaired)
        contexts = self._contexts(repaired, self._taken(ranked, kept), output_tokens)
        return tuple(context.prompt for context in contexts)

    def _as_reply(self, answer: RagAnswer) -> Reply:
        """What is fetched beyond ``top_k`` counts as read, where it is, but not as retrieved."""
        found = as_retrieval([hit for hit in answer.hits if hit.rank <= self.top_k])
        return replace(answer.as_reply(), retrieved=found)


@dataclass(frozen=True, slots=True)
class _Steps:
    """The defences by where they stand."""

    question: tuple[QuestionDefense, ...]
    embedding: tuple[EmbeddingDefense, ...]
    passage: tuple[PassageDefense, ...]
    prompt: tuple[PromptDefense, ...]
    reader: ReaderDefense | None

    @classmethod
    def of(cls, defenses: Sequence[Defense]) -> _Steps:
        readers = [defense for defense in defenses if isinstance(defense, ReaderDefense)]
        if len(readers) > 1:
            raise UserError(
                f"{readers[0].name} and {readers[1].name} both take the place of the reader; "
                "choose one of them with --defense"
            )
        for defense in defenses:
            if isinstance(defense, TargetDefense):
                raise UserError(
                    f"the defence {defense.name} is for classifiers; a RAG pipeline cannot take it"
                )
        return cls(
            tuple(d for d in defenses if isinstance(d, QuestionDefense)),
            tuple(d for d in defenses if isinstance(d, EmbeddingDefense)),
            tuple(d for d in defenses if isinstance(d, PassageDefense)),
            tuple(d for d in defenses if isinstance(d, PromptDefense)),
            readers[0] if readers else None,
        )


def _filter(
    defense: PassageDefense,
    questions: Sequence[str],
    ranked: Sequence[Sequence[Hit]],
    kept: list[list[bool]],
) -> list[list[int]]:
    """Let a filter judge what is still kept; ``kept`` is changed, what goes now is returned."""
    places = [[place for place, stays in enumerate(flags) if stays] for flags in kept]
    left = [[hits[p] for p in rows] for hits, rows in zip(ranked, places, strict=True)]
    gone: list[list[int]] = []
    for flags, rows, verdicts in zip(kept, places, defense.keep(questions, left), strict=True):
        gone.append([place for place, stays in zip(rows, verdicts, strict=True) if not stays])
        for place in gone[-1]:
            flags[place] = False
    return gone


def _first(kept: Sequence[Sequence[bool]], most: int) -> list[list[bool]]:
    """Only the first ``most`` of those kept for each question."""
    return [
        [stays and sum(flags[:place]) < most for place, stays in enumerate(flags)] for flags in kept
    ]


def _dropped(defense: PassageDefense, hit: Hit) -> Dropped:
    if not isinstance(defense, Detector):
        return Dropped(defense.name, hit)
    (suspicion,) = defense.suspicion([hit.passage.contents])
    return Dropped(defense.name, hit, float(suspicion), defense.threshold)


def _all_hits(read: Sequence[RagHit], ranked: Sequence[Hit], most: int) -> tuple[RagHit, ...]:
    """The first ``most`` passages and all that were read, in the order in which they were given."""
    shown = {hit.passage.id: hit.shown for hit in read}
    return tuple(
        RagHit(hit.passage, hit.score, hit.rank, shown.get(hit.passage.id))
        for place, hit in enumerate(ranked)
        if place < most or hit.passage.id in shown
    )
