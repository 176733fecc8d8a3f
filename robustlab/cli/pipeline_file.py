"""A RAG pipeline from options, or from the file that ``--target`` names with options on top."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from robustlab.errors import UserError

__all__ = ["pipeline_parts"]

_PARTS = ("corpus", "retriever", "generator", "top_k", "max_new_tokens", "prompt", "index")
_TYPED = (ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT)


def pipeline_parts(
    ctx: click.Context, target: str, options: Mapping[str, Any]
) -> tuple[dict[str, Any], Sequence[Mapping[str, Any]]]:
    """The options of a pipeline by name, and the defences that its file keeps.

    With ``rag`` for a target they are the options themselves. With a file they are the file's,
    but for options that were typed or are in the environment.

    Raises:
        UserError: the target is neither ``rag`` nor a pipeline file.
    """
    parts = {name: options[name] for name in _PARTS if name in options}
    if target == "rag":
        return parts, ()
    if not target.endswith(".toml"):
        raise UserError(f"the target {target!r} is neither rag nor a TOML file with a pipeline")
    from robustlab.rag.file import load_rag_file

    kept = load_rag_file(Path(target))
    for name in parts:
        if ctx.get_parameter_source(name) not in _TYPED:
            parts[name] = getattr(kept, name)
    return parts, kept.defenses
