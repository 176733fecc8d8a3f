"""Corpora in the layout of BEIR (Thakur et al. 2021, arXiv:2104.08663)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from robustlab.data.records import Corpus, Passage, Question
from robustlab.data.rows import (
    BadRowError,
    Rejects,
    Row,
    answers_field,
    id_field,
    parse_rows,
    read_rows,
    text_field,
)
from robustlab.data.splits import ONLY_SPLIT
from robustlab.errors import UserError

__all__ = ["read_beir"]


def read_beir(folder: Path, name: str, rejects: Rejects) -> Corpus:
    """Read ``corpus.jsonl``, ``queries.jsonl`` and ``qrels/SPLIT.tsv`` of a folder.

    ``queries.jsonl`` may be absent (passages alone); so may ``qrels`` (all questions are then in
    the split ``all``, without gold passages). Passages may be empty, because published corpora
    hold empty ones; questions may not. Qrels naming rows that ``rejects`` left out are left out
    and counted too.
    """
    if not (folder / "corpus.jsonl").is_file():
        raise UserError(f"{folder} is no corpus: it has no corpus.jsonl")
    passages: dict[str, Passage] = {}
    rows = read_rows(folder / "corpus.jsonl", rejects)
    for row, passage in parse_rows(rows, _passage, rejects):
        if passage.id in passages:
            raise UserError(f"{row.place}: a second passage has the id {passage.id!r}")
        passages[passage.id] = passage
    questions: dict[str, Question] = {}
    if (folder / "queries.jsonl").is_file():
        rows = read_rows(folder / "queries.jsonl", rejects)
        for row, question in parse_rows(rows, _question, rejects):
            if question.id in questions:
                raise UserError(f"{row.place}: a second question has the id {question.id!r}")
            questions[question.id] = question
    files = sorted((folder / "qrels").glob("*.tsv"))
    splits = {file.stem: _split(file, passages, questions, rejects) for file in files}
    if not files and questions:
        splits[ONLY_SPLIT] = tuple(questions.values())
    return Corpus(name, tuple(passages.values()), splits)


def _passage(row: Row) -> Passage:
    title = text_field(row, "title", may_be_empty=True) if row.fields.get("title") else ""
    return Passage(id_field(row, "_id"), title, text_field(row, "text", may_be_empty=True))


def _question(row: Row) -> Question:
    answers = answers_field(row, "answers") if row.fields.get("answers") is not None else ()
    return Question(id_field(row, "_id"), text_field(row, "text"), answers)


def _split(
    file: Path,
    passages: Mapping[str, Passage],
    questions: Mapping[str, Question],
    rejects: Rejects,
) -> tuple[Question, ...]:
    """The questions that a qrels file names, in the order of ``queries.jsonl``."""

    def parse(row: Row) -> tuple[str, str, float]:
        try:
            key, passage, score = (row.fields[name] for name in _QRELS)
        except KeyError:
            raise UserError(
                f"{file} does not begin with the column names {', '.join(_QRELS)}"
            ) from None
        if key not in questions:
            raise BadRowError(f"no question has the id {key!r}")
        if passage not in passages:
            raise BadRowError(f"no passage has the id {passage!r}")
        try:
            return key, passage, float(score)
        except ValueError:
            raise BadRowError(f"the score {score!r} is not a number") from None

    gold: dict[str, list[str]] = {}
    for _, (key, passage, score) in parse_rows(read_rows(file, rejects), parse, rejects):
        relevant = gold.setdefault(key, [])
        if score > 0 and passage not in relevant:
            relevant.append(passage)
    return tuple(
        replace(question, gold=tuple(gold[key]))
        for key, question in questions.items()
        if key in gold
    )


_QRELS = ("query-id", "corpus-id", "score")
