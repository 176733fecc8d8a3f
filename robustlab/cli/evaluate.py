"""``robustlab evaluate``: how good a target is without an attack."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from robustlab.cli import options
from robustlab.cli.output import print_json, progress_bar, working

__all__ = ["evaluate"]


@click.command("evaluate", context_settings=options.SETTINGS)
@options.target(None)
@options.kind("classifier", "seq2seq", "causal", "retriever")
@options.data(None)
@options.corpus(None)
@options.retriever
@options.generator
@options.top_k
@options.prompt
@options.max_new_tokens
@options.index_folder
@options.split
@options.limit
@options.text_column
@options.label_columns
@options.passage_columns
@options.question_columns
@options.skip_bad_rows
@options.seed
@options.device(dtype="auto")
@options.batch_tokens
@options.out
@options.common
def evaluate(
    target: str,
    kind: str | None,
    data: str | None,
    corpus: str | None,
    retriever: str,
    generator: str,
    top_k: int,
    prompt: str | None,
    max_new_tokens: int,
    index: Path | None,
    split: str | None,
    limit: int | None,
    skip_bad_rows: bool,
    seed: int,
    device: str,
    dtype: str,
    batch_tokens: int | None,
    out: Path | None,
    json: bool,
    **columns: str | None,
) -> None:
    """Measure a target without an attack, with 95 % intervals.

    \b
    A classifier is measured on labelled data:
      robustlab evaluate --target builtin:classifier --data corpora/reviews
    A generator answers the questions of a corpus from their gold passages:
      robustlab evaluate --target builtin:seq2seq --corpus corpora/fieldguide
    A retriever looks for these passages, and rag does both:
      robustlab evaluate --target builtin:retriever --corpus corpora/fieldguide
      robustlab evaluate --target rag --corpus corpora/fieldguide
    """
    with working("loading …"):
        from robustlab.evaluation import evaluate as run_evaluation
        from robustlab.report import print_run, run_object, write_report
        from robustlab.runs import RunDirectory

    with progress_bar("evaluating") as progress:
        result = run_evaluation(
            target_spec=target,
            data_spec=data,
            corpus=corpus,
            retriever=retriever,
            generator=generator,
            split=split,
            limit=limit,
            top_k=top_k,
            max_new_tokens=max_new_tokens,
            prompt=prompt,
            kind=kind,
            index_folder=index,
            seed=seed,
            device=device,
            dtype=dtype,
            batch_tokens=batch_tokens,
            columns=columns,
            skip_bad_rows=skip_bad_rows,
            out=out,
            progress=progress,
        )
    run = RunDirectory.open(result.folder)
    write_report(run)
    print_run(run, sys.stderr if json else sys.stdout)
    if json:
        print_json(run_object(run))
