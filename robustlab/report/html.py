"""A run as one HTML page that needs nothing but itself."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustlab.report.marks import Piece, changed_pieces
from robustlab.report.measures import measures
from robustlab.report.terminal import safe_text

if TYPE_CHECKING:
    from robustlab.runs import RunDirectory

__all__ = ["write_report"]

_ROWS = 500
"""The most outcomes on a page; beyond it a browser gets slow, and outcomes.jsonl has them all."""
_SHOWN_APART = ("command_line", "threat_model")  # and the recipe's text, as it was written

# Fields of an evaluation's outcomes that are texts to be read, and what they are called.
_TEXTS = {
    "text": "text",
    "text_pair": "text",
    "question": "question",
    "prediction": "output",
    "answers": "truth",
}


@dataclass(frozen=True, slots=True)
class _Row:
    """One outcome: what became of it, its texts by name, and its other fields."""

    id: str
    status: str
    good: bool
    texts: tuple[tuple[str, tuple[Piece, ...]], ...]
    facts: tuple[tuple[str, str], ...]


def write_report(run: RunDirectory) -> Path:
    """Write ``report.html`` into a run directory, from what lies in it; returns its path.

    Threat model, numbers with their intervals, outcomes with marked changes, and the manifest.
    Every text in it is escaped, and control characters are spelled out as on the terminal.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("robustlab.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["safe_text"] = safe_text
    manifest = run.manifest
    outcomes = run.outcomes()
    recipe = manifest.get("recipe") or {}
    page = environment.get_template("report.html").render(
        command=manifest.get("command", ""),
        command_line=shlex.join(map(str, manifest.get("command_line", ()))),
        started=manifest.get("started", ""),
        target=(manifest.get("target") or {}).get("spec", ""),
        data=(manifest.get("data") or {}).get("name", ""),
        recipe=recipe,
        complete=run.is_complete,
        threat_model=_flat(manifest.get("threat_model") or {}),
        measures=measures(run.summary or {}),
        rows=[_row(outcome) for outcome in outcomes[:_ROWS]],
        outcomes=len(outcomes),
        manifest=_flat(
            {
                **{key: value for key, value in manifest.items() if key not in _SHOWN_APART},
                "recipe": {key: value for key, value in recipe.items() if key != "text"},
            }
        ),
    )
    return run.write_text("report.html", page)


def _row(outcome: Mapping[str, Any]) -> _Row:
    shown = {"id", "status", "original", "perturbed", *_TEXTS}
    status, good = _status(outcome)
    return _Row(
        str(outcome["id"]),
        status,
        good,
        tuple(_texts(outcome)),
        tuple((key, value) for key, value in _flat(outcome) if key.partition(".")[0] not in shown),
    )


def _status(outcome: Mapping[str, Any]) -> tuple[str, bool]:
    """What became of an example, in a word, and whether the target did well on it."""
    if "status" in outcome:
        return str(outcome["status"]), outcome["status"] == "failed"
    for key in ("correct", "exact_match"):
        if key in outcome:
            return ("right", True) if outcome[key] else ("wrong", False)
    rank = outcome.get("gold_rank")
    return ("not found", False) if rank is None else (f"rank {rank}", rank == 1)


def _texts(outcome: Mapping[str, Any]) -> Iterator[tuple[str, tuple[Piece, ...]]]:
    if "original" in outcome:
        before, after = _fields(outcome["original"]), _fields(outcome.get("perturbed"))
        for old, new in zip_longest(before, after):
            if old is None or new is None or old == new:
                yield "text", ((old or new, False),)
            else:
                marked = changed_pieces(old, new)
                yield "before", marked[0]
                yield "after", marked[1]
    for key, name in _TEXTS.items():
        if key in outcome:
            text = outcome[key]
            text = " | ".join(map(str, text)) if isinstance(text, list) else str(text)
            yield name, ((text, False),)


def _fields(text: Any) -> list[str]:
    """The texts of an example: one, or the two of a pair; none where there was no result."""
    if text is None:
        return []
    return [text] if isinstance(text, str) else [str(part) for part in text]


def _flat(value: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested entries as (dotted name, text); empty ones are left out."""
    rows: list[tuple[str, str]] = []
    for key, entry in value.items():
        if isinstance(entry, Mapping):
            rows += _flat(entry, f"{prefix}{key}.")
        elif isinstance(entry, list):
            rows.append((prefix + key, ", ".join(map(_plain, entry))))
        elif entry is not None:
            rows.append((prefix + key, _plain(entry)))
    return rows


def _plain(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
