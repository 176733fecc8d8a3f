"""A dense index whose embeddings, of passages and questions alike, go through denoisers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from robustlab.data.records import content_hash
from robustlab.defense.protocols import EmbeddingDefense
from robustlab.models.target import (
    Direction,
    Embed,
    Embeddings,
    FloatArray,
    Gradient,
    Gradients,
    Request,
    Response,
    Vocabulary,
)
from robustlab.retrieval import DenseIndex, SentenceEncoder
from robustlab.retrieval.encoder import Progress, Role

__all__ = ["DenoisedEncoder", "denoised_index"]


def denoised_index(index: DenseIndex, denoisers: Sequence[EmbeddingDefense]) -> DenseIndex:
    """The index over the same passages with every vector denoised; nothing is encoded again."""
    encoder = DenoisedEncoder(index.encoder, denoisers)
    return index.mapped(encoder, encoder.denoise)


class DenoisedEncoder(SentenceEncoder):
    """An encoder and what is done to its vectors, as one encoder.

    Gradients go through the denoisers: a direction is pulled back to where the encoder itself
    points, at the vector of each text.
    """

    def __init__(self, base: SentenceEncoder, denoisers: Sequence[EmbeddingDefense]) -> None:
        self._encoder = base
        self._denoisers = tuple(denoisers)

    @property
    def spec(self) -> str:
        """That of the encoder."""
        return self._encoder.spec

    @property
    def answers(self) -> frozenset[type[Request]]:
        """Those of the encoder."""
        return self._encoder.answers

    @property
    def width(self) -> int:
        """That of the encoder."""
        return self._encoder.width

    @property
    def dtype(self) -> str:
        """That of the encoder."""
        return self._encoder.dtype

    @property
    def settings(self) -> str:
        """The encoder's and the denoisers'."""
        parts = [denoiser.fingerprint() for denoiser in self._denoisers]
        return content_hash([self._encoder.settings, *parts])

    def fingerprint(self) -> str:
        """That of the encoder's weights; the denoisers are in :attr:`settings`."""
        return self._encoder.fingerprint()

    def describe(self) -> Mapping[str, Any]:
        """The encoder, and what denoises its vectors."""
        names = [denoiser.name for denoiser in self._denoisers]
        return {**self._encoder.describe(), "denoised_by": names}

    def vocabulary(self) -> Vocabulary:
        """That of the encoder."""
        return self._encoder.vocabulary()

    def denoise(self, vectors: FloatArray) -> FloatArray:
        """Raw vectors (texts, width) through all denoisers in turn."""
        for denoiser in self._denoisers:
            vectors = denoiser.denoise(vectors)
        return vectors

    def encode(
        self,
        texts: Sequence[str],
        *,
        role: Role | None = None,
        progress: Progress | None = None,
    ) -> FloatArray:
        """Denoised embeddings, float32 (texts, width), of unit length."""
        return self.denoise(self._encoder.encode(texts, role=role, progress=progress))

    def answer(self, request: Request) -> Response:
        """Denoised embeddings, and gradients of the loss behind the denoisers."""
        if isinstance(request, Embed):
            role: Role | None = "query" if request.questions else None
            return Embeddings(self.encode(request.texts, role=role))
        if isinstance(request, Gradient):
            return self._pulled_back(request)
        return self._encoder.answer(request)

    def _pulled_back(self, request: Gradient) -> Response:
        texts = [text for text in request.texts if isinstance(text, str)]
        wanted = [goal.vector for goal in request.goals if isinstance(goal, Direction)]
        if not len(texts) == len(wanted) == len(request.texts):
            raise ValueError("a sentence encoder's gradient takes single texts and directions")
        if not texts:
            return self._encoder.answer(request)
        stages = [self._encoder.encode(texts, role="document")]
        for denoiser in self._denoisers:
            stages.append(denoiser.denoise(stages[-1]))
        directions: FloatArray = np.stack(wanted)
        losses = -(stages[-1] * directions).sum(axis=1)
        for denoiser, vectors in zip(reversed(self._denoisers), reversed(stages[:-1]), strict=True):
            directions = denoiser.pull_back(vectors, directions)
        goals = tuple(map(Direction, directions))
        response = self._encoder.answer(Gradient(request.texts, goals, request.shifts))
        assert isinstance(response, Gradients)
        return Gradients(
            tuple(
                replace(item, loss=float(loss))
                for item, loss in zip(response.items, losses, strict=True)
            )
        )
