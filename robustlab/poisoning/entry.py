"""The one function behind ``robustlab attack --target rag``: specs in, a run directory out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from robustlab.attack.campaign import DEFAULT_CONCURRENCY, Campaign, Progress
from robustlab.attack.entry import AttackResult
from robustlab.attack.recipe import Recipe
from robustlab.attack.suite import Runnable, load_recipes, opened_runs, run_campaigns
from robustlab.defense.load import DefenseSpec, defend
from robustlab.errors import UserError
from robustlab.models.load import load_target
from robustlab.models.target import Target
from robustlab.poisoning.campaign import PoisonCampaign
from robustlab.poisoning.measures import summarise, summarise_worst
from robustlab.poisoning.perturb import on_questions, perturbation_set
from robustlab.poisoning.questions import Source, load_source
from robustlab.poisoning.records import check_fit
from robustlab.rag.pipeline import RagPipeline, load_rag
from robustlab.retrieval.encoder import BUILTIN, SentenceEncoder
from robustlab.runs import RunDirectory, default_run_folder

__all__ = ["DEFAULT_CORPUS", "DEFAULT_RECIPE", "attack_rag"]

DEFAULT_CORPUS = "corpora/fieldguide"
DEFAULT_RECIPE = "poisonedrag-blackbox"
_ADAPTIVE = "-adaptive"


def attack_rag(
    *,
    target_spec: str = "rag",
    corpus: str | None = None,
    data_spec: str | None = None,
    retriever: str = BUILTIN,
    generator: str = "builtin:seq2seq",
    prompt: str | None = None,
    top_k: int = 5,
    max_new_tokens: int = 32,
    index: Path | None = None,
    defense: Sequence[str] = (),
    kept_defenses: Sequence[DefenseSpec] = (),
    recipe: Sequence[str] = (),
    suite: str | None = None,
    goal: str | None = None,
    poison: Path | None = None,
    adversary: str | None = None,
    poison_passages: int | None = None,
    query_budget: int | None = None,
    max_edits: int | None = None,
    adaptive: bool | None = None,
    curves: bool = False,
    split: str | None = None,
    limit: int | None = None,
    concurrency: int = DEFAULT_CONCURRENCY,
    seed: int = 0,
    device: str = "auto",
    dtype: str = "fp32",
    batch_tokens: int | None = None,
    columns: Mapping[str, str | None] | None = None,
    skip_bad_rows: bool = False,
    out: Path | None = None,
    resume: Path | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> AttackResult:
    """Attack a RAG pipeline and leave a run directory.

    A recipe writes passages into the corpus, each question's into an overlay of its own, or it
    perturbs the questions. Several recipes make a suite, with the worst case of each question.

    Args:
        target_spec: what the user called the pipeline; for the manifest.
        corpus: the passages; :data:`DEFAULT_CORPUS` if not given.
        data_spec: the questions, where they are not those of the corpus; the poison file to ask its
            own.
        retriever: as for :func:`~robustlab.rag.pipeline.load_rag`, as are ``generator``,
            ``prompt``, ``top_k``, ``max_new_tokens``, ``index``, ``device``, ``dtype`` and
            ``batch_tokens``.
        generator: reads the passages.
        prompt: the template.
        top_k: how many passages are retrieved.
        max_new_tokens: the longest answer.
        index: the folder of an index of the corpus.
        defense: defences by name or file, in the order of their use.
        kept_defenses: those of a pipeline file, which come before.
        recipe: shipped recipes by name, or TOML files; :data:`DEFAULT_RECIPE` if none is given and
            no suite.
        suite: a recipe file that lists others; its recipes come before ``recipe``.
        goal: ``change-answer`` or ``hide-gold``, for recipes that perturb questions.
        poison: a poison file; only its questions are attacked, with its wrong answers and texts.
        adversary: a generator that writes the adversarial texts.
        poison_passages: how many passages may be written, instead of the recipe's.
        query_budget: the most queries for one question, instead of the recipe's.
        max_edits: the most words of a question that may differ, instead of the recipe's.
        adaptive: whether recipes that write passages search through the defences; with None they
            are run both ways where there are defences.
        curves: whether to ask every question with fewer passages and smaller ``top_k``, too.
        split: of the questions; with a poison file all of its questions if not given.
        limit: only the first so many questions after a shuffle by ``seed``.
        concurrency: how many questions are attacked at once.
        seed: of all that is random.
        device: where the models run.
        dtype: their number format.
        batch_tokens: the most tokens in a forward pass.
        columns: arguments of the loaders by name.
        skip_bad_rows: leave out and count rows that cannot be used.
        out: the run directory; ``runs/attack-TIME`` if not given.
        resume: a run directory to continue instead, with everything else as it was.
        progress: called with every outcome.

    Raises:
        UserError: whatever stands in the way, before the run directory is made if possible.
    """
    arguments = {
        name: value for name, value in locals().items() if name not in ("progress", "kept_defenses")
    }
    if out is not None and resume is not None:
        raise UserError("a run is either made with --out or continued with --resume, not both")
    specs = [*kept_defenses, *defense]
    if adaptive and not specs:
        raise UserError("--adaptive is about defences; name one with --defense")
    if poison is not None and adversary is not None:
        raise UserError("adversarial texts come from --poison or from --adversary, not from both")
    names = [*([suite] if suite else []), *recipe] or [DEFAULT_RECIPE]
    plans = [
        _adjusted(plan, poison_passages, query_budget, max_edits, goal)
        for plan in load_recipes(names, one_goal=False)
    ]
    named = {name: column for name, column in (columns or {}).items() if column is not None}
    source = load_source(
        corpus or DEFAULT_CORPUS,
        data_spec,
        poison=poison,
        split=split,
        limit=limit,
        seed=seed,
        columns=named,
        skip_bad_rows=skip_bad_rows,
    )
    pipeline = load_rag(
        source.corpus,
        retriever,
        generator,
        prompt=prompt,
        top_k=top_k,
        max_new_tokens=max_new_tokens,
        index_folder=index,
        device=device,
        dtype=dtype,
        batch_tokens=batch_tokens,
    )
    check_fit(source.records.values(), pipeline)
    maker = _Maker(
        source,
        pipeline,
        specs,
        seed,
        concurrency,
        curves,
        device,
        None if adversary is None else load_target(adversary, device=device, dtype=dtype),
    )
    campaigns = maker.campaigns(plans, adaptive)
    folder = resume or out or default_run_folder("attack")
    with opened_runs(
        folder, campaigns, suite=suite, arguments=arguments, resume=resume is not None
    ) as (run, runs):
        run_campaigns(run, campaigns, runs, progress=progress)
        if len(campaigns) > 1:
            outcomes = {name: member.outcomes() for name, member in runs.items()}
            run.write_summary(
                {**(run.summary or {}), **summarise_worst(outcomes), **_adaptive_beside(runs)}
            )
    return AttackResult(folder, run.summary or {})


@dataclass(frozen=True, slots=True)
class _Maker:
    """Makes the campaigns of a pipeline."""

    source: Source
    pipeline: RagPipeline
    defenses: Sequence[DefenseSpec]
    seed: int
    concurrency: int
    curves: bool
    device: str
    writer: Target | None

    def campaigns(self, plans: Sequence[Recipe], adaptive: bool | None) -> dict[str, Runnable]:
        """By name; a recipe that is run both ways has two."""
        deployed = self._defended(self.pipeline)
        made: dict[str, Runnable] = {}
        for plan in plans:
            if not plan.threat.poisons:
                made[plan.name] = self._on_questions(plan, deployed, adaptive)
                continue
            ways = [adaptive] if adaptive is not None else [False, True]
            for way in ways if self.defenses else [False]:
                name = f"{plan.name}{_ADAPTIVE}" if way and len(ways) > 1 else plan.name
                made[name] = self._of_passages(plan, deployed, adaptive=bool(way))
        return made

    def _of_passages(
        self, plan: Recipe, deployed: RagPipeline, *, adaptive: bool
    ) -> PoisonCampaign:
        assert plan.budget.passages is not None  # its surface is passages
        questions = self.source.poisoned(
            seed=self.seed,
            count=plan.budget.passages,
            writer=self.writer,
            wanted=plan.threat.goal == "wrong-answer",
        )
        return PoisonCampaign(
            deployed,
            questions,
            plan,
            seed=self.seed,
            undefended=self.pipeline if self.defenses else None,
            adaptive=adaptive,
            concurrency=self.concurrency,
            training=self.source.training,
            at_top_k=self._at_top_k if self.curves else None,
        )

    def _on_questions(
        self, plan: Recipe, deployed: RagPipeline, adaptive: bool | None
    ) -> _QuestionCampaign:
        if adaptive is False:
            raise UserError(
                f"the recipe {plan.name} perturbs questions, and always asks the pipeline as it is "
                "deployed; leave --no-adaptive out"
            )
        asked = self.source.asked
        examples = perturbation_set(
            plan, asked.items, asked.passages, asked.data, top_k=deployed.top_k
        )
        campaign = Campaign(
            deployed,
            examples,
            plan,
            seed=self.seed,
            concurrency=self.concurrency,
            encoder=SentenceEncoder.load(BUILTIN, device=self.device, dtype="fp32"),
        )
        return _QuestionCampaign(campaign, plan.threat.goal, deployed.top_k)

    def _at_top_k(self, top_k: int) -> RagPipeline:
        own = self.pipeline
        return self._defended(
            RagPipeline(
                own.retriever,
                own.generator,
                own.template,
                top_k=top_k,
                max_new_tokens=own.max_new_tokens,
            )
        )

    def _defended(self, pipeline: RagPipeline) -> RagPipeline:
        deployed = defend(pipeline, self.defenses, corpus=self.source.corpus, seed=self.seed)
        assert isinstance(deployed, RagPipeline)
        return deployed


@dataclass(frozen=True, slots=True)
class _QuestionCampaign:
    """An attack on questions, whose summary has the measures of a pipeline."""

    campaign: Campaign
    goal: str
    top_k: int

    def manifest(self, *, arguments: Mapping[str, Any]) -> dict[str, Any]:
        return self.campaign.manifest(arguments=arguments)

    def run(
        self, run: RunDirectory, *, progress: Callable[[Progress], None] | None = None
    ) -> object:
        self.campaign.run(run, progress=progress)
        measured = summarise(run.outcomes(), self.goal, self.top_k)
        run.write_summary({**(run.summary or {}), **measured})
        return run.summary


def _adjusted(
    recipe: Recipe,
    passages: int | None,
    queries: int | None,
    max_edits: int | None,
    goal: str | None,
) -> Recipe:
    """The recipe with what the user says instead, as an attack on a pipeline."""
    budget = recipe.budget
    if queries is not None:
        budget = replace(budget, queries=queries)
    if recipe.threat.poisons:
        if passages is not None:
            budget = replace(budget, passages=passages)
        return replace(recipe, budget=budget)
    if passages is not None:
        raise UserError(f"--poison-passages: the recipe {recipe.name} writes no passages")
    if max_edits is not None:
        budget = replace(budget, max_edits=max_edits, max_edit_rate=None)
    return on_questions(replace(recipe, budget=budget), goal)


def _adaptive_beside(runs: Mapping[str, RunDirectory]) -> dict[str, Any]:
    """Success of the adaptive attacks beside that of the others, and warnings.

    An adversary who knows more can always do what one who knows less does, so an adaptive attack
    that is weaker has not adapted: its number says nothing for the defence.
    """
    beside: dict[str, Any] = {}
    warnings = []
    for name, run in runs.items():
        other = runs.get(f"{name}{_ADAPTIVE}")
        if other is None:
            continue
        rates = {
            way: (found.summary or {})["attack_success_rate"]
            for way, found in (("non_adaptive", run), ("adaptive", other))
        }
        beside[name] = rates
        before, after = (rates[way]["value"] for way in ("non_adaptive", "adaptive"))
        if before is not None and after is not None and after < before:
            warnings.append(
                f"{name}: adaptive ({after:.1%}) is weaker than non-adaptive ({before:.1%}), so it "
                "has not adapted; take the stronger of the two"
            )
    return {"adaptive": beside, "warnings": warnings} if beside else {}
