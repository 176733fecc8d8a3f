"""The questions to ask, chosen from a corpus, and what a run says of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from robustlab.data.corpus import load_corpus
from robustlab.data.records import Corpus, Passage, Question, content_hash
from robustlab.data.splits import sample, select_split
from robustlab.errors import UserError

__all__ = ["QuestionSet", "about_corpus", "check_answers", "check_gold", "load_questions"]


@dataclass(frozen=True, slots=True)
class QuestionSet:
    """Questions, and the corpus to ask them of.

    ``passages`` holds the corpus by id; ``data`` is what goes into a run's manifest.
    """

    corpus: Corpus
    name: str
    items: tuple[Question, ...]
    passages: Mapping[str, Passage]
    data: Mapping[str, Any]


def load_questions(
    corpus_spec: str | None,
    data_spec: str | None,
    *,
    split: str | None,
    limit: int | None,
    seed: int,
    columns: Mapping[str, str],
    skip_bad_rows: bool,
) -> QuestionSet:
    """Questions of ``data_spec`` on the passages of ``corpus_spec``; one may stand for both.

    Raises:
        UserError: neither is named, a column that a corpus does not have, or data that cannot
            be read.
    """
    corpus_spec, data_spec = corpus_spec or data_spec, data_spec or corpus_spec
    if corpus_spec is None or data_spec is None:
        raise UserError("there are no questions to ask: name a corpus with --corpus")
    unfit = {"pair_column", "label_column"} & columns.keys()
    if unfit:
        option = min(unfit).replace("_", "-")
        raise UserError(f"--{option} is for labelled data, and {corpus_spec} is read as a corpus")
    corpus = load_corpus(corpus_spec, skip_bad_rows=skip_bad_rows, **columns)
    source = corpus
    if data_spec != corpus_spec:
        source = load_corpus(data_spec, skip_bad_rows=skip_bad_rows, **columns)
    chosen, available = select_split(source, split)
    items = sample(available, limit, seed)
    data = {
        "spec": data_spec,
        "name": source.name,
        "split": chosen,
        "items": len(items),
        "available": len(available),
        "skipped_rows": source.skipped_rows,
        "fingerprint": _fingerprint(available),
        "corpus": about_corpus(corpus, corpus_spec),
    }
    passages = {passage.id: passage for passage in corpus.passages}
    return QuestionSet(corpus, source.name, items, passages, data)


def about_corpus(corpus: Corpus, spec: str) -> dict[str, Any]:
    """What a manifest says of the passages that are searched; ``spec`` named them."""
    return {
        "spec": spec,
        "name": corpus.name,
        "passages": len(corpus.passages),
        "skipped_rows": corpus.skipped_rows,
        "fingerprint": corpus.fingerprint(),
    }


def check_answers(questions: Sequence[Question], name: str) -> None:
    """Refuse questions that nothing can be judged on.

    Raises:
        UserError: no question has an answer.
    """
    if not any(question.answers for question in questions):
        raise UserError(
            f"{name} states no answers to its questions, so answers cannot be judged; "
            "evaluate the retriever on it, with --target builtin:retriever"
        )


def check_gold(questions: Sequence[Question], known: Mapping[str, object], name: str) -> None:
    """Refuse questions on which no retrieval can be judged.

    Raises:
        UserError: no question has a gold passage among the passages of the corpus.
    """
    if not any(key in known for question in questions for key in question.gold):
        raise UserError(
            f"no question of {name} has a gold passage in the corpus, so retrieval cannot be "
            "judged; give the corpus that its qrels belong to"
        )


def _fingerprint(questions: Sequence[Question]) -> str:
    """Hash of ids, texts, answers and gold passages of a split, in order."""
    return content_hash(
        part
        for question in questions
        for part in (
            question.id,
            question.text,
            content_hash(question.answers),
            content_hash(question.gold),
        )
    )
