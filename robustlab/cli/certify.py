"""``robustlab certify``: what a defence guarantees."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from robustlab.cli import options
from robustlab.cli.output import print_json, progress_bar, working
from robustlab.cli.pipeline_file import pipeline_parts

__all__ = ["certify"]


@click.command("certify", context_settings=options.SETTINGS)
@options.target("rag")
@options.data(None)
@options.corpus(None)
@options.retriever
@options.generator
@click.option(
    "--top-k",
    metavar="N",
    type=click.IntRange(min=1),
    default=10,
    help="How many passages are read for a question.",
)
@options.prompt
@options.max_new_tokens
@options.index_folder
@options.defenses
@click.option(
    "--corrupted",
    metavar="N",
    type=click.IntRange(min=1),
    default=1,
    help="How many of the passages read, or of a text's words, are the adversary's.",
)
@click.option(
    "--threat",
    type=click.Choice(["insertion", "replacement"]),
    default="insertion",
    help="Passages are added to the corpus, or any of those that are read are exchanged.",
)
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
@click.pass_context
def certify(
    ctx: click.Context,
    /,
    target: str,
    data: str | None,
    defense: tuple[str, ...],
    corrupted: int,
    threat: str,
    split: str | None,
    limit: int | None,
    skip_bad_rows: bool,
    seed: int,
    device: str,
    dtype: str,
    batch_tokens: int | None,
    out: Path | None,
    json: bool,
    **others: Any,
) -> None:
    """Certify a defended target: how often it stays right whatever the adversary does.

    For a RAG pipeline, whatever N of the passages that are read say; for a classifier, whatever N
    of the words are replaced by. Certified accuracy bounds the accuracy under every such attack
    from below.

    \b
      robustlab certify --corpus corpora/fieldguide --defense decoding-aggregation
      robustlab certify --target my-rag.toml --defense majority-vote --corrupted 2
      robustlab certify --target builtin:classifier --data corpora/reviews --defense ranmask
    """
    parts = {name: others.pop(name) for name in _PARTS}
    kept: Any = ()
    if target == "rag" or target.endswith(".toml"):
        parts, kept = pipeline_parts(ctx, target, parts)
        target = "rag"
    with working("loading …"):
        from robustlab.defense.certify import certify as run_certification
        from robustlab.report import print_run, run_object, write_report
        from robustlab.runs import RunDirectory

    with progress_bar("certifying") as progress:
        result = run_certification(
            target_spec=target,
            defenses=[*kept, *defense],
            corrupted=corrupted,
            threat="insertion" if threat == "insertion" else "replacement",
            data_spec=data,
            corpus=parts["corpus"],
            retriever=parts["retriever"],
            generator=parts["generator"],
            split=split,
            limit=limit,
            top_k=parts["top_k"],
            max_new_tokens=parts["max_new_tokens"],
            prompt=parts["prompt"],
            index_folder=parts["index"],
            seed=seed,
            device=device,
            dtype=dtype,
            batch_tokens=batch_tokens,
            columns=others,
            skip_bad_rows=skip_bad_rows,
            out=out,
            progress=progress,
        )
    run = RunDirectory.open(result.folder)
    write_report(run)
    print_run(run, sys.stderr if json else sys.stdout)
    if json:
        print_json(run_object(run))


_PARTS = ("corpus", "retriever", "generator", "top_k", "max_new_tokens", "prompt", "index")
