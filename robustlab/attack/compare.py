"""Finished runs side by side, on the examples that they have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robustlab.attack.campaign import Outcome
from robustlab.errors import UserError
from robustlab.metrics.intervals import Estimate
from robustlab.metrics.paired import PairedCounts, holm, mcnemar_exact, paired_difference
from robustlab.metrics.robustness import STATUSES
from robustlab.runs import RunDirectory

__all__ = ["ComparedRun", "Comparison", "LeftOut", "Pair", "compare_runs"]

METHODS = {
    "interval": "Newcombe 1998, method 10, doi:10.1002/(SICI)1097-0258(19981130)17:22<2635::AID-"
    "SIM954>3.0.CO;2-C",
    "test": "exact test of McNemar 1947, doi:10.1007/BF02295996, two-sided, on the examples still "
    "right under attack",
    "correction": "Holm 1979",
}

# What the adversary was allowed. That two runs differ here is no mistake, but has to be said.
_CONDITIONS = ("seed", "target.spec", "target.fingerprint", "target.dtype", "target.prompt")


@dataclass(frozen=True, slots=True)
class ComparedRun:
    """A run: where it is, what attacked what, and how many outcomes it has."""

    folder: Path
    target: str
    recipes: tuple[str, ...]
    examples: int


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Examples that are in no comparison, each counted under the first reason that holds.

    ``missing``: not in every run; ``different``: not the same original text in all of them;
    ``errors``: attacked or judged without success in one of them.
    """

    missing: int
    different: int
    errors: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.missing + self.different + self.errors


@dataclass(frozen=True, slots=True)
class Pair:
    """One run against the baseline, which is the first of each pair of counts.

    Right without an attack, still right under it, and broken by it. Only examples that were
    attacked in both runs, because both were right on them without an attack, are in ``success``.
    ``conditions`` are the entries of the manifests that differ, the baseline's first. ``p_value``
    is that of McNemar's test on ``robust``, ``adjusted`` the same with Holm's correction for the
    number of runs compared.
    """

    run: ComparedRun
    clean: PairedCounts
    robust: PairedCounts
    success: PairedCounts
    conditions: Mapping[str, tuple[Any, Any]]
    p_value: float
    adjusted: float

    def rows(self) -> dict[str, tuple[Estimate, Estimate, Estimate]]:
        """The baseline's rate, this run's, and the difference, by the measures' names."""
        counts = {
            "clean_accuracy": self.clean,
            "robust_accuracy": self.robust,
            "attack_success_rate": self.success,
        }
        return {
            name: (count.first, count.second, paired_difference(count))
            for name, count in counts.items()
        }


@dataclass(frozen=True, slots=True)
class Comparison:
    """Runs against the first of them, all on the same examples."""

    baseline: ComparedRun
    examples: int
    left_out: LeftOut
    pairs: tuple[Pair, ...]

    def as_json(self) -> dict[str, Any]:
        """What ``--json`` prints."""
        return {
            "baseline": _run_object(self.baseline),
            "examples": self.examples,
            "left_out": {
                "missing": self.left_out.missing,
                "different": self.left_out.different,
                "errors": self.left_out.errors,
            },
            "comparisons": [_pair_object(pair) for pair in self.pairs],
            "methods": METHODS,
        }


def compare_runs(folders: Sequence[Path]) -> Comparison:
    """Compare finished attacks with the first of them.

    Examples are the same if their id and their original text are. A suite counts by its worst
    case of each example.

    Raises:
        UserError: fewer than two runs, one that is no finished attack, runs on different data, or
            runs with no example in common.
    """
    if len(folders) < 2:
        raise UserError("a comparison needs at least two runs, the baseline first")
    runs = [_open(folder) for folder in folders]
    baseline = runs[0]
    for run in runs[1:]:
        if run.path.resolve() == baseline.path.resolve():
            raise UserError(f"{run.path} would be compared with itself")
        if _data(run) != _data(baseline):
            raise UserError(
                f"{baseline.path} and {run.path} were made on different data, or on different "
                f"splits: {_data_name(baseline)} and {_data_name(run)}"
            )
    outcomes = [_outcomes(run) for run in runs]
    common, left_out = _common(outcomes)
    if not common:
        raise UserError(
            f"the runs have no example in common that all of them judged ({left_out.missing} are "
            f"not in every run, {left_out.different} have different texts, {left_out.errors} "
            "ended with an error); attack the same data with the same --limit and --seed"
        )
    statuses = [[found[key]["status"] for key in common] for found in outcomes]
    robust = [_paired(statuses[0], other, {"failed"}) for other in statuses[1:]]
    p_values = [mcnemar_exact(counts.only_first, counts.only_second) for counts in robust]
    pairs = tuple(
        Pair(
            run=_about(run, len(found)),
            clean=_paired(statuses[0], other, {"failed", "succeeded"}),
            robust=counts,
            success=_paired(*_attacked(statuses[0], other), {"succeeded"}),
            conditions=_conditions(baseline.manifest, run.manifest),
            p_value=p_value,
            adjusted=adjusted,
        )
        for run, found, other, counts, p_value, adjusted in zip(
            runs[1:], outcomes[1:], statuses[1:], robust, p_values, holm(p_values), strict=True
        )
    )
    return Comparison(_about(baseline, len(outcomes[0])), len(common), left_out, pairs)


def _open(folder: Path) -> RunDirectory:
    run = RunDirectory.open(folder)
    if run.manifest.get("command") not in ("attack", "suite"):
        raise UserError(
            f"{folder} is a run of {run.manifest.get('command')!r}; only attacks are compared"
        )
    if not run.is_complete:
        # Examples that finish early are the easy ones, so half a run says nothing about the whole.
        raise UserError(
            f"the run in {folder} is not complete; finish it with: robustlab attack --resume "
            f"{folder}"
        )
    return run


def _data(run: RunDirectory) -> tuple[Any, Any]:
    """Hashes of the data and, where passages come from elsewhere, of these."""
    return _at(run.manifest, "data.fingerprint"), _at(run.manifest, "data.corpus.fingerprint")


def _data_name(run: RunDirectory) -> str:
    return f"{_at(run.manifest, 'data.spec')}, split {_at(run.manifest, 'data.split')}"


def _outcomes(run: RunDirectory) -> dict[str, Outcome]:
    outcomes = {outcome["id"]: outcome for outcome in run.outcomes()}
    for key, outcome in outcomes.items():
        if outcome.get("status") not in STATUSES or "original" not in outcome:
            raise UserError(f"{run.path} is broken: the outcome {key!r} is not one of an attack")
    return outcomes


def _common(outcomes: Sequence[Mapping[str, Outcome]]) -> tuple[list[str], LeftOut]:
    """Ids of the examples that all runs judged, in the baseline's order; and what else there is."""
    common: list[str] = []
    missing = different = errors = 0
    for key in dict.fromkeys(key for found in outcomes for key in found):
        found = [of_run[key] for of_run in outcomes if key in of_run]
        if len(found) < len(outcomes):
            missing += 1
        elif any(outcome["original"] != found[0]["original"] for outcome in found):
            different += 1
        elif any(outcome["status"] == "error" for outcome in found):
            errors += 1
        else:
            common.append(key)
    return common, LeftOut(missing, different, errors)


def _paired(first: Sequence[str], second: Sequence[str], positive: set[str]) -> PairedCounts:
    return PairedCounts.count(
        (one in positive, other in positive) for one, other in zip(first, second, strict=True)
    )


def _attacked(first: Sequence[str], second: Sequence[str]) -> tuple[list[str], list[str]]:
    """The statuses of the examples that were attacked in both runs."""
    attacked = [
        (one, other)
        for one, other in zip(first, second, strict=True)
        if "skipped" not in (one, other)
    ]
    return [one for one, _ in attacked], [other for _, other in attacked]


def _about(run: RunDirectory, examples: int) -> ComparedRun:
    manifest = run.manifest
    recipes = manifest.get("recipes") or [_at(manifest, "recipe.name")]
    return ComparedRun(
        run.path, str(_at(manifest, "target.spec")), tuple(map(str, recipes)), examples
    )


def _conditions(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The conditions that differ, by their places in the manifest."""
    threats = [manifest.get("threat_model") or {} for manifest in (first, second)]
    places = [*_CONDITIONS, *(f"threat_model.{key}" for key in {**threats[0], **threats[1]})]
    pairs = {place: (_at(first, place), _at(second, place)) for place in places}
    return {place: (one, other) for place, (one, other) in pairs.items() if one != other}


def _at(values: Any, place: str) -> Any:
    for key in place.split("."):
        values = values.get(key) if isinstance(values, Mapping) else None
    return values


def _run_object(run: ComparedRun) -> dict[str, Any]:
    return {
        "run": str(run.folder),
        "target": run.target,
        "recipes": list(run.recipes),
        "examples": run.examples,
    }


def _pair_object(pair: Pair) -> dict[str, Any]:
    return {
        **_run_object(pair.run),
        **{
            name: {
                "baseline": baseline.as_json(),
                "run": own.as_json(),
                "difference": difference.as_json(),
            }
            for name, (baseline, own, difference) in pair.rows().items()
        },
        "still_right": {
            "both": pair.robust.both,
            "only_baseline": pair.robust.only_first,
            "only_run": pair.robust.only_second,
            "neither": pair.robust.neither,
        },
        "mcnemar_p": pair.p_value,
        "mcnemar_p_holm": pair.adjusted,
        "conditions": {
            place: {"baseline": one, "run": other}
            for place, (one, other) in pair.conditions.items()
        },
    }
