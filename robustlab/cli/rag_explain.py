"""What ``rag-query --explain`` prints: rankings, verdicts and answers side by side."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from robustlab.defense import Explanation, SideBySide
    from robustlab.retrieval import Hit

__all__ = ["explanation_json", "show_explanation"]

_VIEWS = ("clean", "poisoned", "defended_clean", "defended_poisoned")


def explanation_json(found: SideBySide) -> dict[str, Any]:
    """The question, and each view of it that there is, by its name."""
    views = {name: getattr(found, name) for name in _VIEWS}
    return {
        "question": found.clean.question,
        **{name: _view_json(view) for name, view in views.items() if view is not None},
    }


def show_explanation(found: SideBySide, *, to_stderr: bool) -> None:
    """The answers in a table, the rankings below with what became of each passage."""
    from rich.text import Text

    from robustlab.report import make_console, safe_text

    console = make_console(sys.stderr if to_stderr else sys.stdout)
    console.print(Text(safe_text(found.clean.question), style="bold"))
    console.print()
    console.print(_answers(found))
    last = found.defended_poisoned or found.defended_clean or found.poisoned or found.clean
    for repair in last.repaired:
        console.print(Text(f"\n{repair.defense} reads the question as: {safe_text(repair.after)}"))
    console.print()
    console.print(_ranking("clean corpus", found.defended_clean or found.clean))
    poisoned = found.defended_poisoned or found.poisoned
    if poisoned is not None:
        console.print()
        console.print(_ranking("with poison", poisoned))


def _view_json(view: Explanation) -> dict[str, Any]:
    dropped = {drop.hit.passage.id: drop for drop in view.dropped}
    votes = {vote.passage_id: vote for vote in view.votes}
    read = {hit.passage.id for hit in view.answer.hits if hit.in_context}
    passages = []
    for hit in view.retrieved:
        key = hit.passage.id
        entry: dict[str, Any] = {
            "rank": hit.rank,
            "id": key,
            "score": hit.score,
            "poison": _is_poison(hit),
            "title": hit.passage.title,
            "text": hit.passage.text,
            "in_context": key in read,
        }
        if key in dropped:
            drop = dropped[key]
            entry["dropped_by"] = drop.defense
            if drop.suspicion is not None:
                entry |= {"suspicion": drop.suspicion, "threshold": drop.threshold}
        if key in votes:
            entry |= {"vote": votes[key].answer, "agrees": votes[key].agrees}
        passages.append(entry)
    return {
        "answer": view.answer.answer,
        "confidence": view.answer.confidence,
        "log_prob": view.answer.log_prob,
        "repaired": [
            {"defense": repair.defense, "before": repair.before, "after": repair.after}
            for repair in view.repaired
        ],
        "passages": passages,
    }


def _answers(found: SideBySide) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("answer")
    table.add_column("clean corpus", style="bold")
    if found.poisoned is not None:
        table.add_column("with poison", style="bold")
    rows = [("without defence", found.clean, found.poisoned)]
    if found.defended_clean is not None:
        rows.append(("with defence", found.defended_clean, found.defended_poisoned))
    for name, *views in rows:
        table.add_row(name, *(_answer(view) for view in views if view is not None))
    return table


def _answer(view: Explanation) -> Text:
    from rich.text import Text

    from robustlab.report import safe_text

    return Text(safe_text(view.answer.answer) or "(no answer)")


def _ranking(title: str, view: Explanation) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    from robustlab.report import safe_text

    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("rank", justify="right")
    table.add_column("score", justify="right")
    table.add_column(title, ratio=3)
    table.add_column("what became of it", ratio=2)
    # What was fetched beyond the usual number is shown up to the last that matters.
    last = max((hit.rank for hit in view.answer.hits), default=0)
    for hit in view.retrieved:
        if hit.rank > last:
            break
        poison = _is_poison(hit)
        name = hit.passage.text if poison or not hit.passage.title else hit.passage.title
        label = Text()
        if poison:
            label.append("poison  ", style="bold red")
        label.append(_beginning(safe_text(name)), style="red" if poison else "")
        table.add_row(
            str(hit.rank),
            f"{hit.score:.3f}",
            label,
            Text(safe_text(_fate(hit, view)), style="" if _was_read(hit, view) else "dim"),
        )
    return table


def _fate(hit: Hit, view: Explanation) -> str:
    key = hit.passage.id
    for drop in view.dropped:
        if drop.hit.passage.id == key:
            if drop.suspicion is None:
                return f"dropped by {drop.defense}"
            return f"dropped by {drop.defense} ({drop.suspicion:.3g} > {drop.threshold:.3g})"
    for vote in view.votes:
        if vote.passage_id == key:
            if not vote.answer:
                return "says nothing"
            return f"says {vote.answer!r}{'' if vote.agrees else ', outvoted'}"
    return "read" if _was_read(hit, view) else "not read: no room in the prompt"


def _was_read(hit: Hit, view: Explanation) -> bool:
    return any(read.passage.id == hit.passage.id and read.in_context for read in view.answer.hits)


def _is_poison(hit: Hit) -> bool:
    from robustlab.rag import POISON_ID

    return hit.passage.id.startswith(POISON_ID)


def _beginning(text: str) -> str:
    return text if len(text) <= 90 else f"{text[:89]}…"
