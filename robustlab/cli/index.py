"""``robustlab index``: an index of a corpus, made once."""

from __future__ import annotations

from pathlib import Path

import click

from robustlab.cli import options

__all__ = ["index"]


@click.command("index", context_settings=options.SETTINGS)
@click.argument("corpus")
@options.common
def index(corpus: str, json: bool) -> None:
    """Encode the passages of CORPUS and write an index of them."""
    del corpus, json, Path
