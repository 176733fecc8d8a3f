"""Dense retrieval: FAISS indexes over the embeddings of a corpus."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustlab.data.records import Corpus, Passage, content_hash
from robustlab.errors import UserError
from robustlab.retrieval import kinds
from robustlab.retrieval.encoder import Progress, SentenceEncoder
from robustlab.retrieval.hits import Hit, best, check_search
from robustlab.retrieval.kinds import INDEX_KINDS, LEAST_FOR_IVFPQ, IndexKind
from robustlab.retrieval.manifest import CorpusStamp, EncoderStamp, Manifest
from robustlab.retrieval.overlay import Overlay
from robustlab.retrieval.passages import PassageFile, write_passages

__all__ = ["DenseIndex", "check_free"]

_INDEX = "index.faiss"

# Candidates beyond k: FAISS's own scores differ in the last bits with the batch, so the order
# and the choice among near-equals are settled by scores computed here.
_SPARE = 8
_NEAR = 1e-6

# Candidate vectors rescored at a time: 50 MB of doubles at a width of 384.
_RESCORED_AT_ONCE = 16_384


@dataclass(frozen=True)
class _Base:
    """What all views of an index share and none changes."""

    faiss_index: Any
    passages: Sequence[Passage]
    encoder: SentenceEncoder
    kind: IndexKind
    corpus: CorpusStamp

    @cached_property
    def positions(self) -> Mapping[str, int]:
        """Passage id -> position; made when it is first needed, as it reads every passage."""
        return {passage.id: position for position, passage in enumerate(self.passages)}


class DenseIndex:
    """Nearest passages by cosine of their sentence embeddings.

    Made by :meth:`build` or :meth:`load`. :meth:`with_changes` gives views that share the
    vectors and cost no more than the passages they add.
    """

    def __init__(self, base: _Base, overlay: Overlay, added_vectors: NDArray[np.float32]) -> None:
        self._base = base
        self._overlay = overlay
        self._added_vectors = added_vectors  # (added, width)

    @classmethod
    def build(
        cls,
        corpus: Corpus,
        encoder: SentenceEncoder,
        kind: IndexKind = "flat",
        *,
        progress: Progress | None = None,
    ) -> DenseIndex:
        """Encode a corpus and index the vectors, in memory."""
        count = len(corpus.passages)
        if not count:
            raise UserError(f"the corpus {corpus.name} is empty, so there is nothing to index")
        if kind not in INDEX_KINDS:
            raise UserError(f"unknown kind of index {kind!r}; there are: {', '.join(INDEX_KINDS)}")
        if kind == "ivfpq" and count < LEAST_FOR_IVFPQ:
            raise UserError(
                f"an ivfpq index needs at least {LEAST_FOR_IVFPQ} passages to learn from, and "
                f"{corpus.name} has {count}; use the kind flat"
            )
        contents = [passage.contents for passage in corpus.passages]
        vectors = encoder.encode(contents, role="document", progress=progress)
        stamp = CorpusStamp(corpus.name, corpus.fingerprint(), count)
        base = _Base(kinds.make(vectors, kind), corpus.passages, encoder, kind, stamp)
        return cls(base, Overlay(), vectors[:0])

    @classmethod
    def load(
        cls, folder: Path, encoder: SentenceEncoder, *, corpus: Corpus | None = None
    ) -> DenseIndex:
        """Open a saved index, its vectors and passages memory-mapped.

        Raises :class:`UserError` for a folder that holds no whole index, an index of another
        encoder or dtype, and, where ``corpus`` is given, an index of another corpus.
        """
        manifest = Manifest.read(folder)
        manifest.check(folder, encoder, corpus)
        try:
            faiss_index = kinds.read(folder / _INDEX)
            passages = PassageFile(folder)
            if not faiss_index.ntotal == len(passages) == manifest.corpus.passages:
                raise ValueError("vectors and passages do not belong together")
        except (OSError, RuntimeError, ValueError) as error:
            raise UserError(f"the index {folder} is damaged; build it again") from error
        base = _Base(faiss_index, passages, encoder, manifest.kind, manifest.corpus)
        return cls(base, Overlay(), np.empty((0, encoder.width), dtype=np.float32))

    def save(self, folder: Path) -> None:
        """Write the index into a folder that does not exist yet or is empty, whole or not at all.

        ``index.faiss`` holds the vectors, ``passages.jsonl`` and ``passages.npy`` the passages,
        and ``manifest.json`` what they were made of. A view with changes cannot be saved.
        """
        if self._overlay != Overlay():
            raise ValueError("an index with changes is a view and cannot be saved")
        folder = folder.resolve()
        check_free(folder)
        partial = folder.parent / f".{folder.name}.{os.getpid()}.partial"
        try:
            partial.mkdir(parents=True)
            kinds.write(self._base.faiss_index, partial / _INDEX)
            write_passages(partial, self._base.passages)
            stamp = EncoderStamp.of(self._base.encoder)
            Manifest(self._base.kind, self._base.corpus, stamp).write(partial)
            if folder.is_dir():
                folder.rmdir()
            partial.replace(folder)
        except (OSError, RuntimeError) as error:
            raise UserError(f"the index cannot be written to {folder}: {error}") from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    @property
    def encoder(self) -> SentenceEncoder:
        """What the passages were encoded with, and questions are."""
        return self._base.encoder

    @property
    def kind(self) -> IndexKind:
        """How the vectors are searched."""
        return self._base.kind

    def __len__(self) -> int:
        """The number of passages that can be found."""
        return len(self._base.passages) - len(self._overlay.removed) + len(self._overlay.added)

    def with_changes(
        self, *, add: Sequence[Passage] = (), remove: Collection[str] = ()
    ) -> DenseIndex:
        """A view in which passages are added and the ids ``remove`` are gone (these first).

        The base is neither copied nor changed. Added passages are compared with every question
        exactly; in an ``ivfpq`` index their vectors are quantised like all others, so that they
        score neither better nor worse for being new. Changes to a view add up.
        """
        overlay, kept = self._overlay.changed(self._base.positions, add, remove)
        vectors = np.concatenate([self._added_vectors[list(kept)], self._encode_added(add)])
        return DenseIndex(self._base, overlay, vectors)

    def vectors(self) -> NDArray[np.float32]:
        """The embeddings of the passages of the base as the index holds them, in their order."""
        every = np.arange(len(self._base.passages))
        vectors: NDArray[np.float32] = self._base.faiss_index.reconstruct_batch(every)
        return vectors

    def mapped(
        self,
        encoder: SentenceEncoder,
        change: Callable[[NDArray[np.float32]], NDArray[np.float32]],
    ) -> DenseIndex:
        """An index of its own over the same passages, each vector changed.

        ``encoder`` is what questions and further passages are encoded with there; nothing is
        encoded now.
        """
        faiss_index = kinds.make(change(self.vectors()), self._base.kind)
        base = replace(self._base, faiss_index=faiss_index, encoder=encoder)
        return DenseIndex(base, self._overlay, change(self._added_vectors))

    def search(self, questions: Sequence[str], k: int) -> list[list[Hit]]:
        """The k nearest passages to each question, best first; ties in order of position.

        Fewer than k come back where the index holds fewer, and, in an ``ivfpq`` index, where
        the cells it looks into do.
        """
        check_search(questions, k)
        return self._search_vectors(self._base.encoder.encode(questions, role="query"), k)

    def search_with(
        self, questions: Sequence[str], added: Sequence[Sequence[Passage]], k: int
    ) -> list[list[Hit]]:
        """As :meth:`search`, each question over the corpus and passages ``added`` for it alone.

        All questions are searched at once and all added passages encoded at once.
        """
        check_search(questions, k)
        vectors = self._base.encoder.encode(questions, role="query")
        ranked = self._search_vectors(vectors, k)
        new = self._encode_added([passage for passages in added for passage in passages])
        start = 0
        for number, passages in enumerate(added):
            if not passages:
                continue
            (scores,) = _dot(vectors[[number]], new[None, start : start + len(passages)])
            start += len(passages)
            found = [(hit.passage, hit.score) for hit in ranked[number]]
            found += zip(passages, scores.tolist(), strict=True)
            # A stable sort: where scores tie, what stood in the corpus comes first.
            found.sort(key=lambda pair: -pair[1])
            ranked[number] = [
                Hit(passage, score, rank) for rank, (passage, score) in enumerate(found[:k], 1)
            ]
        return ranked

    def _encode_added(self, passages: Sequence[Passage]) -> NDArray[np.float32]:
        """Vectors of passages that are not in the index, (passages, width)."""
        vectors = self._base.encoder.encode([p.contents for p in passages], role="document")
        if self._base.kind == "ivfpq" and passages:
            index = self._base.faiss_index
            vectors = index.sa_decode(index.sa_encode(vectors))
        return vectors

    def _search_vectors(self, vectors: NDArray[np.float32], k: int) -> list[list[Hit]]:
        """Hits of question vectors, any number of them."""
        wanted = min(k, len(self))
        if not wanted:
            return [[] for _ in vectors]
        step = max(1, _RESCORED_AT_ONCE // (wanted + len(self._overlay.removed) + _SPARE))
        hits: list[list[Hit]] = []
        for start in range(0, len(vectors), step):
            hits += self._search_block(vectors[start : start + step], wanted)
        return hits

    def fingerprint(self) -> str:
        """Hash of all that decides a result: passages, encoder, kind and changes."""
        encoder = EncoderStamp.of(self._base.encoder)
        return content_hash(
            (
                self._base.corpus.fingerprint,
                encoder.fingerprint,
                encoder.settings,
                encoder.dtype,
                self._base.kind,
                *self._overlay.fingerprint_parts(),
            )
        )

    def describe(self) -> Mapping[str, Any]:
        """Kind, corpus, numbers of passages and encoder, for a manifest."""
        return {
            "kind": self._base.kind,
            "corpus": self._base.corpus.name,
            "corpus_fingerprint": self._base.corpus.fingerprint,
            "passages": len(self),
            "added": len(self._overlay.added),
            "removed": len(self._overlay.removed),
            "encoder": dict(self._base.encoder.describe()),
        }

    def _search_block(self, questions: NDArray[np.float32], k: int) -> list[list[Hit]]:
        """Hits of question vectors, shape (questions, width)."""
        base_size = len(self._base.passages)
        removed = np.fromiter(self._overlay.removed, dtype=np.int64)
        positions = self._candidates(questions, k + len(removed))
        unique, inverse = np.unique(positions, return_inverse=True)
        # -1 stands for "no candidate"; whatever vector it gets, it is dropped below.
        vectors = self._base.faiss_index.reconstruct_batch(np.maximum(unique, 0))
        near = _dot(questions, vectors[inverse.reshape(positions.shape)])
        added = _dot(questions, self._added_vectors[None])
        behind = np.arange(base_size, base_size + len(self._overlay.added))
        hits = []
        for found, found_scores, added_scores in zip(positions, near, added, strict=True):
            usable = (found >= 0) & ~np.isin(found, removed)
            places = np.concatenate([found[usable], behind])
            scores = np.concatenate([found_scores[usable], added_scores])
            hits.append(
                [
                    Hit(self._passage(int(places[index])), float(scores[index]), rank)
                    for rank, index in enumerate(best(scores, places, k), start=1)
                ]
            )
        return hits

    def _candidates(self, questions: NDArray[np.float32], k: int) -> NDArray[np.int64]:
        """Positions in the base, (questions, at least k if there are as many), -1 for none.

        All that are as good as the k-th are among them, as far as the kind of index can tell.
        """
        base_size = len(self._base.passages)
        fetch = min(base_size, k + _SPARE)
        while True:
            scores, positions = self._base.faiss_index.search(questions, fetch)
            tied = scores[:, -1] >= scores[:, min(k, fetch) - 1] - _NEAR
            if fetch == base_size or not (tied & (positions[:, -1] >= 0)).any():
                found: NDArray[np.int64] = positions
                return found
            fetch = min(base_size, 2 * fetch)

    def _passage(self, position: int) -> Passage:
        base_size = len(self._base.passages)
        if position < base_size:
            return self._base.passages[position]
        return self._overlay.added[position - base_size]


def check_free(folder: Path) -> None:
    """Raise :class:`UserError` unless an index can be written there."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} exists already and is not empty; name another folder")


def _dot(questions: NDArray[np.float32], vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    """Inner products in double precision, added up in an order that the batch does not change.

    ``questions``: (questions, width); ``vectors``: (questions or 1, candidates, width); returns
    (questions, candidates).
    """
    left = questions.astype(np.float64)[:, None, :]
    products: NDArray[np.float64] = np.einsum(
        "qkd,qkd->qk", *np.broadcast_arrays(left, vectors.astype(np.float64))
    )
    return products
