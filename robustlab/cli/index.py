"""``robustlab index``: an index of a corpus, made once and used by many runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

import click

from robustlab.cli import options
from robustlab.cli.output import print_json, progress_bar, working

__all__ = ["index"]


@click.command("index", context_settings=options.SETTINGS)
@click.argument("corpus", shell_complete=options.complete_corpus)
@click.option(
    "--out",
    metavar="DIR",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder to make; must not exist or be empty.",
)
@options.retriever
@click.option(
    "--index-kind",
    type=click.Choice(["flat", "hnsw", "ivfpq"]),
    default="flat",
    help="Exact search; a graph, faster over many passages; or compressed vectors.",
)
@options.text_column
@options.passage_columns
@options.skip_bad_rows
@options.device(dtype="auto")
@options.common
def index(
    corpus: str,
    out: Path,
    retriever: str,
    index_kind: Literal["flat", "hnsw", "ivfpq"],
    skip_bad_rows: bool,
    device: str,
    dtype: str,
    json: bool,
    **columns: str | None,
) -> None:
    """Encode the passages of CORPUS and save an index of them.

    CORPUS is a BEIR folder, a SQuAD file, a file of rows, the name of a shipped corpus, or
    hf:NAME. The index serves --index of rag-query and evaluate; it remembers the corpus and the
    encoder it was made from and refuses any other.

    \b
      robustlab index corpora/fieldguide --out fieldguide.index
      robustlab rag-query "Who built the Eiffel Tower?" --index fieldguide.index
    """
    with working("loading …"):
        from robustlab.data import load_corpus
        from robustlab.report import make_console
        from robustlab.retrieval import build_index

        passages = load_corpus(corpus, skip_bad_rows=skip_bad_rows, **columns)
    with progress_bar("encoding") as progress:
        made = build_index(
            passages,
            out,
            encoder=retriever,
            kind=index_kind,
            device=device,
            dtype=dtype,
            progress=progress,
        )
    if json:
        print_json({"index": str(out), "skipped_rows": passages.skipped_rows, **made.describe()})
        return
    skipped = f", {passages.skipped_rows} bad rows skipped" if passages.skipped_rows else ""
    make_console(sys.stdout).print(
        f"{len(made):,} passages of {corpus} indexed in {out} ({made.kind}{skipped})",
        soft_wrap=True,
    )
