"""Finding passages: sentence encoders, dense and lexical indexes."""

from __future__ import annotations

from robustlab.retrieval.encoder import SentenceEncoder
from robustlab.retrieval.hits import Hit
from robustlab.retrieval.index import DenseIndex
from robustlab.retrieval.kinds import INDEX_KINDS, IndexKind
from robustlab.retrieval.lexical import LexicalIndex
from robustlab.retrieval.retriever import LEXICAL, Retriever, build_index, open_retriever

__all__ = [
    "INDEX_KINDS",
    "LEXICAL",
    "DenseIndex",
    "Hit",
    "IndexKind",
    "LexicalIndex",
    "Retriever",
    "SentenceEncoder",
    "build_index",
    "open_retriever",
]
