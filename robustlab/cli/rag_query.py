"""``robustlab rag-query``: one question, or many from stdin, to a RAG pipeline."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from robustlab.cli import options
from robustlab.cli.output import print_json, working
from robustlab.errors import UserError

if TYPE_CHECKING:
    from robustlab.rag import RagAnswer

__all__ = ["rag_query"]

_TOGETHER = 256  # questions from stdin answered in one batch


@click.command("rag-query", context_settings=options.SETTINGS)
@click.argument("question")
@options.corpus("corpora/fieldguide")
@options.retriever
@options.generator
@options.top_k
@options.prompt
@options.max_new_tokens
@options.index_folder
@options.text_column
@options.passage_columns
@options.skip_bad_rows
@options.device(dtype="auto")
@options.batch_tokens
@options.common
def rag_query(
    question: str,
    corpus: str,
    retriever: str,
    generator: str,
    top_k: int,
    prompt: str | None,
    max_new_tokens: int,
    index: Path | None,
    skip_bad_rows: bool,
    device: str,
    dtype: str,
    batch_tokens: int | None,
    json: bool,
    **columns: str | None,
) -> None:
    """Answer QUESTION from the passages of a corpus.

    Prints the answer, its confidence and the passages used, with the answer's place in them
    marked. With - for QUESTION, questions are read from stdin, one a line, and one JSON object
    is printed for each.

    \b
      robustlab rag-query "Where do European eels go to spawn?"
      robustlab rag-query - --corpus my/corpus < questions.txt > answers.jsonl
    """
    if not question.strip():
        raise UserError("the question is empty")
    with working("loading …"):
        from robustlab.data import load_corpus
        from robustlab.rag import load_rag

        pipeline = load_rag(
            load_corpus(corpus, skip_bad_rows=skip_bad_rows, **columns),
            retriever,
            generator,
            prompt=prompt,
            top_k=top_k,
            max_new_tokens=max_new_tokens,
            index_folder=index,
            device=device,
            dtype=dtype,
            batch_tokens=batch_tokens,
        )
    if question == "-":
        lines = _questions(sys.stdin.buffer)
        while batch := list(islice(lines, _TOGETHER)):
            for answer in pipeline.ask(batch):
                print_json(_as_json(answer))
        return
    with working("reading …"):
        (answer,) = pipeline.ask([question])
    _show(answer, to_stderr=json)
    if json:
        print_json(_as_json(answer))


def _questions(lines: Iterable[bytes]) -> Iterator[str]:
    """Questions of a stream, one a line; a line without one is an error that names it."""
    for number, line in enumerate(lines, start=1):
        try:
            question = line.decode("utf-8").strip()
        except UnicodeDecodeError:
            raise UserError(f"line {number} of stdin is not UTF-8") from None
        if not question:
            raise UserError(f"line {number} of stdin is empty: each line holds one question")
        yield question


def _as_json(answer: RagAnswer) -> dict[str, Any]:
    from robustlab.rag import find_answer

    return {
        "question": answer.question,
        "answer": answer.answer,
        "confidence": answer.confidence,
        "log_prob": answer.log_prob,
        "passages": [
            {
                "rank": hit.rank,
                "id": hit.passage.id,
                "score": hit.score,
                "title": hit.passage.title,
                "text": hit.passage.text,
                "in_context": hit.in_context,
                "answer_spans": find_answer(answer.answer, hit.passage.text),
            }
            for hit in answer.hits
        ],
    }


def _show(answer: RagAnswer, *, to_stderr: bool) -> None:
    """The answer above, the passages it was read from below."""
    from rich.text import Text

    from robustlab.rag import find_answer
    from robustlab.report import make_console, marked_text, print_indented, safe_text
    from robustlab.report.marks import pieces

    console = make_console(sys.stderr if to_stderr else sys.stdout)
    shown = safe_text(answer.answer) or "(no answer)"
    console.print(Text(shown, style="bold"))
    console.print(Text(f"confidence {answer.confidence:.2f}", style="dim"))
    for hit in answer.hits:
        heading = Text(f"\n{hit.rank}  {hit.score:.3f}  ")
        heading.append(safe_text(hit.passage.title or hit.passage.id), style="bold")
        if not hit.in_context:
            heading.append("  (not read: no room in the prompt)", style="dim")
        console.print(heading)
        spans = find_answer(answer.answer, hit.passage.text)
        text = marked_text(pieces(hit.passage.text, spans), console, "bold reverse")
        print_indented(console, text, "   ")
