"""Would a reviewer believe these numbers? Checks on an attack run, with their evidence.

The list follows what is asked of evaluations of robustness (Carlini et al. 2019,
arXiv:1902.06705; Tramèr et al. 2020, arXiv:2002.08347): an attack that fails must be shown to fail
for the model's sake and not for its own. Some checks read the outcomes, others attack again, on a
few of the examples: with more to spend, at random, and two models whose robustness is known.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np

from robustlab.attack.campaign import Campaign, Outcome
from robustlab.attack.examples import AttackExample
from robustlab.attack.goals import TargetedClassification, UntargetedClassification
from robustlab.attack.known import Brittle, Unbreakable
from robustlab.attack.recipe import Budget, Recipe, load_recipe
from robustlab.metrics.robustness import robustness_summary
from robustlab.models.target import Gradients, Predict, Target
from robustlab.runs import RunDirectory

__all__ = ["Check", "audit"]

Verdict: TypeAlias = Literal["pass", "warn", "not applicable"]

FOLDER = "audit"
"""Where the audit's own attacks are kept, in the folder of the run."""

_NEARLY_ALL = 0.95
_SAME = 0.05
_FEW_QUERIES = 100
_BASELINE = "random-substitution"


@dataclass(frozen=True, slots=True)
class Check:
    """One question of a reviewer, and what was found."""

    check: str
    verdict: Verdict
    evidence: str


@dataclass(frozen=True, slots=True)
class _Attack:
    """A recipe's campaign and what came of it."""

    name: str
    campaign: Campaign
    run: RunDirectory
    outcomes: tuple[Outcome, ...]

    @property
    def recipe(self) -> Recipe:
        return self.campaign.recipe

    @property
    def embedded(self) -> bool:
        return any(outcome.get("embedded") for outcome in self.outcomes)

    @property
    def success(self) -> float:
        return _success(self.outcomes)


def audit(
    folder: Path,
    campaigns: Mapping[str, Campaign],
    runs: Mapping[str, RunDirectory],
    *,
    examples: int = 16,
    progress: Callable[[str], None] | None = None,
) -> list[dict[str, str]]:
    """Audit a finished run or suite.

    Args:
        folder: of the run; the audit's own attacks go into ``audit/`` there.
        campaigns: by the recipes' names, as they were run.
        runs: their finished runs, by the same names.
        examples: how many of the attacked examples are attacked again in each check.
        progress: told what is being done.

    Returns:
        Checks as JSON objects, in the order of asking.
    """
    attacks = [
        _Attack(name, campaign, runs[name], tuple(runs[name].outcomes()))
        for name, campaign in campaigns.items()
    ]
    again = _Again(folder / FOLDER, examples, progress or (lambda what: None))
    checks = [
        _threat_model(attacks),
        _denominators(attacks),
        _weights(attacks),
        _eval_mode(attacks),
        _verification(attacks),
        _constraints(attacks),
        _worst_case(attacks),
        _gradients(attacks, examples),
        *_known_models(attacks, again),
        _unbounded(attacks, again),
        _doubled(attacks, again),
        _baseline(attacks, again),
        _white_box(attacks),
        Check(
            "the attack goes end to end through the defence",
            "not applicable",
            "the target has no defence",
        ),
        Check(
            "certified accuracy is at most the robust accuracy",
            "not applicable",
            "nothing is certified",
        ),
    ]
    return [asdict(check) for check in checks]


class _Again:
    """Attacks a few of a campaign's examples again, with something changed."""

    def __init__(self, folder: Path, examples: int, progress: Callable[[str], None]) -> None:
        self._folder = folder
        self._examples = examples
        self._progress = progress

    def attack(
        self,
        attack: _Attack,
        name: str,
        *,
        only: Sequence[AttackExample] | None = None,
        recipe: Recipe | None = None,
        target: Target | None = None,
    ) -> tuple[Outcome, ...]:
        """Outcomes of a variant of an attack, on a few of its examples or ``only`` those."""
        self._progress(f"{name} ({attack.name})")
        examples = self.chosen(attack) if only is None else tuple(only)
        campaign = attack.campaign.variant(examples=examples, recipe=recipe, target=target)
        place = self._folder / f"{name}-{attack.name}"
        if (place / "manifest.json").is_file():
            run = RunDirectory.open(place)
        else:
            manifest = campaign.manifest(arguments={"audit": name})
            learned = attack.run.manifest.get("learned")
            if learned is not None:
                manifest["learned"] = learned
            run = RunDirectory.create(place, manifest)
        with run:
            if not run.is_complete:
                campaign.run(run)
        return tuple(run.outcomes())

    def chosen(self, attack: _Attack) -> tuple[AttackExample, ...]:
        """The first examples, by id, that the original attack attacked."""
        attacked = {o["id"] for o in attack.outcomes if o["status"] in ("succeeded", "failed")}
        examples = [e for e in attack.campaign.examples.examples if e.id in attacked]
        return tuple(sorted(examples, key=lambda example: example.id)[: self._examples])

    def before(self, attack: _Attack) -> tuple[Outcome, ...]:
        """What the original attack made of the same examples."""
        ids = {example.id for example in self.chosen(attack)}
        return tuple(outcome for outcome in attack.outcomes if outcome["id"] in ids)


def _threat_model(attacks: Sequence[_Attack]) -> Check:
    stated = "; ".join(
        f"{attack.name}: {attack.recipe.threat.goal}, {attack.recipe.threat.knowledge}, changes "
        f"{attack.recipe.threat.surface}, {_budget_in_words(attack.recipe.budget)}"
        for attack in attacks
    )
    unlimited = [a.name for a in attacks if a.recipe.budget == Budget() and not a.embedded]
    if unlimited:
        return Check("the threat model is stated", "warn", f"no budget at all: {unlimited[0]}")
    return Check("the threat model is stated", "pass", stated)


def _denominators(attacks: Sequence[_Attack]) -> Check:
    rates = robustness_summary(outcome["status"] for outcome in attacks[0].outcomes)
    errors = sum(outcome["status"] == "error" for a in attacks for outcome in a.outcomes)
    evidence = (
        f"clean accuracy {rates.clean_accuracy.percent()} of {rates.clean_accuracy.n} examples; "
        f"success is over the {rates.attack_success_rate.n} of them that were attacked; "
        f"{errors} errors, in no rate"
    )
    name = "clean accuracy stands beside robust accuracy, over stated denominators"
    return Check(name, "warn" if errors else "pass", evidence)


def _weights(attacks: Sequence[_Attack]) -> Check:
    targets = [attack.run.manifest["target"] for attack in attacks]
    same = all(target["fingerprint"] == target["fingerprint_after"] for target in targets)
    return Check(
        "the weights are fixed during the attack",
        "pass" if same else "warn",
        f"fingerprint before and after: {targets[0]['fingerprint'][:16]}…",
    )


def _eval_mode(attacks: Sequence[_Attack]) -> Check:
    name = "the model is attacked in eval mode"
    campaign = attacks[0].campaign
    example = campaign.examples.examples[0]
    question = example.goal.question([example.text] * 2)
    answers = [campaign.target.answer(question) for _ in range(2)]
    outputs = [verdict.output for answer in answers for verdict in example.goal.verdicts(answer)]
    same = all(output == outputs[0] for output in outputs)
    evidence = "the same text, read four times in two batches, gives the same output"
    if not same:
        return Check(name, "warn", "the same text, read twice, gives different outputs")
    return Check(name, "pass", evidence)


def _verification(attacks: Sequence[_Attack]) -> Check:
    name = "every success is judged anew from its final string, in a pass of its own"
    claimed = sum(outcome.get("unverified", False) for a in attacks for outcome in a.outcomes)
    held = sum(outcome["status"] == "succeeded" for a in attacks for outcome in a.outcomes)
    embedded = [attack.name for attack in attacks if attack.embedded]
    evidence = f"{held} confirmed, {claimed} claimed and not confirmed"
    if embedded:
        evidence += f"; {', '.join(embedded)} has no text to be judged and is in no worst case"
    return Check(name, "warn" if claimed else "pass", evidence)


def _constraints(attacks: Sequence[_Attack]) -> Check:
    broken = sum("broken_constraint" in outcome for a in attacks for outcome in a.outcomes)
    succeeded = [o for a in attacks for o in a.outcomes if o["status"] == "succeeded"]
    similarities = [o["similarity"] for o in succeeded if o["similarity"] is not None]
    edits = [o["edits"] for o in succeeded if o["edits"] is not None]
    evidence = f"{broken} final texts broke a constraint and count as failed"
    if similarities and edits:
        evidence += (
            f"; of the successes the mean cosine to the original is {np.mean(similarities):.2f} "
            f"and {np.mean(edits):.1f} words differ"
        )
    return Check("constraints hold against the original text", "pass", evidence)


def _worst_case(attacks: Sequence[_Attack]) -> Check:
    name = "robust accuracy over several attacks is that of the worst case of each example"
    real = [attack for attack in attacks if not attack.embedded]
    if len(real) < 2:
        return Check(name, "not applicable", "one attack")
    least = min(_robust(attack.outcomes) for attack in real)
    broken = {o["id"] for a in real for o in a.outcomes if o["status"] == "succeeded"}
    kept = {o["id"] for o in real[0].outcomes if o["status"] in ("succeeded", "failed")} - broken
    worst = len(kept) / max(1, len(real[0].outcomes))
    return Check(
        name, "pass", f"{worst:.1%} over the worst cases; the strongest attack alone {least:.1%}"
    )


def _gradients(attacks: Sequence[_Attack], examples: int) -> Check:
    name = "gradients are neither zero nor masked"
    white = [a for a in attacks if a.recipe.threat.knowledge == "white-box"]
    if not white:
        return Check(name, "not applicable", "no white-box attack")
    campaign = white[0].campaign
    norms = []
    for example in campaign.examples.examples[:examples]:
        search = example.goal.slopes([example.text])
        answer = campaign.target.answer(next(search))
        assert isinstance(answer, Gradients)
        norms.append(float(np.linalg.norm(answer.items[0].gradient)))
    zero = sum(norm == 0 or not math.isfinite(norm) for norm in norms)
    evidence = (
        f"norms on {len(norms)} examples: least {min(norms):.2g}, median {np.median(norms):.2g}; "
        f"{zero} zero or not finite"
    )
    return Check(name, "warn" if zero else "pass", evidence)


def _known_models(attacks: Sequence[_Attack], again: _Again) -> list[Check]:
    """Every attack on a model that any change breaks, and on one that nothing breaks."""
    brittle_name = "the attack breaks a model with a planted weakness"
    sound_name = "the attack claims nothing on a model that cannot be broken"
    chosen = [a for a in attacks if Predict in a.campaign.target.answers and not a.embedded]
    if not chosen:
        reason = "planted models are classifiers, attacked through texts"
        return [Check(name, "not applicable", reason) for name in (brittle_name, sound_name)]
    weak, false = [], []
    for attack in chosen:
        target, examples = attack.campaign.target, again.chosen(attack)
        goal = examples[0].goal
        assert isinstance(goal, UntargetedClassification | TargetedClassification)
        alike = tuple(e for e in examples if getattr(e.goal, "truth", None) == goal.truth)
        others = (n for n in range(len(target.label_names)) if n != goal.truth)
        wrong = goal.wanted if isinstance(goal, TargetedClassification) else next(others)
        brittle = Brittle(target, goal.truth, wrong, (example.text for example in alike))
        success = _success(again.attack(attack, "brittle", only=alike, target=brittle))
        if success < 1:
            weak.append(f"{attack.name} breaks only {success:.0%}")
        unbreakable = Unbreakable(target, goal.truth)
        # A false claim does not take a long search, and a search that cannot end is a long one.
        few = replace(attack.recipe.budget, queries=_FEW_QUERIES)
        claims = again.attack(
            attack,
            "unbreakable",
            only=alike,
            recipe=replace(attack.recipe, budget=few),
            target=unbreakable,
        )
        if any(outcome["status"] == "succeeded" for outcome in claims):
            false.append(attack.name)
    names = ", ".join(attack.name for attack in chosen)
    return [
        Check(
            brittle_name,
            "warn" if weak else "pass",
            "; ".join(weak) or f"a model that any change of the text breaks: 100 % by {names}",
        ),
        Check(
            sound_name,
            "warn" if false else "pass",
            f"claimed by {', '.join(false)}" if false else f"none by {names}",
        ),
    ]


def _strongest(attacks: Sequence[_Attack]) -> _Attack:
    return max((a for a in attacks if not a.embedded), key=lambda attack: attack.success)


def _unbounded(attacks: Sequence[_Attack], again: _Again) -> Check:
    name = "success reaches nearly everything when the budget is unbounded"
    if all(attack.embedded for attack in attacks):
        return Check(name, "not applicable", "no attack that writes text")
    attack = _strongest(attacks)
    recipe = replace(attack.recipe, budget=Budget())
    success = _success(again.attack(attack, "unbounded", recipe=recipe))
    before = _success(again.before(attack))
    evidence = f"{attack.name}: {before:.0%} within its budget, {success:.0%} without one"
    if success < before:
        return Check(name, "warn", f"{evidence}: success fell with budget")
    if success < _NEARLY_ALL:
        return Check(name, "warn", f"{evidence}; what is left is kept by its constraints")
    return Check(name, "pass", evidence)


def _doubled(attacks: Sequence[_Attack], again: _Again) -> Check:
    name = "doubling the queries changes nothing any more"
    chosen = [a for a in attacks if not a.embedded and a.recipe.budget.queries is not None]
    if not chosen:
        return Check(name, "not applicable", "no attack with a query budget")
    attack = _strongest(chosen)
    queries = attack.recipe.budget.queries or 0
    budget = replace(attack.recipe.budget, queries=2 * queries)
    recipe = replace(attack.recipe, budget=budget)
    after = _success(again.attack(attack, "doubled", recipe=recipe))
    before = _success(again.before(attack))
    evidence = f"{attack.name}: {before:.0%} with {queries} queries, {after:.0%} with twice as many"
    return Check(name, "pass" if abs(after - before) <= _SAME else "warn", evidence)


def _baseline(attacks: Sequence[_Attack], again: _Again) -> Check:
    name = "attacks beat random changes at the same query budget"
    chosen = [
        a
        for a in attacks
        if not a.embedded
        and a.recipe.budget.queries is not None
        and not a.recipe.threat.attacks_generators
        and a.name != _BASELINE
    ]
    if not chosen:
        return Check(name, "not applicable", "no attack on a classifier with a query budget")
    random = load_recipe(_BASELINE)
    assert isinstance(random, Recipe)
    weak, shown = [], []
    attack = _strongest(chosen)
    recipe = replace(random, budget=attack.recipe.budget, goal=attack.recipe.goal)
    chance = _success(again.attack(attack, "random", recipe=recipe))
    success = _success(again.before(attack))
    shown.append(f"{attack.name} {success:.0%}, random substitution {chance:.0%}")
    if success < chance:
        weak.append(attack.name)
    return Check(name, "warn" if weak else "pass", "; ".join(shown))


def _white_box(attacks: Sequence[_Attack]) -> Check:
    name = "seeing more helps: white-box attacks do at least as well as black-box ones"
    real = [attack for attack in attacks if not attack.embedded]
    white = [a for a in real if a.recipe.threat.knowledge == "white-box"]
    black = [a for a in real if a.recipe.threat.knowledge != "white-box"]
    if not white or not black:
        return Check(name, "not applicable", "there are not both kinds")
    best_white, best_black = _strongest(white), _strongest(black)
    evidence = (
        f"{best_white.name} {best_white.success:.0%}, {best_black.name} {best_black.success:.0%}"
    )
    if best_white.success + _SAME >= best_black.success:
        return Check(name, "pass", evidence)
    surfaces = {best_white.recipe.threat.surface, best_black.recipe.threat.surface}
    if len(surfaces) > 1:
        evidence += "; they change different things, so neither bounds the other"
    return Check(name, "warn", evidence)


def _budget_in_words(budget: Budget) -> str:
    parts = [f"{key} {value}" for key, value in asdict(budget).items() if value is not None]
    return "budget " + ", ".join(parts) if parts else "no budget"


def _success(outcomes: Sequence[Outcome]) -> float:
    rate = robustness_summary(outcome["status"] for outcome in outcomes).attack_success_rate
    return rate.value if rate.n else 0.0


def _robust(outcomes: Sequence[Outcome]) -> float:
    return robustness_summary(outcome["status"] for outcome in outcomes).robust_accuracy.value
