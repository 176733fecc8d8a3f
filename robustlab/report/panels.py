"""An attack on a pipeline laid out for people: what was retrieved apart from what was answered."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from robustlab.report.measures import Measure, measures
from robustlab.report.results import RecipeResult, Results

__all__ = [
    "PANEL_KEYS",
    "Beside",
    "Panel",
    "adaptive_beside",
    "alerts",
    "pipeline_panels",
    "worst_panel",
]


@dataclass(frozen=True, slots=True)
class Beside:
    """A row of a panel: one measure under each of the panel's heads, None where it is unknown."""

    name: str
    cells: tuple[Measure | None, ...]


@dataclass(frozen=True, slots=True)
class Panel:
    """A small table. ``heads`` name the columns of numbers; ``note`` is a sentence below."""

    title: str
    heads: tuple[str, ...]
    rows: tuple[Beside, ...]
    note: str = ""


# Rows as (name, keys of the summary); a key that ends in "@" is followed by the pipeline's top-k.
_ANSWERS = (
    ("exact match", "clean_accuracy", "attacked_exact_match"),
    ("F1", "clean_f1", "attacked_f1"),
    ("recall@", "clean_recall@", "attacked_recall@"),
    ("refusal rate", "clean_refusal_rate", "attacked_refusal_rate"),
)
_RETRIEVAL = (
    ("poison retrieved", "poison_retrieved"),
    ("poison read", "poison_read"),
    ("poison precision", "poison_precision"),
    ("poison recall", "poison_recall"),
    ("poison F1", "poison_f1"),
    ("gold passage retrieved", "gold_retrieved"),
    ("gold passage read", "gold_read"),
)
_SUCCESS = (
    ("targeted success (contained)", "targeted_success"),
    ("targeted success (exact)", "targeted_success_exact"),
    ("targeted success, all questions", "targeted_success_all"),
    ("untargeted success", "untargeted_success"),
    ("success if poison was retrieved", "success_if_retrieved"),
    ("success if poison was read", "success_if_read"),
)
_DEFENCES = (
    ("clean accuracy", "undefended_clean_accuracy", "clean_accuracy"),
    ("robust accuracy", "undefended_robust_accuracy", "robust_accuracy"),
    ("attack success rate", "undefended_attack_success_rate", "attack_success_rate"),
    ("poison retrieved", "undefended_poison_retrieved", "poison_retrieved"),
)
_WORST = (
    ("targeted success (contained)", "targeted_success"),
    ("untargeted success", "untargeted_success"),
    ("F1 under attack", "attacked_f1"),
    ("poison retrieved", "poison_retrieved"),
)
_DIFFERENCE = ("exact_match_difference", "mcnemar_p")

PANEL_KEYS = frozenset(
    key.partition("@")[0]
    for row in (*_ANSWERS, *_RETRIEVAL, *_SUCCESS, *_DEFENCES, *_WORST, ("", *_DIFFERENCE))
    for key in row[1:]
)
"""Keys of a summary that stand in panels, without the k of an ``@k``."""


def pipeline_panels(recipe: RecipeResult) -> tuple[Panel, ...]:
    """The panels of one recipe; those without a number are left out."""
    summary = recipe.summary
    undefended = any(key.startswith("undefended_") for key in summary)
    found = [
        _panel("Answers", ("clean", "under attack"), _ANSWERS, summary, _difference(summary)),
        _panel("Was the poison retrieved?", ("",), _RETRIEVAL, summary),
        _panel(
            "Did the answer change?",
            ("",),
            _SUCCESS,
            summary,
            "Over the questions that are answered rightly without poison, if not said otherwise.",
        ),
    ]
    if undefended:
        note = "The same questions and the same passages in both columns."
        heads = ("without defence", "with defence")
        found.append(_panel("What the defence saves", heads, _DEFENCES, summary, note))
    return tuple(panel for panel in found if panel.rows)


def worst_panel(results: Results) -> Panel | None:
    """What is left of each question in the worst case over the recipes of a suite."""
    panel = _panel("Worst case over recipes", ("",), _WORST, results.whole.summary)
    return panel if panel.rows else None


def adaptive_beside(results: Results) -> Panel | None:
    """Attack success with and without knowledge of the defences, where both were run."""
    rates = results.whole.summary.get("adaptive")
    if not rates:
        return None
    rows = tuple(
        Beside(str(name), tuple(_cell(ways, way) for way in ("non_adaptive", "adaptive")))
        for name, ways in rates.items()
    )
    return Panel("Attack success against the defence", ("non-adaptive", "adaptive"), rows)


def alerts(results: Results) -> tuple[str, ...]:
    """What one must know before believing in a defence: sentences, most often none."""
    found = tuple(map(str, results.whole.summary.get("warnings", ())))
    defended = (results.manifest.get("target") or {}).get("defenses")
    writers = [recipe for recipe in results.recipes if recipe.writes_passages]
    met = any(recipe.manifest["threat_model"].get("adaptive") for recipe in writers)
    return (*found, _UNTRIED) if defended and writers and not met else found


_UNTRIED = (
    "This adversary has never met the defence. What a defence is worth shows under an adaptive "
    "attack alone: leave --no-adaptive out."
)


def _panel(
    title: str,
    heads: tuple[str, ...],
    rows: Iterable[tuple[str, ...]],
    summary: Mapping[str, Any],
    note: str = "",
) -> Panel:
    filled = []
    for name, *keys in rows:
        exact = [_completed(key, summary) for key in keys]
        cells = tuple(_cell(summary, key) for key in exact)
        if any(cells):
            cutoff = exact[0].partition("@")[2] if name.endswith("@") else ""
            filled.append(Beside(name + cutoff, cells))
    return Panel(title, heads, tuple(filled), note)


def _completed(key: str, summary: Mapping[str, Any]) -> str:
    if not key.endswith("@"):
        return key
    return next((name for name in summary if name.startswith(key)), key)


def _cell(summary: Mapping[str, Any], key: str) -> Measure | None:
    found = measures({key: summary[key]}) if key in summary else ()
    return found[0] if found else None


def _difference(summary: Mapping[str, Any]) -> str:
    change, p = (_cell(summary, key) for key in _DIFFERENCE)
    if change is None or not change.interval:
        return ""
    low, _, high = change.interval.partition(" – ")
    said = f"Difference in exact match, paired: {change.value} [{low} to {high}]".replace("-", "−")
    return f"{said}, McNemar's exact p = {p.value}." if p is not None else f"{said}."
