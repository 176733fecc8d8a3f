"""Dense retrieval: FAISS indexes over the embeddings of a corpus."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from robustlab import __version__
from robustlab.data.records import Corpus, Passage, content_hash
from robustlab.errors import UserError
from robustlab.retrieval.encoder import Progress, SentenceEncoder
from robustlab.retrieval.hits import Hit, best, check_search
from robustlab.retrieval.overlay import Overlay
from robustlab.retrieval.passages import PassageFile, write_passages

__all__ = ["INDEX_KINDS", "DenseIndex", "IndexKind", "check_free"]

IndexKind: TypeAlias = Literal["flat", "hnsw", "ivfpq"]

INDEX_KINDS: tuple[IndexKind, ...] = ("flat", "hnsw", "ivfpq")
"""``flat`` compares with every passage; ``hnsw`` (Malkov & Yashunin 2018, arXiv:1603.09320) walks
a graph of neighbours; ``ivfpq`` (Jégou et al. 2011) keeps an eighth of a byte a dimension and
looks into a few cells only."""

_FORMAT = 1
_INDEX = "index.faiss"
_MANIFEST = "manifest.json"
_VERSIONS_OF = ("faiss-cpu", "sentence-transformers", "torch", "transformers")

# Product quantisation learns 256 centroids for each part of a vector.
_LEAST_FOR_IVFPQ = 256

# Candidates beyond k: FAISS's own scores differ in the last bits with the batch, so the order
# and the choice among near-equals are settled by scores computed here.
_SPARE = 8
_NEAR = 1e-6

# Candidate vectors rescored at a time: 200 MB of doubles at a width of 384.
_RESCORED_AT_ONCE = 65_536


@dataclass(frozen=True)
class _Base:
    """What all views of an index share and none changes."""

    faiss_index: Any
    passages: Sequence[Passage]
    encoder: SentenceEncoder
    kind: IndexKind
    corpus_name: str
    corpus_fingerprint: str

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
        """Encode a corpus and index the vectors, in memory.

        The result is the same for any number of threads.
        """
        if not corpus.passages:
            raise UserError(f"the corpus {corpus.name} is empty, so there is nothing to index")
        if kind not in INDEX_KINDS:
            raise UserError(f"unknown kind of index {kind!r}; there are: {', '.join(INDEX_KINDS)}")
        if kind == "ivfpq" and len(corpus.passages) < _LEAST_FOR_IVFPQ:
            raise UserError(
                f"an ivfpq index needs at least {_LEAST_FOR_IVFPQ} passages to learn from, and "
                f"{corpus.name} has {len(corpus.passages)}; use the kind flat"
            )
        contents = [passage.contents for passage in corpus.passages]
        vectors = encoder.encode(contents, role="document", progress=progress)
        base = _Base(
            _faiss_index(vectors, kind),
            corpus.passages,
            encoder,
            kind,
            corpus.name,
            corpus.fingerprint(),
        )
        return cls(base, Overlay(), _no_vectors(encoder))

    @classmethod
    def load(
        cls, folder: Path, encoder: SentenceEncoder, *, corpus: Corpus | None = None
    ) -> DenseIndex:
        """Open a saved index, its vectors and passages memory-mapped.

        Raises :class:`UserError` for a folder that holds no whole index, an index of another
        encoder or dtype, and, where ``corpus`` is given, an index of another corpus.
        """
        manifest = _read_manifest(folder)
        _check_encoder(folder, manifest["encoder"], encoder)
        named = manifest["corpus"]
        if corpus is not None and corpus.fingerprint() != named["fingerprint"]:
            raise UserError(
                f"the index {folder} was built from another corpus ({named['name']}, "
                f"{named['passages']} passages) or from another state of {corpus.name}; "
                "build it again"
            )
        faiss = _faiss()
        try:
            index = faiss.read_index(str(folder / _INDEX), faiss.IO_FLAG_MMAP_IFC)
            passages = PassageFile(folder)
        except (OSError, RuntimeError, ValueError) as error:
            raise UserError(f"the index {folder} is damaged; build it again") from error
        base = _Base(
            index, passages, encoder, manifest["kind"], named["name"], named["fingerprint"]
        )
        return cls(base, Overlay(), _no_vectors(encoder))

    def save(self, folder: Path) -> None:
        """Write the index into a folder that does not exist yet or is empty, whole or not at all.

        ``index.faiss`` holds the vectors, ``passages.jsonl`` and ``passages.npy`` the passages,
        and ``manifest.json`` what they were made of. A view with changes is not saved.
        """
        if self._overlay != Overlay():
            raise ValueError("an index with changes is a view and cannot be saved")
        check_free(folder)
        partial = folder.parent / f".{folder.name}.{os.getpid()}.partial"
        try:
            partial.mkdir(parents=True)
            _faiss().write_index(self._base.faiss_index, str(partial / _INDEX))
            write_passages(partial, self._base.passages)
            manifest = self._manifest(partial)
            text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
            (partial / _MANIFEST).write_text(text, encoding="utf-8")
            if folder.is_dir():
                folder.rmdir()
            partial.replace(folder)
        except OSError as error:
            raise UserError(
                f"cannot write the index {folder}: {error.strerror or error}"
            ) from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)

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
        """A view in which passages are added and the ids ``remove`` are gone.

        The base is neither copied nor changed. Added passages are compared with every question
        exactly; in an ``ivfpq`` index their vectors are quantised like all others, so that they
        score neither better nor worse for being new. Changes to a view add up.
        """
        overlay, kept = self._overlay.changed(self._base.positions, add, remove)
        vectors = self._base.encoder.encode([p.contents for p in add], role="document")
        if self._base.kind == "ivfpq" and len(add):
            index = self._base.faiss_index
            vectors = index.sa_decode(index.sa_encode(vectors))
        return DenseIndex(
            self._base, overlay, np.concatenate([self._added_vectors[list(kept)], vectors])
        )

    def search(self, questions: Sequence[str], k: int) -> list[list[Hit]]:
        """The k nearest passages to each question, best first; ties in order of position.

        Fewer than k come back where the index holds fewer, and, in an ``ivfpq`` index, where
        the cells it looks into do.
        """
        check_search(questions, k)
        if not questions:
            return []
        vectors = self._base.encoder.encode(questions, role="query")
        wanted = min(k, len(self))
        step = max(1, _RESCORED_AT_ONCE // (wanted + len(self._overlay.removed) + _SPARE))
        hits: list[list[Hit]] = []
        for start in range(0, len(vectors), step):
            hits += self._search_block(vectors[start : start + step], wanted)
        return hits

    def fingerprint(self) -> str:
        """Hash of all that decides a result: passages, encoder, kind and changes."""
        encoder = self._base.encoder
        return content_hash(
            (
                self._base.corpus_fingerprint,
                encoder.fingerprint(),
                encoder.settings,
                encoder.dtype,
                self._base.kind,
                *self._overlay.fingerprint_parts(),
            )
        )

    def describe(self) -> Mapping[str, Any]:
        """Corpus, kind, encoder and number of passages, for a manifest."""
        return {
            "kind": self._base.kind,
            "corpus": self._base.corpus_name,
            "corpus_fingerprint": self._base.corpus_fingerprint,
            "passages": len(self),
            "added": len(self._overlay.added),
            "removed": len(self._overlay.removed),
            "encoder": dict(self._base.encoder.describe()),
        }

    def _search_block(self, questions: NDArray[np.float32], k: int) -> list[list[Hit]]:
        """Hits of question vectors, shape (questions, width)."""
        base_size = len(self._base.passages)
        fetch = min(base_size, k + len(self._overlay.removed) + _SPARE)
        while True:
            scores, positions = self._base.faiss_index.search(questions, fetch)
            # Where the last candidate is as good as the k-th, equals may have been left out.
            settled = scores[:, -1] < scores[:, min(k, fetch) - 1] - _NEAR
            if fetch == base_size or settled.all() or (positions[:, -1] < 0).any():
                break
            fetch = min(base_size, 2 * fetch)
        scores = self._rescored(questions, positions)
        added = _dot(questions[:, None, :], self._added_vectors[None, :, :])
        scores = np.concatenate([scores, added], axis=1)
        behind = np.arange(base_size, base_size + len(self._overlay.added))
        removed = np.fromiter(self._overlay.removed, np.int64)
        hits = []
        for row, found in zip(scores, positions, strict=True):
            places = np.concatenate([found, behind])
            usable = np.flatnonzero((places >= 0) & ~np.isin(places, removed))
            chosen = usable[best(row[usable], places[usable], k)]
            hits.append(
                [
                    Hit(self._passage(int(places[index])), float(row[index]), rank)
                    for rank, index in enumerate(chosen, start=1)
                ]
            )
        return hits

    def _rescored(
        self, questions: NDArray[np.float32], positions: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Scores of candidates, (questions, candidates), that do not depend on the batch."""
        unique, inverse = np.unique(positions, return_inverse=True)
        # -1 stands for "no candidate"; its score is never looked at.
        vectors = self._base.faiss_index.reconstruct_batch(np.maximum(unique, 0))
        return _dot(questions[:, None, :], vectors[inverse.reshape(positions.shape)])

    def _passage(self, position: int) -> Passage:
        base_size = len(self._base.passages)
        if position < base_size:
            return self._base.passages[position]
        return self._overlay.added[position - base_size]

    def _manifest(self, folder: Path) -> dict[str, Any]:
        encoder = self._base.encoder
        return {
            "format": _FORMAT,
            "kind": self._base.kind,
            "corpus": {
                "name": self._base.corpus_name,
                "fingerprint": self._base.corpus_fingerprint,
                "passages": len(self._base.passages),
            },
            "encoder": {
                "spec": encoder.spec,
                "fingerprint": encoder.fingerprint(),
                "settings": encoder.settings,
                "dtype": encoder.dtype,
                "width": encoder.width,
            },
            "versions": {
                "robustlab": __version__,
                **{name: importlib.metadata.version(name) for name in _VERSIONS_OF},
            },
            "bytes": {file.name: file.stat().st_size for file in sorted(folder.iterdir())},
        }


def check_free(folder: Path) -> None:
    """Raise :class:`UserError` unless an index can be written there."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} exists already and is not empty; name another folder")


def _dot(left: NDArray[np.float32], right: NDArray[np.float32]) -> NDArray[np.float64]:
    """Inner products over the last axis in double precision, added up in a fixed order."""
    return np.einsum("qkd,qkd->qk", *np.broadcast_arrays(left, right), dtype=np.float64)


def _no_vectors(encoder: SentenceEncoder) -> NDArray[np.float32]:
    return np.empty((0, encoder.width), dtype=np.float32)


def _faiss() -> Any:  # noqa: ANN401 - the module has no types
    import faiss

    # FAISS multiplies matrices only for large batches by default; from a handful of questions
    # on, that is several times faster than one dot product after the other.
    faiss.cvar.distance_compute_blas_threshold = 2000
    return faiss


def _faiss_index(vectors: NDArray[np.float32], kind: IndexKind) -> Any:  # noqa: ANN401
    """A trained FAISS index over the rows of ``vectors`` (passages, width)."""
    faiss = _faiss()
    count, width = vectors.shape
    if kind == "flat":
        index = faiss.IndexFlatIP(width)
        index.add(vectors)
        return index
    if kind == "hnsw":
        index = faiss.IndexHNSWFlat(width, 32, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = 200
        index.hnsw.efSearch = 128
        # Threads race for places in the graph: with one, the same corpus gives the same graph.
        threads = faiss.omp_get_max_threads()
        faiss.omp_set_num_threads(1)
        try:
            index.add(vectors)
        finally:
            faiss.omp_set_num_threads(threads)
        return index
    cells = max(1, min(int(4 * count**0.5), count // 39))  # k-means wants 39 points a centroid
    part = next(size for size in (8, 4, 2, 1) if width % size == 0)
    index = faiss.index_factory(
        width, f"IVF{cells},PQ{width // part}x8", faiss.METRIC_INNER_PRODUCT
    )
    # Polysemous codes serve a kind of search that is not used, and take minutes to anneal.
    index.do_polysemous_training = False
    # No warnings on stderr about small corpora: the bound is checked by the caller.
    index.cp.min_points_per_centroid = index.pq.cp.min_points_per_centroid = 1
    index.train(vectors)
    index.add(vectors)
    index.nprobe = min(cells, 16)
    index.make_direct_map()
    return index


def _read_manifest(folder: Path) -> dict[str, Any]:
    file = folder / _MANIFEST
    if not file.is_file():
        raise UserError(f"{folder} holds no index (no {_MANIFEST}); make one with robustlab index")
    try:
        manifest: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        version, sizes = manifest["format"], manifest["bytes"]
        whole = all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"the index {folder} is damaged; build it again") from error
    if version != _FORMAT:
        raise UserError(
            f"the index {folder} has the format {version}, and this version of robustlab reads "
            f"{_FORMAT}; build it again"
        )
    if not whole:
        raise UserError(f"the index {folder} is damaged; build it again")
    return manifest


def _check_encoder(folder: Path, built: Mapping[str, Any], encoder: SentenceEncoder) -> None:
    if built["dtype"] != encoder.dtype and built["spec"] == encoder.spec:
        raise UserError(
            f"the index {folder} was built in {built['dtype']} and the encoder runs in "
            f"{encoder.dtype}; pass --dtype {built['dtype']} or build the index again"
        )
    same = built["fingerprint"] == encoder.fingerprint() and built["settings"] == encoder.settings
    if not same or built["dtype"] != encoder.dtype:
        raise UserError(
            f"the index {folder} was built by another encoder ({built['spec']}) than "
            f"{encoder.spec}; use that one or build the index again"
        )
