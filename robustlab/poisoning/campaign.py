"""A campaign of poisoning: questions × pipeline × recipe → outcomes in a run directory.

No attack certifies itself: whatever passages a method came to, the deployed pipeline, with all
its defences, is asked anew with these strings in the corpus, and nothing of that comes from the
search's memory. Every question is asked without poison beside it, so that each is its own control.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import asdict, dataclass
from functools import cache, partial
from typing import Any

import numpy as np

from robustlab.attack.campaign import (
    DEFAULT_CONCURRENCY,
    Outcome,
    Progress,
    check_same,
    keep_outcomes,
)
from robustlab.attack.engine import BudgetExhaustedError, Engine, Finished, Job, Search
from robustlab.attack.oracle import Oracle, OracleStats
from robustlab.attack.recipe import Recipe
from robustlab.data.records import Passage, Question
from robustlab.defense.certificates import Corruption
from robustlab.defense.certify import check_bound
from robustlab.defense.pipeline import DefendedRag
from robustlab.errors import UserError
from robustlab.metrics.answers import exact_match
from robustlab.models.target import Ask, Gradient, Replies, Reply, Vocabulary, WhiteBox
from robustlab.poisoning.measures import goal_met, measure_reply, status_of, summarise
from robustlab.poisoning.method import (
    Knowledge,
    Poison,
    PoisonMethod,
    PoisonStart,
    SharedPoisonMethod,
)
from robustlab.poisoning.methods import build_poison_method
from robustlab.rag.pipeline import RagPipeline
from robustlab.runs import RunDirectory, build_manifest

__all__ = ["PoisonCampaign", "PoisonItem", "PoisonSet"]

_JUDGED_TOGETHER = 32
_LONGEST_WAIT = 15.0
"""Seconds that a finished attack may wait for others to be judged with; a kill loses as much."""


@dataclass(frozen=True, slots=True)
class PoisonItem:
    """A question under attack, the wrong answer that is wanted, and texts that state it."""

    question: Question
    wrong: str | None = None
    texts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PoisonSet:
    """The questions of an attack, the corpus by id, and what goes into the manifest."""

    items: tuple[PoisonItem, ...]
    corpus: Mapping[str, Passage]
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Trial:
    """What the coroutine of a question comes to."""

    poison: Poison
    exhausted: bool = False


class PoisonCampaign:
    """A poisoning attack on every question of a set, checked and ready.

    Questions that are answered wrongly without poison are attacked as well, since retrieval is
    measured on all; they count as skipped. Where the defences have certificates against so many
    passages, each question is certified beside the attack, and a broken certificate is an error.

    Args:
        pipeline: what is deployed, with its defences.
        questions: what it is attacked on.
        recipe: the attack, with its budget; ``budget.passages`` are written for each question.
        seed: of all that is random.
        undefended: the same pipeline without defences; ``pipeline`` itself where it has none.
        adaptive: whether the search goes through the defences. Final passages always do.
        concurrency: how many questions are attacked at once.
        training: the questions that a shared poison is fitted on; called when needed.
        at_top_k: the deployed pipeline with another ``top_k``; with it every question is also
            asked with fewer passages of its poison and with every smaller ``top_k``.

    Raises:
        UserError: a recipe that writes no passages, is described wrongly, or needs more of the
            pipeline than it has.
    """

    def __init__(
        self,
        pipeline: RagPipeline,
        questions: PoisonSet,
        recipe: Recipe,
        *,
        seed: int,
        undefended: RagPipeline | None = None,
        adaptive: bool = False,
        concurrency: int = DEFAULT_CONCURRENCY,
        training: Callable[[], PoisonSet] | None = None,
        at_top_k: Callable[[int], RagPipeline] | None = None,
    ) -> None:
        if recipe.budget.passages is None:
            raise UserError(f"the recipe {recipe.name} writes no passages into a corpus")
        self.recipe = recipe
        self.questions = questions
        self._pipeline = pipeline
        self._undefended = undefended
        self._adaptive = adaptive
        self._attacked = pipeline if adaptive or undefended is None else undefended
        if recipe.threat.knowledge == "white-box" and Gradient not in self._attacked.answers:
            raise UserError(
                f"the recipe {recipe.name} needs gradients, and neither retriever nor generator of "
                "this pipeline gives any"
            )
        self._seed = seed
        self._concurrency = concurrency
        self._training = training
        self._at_top_k = None if at_top_k is None else cache(at_top_k)
        self._fingerprint = pipeline.fingerprint()
        self._method = build_poison_method(recipe)
        self._passages = recipe.budget.passages
        self._certified = _certified(pipeline, self._passages)
        self._knowledge = Knowledge(
            top_k=pipeline.top_k,
            passages=self._passages,
            template=self._attacked.template,
            corpus=questions.corpus,
            retriever_vocabulary=cache(lambda: _vocabulary(self._attacked.encoder)),
            generator_vocabulary=cache(lambda: _vocabulary(self._attacked.generator)),
            target=self._attacked,
            adaptive=adaptive,
        )

    def manifest(self, *, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The manifest of the run directory to be made; ``arguments`` are what the user asked."""
        recipe = self.recipe
        return build_manifest(
            command="attack",
            arguments=arguments,
            seed=self._seed,
            data=self.questions.data,
            target={**self._pipeline.describe(), "fingerprint": self._fingerprint},
            recipe=recipe.describe(),
            threat_model={
                **asdict(recipe.threat),
                "goal_options": dict(recipe.goal.options),
                "query_budget": recipe.budget.queries,
                "passages": self._passages,
                "top_k": self._pipeline.top_k,
                "adaptive": self._adaptive,
                "curves": self._at_top_k is not None,
                "constraints": [],
            },
        )

    def run(
        self, run: RunDirectory, *, progress: Callable[[Progress], None] | None = None
    ) -> Mapping[str, Any]:
        """Attack, and leave outcomes and summary in the run directory; returns the summary.

        An interrupt leaves a run that the same campaign continues: a question that has an outcome
        is not attacked again. A shared poison is fitted once and kept in the manifest.

        Raises:
            UserError: the run was made from something else, or is complete.
            RuntimeError: the pipeline's weights or corpus changed during the attack, or a question
                was broken that is certified.
        """
        check_same(run, self.manifest(arguments={}))
        run.lock()
        done = run.finished_ids()
        engine = Engine(
            self._attacked,
            seed=self._seed,
            concurrency=self._concurrency,
            query_budget=self.recipe.budget.queries,
            seconds_budget=self.recipe.budget.seconds,
        )
        judge = _Judge(self._pipeline, self._undefended, self._at_top_k)
        shared = self._shared(run)
        outcomes, seconds = keep_outcomes(
            run,
            self._attack(engine, judge, shared, done),
            total=len(self.questions.items),
            recipe=self.recipe.name,
            progress=progress,
        )
        after = self._pipeline.fingerprint()
        run.update_manifest(target={**run.manifest["target"], "fingerprint_after": after})
        if after != self._fingerprint:
            raise RuntimeError("the pipeline changed while it was attacked")
        _check_certificates(outcomes)
        summary = {
            "examples": len(outcomes),
            **summarise(outcomes, self.recipe.threat.goal, self._pipeline.top_k),
            **_costs(outcomes, len(done), seconds, engine.stats, judge.stats),
            "fit_queries": (run.manifest.get("learned") or {}).get("queries", 0),
        }
        run.write_summary(summary)
        return run.summary or {}

    def _shared(self, run: RunDirectory) -> Poison | None:
        """The passages for all questions, fitted now or as the run has them; None if there are
        none to share."""
        method = self._method
        if not isinstance(method, SharedPoisonMethod):
            return None
        learned = run.manifest.get("learned")
        if learned is None:
            if self._training is None:
                raise UserError(
                    f"the recipe {self.recipe.name} learns from training questions, and there are "
                    "none"
                )
            learned = self._fit(method, self._training())
            run.update_manifest(learned=learned)
        return Poison(tuple(learned["passages"]), notes=None)

    def _fit(self, method: SharedPoisonMethod, training: PoisonSet) -> dict[str, Any]:
        starts = [
            PoisonStart(item.question, self._knowledge, item.wrong, item.texts)
            for item in training.items
        ]

        def start(rng: np.random.Generator) -> Search[Poison]:
            return (yield from method.fit(starts, rng))

        engine = Engine(self._attacked, seed=self._seed, concurrency=self._concurrency)
        (finished,) = engine.run([Job("fit", start)])
        if finished.value is None:
            raise UserError(f"fitting {self.recipe.name} failed: {finished.error}")
        return {
            "passages": list(self._checked(finished.value).passages),
            "notes": dict(finished.value.notes or {}),
            "queries": finished.queries,
            "seconds": finished.seconds,
            "questions": len(training.items),
            "data": dict(training.data),
        }

    def _attack(
        self, engine: Engine, judge: _Judge, shared: Poison | None, done: Set[str]
    ) -> Iterator[Outcome]:
        items = {i.question.id: i for i in self.questions.items if i.question.id not in done}
        waiting: list[tuple[PoisonItem, Finished[_Trial]]] = []
        since = time.perf_counter()
        for finished in engine.run(self._job(item, shared) for item in items.values()):
            if not waiting:
                since = time.perf_counter()
            waiting.append((items[finished.id], finished))
            late = time.perf_counter() - since > _LONGEST_WAIT
            if late or len(waiting) == _JUDGED_TOGETHER:
                yield from self._outcomes(judge, waiting)
                waiting = []
        yield from self._outcomes(judge, waiting)

    def _job(self, item: PoisonItem, shared: Poison | None) -> Job[_Trial]:
        def start(rng: np.random.Generator) -> Search[_Trial]:
            if shared is not None:
                return _Trial(shared)
            method = self._method
            assert isinstance(method, PoisonMethod)
            reply = yield Ask((item.question.text,))
            assert isinstance(reply, Replies)
            budget = self.recipe.budget.queries
            begin = PoisonStart(
                item.question,
                self._knowledge,
                item.wrong,
                item.texts,
                reply.items[0],
                None if budget is None else budget - 1,
            )
            try:
                return _Trial(self._checked((yield from method.attack(begin, rng))))
            except BudgetExhaustedError:
                return _Trial(Poison(()), exhausted=True)

        return Job(item.question.id, start)

    def _checked(self, poison: Poison) -> Poison:
        if len(poison.passages) > self._passages:
            raise RuntimeError(
                f"{self.recipe.name} wrote {len(poison.passages)} passages, and may write "
                f"{self._passages}"
            )
        if not all(map(str.strip, poison.passages)):
            raise RuntimeError(f"{self.recipe.name} wrote an empty passage")
        return poison

    def _outcomes(
        self, judge: _Judge, finished: Sequence[tuple[PoisonItem, Finished[_Trial]]]
    ) -> list[Outcome]:
        """Judge what methods came to, all together, on the deployed pipeline."""
        asked = [
            (item.question.text, trial.value.poison.passages if trial.value else ())
            for item, trial in finished
        ]
        outcomes = [
            self._outcome(item, trial, judged)
            for (item, trial), judged in zip(finished, judge.ask(asked), strict=True)
        ]
        if self._certified is not None and outcomes:
            pipeline, corruption = self._certified
            certificates = pipeline.certify([question for question, _ in asked], corruption)
            for outcome, certificate in zip(outcomes, certificates, strict=True):
                outcome["certified"] = certificate.holds(
                    partial(exact_match, answers=outcome["truth"])
                )
        return outcomes

    def _outcome(
        self, item: PoisonItem, finished: Finished[_Trial], judged: _Judged | Exception
    ) -> Outcome:
        question, trial = item.question, finished.value
        poison = trial.poison if trial is not None else Poison(())
        outcome: Outcome = {
            "id": question.id,
            "status": "error",
            "original": question.text,
            "perturbed": question.text,
            "poison": list(poison.passages),
            "original_output": None,
            "perturbed_output": None,
            "truth": list(question.answers),
            "queries": finished.queries,
            "edits": None,
            "similarity": None,
            "seconds": finished.seconds,
        }
        if finished.error is not None or isinstance(judged, Exception):
            outcome["error"] = finished.error or f"{type(judged).__name__}: {judged}"
            return outcome

        def measured(reply: Reply, written: int) -> dict[str, Any]:
            return measure_reply(reply, question, item.wrong, self.questions.corpus, written)

        written = len(poison.passages)
        goal = self.recipe.threat.goal
        clean, attacked = measured(judged.clean, 0), measured(judged.attacked, written)
        outcome |= {
            "status": status_of(goal, clean, attacked),
            "original_output": clean,
            "perturbed_output": attacked,
        }
        if judged.bare is not None:
            before, after = judged.bare
            outcome["undefended"] = {
                "clean": measured(before, 0),
                "attacked": measured(after, written),
            }
        if judged.by_passages:
            outcome["by_poison_passages"] = {
                str(count): _point(measured(reply, count))
                for count, reply in judged.by_passages.items()
            }
            outcome["by_top_k"] = {
                str(k): _point(measured(reply, written)) for k, reply in judged.by_top_k.items()
            }
        if poison.notes is not None:
            outcome["notes"] = dict(poison.notes)
        if poison.claims_success and not goal_met(goal, attacked):
            outcome["unverified"] = True
        if finished.exhausted or (trial is not None and trial.exhausted):
            outcome["exhausted"] = True
        return outcome


def _certified(pipeline: RagPipeline, passages: int) -> tuple[DefendedRag, Corruption] | None:
    """The pipeline and what it has certificates against, if it has any against so many passages."""
    if not isinstance(pipeline, DefendedRag) or passages >= pipeline.top_k:
        return None
    if not pipeline.certifiable:
        return None
    return pipeline, Corruption(passages, pipeline.top_k)


def _check_certificates(outcomes: Sequence[Outcome]) -> None:
    """Hold the run to certified accuracy ≤ accuracy under attack, question by question."""
    judged = [one for one in outcomes if "certified" in one and one["status"] != "error"]
    check_bound(
        {one["id"]: one["certified"] for one in judged},
        {
            one["id"]: one["original_output"]["exact_match"]
            and one["perturbed_output"]["exact_match"]
            for one in judged
        },
    )


@dataclass(frozen=True, slots=True)
class _Judged:
    """Replies of the deployed pipeline to one question.

    ``bare``: those of the undefended one, without and with poison, where there are defences.
    ``by_passages`` and ``by_top_k``: with the first so many passages of the poison, and with
    so many passages retrieved, where curves were asked for.
    """

    clean: Reply
    attacked: Reply
    bare: tuple[Reply, Reply] | None
    by_passages: Mapping[int, Reply]
    by_top_k: Mapping[int, Reply]


class _Judge:
    """Asks pipelines anew: many questions in a batch, and nothing out of a search's memory.

    Answers are rounded as in a search, so that they do not depend on which questions stood in the
    batch (see :mod:`robustlab.attack.rounding`).
    """

    def __init__(
        self,
        pipeline: RagPipeline,
        undefended: RagPipeline | None,
        at_top_k: Callable[[int], RagPipeline] | None,
    ) -> None:
        self._oracle = Oracle(pipeline, cache_bytes=0)
        self._bare = None if undefended is None else Oracle(undefended, cache_bytes=0)
        self._at_top_k = at_top_k
        self._top_k = pipeline.top_k

    @property
    def stats(self) -> OracleStats:
        """Of the deployed pipeline."""
        return self._oracle.stats

    def ask(self, asked: Sequence[tuple[str, tuple[str, ...]]]) -> list[_Judged | Exception]:
        """Replies to questions with their poison; an exception where one cannot be answered."""
        clean = [(question, ()) for question, _ in asked]
        found = _replies(self._oracle, [*clean, *asked])
        before, after = found[: len(asked)], found[len(asked) :]
        bare: list[tuple[Reply | Exception, ...]] = [()] * len(asked)
        if self._bare is not None:
            replies = _replies(self._bare, [*clean, *asked])
            bare = list(zip(replies[: len(asked)], replies[len(asked) :], strict=True))
        by_passages: list[dict[int, Reply | Exception]] = [{} for _ in asked]
        by_top_k: list[dict[int, Reply | Exception]] = [{} for _ in asked]
        if self._at_top_k is not None:
            for count in range(1, max((len(poison) for _, poison in asked), default=0) + 1):
                rows = [row for row, (_, poison) in enumerate(asked) if len(poison) >= count]
                fewer = [(asked[row][0], asked[row][1][:count]) for row in rows]
                for row, reply in zip(rows, _replies(self._oracle, fewer), strict=True):
                    by_passages[row][count] = reply
            for k in range(1, self._top_k + 1):
                oracle = Oracle(self._at_top_k(k), cache_bytes=0)
                for row, reply in enumerate(_replies(oracle, asked)):
                    by_top_k[row][k] = reply
        return [
            _judged(*row) for row in zip(before, after, bare, by_passages, by_top_k, strict=True)
        ]


def _judged(
    clean: Reply | Exception,
    attacked: Reply | Exception,
    bare: tuple[Reply | Exception, ...],
    by_passages: Mapping[int, Reply | Exception],
    by_top_k: Mapping[int, Reply | Exception],
) -> _Judged | Exception:
    every = [clean, attacked, *bare, *by_passages.values(), *by_top_k.values()]
    failure = next((one for one in every if isinstance(one, Exception)), None)
    if failure is not None:
        return failure
    good = _only_replies
    (before, after), pair = good([clean, attacked]), good(bare)
    return _Judged(
        before,
        after,
        (pair[0], pair[1]) if pair else None,
        dict(zip(by_passages, good(by_passages.values()), strict=True)),
        dict(zip(by_top_k, good(by_top_k.values()), strict=True)),
    )


def _only_replies(found: Any) -> list[Reply]:
    return [one for one in found if isinstance(one, Reply)]


def _replies(
    oracle: Oracle, asked: Sequence[tuple[str, tuple[str, ...]]]
) -> list[Reply | Exception]:
    # A request for each question, which the oracle joins: one that fails then fails alone.
    requests = [Ask((question,), (poison,)) for question, poison in asked]
    found: list[Reply | Exception] = []
    for answer in oracle.answer(requests):
        if isinstance(answer, Exception):
            found.append(answer)
        else:
            assert isinstance(answer, Replies)
            found.append(answer.items[0])
    return found


def _point(measured: Mapping[str, Any]) -> dict[str, Any]:
    """What a curve needs of a reply."""
    keys = ("text", "exact_match", "targeted", "refused", "poison_ranks")
    return {key: measured[key] for key in keys if key in measured}


def _vocabulary(model: object) -> Vocabulary | None:
    return model.vocabulary() if isinstance(model, WhiteBox) else None


def _costs(
    outcomes: Sequence[Outcome],
    resumed: int,
    seconds: float,
    search: OracleStats,
    judge: OracleStats,
) -> dict[str, Any]:
    """What it took; times and ``queries_per_second`` are those of this process."""
    queries = [outcome["queries"] for outcome in outcomes]
    return {
        "errors": sum(outcome["status"] == "error" for outcome in outcomes),
        "unverified": sum("unverified" in outcome for outcome in outcomes),
        "queries_mean": sum(queries) / len(queries) if queries else None,
        "queries_total": sum(queries),
        "resumed": resumed,
        "wall_seconds": seconds,
        "model_seconds": search.model_seconds + judge.model_seconds,
        "queries_per_second": sum(queries[resumed:]) / seconds,
        "oracle": {"search": asdict(search), "judge": asdict(judge)},
    }
