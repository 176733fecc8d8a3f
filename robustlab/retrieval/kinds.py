"""The kinds of FAISS index, made so that the same vectors always give the same index."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["INDEX_KINDS", "LEAST_FOR_IVFPQ", "IndexKind", "make", "read", "write"]

IndexKind: TypeAlias = Literal["flat", "hnsw", "ivfpq"]

INDEX_KINDS: tuple[IndexKind, ...] = ("flat", "hnsw", "ivfpq")
"""``flat`` compares with every passage; ``hnsw`` (Malkov & Yashunin 2018, arXiv:1603.09320) walks
a graph of neighbours; ``ivfpq`` (Jégou et al. 2011) keeps one byte for eight dimensions and looks
into a few cells only."""

LEAST_FOR_IVFPQ = 256
"""Vectors that ``ivfpq`` needs: it learns so many centroids for each part of a vector."""

_PROBED_CELLS = 16


def make(vectors: NDArray[np.float32], kind: IndexKind) -> Any:
    """A FAISS index by inner product over the rows of ``vectors``, shape (passages, width).

    Every kind can give the vectors back (``reconstruct_batch``); ``ivfpq`` as it quantised them.
    """
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
    # Polysemous codes serve a way of searching that is not used, and take minutes to anneal.
    index.do_polysemous_training = False
    # Without these FAISS writes warnings about small corpora to stderr.
    index.cp.min_points_per_centroid = index.pq.cp.min_points_per_centroid = 1
    index.train(vectors)
    index.add(vectors)
    index.nprobe = min(cells, _PROBED_CELLS)
    index.make_direct_map()
    return index


def write(index: Any, file: Path) -> None:
    """Write an index; raises ``OSError`` or ``RuntimeError``."""
    _faiss().write_index(index, str(file))


def read(file: Path) -> Any:
    """Open an index with its vectors memory-mapped; raises ``OSError`` or ``RuntimeError``."""
    faiss = _faiss()
    return faiss.read_index(str(file), faiss.IO_FLAG_MMAP_IFC)


def _faiss() -> Any:
    import faiss

    # FAISS multiplies matrices only for large batches by default; from a handful of questions
    # on, that is several times faster than one dot product after the other.
    faiss.cvar.distance_compute_blas_threshold = 2000
    return faiss
