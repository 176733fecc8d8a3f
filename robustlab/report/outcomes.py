"""One outcome for people: what became of it, its texts with what changed, and its numbers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from robustlab.report.marks import Piece, changed_pieces, pieces

__all__ = ["Shown", "flat", "show"]

# Fields of an evaluation's outcomes that are texts to be read, and what they are called.
_TEXTS = {
    "text": "text",
    "text_pair": "text",
    "question": "question",
    "prediction": "output",
    "answers": "truth",
}

# Fields of an attack's outcomes that say what is the matter with them.
_WARNINGS = ("embedded", "unverified", "broken_constraint", "error")

# What an attack on a pipeline keeps for its curves; nothing to be read.
_CURVES = ("by_poison_passages", "by_top_k")

_POISON_ID = "poison:"  # with the number of the passage, its id where it was retrieved

_LONGEST_LIST = 24


@dataclass(frozen=True, slots=True)
class Shown:
    """An outcome laid out.

    ``good`` says whether the target did well, None where there is nothing to say. ``note`` is
    one line on what the attack did, ``warnings`` are sentences about what does not count.
    ``texts`` are named texts in pieces, ``facts`` all other fields by their dotted names.
    """

    id: str
    status: str
    good: bool | None
    note: str
    warnings: tuple[str, ...]
    texts: tuple[tuple[str, tuple[Piece, ...]], ...]
    facts: tuple[tuple[str, str], ...]


def show(outcome: Mapping[str, Any], *, passages: int = 5) -> Shown:
    """Lay out an outcome of an attack or of an evaluation, with so many passages of poison."""
    apart = {"id", "status", "original", "perturbed", *_WARNINGS, *_TEXTS}
    apart |= {"poison", "undefended", *_CURVES}
    for key in ("original_output", "perturbed_output"):
        if _generated(outcome, key):
            apart.add(key)
    status, good = _status(outcome)
    return Shown(
        str(outcome["id"]),
        status,
        good,
        _note(outcome),
        tuple(_warnings(outcome)),
        tuple(_texts(outcome, passages)),
        (*_rankings(outcome), *flat({k: v for k, v in outcome.items() if k not in apart})),
    )


def flat(value: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested entries as (dotted name, text); empty ones are left out, long lists cut."""
    rows: list[tuple[str, str]] = []
    for key, entry in value.items():
        if isinstance(entry, Mapping):
            rows += flat(entry, f"{prefix}{key}.")
        elif isinstance(entry, list):
            rest = f", … ({len(entry)} in all)" if len(entry) > _LONGEST_LIST else ""
            rows.append((prefix + key, ", ".join(map(_plain, entry[:_LONGEST_LIST])) + rest))
        elif entry is not None:
            rows.append((prefix + key, _plain(entry)))
    return rows


def _plain(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _status(outcome: Mapping[str, Any]) -> tuple[str, bool | None]:
    if "status" in outcome:
        return str(outcome["status"]), {"failed": True, "succeeded": False}.get(outcome["status"])
    for key in ("correct", "exact_match"):
        if key in outcome:
            return ("right", True) if outcome[key] else ("wrong", False)
    rank = outcome.get("gold_rank")
    return ("not found", False) if rank is None else (f"rank {rank}", rank == 1)


def _note(outcome: Mapping[str, Any]) -> str:
    """``negative 0.98 → positive 0.61, 2 words changed, 41 queries``, as far as it is known."""
    outputs = [outcome.get("original_output"), outcome.get("perturbed_output")]
    known = [output for output in outputs if isinstance(output, Mapping)]
    labels = [output for output in known if {"label", "probability"} <= output.keys()]
    edits = None if outcome.get("embedded") else outcome.get("edits")
    parts = [
        " → ".join(f"{output['label']} {output['probability']:.2f}" for output in labels),
        f"truth {outcome['truth']}" if outcome.get("status") == "skipped" and labels else "",
        *_measured(known),
        _retrieved(outcome),
        _counted(edits, "word changed", "words changed"),
        _counted(outcome.get("queries"), "query", "queries"),
    ]
    return ", ".join(part for part in parts if part)


def _measured(outputs: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """``f1 1.00 → 0.00``: what generated texts were measured by."""
    for key, value in outputs[0].items() if outputs else ():
        if "text" in outputs[0] and isinstance(value, float):
            values = [output.get(key) for output in outputs]
            yield f"{key} " + " → ".join(
                f"{value:.2f}" for value in values if isinstance(value, int | float)
            )


def _warnings(outcome: Mapping[str, Any]) -> Iterator[str]:
    if outcome.get("embedded"):
        yield (
            "Not realisable as text: the perturbation lies in embedding space. It bounds the "
            "damage from above and counts in no worst case."
        )
    if outcome.get("unverified"):
        yield (
            "Not confirmed: the attack claimed success, and a fresh forward pass on the text did "
            "not show it."
        )
    if "broken_constraint" in outcome:
        yield f"Breaks a constraint against the original: {outcome['broken_constraint']}"
    if "error" in outcome:
        yield f"Could not be attacked or judged: {outcome['error']}"


def _counted(number: Any, one: str, many: str) -> str:
    return "" if number is None else f"{number} {one if number == 1 else many}"


def _retrieved(outcome: Mapping[str, Any]) -> str:
    """``2 of 5 poison passages retrieved, best at rank 1``."""
    written, ranks = (
        outcome.get("poison"),
        _generated(outcome, "perturbed_output").get("poison_ranks"),
    )
    if not written or ranks is None:
        return ""
    found = f"{len(ranks)} of {_counted(len(written), 'poison passage', 'poison passages')}"
    return f"{found} retrieved" + (f", best at rank {min(ranks)}" if ranks else "")


def _rankings(outcome: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Which passages a pipeline retrieved and read, without and with the attack."""
    for key, when in (("original_output", "without attack"), ("perturbed_output", "under attack")):
        output = _generated(outcome, key)
        for what in ("retrieved", "read"):
            if what in output:
                yield f"{what} {when}", ", ".join(map(str, output[what])) or "nothing"


def _poison(outcome: Mapping[str, Any], most: int) -> Iterator[tuple[str, tuple[Piece, ...]]]:
    """The passages of the adversary, best rank first, the wrong answer marked in them."""
    passages = outcome.get("poison") or []
    output = _generated(outcome, "perturbed_output")
    ranks = {key: rank for rank, key in enumerate(output.get("retrieved", ()), 1)}
    read = set(output.get("read", ()))
    ids = [f"{_POISON_ID}{number}" for number in range(len(passages))]
    order = sorted(range(len(passages)), key=lambda n: (ranks.get(ids[n], len(ranks) + 1), n))
    wanted = str(output.get("wanted") or "")
    for number in order[:most]:
        rank, text = ranks.get(ids[number]), str(passages[number])
        place = "not found" if rank is None else f"rank {rank}"
        if rank is not None and ids[number] not in read:
            place += ", not read"
        found = re.finditer(re.escape(wanted), text, re.IGNORECASE) if wanted else ()
        yield f"poison, {place}", tuple(pieces(text, [match.span() for match in found]))
    if order[most:]:
        left = _counted(len(order[most:]), "passage", "passages")
        yield "poison", ((f"… and {left} more, in outcomes.jsonl", False),)


def _texts(outcome: Mapping[str, Any], passages: int) -> Iterator[tuple[str, tuple[Piece, ...]]]:
    if "original" in outcome:
        # What an attack on embeddings has for a text is at best a stand-in.
        perturbed = None if outcome.get("embedded") else outcome.get("perturbed")
        before, after = _fields(outcome["original"]), _fields(perturbed)
        for old, new in zip_longest(before, after):
            if old is None or new is None or old == new:
                name = "question" if "poison" in outcome else "text"
                yield name, ((old or new, False),)
            else:
                marked = changed_pieces(old, new)
                yield "before", marked[0]
                yield "after", marked[1]
        yield from _outputs(outcome)
        yield from _poison(outcome, passages)
    for key, name in _TEXTS.items():
        if key in outcome:
            yield name, ((_listed(outcome[key]), False),)


def _outputs(outcome: Mapping[str, Any]) -> Iterator[tuple[str, tuple[Piece, ...]]]:
    """What a generator said before and after, what was wanted of it, and what is right."""
    before, after = (_generated(outcome, key) for key in ("original_output", "perturbed_output"))
    for name, output in (("output", before), ("output after", after)):
        if output:
            yield name, ((str(output["text"]), False),)
    if before:
        bare = (outcome.get("undefended") or {}).get("attacked")
        if bare:
            yield "undefended", ((str(bare["text"]), False),)
        if before.get("wanted") is not None:
            yield "wanted", ((str(before["wanted"]), False),)
        if outcome.get("truth") is not None:
            yield "truth", ((_listed(outcome["truth"]), False),)


def _generated(outcome: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """A generator's output with its measures; nothing for classifiers."""
    output = outcome.get(key)
    return output if isinstance(output, Mapping) and "text" in output else {}


def _listed(text: Any) -> str:
    return " | ".join(map(str, text)) if isinstance(text, list) else str(text)


def _fields(text: Any) -> list[str]:
    """The texts of an example: one, or the two of a pair; none where there was no result."""
    if text is None:
        return []
    return [text] if isinstance(text, str) else [str(part) for part in text]
