"""What a defence is: one of a few places in a pipeline where something is repaired or left out.

A question goes through a defended pipeline in this order, and each step belongs to one protocol:

1. :class:`QuestionDefense` repairs the question;
2. :class:`EmbeddingDefense` changes every embedding before the search;
3. :class:`PassageDefense` leaves retrieved passages out (a :class:`Detector` does so by a score
   of each text and a threshold);
4. :class:`PromptDefense` changes the form of the prompt;
5. :class:`ReaderDefense` takes the place of the joint reading of all passages.

A :class:`TargetDefense` stands for itself: it wraps a target as a whole.

:class:`~robustlab.defense.pipeline.DefendedRag` puts them together, any number of each but at
most one of the last two. Every defence is deterministic: its randomness, where it has any, comes
from the seed that it was built with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from robustlab.models.prompt import PromptTemplate
from robustlab.models.target import FloatArray, Target
from robustlab.retrieval import Hit

if TYPE_CHECKING:
    from robustlab.rag.pipeline import RagAnswer, RagPipeline

__all__ = [
    "Defense",
    "Detector",
    "EmbeddingDefense",
    "EmbeddingDetector",
    "PassageDefense",
    "PromptDefense",
    "QuestionDefense",
    "ReaderDefense",
    "TargetDefense",
    "Vote",
]


class _Named(Protocol):
    """What every defence has."""

    @property
    def name(self) -> str:
        """The name that ``--defense`` chooses it by."""

    def describe(self) -> Mapping[str, Any]:
        """What goes into the manifest: the name and every number that decides what it does."""

    def fingerprint(self) -> str:
        """Hash of all that decides what it does, learned numbers among it."""


@runtime_checkable
class QuestionDefense(_Named, Protocol):
    """Repairs questions before anything reads them."""

    def repair(self, questions: Sequence[str]) -> list[str]:
        """Each question as it was probably meant, itself where nothing is amiss.

        A repaired question is repaired to itself.
        """


@runtime_checkable
class EmbeddingDefense(_Named, Protocol):
    """Changes embeddings before the search: those of questions and of all passages alike."""

    def denoise(self, vectors: FloatArray) -> FloatArray:
        """Float32 (texts, width) of unit length to the same shape, again of unit length."""

    def pull_back(self, vectors: FloatArray, directions: FloatArray) -> FloatArray:
        """What a gradient with respect to the denoised embedding is with respect to the raw one.

        ``vectors``: raw embeddings (texts, width); ``directions``: (texts, width), in the space
        after :meth:`denoise`. Returns (texts, width): Jᵀ d, where J is the Jacobian of
        :meth:`denoise` at the vector.
        """


@runtime_checkable
class PassageDefense(_Named, Protocol):
    """Leaves some of the retrieved passages out of what the generator reads."""

    def keep(self, questions: Sequence[str], ranked: Sequence[Sequence[Hit]]) -> list[list[bool]]:
        """For each question and each of its passages, best first, whether it may be read."""


@runtime_checkable
class Detector(PassageDefense, Protocol):
    """A passage defence that judges each text by itself: it keeps what is not above a threshold.

    ``suspicion`` is there for ROC curves and for adaptive attacks.
    """

    @property
    def threshold(self) -> float:
        """The largest suspicion that is kept."""

    def suspicion(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """How suspicious each text is (larger is more), shape (texts,).

        A text is what the generator reads of a passage: its title and text
        (:attr:`~robustlab.data.records.Passage.contents`).
        """


@runtime_checkable
class EmbeddingDetector(Detector, Protocol):
    """A detector that looks at a text's embedding alone and is differentiable in it."""

    def slopes(self, texts: Sequence[str]) -> FloatArray:
        """d suspicion / d embedding at each text, float32 (texts, width)."""


@runtime_checkable
class PromptDefense(_Named, Protocol):
    """Changes how passages and question are laid out for the generator."""

    def template(self, base: PromptTemplate) -> PromptTemplate:
        """The template that stands for ``base``."""

    def clean(self, text: str) -> str:
        """A passage's text without what could be taken for the template's own marks."""


@dataclass(frozen=True, slots=True)
class Vote:
    """What one passage said when it was read alone, and whether the answer given agrees.

    ``answer`` is empty where the passage was taken to say nothing (an abstention).
    """

    passage_id: str
    answer: str
    agrees: bool


@runtime_checkable
class ReaderDefense(_Named, Protocol):
    """Answers from passages in a way of its own, instead of one prompt with all of them."""

    def read(
        self, pipeline: RagPipeline, questions: Sequence[str], ranked: Sequence[Sequence[Hit]]
    ) -> list[RagAnswer]:
        """Like :meth:`RagPipeline.read`, with the pipeline's generator and template."""

    def votes(self, pipeline: RagPipeline, question: str, hits: Sequence[Hit]) -> tuple[Vote, ...]:
        """How :meth:`read` comes to its answer to one question: one vote for each passage."""


@runtime_checkable
class TargetDefense(_Named, Protocol):
    """Wraps a whole target, such as a classifier whose answer is smoothed over many copies."""

    def wrap(self, target: Target) -> Target:
        """A target that answers the same requests through the defence.

        Raises:
            UserError: the defence does not fit this kind of target.
        """


Defense: TypeAlias = (
    QuestionDefense
    | EmbeddingDefense
    | PassageDefense
    | PromptDefense
    | ReaderDefense
    | TargetDefense
)
"""Any defence; the methods it has tell which kind it is."""
