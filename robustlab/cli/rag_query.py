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
from robustlab.cli.pipeline_file import pipeline_parts
from robustlab.cli.rag_explain import explanation_json, show_explanation
from robustlab.errors import UserError

if TYPE_CHECKING:
    from robustlab.defense import SideBySide
    from robustlab.rag import RagAnswer, RagPipeline

__all__ = ["rag_query"]

_COLUMNS = ("text_column", "title_column", "id_column")
_TOGETHER = 256  # questions from stdin answered in one batch


@click.command("rag-query", context_settings=options.SETTINGS)
@click.argument("question")
@options.pipeline_file
@options.corpus("corpora/fieldguide")
@options.retriever
@options.generator
@options.top_k
@options.prompt
@options.max_new_tokens
@options.index_folder
@options.poison
@options.defenses
@click.option(
    "--explain",
    is_flag=True,
    show_default=False,
    help="Show rankings and answers with and without poison and defences, and what these did.",
)
@options.text_column
@options.passage_columns
@options.skip_bad_rows
@options.seed
@options.device(dtype="auto")
@options.batch_tokens
@options.common
@click.pass_context
def rag_query(
    ctx: click.Context,
    /,
    question: str,
    target: str,
    poison: Path | None,
    defense: tuple[str, ...],
    explain: bool,
    skip_bad_rows: bool,
    seed: int,
    device: str,
    dtype: str,
    batch_tokens: int | None,
    json: bool,
    **others: Any,
) -> None:
    """Answer QUESTION from the passages of a corpus.

    Prints the answer, its confidence and the passages used, with the answer's place in them
    marked. With - for QUESTION, questions are read from stdin, one a line, and one JSON object
    is printed for each.

    --poison puts the passages that a file has for the question into its corpus, and --defense
    answers through a defence. --explain shows the ranking with and without the poison, what each
    defence left out or outvoted, and the answers side by side.

    \b
      robustlab rag-query "Where do European eels go to spawn?"
      robustlab rag-query - --corpus my/corpus < questions.txt > answers.jsonl
      robustlab rag-query "Where do eels spawn?" --poison p.jsonl --defense perplexity --explain
    """
    if not question.strip():
        raise UserError("the question is empty")
    columns = {name: others.pop(name) for name in _COLUMNS}
    parts, kept = pipeline_parts(ctx, target, others)
    with working("loading …"):
        from robustlab.data import load_corpus
        from robustlab.rag import load_rag

        corpus = load_corpus(parts["corpus"], skip_bad_rows=skip_bad_rows, **columns)
        pipeline = load_rag(
            corpus,
            parts["retriever"],
            parts["generator"],
            prompt=parts["prompt"],
            top_k=parts["top_k"],
            max_new_tokens=parts["max_new_tokens"],
            index_folder=parts["index"],
            device=device,
            dtype=dtype,
            batch_tokens=batch_tokens,
        )
        if kept or defense:
            from robustlab.defense import DefendedRag, DefenseSpec, load_defense

            specs: list[DefenseSpec] = [*kept, *defense]
            loaded = [load_defense(spec, pipeline, corpus=corpus, seed=seed) for spec in specs]
            pipeline = DefendedRag(pipeline, loaded)
        poisons = None if poison is None else _Poisons(poison, pipeline)
    if question == "-":
        lines = _questions(sys.stdin.buffer)
        while batch := list(islice(lines, _TOGETHER)):
            if explain:
                for text in batch:
                    print_json(explanation_json(_explained(pipeline, text, poisons)))
            else:
                for answer in _asked(pipeline, batch, poisons):
                    print_json(_as_json(answer))
    elif explain:
        with working("reading …"):
            found = _explained(pipeline, question, poisons)
        show_explanation(found, to_stderr=json)
        if json:
            print_json(explanation_json(found))
    else:
        with working("reading …"):
            (answer,) = _asked(pipeline, [question], poisons)
        _show(answer, to_stderr=json)
        if json:
            print_json(_as_json(answer))


class _Poisons:
    """The passages of a poison file by question, those checked that are used."""

    def __init__(self, path: Path, pipeline: RagPipeline) -> None:
        from robustlab.metrics.answers import normalise
        from robustlab.poisoning.records import load_poison

        self._path = path
        self._pipeline = pipeline
        self._records = {normalise(record.question): record for record in load_poison(path)}

    def of(self, question: str) -> tuple[str, ...]:
        """Those for one question; a :class:`UserError` if there are none, or no room for one."""
        from robustlab.metrics.answers import normalise
        from robustlab.poisoning.records import check_fit

        record = self._records.get(normalise(question))
        if record is None:
            raise UserError(
                f"{self._path} has no passages for the question {question!r}; it has some for "
                f"{len(self._records)} others"
            )
        check_fit([record], self._pipeline)
        return record.adversarial_texts


def _asked(
    pipeline: RagPipeline, questions: list[str], poisons: _Poisons | None
) -> list[RagAnswer]:
    if poisons is None:
        return pipeline.ask(questions)
    return pipeline.ask(questions, [poisons.of(question) for question in questions])


def _explained(pipeline: RagPipeline, question: str, poisons: _Poisons | None) -> SideBySide:
    from robustlab.defense import side_by_side

    return side_by_side(pipeline, question, () if poisons is None else poisons.of(question))


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
