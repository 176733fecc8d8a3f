"""One outcome for people: what became of it, its texts with what changed, and its numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from robustlab.report.marks import Piece, changed_pieces

__all__ = ["Shown", "flat", "show"]

# Fields of an evaluation's outcomes that are texts to be read, and what they are called.
_TEXTS = {
    "text": "text",
    "text_pair": "text",
    "question": "question",
    "prediction": "output",
    "answers": "truth",
}


@dataclass(frozen=True, slots=True)
class Shown:
    """An outcome laid out.

    ``good`` says whether the target did well; ``note`` is one line on what the attack did;
    ``texts`` are named texts in pieces, ``facts`` all other fields by their dotted names.
    """

    id: str
    status: str
    good: bool
    note: str
    texts: tuple[tuple[str, tuple[Piece, ...]], ...]
    facts: tuple[tuple[str, str], ...]


def show(outcome: Mapping[str, Any]) -> Shown:
    """Lay out an outcome of an attack or of an evaluation."""
    apart = {"id", "status", "original", "perturbed", *_TEXTS}
    status, good = _status(outcome)
    return Shown(
        str(outcome["id"]),
        status,
        good,
        _note(outcome),
        tuple(_texts(outcome)),
        tuple(flat({key: value for key, value in outcome.items() if key not in apart})),
    )


def flat(value: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested entries as (dotted name, text); empty ones are left out."""
    rows: list[tuple[str, str]] = []
    for key, entry in value.items():
        if isinstance(entry, Mapping):
            rows += flat(entry, f"{prefix}{key}.")
        elif isinstance(entry, list):
            rows.append((prefix + key, ", ".join(map(_plain, entry))))
        elif entry is not None:
            rows.append((prefix + key, _plain(entry)))
    return rows


def _plain(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _status(outcome: Mapping[str, Any]) -> tuple[str, bool]:
    if "status" in outcome:
        return str(outcome["status"]), outcome["status"] == "failed"
    for key in ("correct", "exact_match"):
        if key in outcome:
            return ("right", True) if outcome[key] else ("wrong", False)
    rank = outcome.get("gold_rank")
    return ("not found", False) if rank is None else (f"rank {rank}", rank == 1)


def _note(outcome: Mapping[str, Any]) -> str:
    """``negative 0.98 → positive 0.61, 2 words changed, 41 queries``, as far as it is known."""
    outputs = [outcome.get("original_output"), outcome.get("perturbed_output")]
    parts = [
        " → ".join(
            f"{output['label']} {output['probability']:.2f}"
            for output in outputs
            if isinstance(output, Mapping)
        ),
        _counted(outcome.get("edits"), "word changed", "words changed"),
        _counted(outcome.get("queries"), "query", "queries"),
        str(outcome.get("error", "")),
    ]
    return ", ".join(part for part in parts if part)


def _counted(number: Any, one: str, many: str) -> str:
    return "" if number is None else f"{number} {one if number == 1 else many}"


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
