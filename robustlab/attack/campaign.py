"""A campaign: data × target × recipe → outcomes in a run directory.

No attack certifies itself. What it found is judged anew from the final string, in a forward pass
of its own, before it counts as a success.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from robustlab.attack.engine import BudgetExhaustedError, Engine, Finished, Job, Search
from robustlab.attack.examples import AttackExample, AttackSet
from robustlab.attack.goals import Verdict
from robustlab.attack.method import Found, Method, Start, UniversalMethod
from robustlab.attack.methods import build_method
from robustlab.attack.oracle import OracleStats
from robustlab.attack.recipe import Component, Recipe
from robustlab.attack.words import edits, fields
from robustlab.errors import UserError
from robustlab.metrics.robustness import RobustnessSummary, robustness_summary
from robustlab.models.target import (
    Embed,
    Embeddings,
    Gradient,
    Predict,
    Predictions,
    Response,
    Target,
    TextInput,
    Vocabulary,
    WhiteBox,
)
from robustlab.runs import RunDirectory, build_manifest

__all__ = [
    "DEFAULT_CONCURRENCY",
    "AttackSummary",
    "Campaign",
    "Outcome",
    "Progress",
    "check_same",
    "keep_outcomes",
]

DEFAULT_CONCURRENCY = 64
"""Examples alive at once: enough for full batches of similar length."""

Outcome: TypeAlias = dict[str, Any]
"""One line of ``outcomes.jsonl``."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a campaign is. ``done`` and ``rates`` are over all examples done.

    ``queries`` and ``seconds`` are those of this process, which may have taken up a run. In a
    suite they are those of one recipe, which ``recipe`` names.
    """

    done: int
    total: int
    rates: RobustnessSummary
    queries: int
    seconds: float
    recipe: str


@dataclass(frozen=True, slots=True)
class AttackSummary:
    """What came of a campaign.

    ``queries_mean`` is over the examples that were attacked (succeeded and failed), as TextAttack
    has it, ``queries_total`` over all, including the one query that showed an example to be
    wrong already. ``unverified`` counts successes that an attack claimed and the last forward pass
    did not confirm, ``broken_constraints`` those of texts that break the recipe's constraints
    against the original; both are failed. ``fit_queries`` are those that a universal attack spent
    on training examples, which are in no other number. Times, ``queries_per_second`` and
    ``oracle`` are those of the process that completed the run, which found ``resumed`` outcomes
    there.
    """

    examples: int
    rates: RobustnessSummary
    unverified: int
    broken_constraints: int
    fit_queries: int
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
            "broken_constraints": self.broken_constraints,
            "fit_queries": self.fit_queries,
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
    """What the coroutine of an example comes to.

    ``original`` is the verdict on the text as it was. ``found`` is None if there was no attack;
    ``broken`` says which constraint its text breaks.
    """

    original: Verdict
    found: Found | None
    broken: str | None = None


@dataclass(frozen=True, slots=True)
class _Judged:
    """What became of an example, and the text and verdict that it is judged by."""

    status: str
    text: TextInput | None = None
    verdict: Verdict | None = None
    unverified: bool = False


class Campaign:
    """An attack on every example of a set, checked and ready.

    Examples on which the goal is met without an attack are skipped.

    Args:
        target: what is attacked.
        examples: what it is attacked on.
        recipe: the attack, with its budget.
        seed: of all that is random.
        concurrency: how many examples are attacked at once.
        judge: has the last word on whether the final texts fool the target: the same model in
            fp32, where the search runs in a coarser number format. The target itself if None.
        encoder: answers Embed: for constraints, and for the similarity of the final texts to the
            originals, which is not measured if None.
        training: examples that a universal attack may learn from, called for when one is.

    Raises:
        UserError: the target cannot serve the recipe, the recipe describes no attack, or
            something that the attack needs is missing.
    """

    def __init__(
        self,
        target: Target,
        examples: AttackSet,
        recipe: Recipe,
        *,
        seed: int,
        concurrency: int = DEFAULT_CONCURRENCY,
        judge: Target | None = None,
        encoder: Target | None = None,
        training: Callable[[], AttackSet] | None = None,
    ) -> None:
        self._vocabulary: Vocabulary | None = None
        if recipe.threat.knowledge == "white-box":
            if Gradient not in target.answers or not isinstance(target, WhiteBox):
                raise UserError(
                    f"the recipe {recipe.name} needs gradients (white-box), and {target.spec} "
                    f"({target.kind}) gives none"
                )
            self._vocabulary = target.vocabulary()
        self.target = target
        self.examples = examples
        self.recipe = recipe
        self._seed = seed
        self._concurrency = concurrency
        self._judge = judge
        self._encoder = encoder
        self._training = training
        self._fingerprint = target.fingerprint()
        self._method = build_method(recipe)

    def variant(
        self,
        *,
        examples: Sequence[AttackExample] | None = None,
        recipe: Recipe | None = None,
        target: Target | None = None,
    ) -> Campaign:
        """The same with other examples, another recipe or, judging itself, another target."""
        chosen = self.examples
        if examples is not None:
            data = {**chosen.data, "items": len(examples)}
            chosen = replace(chosen, examples=tuple(examples), data=data)
        return Campaign(
            target or self.target,
            chosen,
            recipe or self.recipe,
            seed=self._seed,
            concurrency=self._concurrency,
            judge=self._judge if target is None else None,
            encoder=self._encoder,
            training=self._training,
        )

    def manifest(self, *, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The manifest of the run directory to be made for this campaign.

        ``arguments`` are what the user asked for.
        """
        recipe = self.recipe
        return build_manifest(
            command="attack",
            arguments=arguments,
            seed=self._seed,
            data=self.examples.data,
            target={
                **self.target.describe(),
                **self.examples.target,
                "fingerprint": self._fingerprint,
                "judge": None if self._judge is None else self._judge.describe(),
            },
            recipe=recipe.describe(),
            threat_model={
                **asdict(recipe.threat),
                "goal_options": dict(recipe.goal.options),
                "query_budget": recipe.budget.queries,
                **{f"{key}_budget": value for key, value in _other_budgets(recipe).items()},
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
        check_same(run, self.manifest(arguments={}))
        run.lock()
        done = run.finished_ids()
        method = self._ready(run)
        engine = self._engine()
        outcomes, wall_seconds = keep_outcomes(
            run,
            self._attack(engine, method, done),
            total=len(self.examples.examples),
            recipe=self.recipe.name,
            progress=progress,
        )
        after = self.target.fingerprint()
        run.update_manifest(target={**run.manifest["target"], "fingerprint_after": after})
        if after != self._fingerprint:
            raise RuntimeError(f"the weights of {self.target.spec} changed while it was attacked")
        fit_queries = (run.manifest.get("learned") or {}).get("queries", 0)
        summary = _summarise(outcomes, len(done), fit_queries, wall_seconds, engine.stats)
        run.write_summary(summary.as_json())
        return summary

    def _engine(self, *, unbounded: bool = False) -> Engine:
        budget = self.recipe.budget
        return Engine(
            self.target,
            seed=self._seed,
            concurrency=self._concurrency,
            query_budget=None if unbounded else budget.queries,
            seconds_budget=None if unbounded else budget.seconds,
            encoder=self._encoder,
        )

    def _ready(self, run: RunDirectory) -> Method:
        """The method; a universal one fitted first, or as the run says that it was."""
        method = self._method
        if not isinstance(method, UniversalMethod):
            return method
        learned = run.manifest.get("learned")
        if learned is None:
            if self._training is None:
                raise UserError(
                    f"the recipe {self.recipe.name} learns from training examples, and there "
                    "are none"
                )
            learned = self._fit(method, self._training())
            run.update_manifest(learned=learned)
        return method.fitted(learned["what"])

    def _fit(self, method: UniversalMethod, training: AttackSet) -> dict[str, Any]:
        """Fit on training examples, which have no budget but the recipe's own steps."""

        def start(rng: np.random.Generator) -> Search[Mapping[str, Any]]:
            starts = []
            for example, answer in zip(
                training.examples, (yield from _answers(training.examples)), strict=True
            ):
                if not example.goal.verdicts(answer)[0].met:
                    starts.append(Start(example.text, example.goal, answer, None, self._vocabulary))
            return (yield from method.fit(starts, rng))

        (finished,) = self._engine(unbounded=True).run([Job("fit", start)])
        if finished.value is None:
            raise UserError(f"fitting {self.recipe.name} failed: {finished.error}")
        return {
            "what": dict(finished.value),
            "queries": finished.queries,
            "seconds": finished.seconds,
            "examples": len(training.examples),
            "data": dict(training.data),
        }

    def _attack(self, engine: Engine, method: Method, done: Set[str]) -> Iterator[Outcome]:
        remaining = {e.id: e for e in self.examples.examples if e.id not in done}
        jobs = (self._job(method, example) for example in remaining.values())
        for finished in engine.run(jobs):
            yield self._outcome(engine, remaining[finished.id], finished)

    def _job(self, method: Method, example: AttackExample) -> Job[_Trial]:
        text, goal, budget = example.text, example.goal, self.recipe.budget

        def start(rng: np.random.Generator) -> Search[_Trial]:
            answer = yield goal.question([text])
            original = goal.verdicts(answer)[0]
            if original.met:
                return _Trial(original, None)
            left = None if budget.queries is None else budget.queries - 1
            begin = Start(text, goal, answer, left, self._vocabulary, budget.max_edits)
            try:
                found = yield from method.attack(begin, rng)
            except BudgetExhaustedError:
                found = Found(text, claims_success=False)
            broken = None
            if found.text != text:
                broken = yield from method.broken(text, found.text)
            return _Trial(original, found, broken)

        return Job(example.id, start)

    def _outcome(
        self, engine: Engine, example: AttackExample, finished: Finished[_Trial]
    ) -> Outcome:
        trial, error = finished.value, finished.error
        judged, similarity = _Judged("error"), None
        if error is None:
            try:
                judged = self._judged(engine, example, trial)
                similarity = self._similarity(engine, example.text, judged.text)
            except UserError:
                raise
            except Exception as failure:  # a text that can be searched with but not judged
                judged, error = _Judged("error"), f"{type(failure).__name__}: {failure}"
        text, verdict = judged.text, judged.verdict
        outcome: Outcome = {
            "id": example.id,
            "status": judged.status,
            "original": example.text,
            "perturbed": text,
            "original_output": None
            if trial is None
            else self.examples.output(trial.original, example),
            "perturbed_output": None if verdict is None else self.examples.output(verdict, example),
            "truth": example.truth,
            "queries": finished.queries,
            "edits": None if text is None else edits(example.text, text),
            "similarity": similarity,
            "seconds": finished.seconds,
        }
        if trial is not None and trial.found is not None:
            if trial.found.notes is not None:
                outcome["notes"] = dict(trial.found.notes)
            if trial.found.embedded:
                outcome["embedded"] = True
            if trial.broken is not None:
                outcome["broken_constraint"] = trial.broken
        if judged.unverified:
            outcome["unverified"] = True
        if error is not None:
            outcome["error"] = error
        return outcome

    def _judged(self, engine: Engine, example: AttackExample, trial: _Trial | None) -> _Judged:
        """Judge the final text, whatever the attack thinks of it."""
        if trial is None:  # ended by its budget before it could return anything
            return _Judged("failed")
        found = trial.found
        if found is None:
            return _Judged("skipped")
        if found.embedded:  # no text to read: the attack's own forward pass is all there is
            return _Judged("succeeded" if found.claims_success else "failed", found.text)
        if found.text == example.text:
            return _Judged("failed", found.text, trial.original, found.claims_success)
        answer = engine.fresh(example.goal.question([found.text]), judge=self._judge)
        verdict = example.goal.verdicts(answer)[0]
        if verdict.met and trial.broken is None:
            return _Judged("succeeded", found.text, verdict)
        return _Judged("failed", found.text, verdict, found.claims_success and not verdict.met)

    def _output(self, example: AttackExample, verdict: Verdict | None) -> dict[str, Any] | None:
        return None if verdict is None else self.examples.output(verdict, example)

    def _similarity(
        self, engine: Engine, original: TextInput, perturbed: TextInput | None
    ) -> float | None:
        """Cosine of the two texts' sentence embeddings; the parts of a pair are joined."""
        if perturbed is None or self._encoder is None:
            return None
        answer = engine.fresh(Embed((" ".join(fields(original)), " ".join(fields(perturbed)))))
        assert isinstance(answer, Embeddings)
        before, after = answer.vectors.astype(np.float64)
        return round(float(before @ after), 4)


def _answers(examples: Sequence[AttackExample]) -> Search[list[Response]]:
    """What the target says of each original; classes are asked for all at once."""
    question = examples[0].goal.question([example.text for example in examples])
    if isinstance(question, Predict):
        answer = yield question
        assert isinstance(answer, Predictions)
        return [Predictions(row[np.newaxis]) for row in answer.probabilities]
    answers = []
    for example in examples:
        answers.append((yield example.goal.question([example.text])))
    return answers


def _other_budgets(recipe: Recipe) -> dict[str, int | float]:
    """What is limited besides queries."""
    values = asdict(recipe.budget)
    del values["queries"]
    return {key: value for key, value in values.items() if value is not None}


def keep_outcomes(
    run: RunDirectory,
    fresh: Iterable[Outcome],
    *,
    total: int,
    recipe: str,
    progress: Callable[[Progress], None] | None = None,
) -> tuple[list[Outcome], float]:
    """Append outcomes to a run as they come.

    Args:
        run: locked; what it has already counts in ``progress``.
        fresh: made one by one, as they are asked for.
        total: how many the run will have.
        recipe: what ``progress`` is told that it is about.
        progress: called with every outcome.

    Returns:
        All outcomes of the run, and the seconds that the new ones took.
    """
    outcomes = run.outcomes()
    # Kept as counts, because a pass over all outcomes after each would grow with its square.
    statuses = Counter(outcome["status"] for outcome in outcomes)
    queries = 0
    start = time.perf_counter()
    for outcome in fresh:
        run.append(outcome)
        outcomes.append(outcome)
        statuses[outcome["status"]] += 1
        queries += outcome["queries"]
        if progress is not None:
            rates = robustness_summary(statuses)
            seconds = time.perf_counter() - start
            progress(Progress(len(outcomes), total, rates, queries, seconds, recipe))
    return outcomes, time.perf_counter() - start


def check_same(run: RunDirectory, made: Mapping[str, Any]) -> None:
    """Refuse to continue a run whose manifest is not that of the attack at hand.

    ``made`` is the manifest that this attack would have.

    Raises:
        UserError: the run was made from something else, or is complete.
    """
    places = (
        "command", "seed", "data.fingerprint", "data.items", "target.fingerprint",
        "recipe.sha256", "threat_model",
    )  # fmt: skip
    for place in places:
        found, expected = _at(run.manifest, place), _at(made, place)
        if found != expected:
            raise UserError(
                f"the run in {run.path} is not one of this attack: its {place} is {found!r}, "
                f"and here it is {expected!r}"
            )
    if run.is_complete:
        raise UserError(f"the run in {run.path} is complete")


def _at(values: Any, place: str) -> Any:
    for key in place.split("."):
        values = values.get(key) if isinstance(values, dict) else None
    return values


def _in_words(constraint: Component) -> str:
    """A constraint on one line; of lists only their length."""
    options = ", ".join(
        f"{name} = {len(value)} entries" if isinstance(value, tuple) else f"{name} = {value}"
        for name, value in constraint.options.items()
    )
    return f"{constraint.kind} ({options})" if options else constraint.kind


def _queries(outcomes: Sequence[Outcome]) -> int:
    return sum(outcome["queries"] for outcome in outcomes)


def _summarise(
    outcomes: Sequence[Outcome],
    resumed: int,
    fit_queries: int,
    wall_seconds: float,
    stats: OracleStats,
) -> AttackSummary:
    attacked = [o for o in outcomes if o["status"] in ("succeeded", "failed")]
    return AttackSummary(
        examples=len(outcomes),
        rates=robustness_summary(outcome["status"] for outcome in outcomes),
        unverified=sum("unverified" in outcome for outcome in outcomes),
        broken_constraints=sum("broken_constraint" in outcome for outcome in outcomes),
        fit_queries=fit_queries,
        queries_mean=_queries(attacked) / len(attacked) if attacked else math.nan,
        queries_total=_queries(outcomes),
        resumed=resumed,
        wall_seconds=wall_seconds,
        model_seconds=stats.model_seconds,
        queries_per_second=_queries(outcomes[resumed:]) / wall_seconds,
        oracle=stats,
    )
