"""A finished run's texts judged again: whoever doubts an outcome can have it confirmed.

The target is loaded anew and asked about every adversarial text as the run directory holds it, one
text a forward pass, in fp32. Nothing is taken from the run but what it was made from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from robustlab.attack.campaign import Outcome
from robustlab.attack.defended import Defend, defended
from robustlab.attack.examples import AttackExample, AttackSet, ExampleSource
from robustlab.attack.recipe import Component, Recipe, parse_recipe
from robustlab.attack.suite import RUNS
from robustlab.errors import UserError
from robustlab.models.load import load_target
from robustlab.models.target import Target, TextInput
from robustlab.runs import RunDirectory

__all__ = ["Disagreement", "Verification", "verify_run"]

Progress: TypeAlias = Callable[[int, int], None]
"""Called with the number of texts judged and the number in all."""


@dataclass(frozen=True, slots=True)
class Disagreement:
    """An outcome that is not confirmed, and why; ``output`` is what the target says now."""

    id: str
    reason: str
    recorded: Any
    output: Any


@dataclass(frozen=True, slots=True)
class Verification:
    """What became of the outcomes of one recipe's run.

    ``agreed`` and ``not_verifiable`` hold ids; the latter are perturbations of embeddings, which
    no text realises. ``without_text`` counts outcomes that have no adversarial text: skipped
    examples, errors, and searches that came to nothing.
    """

    recipe: str
    agreed: tuple[str, ...]
    disagreed: tuple[Disagreement, ...]
    not_verifiable: tuple[str, ...]
    without_text: int

    def as_json(self) -> dict[str, Any]:
        """What ``--json`` prints of it."""
        return {
            "agreed": list(self.agreed),
            "disagreed": [
                {"id": one.id, "reason": one.reason, "recorded": one.recorded, "found": one.output}
                for one in self.disagreed
            ],
            "not_verifiable": list(self.not_verifiable),
            "without_text": self.without_text,
        }


def verify_run(
    folder: Path,
    *,
    device: str = "auto",
    defend: Defend | None = None,
    progress: Progress | None = None,
) -> tuple[Verification, ...]:
    """Judge every adversarial text of an attack again; of a suite, those of every recipe.

    Outcomes of a run that is not complete are judged as far as they go.

    Args:
        folder: the run directory.
        device: where the target runs.
        defend: puts the run's defences in front of it again; needed where it had any.
        progress: called with every text.

    Raises:
        UserError: the folder holds no attack, or the target or the data is no longer what the run
            was made from.
    """
    run = RunDirectory.open(folder)
    members = _members(run)
    target = _target(run, device, defend)
    sets = [_examples(member, target) for member in members]
    outcomes = [member.outcomes() for member in members]
    total = sum(_text(outcome) is not None for found in outcomes for outcome in found)
    done = 0

    def judged() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total)

    return tuple(
        _verify(_recipe(member).name, found, examples, target, judged)
        for member, found, examples in zip(members, outcomes, sets, strict=True)
    )


def _members(run: RunDirectory) -> list[RunDirectory]:
    """The run itself, or those of a suite's recipes that were begun."""
    command = run.manifest.get("command")
    if command == "attack":
        return [run]
    if command != "suite":
        raise UserError(f"{run.path} is a run of {command!r}; only attacks are verified")
    places = [run.path / RUNS / str(name) for name in run.manifest.get("recipes") or []]
    members = [RunDirectory.open(place) for place in places if (place / "manifest.json").is_file()]
    for member in members:
        if _at(member, "target.fingerprint") != _at(run, "target.fingerprint"):
            raise UserError(f"{member.path} is no part of {run.path}: it has another target")
    return members


def _target(run: RunDirectory, device: str, defend: Defend | None) -> Target:
    """The run's target in fp32, after a look at whether its weights are the same."""
    if _at(run, "target.kind") == "rag":
        raise UserError(
            f"the run in {run.path} attacked a pipeline, whose outcomes were judged anew when they "
            "were made; only attacks on a single model can be verified again"
        )
    spec, dtype = _at(run, "arguments.target_spec"), _at(run, "target.dtype")
    options = {"kind": _at(run, "arguments.kind"), "device": device}
    options["batch_tokens"] = _at(run, "arguments.batch_tokens")
    if not isinstance(spec, str) or not isinstance(dtype, str):
        raise _foreign(run, "target")

    # A fingerprint is that of the weights as they were searched with, in bf16 where that was so.
    def loaded(dtype: str) -> Target:
        bare = load_target(spec, dtype=dtype, **options)
        names = (run.manifest.get("arguments") or {}).get("defense") or ()
        return defended(bare, names, _source(run, bare), defend) if names else bare

    target = loaded(dtype)
    if target.fingerprint() != _at(run, "target.fingerprint"):
        raise UserError(
            f"the weights of {spec} are not those that the run in {run.path} was made with, or its "
            "defences are not (their fingerprint differs), so its outcomes cannot be verified"
        )
    return target if dtype == "fp32" else loaded("fp32")


def _recipe(run: RunDirectory) -> Recipe:
    """The recipe of the run, with the goal as the command line had it."""
    text, options = _at(run, "recipe.text"), _at(run, "threat_model.goal_options")
    if not isinstance(text, str) or not isinstance(options, dict):
        raise _foreign(run, "recipe")
    recipe = parse_recipe(text, f"of the run in {run.path}")
    if not isinstance(recipe, Recipe):
        raise _foreign(run, "recipe")
    return replace(recipe, goal=Component(recipe.goal.kind, options))


def _source(run: RunDirectory, target: Target) -> ExampleSource:
    """Where the examples of the run came from."""
    arguments = run.manifest.get("arguments") or {}
    try:
        columns = arguments["columns"] or {}
        return ExampleSource(
            target,
            data_spec=_at(run, "data.spec"),
            columns={name: column for name, column in columns.items() if column is not None},
            skip_bad_rows=arguments["skip_bad_rows"],
            seed=run.manifest["seed"],
            limit=arguments["limit"],
            split=_at(run, "data.split"),
            prompt=arguments["prompt"],
            max_new_tokens=arguments["max_new_tokens"],
        )
    except KeyError as error:
        raise _foreign(run, f"arguments.{error.args[0]}") from None


def _examples(run: RunDirectory, target: Target) -> AttackSet:
    """The examples of the run, from the data as it is now."""
    examples = _source(run, target).of(_recipe(run))
    for place in ("data.fingerprint", "data.corpus.fingerprint", "target.prompt"):
        now = _within({"data": examples.data, "target": examples.target}, place)
        if now != _at(run, place):
            what = "prompt" if place == "target.prompt" else f"data {_at(run, 'data.spec')}"
            raise UserError(
                f"the {what} is no longer what the run in {run.path} was made from (its "
                f"{place} differs), so its outcomes cannot be verified"
            )
    return examples


def _verify(
    recipe: str,
    outcomes: list[Outcome],
    examples: AttackSet,
    target: Target,
    judged: Callable[[], None],
) -> Verification:
    by_id = {example.id: example for example in examples.examples}
    agreed, disagreed, not_verifiable = [], [], []
    without_text = 0
    for outcome in outcomes:
        key, text = outcome["id"], _text(outcome)
        if outcome.get("embedded"):
            not_verifiable.append(key)
        elif text is None:
            without_text += 1
        else:
            found = _disagreement(outcome, text, by_id.get(key), examples, target)
            if found is None:
                agreed.append(key)
            else:
                disagreed.append(found)
            judged()
    return Verification(
        recipe, tuple(agreed), tuple(disagreed), tuple(not_verifiable), without_text
    )


def _text(outcome: Outcome) -> TextInput | None:
    """The adversarial text, if the outcome has one that can be read."""
    text = outcome.get("perturbed")
    if text is None or text == outcome.get("original") or outcome.get("embedded"):
        return None
    return _input(text)


def _input(text: Any) -> TextInput:
    """A text as it came from JSON, which knows no pairs but lists."""
    return text if isinstance(text, str) else (text[0], text[1])


def _disagreement(
    outcome: Outcome,
    text: TextInput,
    example: AttackExample | None,
    examples: AttackSet,
    target: Target,
) -> Disagreement | None:
    """What is wrong with an outcome, or None."""
    key, recorded = outcome["id"], outcome.get("perturbed_output")
    if example is None:
        return Disagreement(key, "the data has no such example", recorded, None)
    if _input(outcome.get("original")) != example.text or outcome.get("truth") != example.truth:
        return Disagreement(key, "its original or truth is not the data's", recorded, None)
    verdict = example.goal.verdicts(target.answer(example.goal.question([text])))[0]
    output = examples.output(verdict, example)
    status = outcome.get("status")
    if "broken_constraint" in outcome:  # failed whatever the target says of it
        same = isinstance(recorded, Mapping) and all(
            recorded.get(name) == output[name] for name in ("label", "text") if name in output
        )
        reason = None if same else "the output is another one"
    elif verdict.met != (status == "succeeded"):
        reason = f"recorded as {status}, and the goal is {'met' if verdict.met else 'not met'}"
    else:
        reason = None
    return None if reason is None else Disagreement(key, reason, recorded, output)


def _at(run: RunDirectory, place: str) -> Any:
    return _within(run.manifest, place)


def _within(values: Any, place: str) -> Any:
    for key in place.split("."):
        values = values.get(key) if isinstance(values, Mapping) else None
    return values


def _foreign(run: RunDirectory, place: str) -> UserError:
    return UserError(
        f"the run in {run.path} does not state its {place}, so it cannot be verified; it may come "
        "from another version of robustlab"
    )
