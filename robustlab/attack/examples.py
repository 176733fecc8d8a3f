"""From data, recipe and target to examples that an attack can begin with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast, get_args

from robustlab.attack.goals import (
    ChangeAnswer,
    ForceOutput,
    Frame,
    Goal,
    Measure,
    TargetedClassification,
    UntargetedClassification,
    Verdict,
)
from robustlab.attack.recipe import Options, Recipe
from robustlab.attack.words import fields
from robustlab.data.labelled import load_labelled
from robustlab.data.questions import QuestionSet, check_answers, check_gold, load_questions
from robustlab.data.records import LabelledSet, Passage, Question
from robustlab.data.splits import sample
from robustlab.errors import UserError
from robustlab.models.labels import align_labels
from robustlab.models.prompt import PromptTemplate, default_prompt, load_prompt
from robustlab.models.target import Generate, Predict, Target, TextInput

__all__ = [
    "DEFAULT_DATA",
    "AttackExample",
    "AttackSet",
    "ExampleSource",
    "classification_set",
    "question_set",
    "texts_of",
]

DEFAULT_DATA = {"classifier": "corpora/reviews", "generator": "corpora/fieldguide"}
"""What targets are attacked on where no data is named."""

# Stands for the adversary's text while a prompt is rendered, so that what is around it can be
# told apart; a private-use character that no template or corpus contains.
_MARK = "\ue0a7"


@dataclass(frozen=True, slots=True)
class AttackExample:
    """One example: the text that the adversary may change, and what it wants of it.

    ``truth`` is what stands in the outcome: the right class by name, or the right answers.
    """

    id: str
    text: TextInput
    goal: Goal
    truth: Any


@dataclass(frozen=True, slots=True)
class AttackSet:
    """The examples of an attack.

    ``data`` and ``target`` go into the manifest: what the data is, and what is to be known of the
    target beyond its own description. ``class_names`` are those of the data by the target's own
    numbers; empty for generators.
    """

    examples: tuple[AttackExample, ...]
    data: Mapping[str, Any]
    target: Mapping[str, Any]
    class_names: Mapping[int, str]

    def output(self, verdict: Verdict, example: AttackExample) -> dict[str, Any]:
        """A verdict's output as it stands in the outcome, classes by their names."""
        if not self.class_names:
            return verdict.output
        label, probabilities = verdict.output["label"], verdict.output["probabilities"]
        truth = next(number for number, name in self.class_names.items() if name == example.truth)
        return {
            "label": self.class_names[label],
            "probability": probabilities[label],
            "truth_probability": probabilities[truth],
        }


def classification_set(
    target: Target,
    labelled: LabelledSet,
    recipe: Recipe,
    *,
    data_spec: str,
    limit: int | None,
    seed: int,
) -> AttackSet:
    """Labelled examples for a recipe with a classification goal.

    ``limit`` takes the first examples after a shuffle by ``seed``. A targeted recipe leaves out
    the examples of the class that it wants.

    Raises:
        UserError: the target is no classifier, the recipe no attack on one, or the data's classes
            are not the target's.
    """
    threat = recipe.threat
    if Predict not in target.answers or threat.attacks_generators or threat.attacks_pipelines:
        raise _unfit(recipe, target)
    options = Options(recipe, "goal", recipe.goal)
    classes = align_labels(labelled.label_names, target)
    names = {number: labelled.label_names[label] for label, number in enumerate(classes)}
    available = labelled.examples
    wanted: int | None = None
    if recipe.threat.goal == "targeted-classification":
        name = options.choice("wanted", labelled.label_names)
        label = labelled.label_names.index(name)
        wanted = classes[label]
        available = tuple(example for example in available if example.label != label)
        if not available:
            raise UserError(f"every example of {labelled.name} is {name!r}, which is wanted")
    options.finish()

    def goal(truth: int) -> Goal:
        if wanted is None:
            return UntargetedClassification(truth)
        return TargetedClassification(truth, wanted)

    chosen = sample(available, limit, seed)
    examples = tuple(
        AttackExample(
            example.id,
            example.contents,
            goal(classes[example.label]),
            labelled.label_names[example.label],
        )
        for example in chosen
    )
    data = {
        "spec": data_spec,
        "name": labelled.name,
        "split": labelled.split,
        "items": len(examples),
        "available": len(available),
        "skipped_rows": labelled.skipped_rows,
        "label_names": labelled.label_names,
        "fingerprint": labelled.fingerprint(),
    }
    return AttackSet(examples, data, {}, names)


def texts_of(labelled: LabelledSet) -> list[str]:
    """The texts of all examples, both of a pair."""
    return [part for example in labelled.examples for part in fields(example.contents)]


def question_set(
    target: Target,
    asked: QuestionSet,
    recipe: Recipe,
    template: PromptTemplate,
    *,
    max_new_tokens: int,
) -> AttackSet:
    """Questions with their gold passages for a recipe with a generation goal.

    The adversary writes the question or the last gold passage's text, as ``threat.part`` says.
    Questions without an answer or without a gold passage are left out; the manifest says how many.

    Raises:
        UserError: the target does not generate, the recipe is no attack on a generator, or no
            question can be attacked.
    """
    if Generate not in target.answers or not recipe.threat.attacks_generators:
        raise _unfit(recipe, target)
    make_goal = _generation_goal(recipe, max_new_tokens)
    examples = []
    for question in asked.items:
        gold = [asked.passages[key] for key in question.gold if key in asked.passages]
        if question.answers and gold:
            text, frame = _framed(recipe, template, question, gold)
            goal = make_goal(frame, question.answers)
            examples.append(AttackExample(question.id, text, goal, list(question.answers)))
    if not examples:
        raise UserError(
            f"no question of {asked.name} has both an answer and a gold passage in the corpus, so "
            f"{recipe.name} has nothing to attack"
        )
    data = {**asked.data, "items": len(examples), "left_out": len(asked.items) - len(examples)}
    about = {"prompt": template.describe(), "max_new_tokens": max_new_tokens}
    return AttackSet(tuple(examples), data, about, {})


def _unfit(recipe: Recipe, target: Target) -> UserError:
    if recipe.threat.attacks_pipelines:
        wants, how = "RAG pipelines", "; attack one with --target rag"
    else:
        wants, how = "generators" if recipe.threat.attacks_generators else "classifiers", ""
    return UserError(
        f"the recipe {recipe.name} attacks {wants}, and {target.spec} is a {target.kind}{how}"
    )


def _generation_goal(recipe: Recipe, max_new_tokens: int) -> Callable[[Frame, Sequence[str]], Goal]:
    """What makes the goal of a question from its frame and answers."""
    options = Options(recipe, "goal", recipe.goal)
    if recipe.threat.goal == "force-output":
        wanted = options.text("wanted")
        options.finish()
        return lambda frame, answers: ForceOutput(frame, wanted, max_new_tokens)
    measure = cast("Measure", options.choice("measure", get_args(Measure)))
    at_most = options.number("at_most")
    options.finish()
    return lambda frame, answers: ChangeAnswer(
        frame, tuple(answers), measure, at_most, max_new_tokens
    )


def _framed(
    recipe: Recipe, template: PromptTemplate, question: Question, gold: Sequence[Passage]
) -> tuple[str, Frame]:
    """The adversary's text, and the rest of the prompt around it."""
    if recipe.threat.part == "question":
        text, prompt = question.text, template.render(_MARK, gold)
    else:
        last = gold[-1]
        text = last.text
        prompt = template.render(question.text, [*gold[:-1], Passage(last.id, last.title, _MARK)])
    before, mark, after = prompt.partition(_MARK)
    if not mark or _MARK in after:
        raise UserError(
            f"the prompt {template.name} does not show the {recipe.threat.part} just once, so an "
            "attack on it is not defined"
        )
    return text, Frame(before, after)


@dataclass(frozen=True, slots=True)
class ExampleSource:
    """Where the examples of each recipe come from; the fields are arguments of ``attack``."""

    target: Target
    data_spec: str | None
    columns: Mapping[str, str]
    skip_bad_rows: bool
    seed: int
    limit: int | None
    split: str | None
    prompt: str | None
    max_new_tokens: int

    def of(self, recipe: Recipe) -> AttackSet:
        """The examples to be attacked."""
        return self._load(recipe, self.split, self.limit)

    def training(self, recipe: Recipe) -> Callable[[], AttackSet]:
        """Loads the training split of the same data."""
        return lambda: self._load(recipe, "train", None)

    def training_texts(self) -> list[str]:
        """The texts of the training split of labelled data, both of a pair.

        Raises:
            UserError: the data has no such split.
        """
        return texts_of(self._labelled("train"))

    def _load(self, recipe: Recipe, split: str | None, limit: int | None) -> AttackSet:
        if Generate not in self.target.answers:
            return classification_set(
                self.target,
                self._labelled(split),
                recipe,
                data_spec=self._spec,
                limit=limit,
                seed=self.seed,
            )
        asked = load_questions(
            None,
            self.data_spec or DEFAULT_DATA["generator"],
            split=split,
            limit=limit,
            seed=self.seed,
            columns=self.columns,
            skip_bad_rows=self.skip_bad_rows,
        )
        check_answers(asked.items, asked.name)
        check_gold(asked.items, asked.passages, asked.name)
        template = default_prompt(self.target) if self.prompt is None else load_prompt(self.prompt)
        return question_set(
            self.target, asked, recipe, template, max_new_tokens=self.max_new_tokens
        )

    @property
    def _spec(self) -> str:
        return self.data_spec or DEFAULT_DATA["classifier"]

    def _labelled(self, split: str | None) -> LabelledSet:
        return load_labelled(
            self._spec, split=split, skip_bad_rows=self.skip_bad_rows, **self.columns
        )
