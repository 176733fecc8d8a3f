"""A campaign: data × target × recipe → outcomes in a run directory.

No attack certifies itself. What it found is judged anew from the final string, in a forward pass
of its own, before it counts as a success.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import numpy as np

from robustlab.attack.engine import Engine, Finished, Job, QueryBudgetExhaustedError, Search
from robustlab.attack.goals import UntargetedClassification
from robustlab.attack.method import Found, Method, Start
from robustlab.attack.oracle import OracleStats
from robustlab.attack.recipe import Component, Recipe
from robustlab.attack.textattack import textattack_method
from robustlab.data.records import LabelledExample, LabelledSet
from robustlab.data.splits import sample
from robustlab.errors import UserError
from robustlab.metrics.robustness import RobustnessSummary, changed_words, robustness_summary
from robustlab.models.labels import align_labels
from robustlab.models.target import FloatArray, Predict, Predictions, Target, TextInput
from robustlab.runs import RunDirectory, build_manifest

__all__ = ["DEFAULT_CONCURRENCY", "AttackSummary", "Campaign", "Progress"]

DEFAULT_CONCURRENCY = 64
"""Examples alive at once: enough for full batches of similar length."""

_METHODS: Mapping[str, Callable[[Recipe], Method]] = {"textattack": textattack_method}

Outcome: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a campaign is. ``done`` and ``rates`` are over all examples done.

    ``queries`` and ``seconds`` are those of this process, which may have taken up a run.
    """

    done: int
    total: int
    rates: RobustnessSummary
    queries: int
    seconds: float


@dataclass(frozen=True, slots=True)
class AttackSummary:
    """What came of a campaign.

    ``queries_mean`` is over the examples that were attacked (succeeded and failed), as TextAttack
    has it, ``queries_total`` over all, including the one query that showed an example to be
    wrong already. ``unverified`` counts successes that an attack claimed and the last forward pass
    did not confirm; they are failed. Times, ``queries_per_second`` and ``oracle`` are those
    of the process that completed the run, which found ``resumed`` outcomes there.
    """

    examples: int
    rates: RobustnessSummary
    unverified: int
    queries_mean: float
    queries_total: int
    resumed: int
    wall_seconds: float
    model_seconds: float
    queries_per_second: float
    oracle: OracleStats

    def as_json(self) -> dict[str, Any]:
        """The object that goes into ``summary.json``."""
        oracle = asdict(self.oracle)
        del oracle["model_seconds"]
        return {
            "examples": self.examples,
            **self.rates.as_json(),
            "unverified": self.unverified,
            "queries_mean": self.queries_mean,
            "queries_total": self.queries_total,
            "resumed": self.resumed,
            "wall_seconds": self.wall_seconds,
            "model_seconds": self.model_seconds,
            "queries_per_second": self.queries_per_second,
            "oracle": oracle,
        }


@dataclass(frozen=True, slots=True)
class _Trial:
    """What the coroutine of an example comes to; ``found`` is None if there was no attack."""

    probabilities: FloatArray
    found: Found | None


@dataclass(frozen=True, slots=True)
class _Verdict:
    """What became of an example, and the text and output that it is judged by."""

    status: str
    text: TextInput | None = None
    probabilities: FloatArray | None = None
    unverified: bool = False


class Campaign:
    """An attack on every example of a set, checked and ready.

    Examples that the target gets wrong without an attack are skipped.

    Args:
        target: what is attacked.
        labelled: the data; ``limit`` takes the first examples after a shuffle by ``seed``.
        recipe: the attack.
        seed: of all that is random.
        limit: how many examples; None for all.
        concurrency: how many examples are attacked at once.
        query_budget: for one example, instead of the recipe's.
        judge: has the last word on whether the final texts fool the target: the same model in
            fp32, where the search runs in a coarser number format. The target itself if None.

    Raises:
        UserError: the target cannot serve the recipe, the recipe describes no attack, or
            something that the attack needs is missing.
    """

    def __init__(
        self,
        target: Target,
        labelled: LabelledSet,
        recipe: Recipe,
        *,
        seed: int,
        limit: int | None = None,
        concurrency: int = DEFAULT_CONCURRENCY,
        query_budget: int | None = None,
        judge: Target | None = None,
    ) -> None:
        if Predict not in target.answers:
            raise UserError(
                f"the recipe {recipe.name} attacks classifiers, and {target.spec} is a "
                f"{target.kind}"
            )
        if recipe.search.kind not in _METHODS:
            raise UserError(
                f"the recipe {recipe.source} is wrong at search.method: there is no method "
                f"{recipe.search.kind!r}; there are: {', '.join(_METHODS)}"
            )
        self._target = target
        self._labelled = labelled
        self._recipe = recipe
        self._seed = seed
        self._concurrency = concurrency
        self._query_budget = recipe.query_budget if query_budget is None else query_budget
        self._judge = judge
        self._classes = align_labels(labelled.label_names, target)
        self._names = {
            number: labelled.label_names[label] for label, number in enumerate(self._classes)
        }
        self._examples = sample(labelled.examples, limit, seed)
        self._fingerprint = target.fingerprint()
        self._method = _METHODS[recipe.search.kind](recipe)

    def manifest(self, *, data_spec: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The manifest of the run directory to be made for this campaign.

        ``data_spec`` is what the user called the data; ``arguments`` are what the user asked for.
        """
        labelled, recipe = self._labelled, self._recipe
        return build_manifest(
            command="attack",
            arguments=arguments,
            seed=self._seed,
            data={
                "spec": data_spec,
                "name": labelled.name,
                "split": labelled.split,
                "items": len(self._examples),
                "available": len(labelled.examples),
                "skipped_rows": labelled.skipped_rows,
                "label_names": labelled.label_names,
                "fingerprint": labelled.fingerprint(),
            },
            target={
                **self._target.describe(),
                "fingerprint": self._fingerprint,
                "judge": None if self._judge is None else self._judge.describe(),
            },
            recipe=recipe.describe(),
            threat_model={
                "goal": recipe.threat.goal,
                "knowledge": recipe.threat.knowledge,
                "surface": recipe.threat.surface,
                "query_budget": self._query_budget,
                "constraints": [_in_words(constraint) for constraint in recipe.constraints],
            },
        )

    def run(
        self, run: RunDirectory, *, progress: Callable[[Progress], None] | None = None
    ) -> AttackSummary:
        """Attack, and leave outcomes and summary in the run directory.

        Outcomes are appended in the order in which they finish, which differs with
        ``concurrency``; what stands in them, but for ``seconds``, does not. An interrupt leaves a
        run that the same campaign continues: an example that has an outcome is not attacked again.

        Args:
            run: made with :meth:`manifest`, or opened to be continued.
            progress: called with every outcome.

        Raises:
            UserError: the run was made from something else, or is complete.
            RuntimeError: the target's weights changed during the attack, a fault of ours.
        """
        self._check(run)
        run.lock()
        outcomes = run.outcomes()
        resumed = len(outcomes)
        engine = Engine(
            self._target,
            seed=self._seed,
            concurrency=self._concurrency,
            query_budget=self._query_budget,
        )
        # Kept as counts, because a pass over all outcomes after each would grow with its square.
        statuses = Counter(outcome["status"] for outcome in outcomes)
        queries = 0
        start = time.perf_counter()
        for outcome in self._attack(engine, done={outcome["id"] for outcome in outcomes}):
            run.append(outcome)
            outcomes.append(outcome)
            statuses[outcome["status"]] += 1
            queries += outcome["queries"]
            if progress is not None:
                progress(
                    Progress(
                        len(outcomes),
                        len(self._examples),
                        robustness_summary(statuses),
                        queries,
                        time.perf_counter() - start,
                    )
                )
        wall_seconds = time.perf_counter() - start
        after = self._target.fingerprint()
        run.update_manifest(target={**run.manifest["target"], "fingerprint_after": after})
        if after != self._fingerprint:
            raise RuntimeError(f"the weights of {self._target.spec} changed while it was attacked")
        summary = _summarise(outcomes, resumed, wall_seconds, engine.stats)
        run.write_summary(summary.as_json())
        return summary

    def _check(self, run: RunDirectory) -> None:
        """Refuse a run directory whose manifest is that of something else."""
        expected = {
            "command": "attack",
            "seed": self._seed,
            "data.fingerprint": self._labelled.fingerprint(),
            "data.items": len(self._examples),
            "target.fingerprint": self._fingerprint,
            "recipe.sha256": self._recipe.sha256,
            "threat_model.query_budget": self._query_budget,
        }
        for place, value in expected.items():
            found: Any = run.manifest
            for key in place.split("."):
                found = found.get(key) if isinstance(found, dict) else None
            if found != value:
                raise UserError(
                    f"the run in {run.path} is not one of this attack: its {place} is {found!r}, "
                    f"and here it is {value!r}"
                )
        if run.is_complete:
            raise UserError(f"the run in {run.path} is complete")

    def _attack(self, engine: Engine, done: Set[str]) -> Iterator[Outcome]:
        remaining = {e.id: e for e in self._examples if e.id not in done}
        for finished in engine.run(self._job(example) for example in remaining.values()):
            yield self._outcome(engine, remaining[finished.id], finished)

    def _job(self, example: LabelledExample) -> Job[_Trial]:
        goal = UntargetedClassification(self._classes[example.label])

        def start(rng: np.random.Generator) -> Search[_Trial]:
            text = example.contents
            response = yield Predict((text,))
            assert isinstance(response, Predictions)
            probabilities = response.probabilities[0]
            if goal.is_met(probabilities):
                return _Trial(probabilities, None)
            left = None if self._query_budget is None else self._query_budget - 1
            try:
                found = yield from self._method(Start(text, goal, probabilities, left), rng)
            except QueryBudgetExhaustedError:
                found = Found(text, claims_success=False)
            return _Trial(probabilities, found)

        return Job(example.id, start)

    def _outcome(
        self, engine: Engine, example: LabelledExample, finished: Finished[_Trial]
    ) -> Outcome:
        truth = self._classes[example.label]
        trial, error = finished.value, finished.error
        verdict = _Verdict("skipped")
        if error is None:
            try:
                verdict = self._verdict(engine, example, trial)
            except UserError:
                raise
            except Exception as failure:  # a text that can be searched with but not judged
                error = f"{type(failure).__name__}: {failure}"
        outcome: Outcome = {
            "id": example.id,
            "status": verdict.status if error is None else "error",
            "original": example.contents,
            "perturbed": verdict.text,
            "original_output": None if trial is None else self._output(trial.probabilities, truth),
            "perturbed_output": (
                None
                if verdict.probabilities is None
                else self._output(verdict.probabilities, truth)
            ),
            "truth": self._names[truth],
            "queries": finished.queries,
            "edits": None if verdict.text is None else _edits(example.contents, verdict.text),
            "similarity": None,
            "seconds": finished.seconds,
        }
        if verdict.unverified:
            outcome["unverified"] = True
        if error is not None:
            outcome["error"] = error
        return outcome

    def _verdict(self, engine: Engine, example: LabelledExample, trial: _Trial | None) -> _Verdict:
        """Judge the final text, whatever the attack thinks of it."""
        if trial is None:  # ended by its budget before it could return anything
            return _Verdict("failed")
        found = trial.found
        if found is None:
            return _Verdict("skipped")
        if found.text == example.contents:
            return _Verdict("failed", found.text, trial.probabilities, found.claims_success)
        probabilities = engine.fresh([found.text], judge=self._judge)[0]
        if UntargetedClassification(self._classes[example.label]).is_met(probabilities):
            return _Verdict("succeeded", found.text, probabilities)
        return _Verdict("failed", found.text, probabilities, found.claims_success)

    def _output(self, probabilities: FloatArray, truth: int) -> dict[str, Any]:
        label = int(probabilities.argmax())
        return {
            "label": self._names[label],
            "probability": float(probabilities[label]),
            "truth_probability": float(probabilities[truth]),
        }


def _in_words(constraint: Component) -> str:
    """A constraint on one line; of lists only their length."""
    options = ", ".join(
        f"{name} = {len(value)} entries" if isinstance(value, tuple) else f"{name} = {value}"
        for name, value in constraint.options.items()
    )
    return f"{constraint.kind} ({options})" if options else constraint.kind


def _edits(original: TextInput, perturbed: TextInput) -> int:
    """Words changed, in both texts of a pair."""
    before = (original,) if isinstance(original, str) else original
    after = (perturbed,) if isinstance(perturbed, str) else perturbed
    return sum(len(changed_words(old, new)) for old, new in zip(before, after, strict=True))


def _queries(outcomes: Sequence[Outcome]) -> int:
    return sum(outcome["queries"] for outcome in outcomes)


def _summarise(
    outcomes: Sequence[Outcome], resumed: int, wall_seconds: float, stats: OracleStats
) -> AttackSummary:
    attacked = [o for o in outcomes if o["status"] in ("succeeded", "failed")]
    return AttackSummary(
        examples=len(outcomes),
        rates=robustness_summary(outcome["status"] for outcome in outcomes),
        unverified=sum("unverified" in outcome for outcome in outcomes),
        queries_mean=_queries(attacked) / len(attacked) if attacked else math.nan,
        queries_total=_queries(outcomes),
        resumed=resumed,
        wall_seconds=wall_seconds,
        model_seconds=stats.model_seconds,
        queries_per_second=_queries(outcomes[resumed:]) / wall_seconds,
        oracle=stats,
    )
