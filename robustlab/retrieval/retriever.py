"""One interface to every way of finding passages, and how a spec becomes one."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from robustlab.data.records import Corpus, Passage
from robustlab.errors import UserError
from robustlab.retrieval.encoder import BUILTIN, Progress, SentenceEncoder
from robustlab.retrieval.hits import Hit
from robustlab.retrieval.index import DenseIndex, check_free
from robustlab.retrieval.kinds import IndexKind
from robustlab.retrieval.lexical import LexicalIndex

__all__ = ["LEXICAL", "Retriever", "build_index", "open_retriever"]

LEXICAL = "bm25"
"""The spec of the lexical retriever."""


@runtime_checkable
class Retriever(Protocol):
    """Finds passages for questions."""

    def search(self, questions: Sequence[str], k: int) -> list[list[Hit]]:
        """At most k hits for each question, best first, ties in order of position.

        Raises :class:`UserError` for an empty question or a k below 1.
        """

    def search_with(
        self, questions: Sequence[str], added: Sequence[Sequence[Passage]], k: int
    ) -> list[list[Hit]]:
        """As :meth:`search`, each question over the corpus and passages ``added`` for it alone.

        The hits of question i are those that ``with_changes(add=added[i])`` would find for it.
        """

    def with_changes(
        self, *, add: Sequence[Passage] = (), remove: Collection[str] = ()
    ) -> Retriever:
        """A view with passages added and the ids ``remove`` taken away (these first).

        Cheap: it shares all else with the retriever it is made from, which stays as it is.
        """

    def fingerprint(self) -> str:
        """Hash of all that decides a result."""

    def describe(self) -> Mapping[str, Any]:
        """What goes into a manifest."""

    def __len__(self) -> int:
        """The number of passages that can be found."""


def open_retriever(
    spec: str,
    corpus: Corpus | None,
    *,
    index_folder: Path | None = None,
    kind: IndexKind | None = None,
    device: str = "auto",
    dtype: str = "auto",
    progress: Progress | None = None,
) -> Retriever:
    """A retriever over a corpus.

    ``spec`` is ``builtin:retriever``, the folder or hub id of a sentence encoder, or ``bm25``.
    With ``index_folder`` a saved index is opened, and ``corpus`` (which may then be None) only
    has to agree with it; otherwise the index, ``flat`` unless ``kind`` says else, is built in
    memory.
    """
    if corpus is None and index_folder is None:
        raise UserError("a retriever needs a corpus or the folder of an index")
    if spec == LEXICAL:
        if corpus is None or index_folder is not None or kind is not None:
            raise UserError(
                "bm25 is made from a corpus in a moment: it takes neither a saved index nor a kind"
            )
        return LexicalIndex.build(corpus)
    encoder = SentenceEncoder.load(spec, device=device, dtype=dtype)
    if index_folder is None:
        assert corpus is not None  # checked above
        return DenseIndex.build(corpus, encoder, kind or "flat", progress=progress)
    index = DenseIndex.load(index_folder, encoder, corpus=corpus)
    if kind not in (None, index.kind):
        raise UserError(f"the index {index_folder} is of the kind {index.kind}, not {kind}")
    return index


def build_index(
    corpus: Corpus,
    out: Path,
    *,
    encoder: str = BUILTIN,
    kind: IndexKind = "flat",
    device: str = "auto",
    dtype: str = "auto",
    progress: Progress | None = None,
) -> DenseIndex:
    """Encode a corpus, index it and save the index in the folder ``out``.

    The folder must not exist or be empty; that is checked before any work is done.
    """
    check_free(out)
    if encoder == LEXICAL:
        raise UserError("bm25 is made from the corpus in a moment and has no index to save")
    index = DenseIndex.build(
        corpus, SentenceEncoder.load(encoder, device=device, dtype=dtype), kind, progress=progress
    )
    index.save(out)
    return index
