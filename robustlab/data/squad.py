"""SQuAD files (Rajpurkar et al. 2016, arXiv:1606.05250; 2018, arXiv:1806.03822)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from robustlab.data.records import Corpus, Passage, Question
from robustlab.data.rows import BadRowError, Rejects, Row, answers_field, id_field, text_field
from robustlab.data.splits import ONLY_SPLIT
from robustlab.errors import UserError

__all__ = ["read_squad"]


def read_squad(path: Path, name: str, rejects: Rejects) -> Corpus:
    """Read version 1.1 or 2.0: one passage for each different paragraph, and its questions.

    A question that version 2.0 marks as impossible has no answers; its paragraph is its gold
    passage all the same. An article's title has spaces for underscores.
    """
    passages: dict[tuple[str, str], Passage] = {}
    questions: dict[str, Question] = {}
    for title, row in _paragraphs(_load(path), str(path), rejects):
        try:
            text = text_field(row, "context")
            entries = row.fields.get("qas")
            if not isinstance(entries, list):
                raise BadRowError("'qas' is not a list of questions")
        except BadRowError as bad:
            rejects.reject(row.place, str(bad))
            continue
        passage = passages.setdefault((title, text), Passage(f"p{len(passages)}", title, text))
        for number, entry in enumerate(entries, start=1):
            place = f"{row.place}, question {number}"
            try:
                question = _question(_as_row(entry, place, number), passage)
            except BadRowError as bad:
                rejects.reject(place, str(bad))
                continue
            if question.id in questions:
                raise UserError(f"{place}: a second question has the id {question.id!r}")
            questions[question.id] = question
    splits = {ONLY_SPLIT: tuple(questions.values())} if questions else {}
    return Corpus(name, tuple(passages.values()), splits)


def _load(path: Path) -> list[Any]:
    try:
        content = json.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: not UTF-8 (byte {error.start}); convert the file to UTF-8"
        ) from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({error})") from None
    data = content.get("data") if isinstance(content, dict) else None
    if not isinstance(data, list):
        raise UserError(f"{path} is no SQuAD file: it has no list 'data' of articles")
    return data


def _paragraphs(articles: list[Any], source: str, rejects: Rejects) -> Iterator[tuple[str, Row]]:
    for article_number, article in enumerate(articles, start=1):
        place = f"{source}, article {article_number}"
        try:
            row = _as_row(article, place, article_number)
            title = text_field(row, "title", may_be_empty=True) if "title" in row.fields else ""
            paragraphs = row.fields.get("paragraphs")
            if not isinstance(paragraphs, list):
                raise BadRowError("'paragraphs' is not a list")
        except BadRowError as bad:
            rejects.reject(place, str(bad))
            continue
        for number, paragraph in enumerate(paragraphs, start=1):
            where = f"{place}, paragraph {number}"
            if isinstance(paragraph, Mapping):
                yield title.replace("_", " "), Row(where, number, paragraph)
            else:
                rejects.reject(where, "not a JSON object")


def _question(row: Row, passage: Passage) -> Question:
    answers: tuple[str, ...] = ()
    if not row.fields.get("is_impossible"):
        entries = row.fields.get("answers")
        if not isinstance(entries, list) or not all(isinstance(e, Mapping) for e in entries):
            raise BadRowError("'answers' is not a list of objects")
        texts = Row(row.place, row.number, {"answers": [entry.get("text") for entry in entries]})
        answers = answers_field(texts, "answers")
    return Question(id_field(row, "id"), text_field(row, "question"), answers, (passage.id,))


def _as_row(value: Any, place: str, number: int) -> Row:
    if not isinstance(value, Mapping):
        raise BadRowError("not a JSON object")
    return Row(place, number, value)
