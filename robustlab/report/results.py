"""What lies in a run directory or in a suite's folder, read once and laid out by recipe."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robustlab.errors import UserError
from robustlab.report.measures import Measure, measures
from robustlab.runs import RunDirectory

__all__ = [
    "WORST_CASE",
    "AuditItem",
    "RecipeResult",
    "Results",
    "behind",
    "read_run",
    "read_suite",
]

_RUNS = "runs"  # where a suite keeps the runs of its recipes
WORST_CASE = "worst case"
"""What stands for all realisable recipes of a suite together."""


@dataclass(frozen=True, slots=True)
class AuditItem:
    """One check of the audit: its verdict (pass, warn, not applicable) and what it rests on."""

    check: str
    verdict: str
    evidence: str


@dataclass(frozen=True, slots=True)
class RecipeResult:
    """What one recipe did to the examples, or all of them together in the worst case.

    ``embedded``: the recipe perturbs embeddings, and no text realises what it finds.
    """

    name: str
    manifest: Mapping[str, Any]
    summary: Mapping[str, Any]
    outcomes: tuple[Mapping[str, Any], ...]
    embedded: bool

    def rate(self, key: str) -> Measure:
        """A rate of the summary, with its interval; a dash where there is none yet."""
        found = measures({key: self.summary[key]}) if key in self.summary else ()
        return found[0] if found else Measure(key.replace("_", " "), "–")

    @property
    def recipe(self) -> Mapping[str, Any]:
        """The recipe as the manifest has it: name, summary, paper, text and hash."""
        return self.manifest.get("recipe") or {}

    @property
    def writes_passages(self) -> bool:
        """Whether the recipe leaves questions alone, and writes passages into the corpus."""
        return (self.manifest.get("threat_model") or {}).get("surface") == "passages"

    @property
    def attacked(self) -> list[Mapping[str, Any]]:
        """Outcomes of the examples that were worth attacking and could be judged."""
        return [o for o in self.outcomes if o.get("status") in ("succeeded", "failed")]

    @property
    def broken(self) -> list[Mapping[str, Any]]:
        """Outcomes of the examples that the attack broke."""
        return [o for o in self.outcomes if o.get("status") == "succeeded"]

    @property
    def mean_queries(self) -> float | None:
        """Over the attacked examples, as TextAttack has it."""
        return _mean(outcome.get("queries") for outcome in self.attacked)

    @property
    def mean_edits(self) -> float | None:
        """Words changed, over the broken examples; None where no text was changed."""
        return None if self.embedded else _mean(outcome.get("edits") for outcome in self.broken)

    @property
    def mean_similarity(self) -> float | None:
        """Cosine to the original, over the broken examples for which it was measured."""
        if self.embedded:
            return None
        return _mean(outcome.get("similarity") for outcome in self.broken)


@dataclass(frozen=True, slots=True)
class Results:
    """A run, or a suite with the runs of its recipes.

    ``whole`` is what the report is about: the run's only recipe, or the worst case of a suite,
    which is over its realisable recipes. ``recipes`` are those of a suite, or the run's own.
    """

    directory: RunDirectory
    whole: RecipeResult
    recipes: tuple[RecipeResult, ...]
    is_suite: bool

    @property
    def manifest(self) -> Mapping[str, Any]:
        """The manifest of the run or suite."""
        return self.directory.manifest

    @property
    def is_attack(self) -> bool:
        """Whether this is an attack, and not an evaluation."""
        return bool(self.manifest.get("threat_model"))

    @property
    def is_pipeline(self) -> bool:
        """Whether a RAG pipeline was attacked, so that retrieval and answers are told apart."""
        kind = (self.manifest.get("target") or {}).get("kind")
        return self.is_attack and kind == "rag"

    @property
    def label(self) -> str:
        """``recipe deepwordbug``, ``suite standard`` or ``suite of 3 recipes``."""
        if not self.is_suite:
            return f"recipe {self.whole.recipe['name']}" if self.whole.recipe else ""
        name = (self.manifest.get("suite") or {}).get("name")
        return f"suite {name}" if name else f"suite of {len(self.manifest['recipes'])} recipes"

    @property
    def audit(self) -> tuple[AuditItem, ...]:
        """The checks of the audit in their order; none where it was not asked for."""
        return tuple(
            AuditItem(str(item["check"]), str(item["verdict"]), str(item["evidence"]))
            for item in self.whole.summary.get("audit") or ()
        )

    @property
    def measures(self) -> tuple[Measure, ...]:
        """The numbers of the summary, and for an attack how much it changed."""
        found = measures(self.whole.summary)
        if not self.is_attack:
            return found
        means = (
            ("mean queries", self.whole.mean_queries if self.is_suite else None, "{:.1f}"),
            ("mean words changed", self.whole.mean_edits, "{:.1f}"),
            ("mean similarity", self.whole.mean_similarity, "{:.3f}"),
        )
        added = [Measure(name, form.format(mean)) for name, mean, form in means if mean is not None]
        after = sum(measure.bounds is not None or measure.n is not None for measure in found)
        after += any(measure.name == "mean queries" for measure in found)
        return (*found[:after], *added, *found[after:])


def read_run(run: RunDirectory) -> Results:
    """The results of one run."""
    result = _recipe_result(run, str((run.manifest.get("recipe") or {}).get("name", "")))
    return Results(run, result, (result,), is_suite=False)


def read_suite(folder: Path) -> Results:
    """The results of a suite: of the recipes whose runs have begun, and the worst case.

    Raises:
        UserError: the folder holds no suite.
    """
    directory = RunDirectory.open(folder)
    names = directory.manifest.get("recipes")
    if directory.manifest.get("command") != "suite" or not isinstance(names, list):
        raise UserError(f"{folder} holds no suite: its manifest.json is that of one run")
    places = [(str(name), directory.path / _RUNS / str(name)) for name in names]
    recipes = tuple(
        _recipe_result(RunDirectory.open(place), name)
        for name, place in places
        if (place / "manifest.json").is_file()
    )
    return Results(directory, _recipe_result(directory, WORST_CASE), recipes, is_suite=True)


def _recipe_result(run: RunDirectory, name: str) -> RecipeResult:
    outcomes = tuple(run.outcomes())
    surface = (run.manifest.get("threat_model") or {}).get("surface")
    embedded = surface == "embeddings" or any(outcome.get("embedded") for outcome in outcomes)
    return RecipeResult(name, run.manifest, run.summary or {}, outcomes, embedded)


def behind(target: Mapping[str, Any]) -> str:
    """``behind unicode-normalise, typo-repair``: the defences of a model; empty without any, and
    for pipelines, of which the defences are parts."""
    names = [str(defense.get("name")) for defense in target.get("defenses") or ()]
    return f"behind {', '.join(names)}" if names and target.get("kind") != "rag" else ""


def _mean(values: Iterable[Any]) -> float | None:
    known = list(_numbers(values))
    return sum(known) / len(known) if known else None


def _numbers(values: Iterable[Any]) -> Iterator[float]:
    return (value for value in values if isinstance(value, int | float))
