from __future__ import annotations

import numpy as np
import pytest
from retrieval_corpus import ASKED, CORPUS, many_passages, save_tiny

from robustlab.data.records import Corpus, Passage
from robustlab.errors import UserError
from robustlab.retrieval import (
    DenseIndex,
    LexicalIndex,
    SentenceEncoder,
    build_index,
    open_retriever,
)
from robustlab.retrieval.hits import best
from robustlab.retrieval.passages import PassageFile, write_passages


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return str(save_tiny(tmp_path_factory.mktemp("encoder")))


def test_builtin_in_memory():
    retriever = open_retriever("builtin:retriever", CORPUS, device="cpu", dtype="fp32")
    assert [row[0].passage.id for row in retriever.search(list(ASKED), 1)] == list(ASKED.values())
    assert retriever.describe()["kind"] == "flat"


def test_built_and_opened(encoder, tmp_path):
    corpus = Corpus("many", many_passages(300))
    seen = []
    built = build_index(
        corpus, tmp_path / "i", encoder=encoder, kind="hnsw", device="cpu", dtype="fp32",
        progress=lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    assert seen[-1][0] == seen[-1][1] > 200
    opened = open_retriever(encoder, None, index_folder=tmp_path / "i", device="cpu", dtype="fp32")
    assert isinstance(opened, DenseIndex)
    assert opened.kind == "hnsw"
    assert opened.search(["the red river"], 5) == built.search(["the red river"], 5)
    with pytest.raises(UserError, match="is of the kind hnsw, not flat"):
        open_retriever(
            encoder, corpus, index_folder=tmp_path / "i", kind="flat", device="cpu", dtype="fp32"
        )
    with pytest.raises(UserError, match="built from another corpus"):
        open_retriever(encoder, CORPUS, index_folder=tmp_path / "i", device="cpu", dtype="fp32")


def test_the_output_folder_is_checked_before_any_work(tmp_path, monkeypatch):
    (tmp_path / "note.txt").write_text("mine")

    def load(*_, **__):
        raise AssertionError("the encoder was loaded")

    monkeypatch.setattr(SentenceEncoder, "load", load)
    with pytest.raises(UserError, match="exists already"):
        build_index(CORPUS, tmp_path)
    with pytest.raises(UserError, match="has no index to save"):
        build_index(CORPUS, tmp_path / "new", encoder="bm25")


def test_bm25_by_spec(tmp_path):
    retriever = open_retriever("bm25", CORPUS)
    assert isinstance(retriever, LexicalIndex)
    assert retriever.search(["violin strings"], 1)[0][0].passage.id == "violin"
    with pytest.raises(UserError, match="neither a saved index nor a kind"):
        open_retriever("bm25", CORPUS, index_folder=tmp_path)
    with pytest.raises(UserError, match="needs a corpus or the folder of an index"):
        open_retriever("bm25", None)


def test_best_is_a_stable_top_k():
    scores = np.array([1.0, 3.0, 3.0, 2.0, 3.0])
    positions = np.array([9, 7, 2, 1, 5])
    assert best(scores, positions, 2).tolist() == [2, 4]
    assert best(scores, positions, 9).tolist() == [2, 4, 1, 3, 0]
    assert best(scores[:0], positions[:0], 3).tolist() == []


def test_passages_in_a_file_are_the_passages(tmp_path):
    passages = (
        Passage("ä", "Œuvre", 'a "quoted"\nline\u2028and 日本'), Passage("b", "", ""),
    )  # fmt: skip
    write_passages(tmp_path, passages)
    kept = PassageFile(tmp_path)
    assert tuple(kept) == passages
    assert kept[0:2] == list(passages)
    for outside in (2, -1):
        with pytest.raises(IndexError):
            kept[outside]
    with (tmp_path / "passages.jsonl").open("a") as file:
        file.write("{}\n")
    with pytest.raises(ValueError, match="does not belong"):
        PassageFile(tmp_path)
