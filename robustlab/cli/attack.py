"""``robustlab attack``: how a target holds against an adversary."""

from __future__ import annotations

from pathlib import Path

import click

from robustlab.cli import options

__all__ = ["attack"]


@click.command("attack", context_settings=options.SETTINGS)
@options.target("builtin:classifier")
@options.kind("classifier", "seq2seq", "causal")
@options.data("corpora/reviews")
@options.recipe
@options.query_budget
@options.split
@options.limit
@options.text_column
@options.label_columns
@options.skip_bad_rows
@options.seed
@options.device
@options.batch_tokens
@options.out
@options.common
def attack(
    target: str, **rest: object
) -> None:
    """Attack a target and measure what is left of it."""
    del target, Path
