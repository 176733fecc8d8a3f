"""A pipeline in a TOML file."""

from __future__ import annotations

from pathlib import Path

import pytest

from robustlab.errors import UserError
from robustlab.rag import load_rag_file

WHOLE = """
corpus = "passages"
retriever = "bm25"
generator = "some/model"
top_k = 3
max_new_tokens = 9
prompt = "reader"
index = "saved"

[[defense]]
name = "perplexity"
false_positive_rate = 0.01

[[defense]]
name = "mine.toml"
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "rag.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_paths_are_beside_the_file_and_all_else_is_what_its_option_takes(tmp_path: Path) -> None:
    (tmp_path / "passages").mkdir()
    (tmp_path / "saved").mkdir()
    (tmp_path / "mine.toml").touch()
    found = load_rag_file(write(tmp_path, WHOLE))
    assert found.corpus == str(tmp_path / "passages")
    assert found.index == tmp_path / "saved"
    assert (found.retriever, found.generator, found.prompt) == ("bm25", "some/model", "reader")
    assert (found.top_k, found.max_new_tokens) == (3, 9)
    assert found.defenses == (
        {"name": "perplexity", "false_positive_rate": 0.01},
        {"name": str(tmp_path / "mine.toml")},
    )
    assert found.spec == str(tmp_path / "rag.toml")
    assert found.describe()["text"] == WHOLE


def test_only_a_corpus_is_needed(tmp_path: Path) -> None:
    found = load_rag_file(write(tmp_path, 'corpus = "fieldguide"'))
    assert (found.corpus, found.generator, found.top_k) == ("fieldguide", "builtin:seq2seq", 5)
    assert (found.index, found.defenses) == (None, ())


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("top_k = 3", "lacks corpus"),
        ('corpus = "c"\nreader = "x"', "knows no 'reader'; there are: corpus, retriever"),
        ('corpus = "c"\nsource = "x"', "knows no 'source'"),
        ('corpus = "c"\ntop_k = 0', "wrong at top_k: 0 is not a whole number, at least 1"),
        ('corpus = "c"\ntop_k = true', "wrong at top_k"),
        ('corpus = ""', "wrong at corpus"),
        ('corpus = "c"\ndefense = "perplexity"', r"write \[\[defense\]\] tables"),
        ('corpus = "c"\n[[defense]]\nrate = 1', "wrong at defense.name"),
        ("corpus = ", "is no TOML file"),
    ],
)
def test_a_wrong_file_is_refused_with_a_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        load_rag_file(write(tmp_path, text))


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none.toml cannot be read: No such file"):
        load_rag_file(tmp_path / "none.toml")
