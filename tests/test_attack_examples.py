"""From data, recipe and target to what an attack begins with."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from attack_fakes import REVIEWS, WordTarget

from robustlab.attack.examples import AttackSet, classification_set, question_set
from robustlab.attack.goals import (
    ChangeAnswer,
    ForceOutput,
    Frame,
    TargetedClassification,
    UntargetedClassification,
    Verdict,
)
from robustlab.attack.recipe import Recipe, parse_recipe
from robustlab.data.questions import QuestionSet
from robustlab.data.records import Corpus, Passage, Question
from robustlab.errors import UserError
from robustlab.models.prompt import PromptTemplate, load_prompt
from robustlab.models.target import Generate

CLASSIFY = """
name    = "try"
summary = "nothing"
paper   = "none"
[threat]
goal      = "{goal}"
knowledge = "score"
surface   = "words"
{part}
[goal]
{options}
[search]
method = "greedy"
"""

PASSAGES = (
    Passage("p1", "Matterhorn", "Edward Whymper reached the top first."),
    Passage("p2", "", "Seven men set out, and three came back."),
)
QUESTIONS = (
    Question("q1", "Who reached the top?", ("Edward Whymper", "Whymper"), ("p1",)),
    Question("q2", "How many set out?", ("seven",), ("p1", "p2")),
    Question("q3", "Nobody knows?", (), ("p1",)),
    Question("q4", "Where?", ("here",), ("elsewhere",)),
)
ASKED = QuestionSet(
    Corpus("alps", PASSAGES),
    "alps",
    QUESTIONS,
    {passage.id: passage for passage in PASSAGES},
    {"name": "alps", "items": 4},
)


class Speaker(WordTarget):
    kind = "seq2seq"
    spec = "fake:speaker"
    label_names = ()


def recipe(goal: str, options: str = "", part: str = "") -> Recipe:
    found = parse_recipe(CLASSIFY.format(goal=goal, options=options, part=part), "try.toml")
    assert isinstance(found, Recipe)
    return found


def classification(goal: str, options: str = "", **changes: Any) -> AttackSet:
    arguments: dict[str, Any] = {"data_spec": "mine", "limit": None, "seed": 1} | changes
    return classification_set(WordTarget(), REVIEWS, recipe(goal, options), **arguments)


def asked(goal: str, options: str, part: str, prompt: str = "reader") -> AttackSet:
    return question_set(
        Speaker(answers=frozenset({Generate})),
        ASKED,
        recipe(goal, options, f'part = "{part}"'),
        load_prompt(prompt),
        max_new_tokens=9,
    )


def test_every_labelled_example_is_one_to_be_misclassified() -> None:
    found = classification("untargeted-classification")
    assert [example.id for example in found.examples] == [f"t{n}" for n in range(8)]
    first = found.examples[0]
    assert (first.text, first.goal) == (REVIEWS.examples[0].text, UntargetedClassification(1))
    assert first.truth == "positive"
    assert (found.data["items"], found.data["available"], found.data["spec"]) == (8, 8, "mine")
    verdict = Verdict(True, {"label": 0, "probabilities": [0.75, 0.25]})
    assert found.output(verdict, first) == {
        "label": "negative",
        "probability": 0.75,
        "truth_probability": 0.25,
    }


def test_a_limit_takes_the_first_of_a_shuffle() -> None:
    few = classification("untargeted-classification", limit=3)
    more = classification("untargeted-classification", limit=5)
    assert few.examples == more.examples[:3]
    assert few.data["items"] == 3


def test_a_targeted_goal_leaves_out_the_wanted_class() -> None:
    found = classification("targeted-classification", 'wanted = "positive"')
    assert {example.truth for example in found.examples} == {"negative"}
    assert found.examples[0].goal == TargetedClassification(0, 1)
    assert found.data["available"] == 4
    only = replace(REVIEWS, examples=tuple(e for e in REVIEWS.examples if e.label == 1))
    with pytest.raises(UserError, match="every example of tiny reviews is 'positive'"):
        classification_set(
            WordTarget(),
            only,
            recipe("targeted-classification", 'wanted = "positive"'),
            data_spec="mine",
            limit=None,
            seed=1,
        )


def test_unknown_goal_options_are_refused() -> None:
    with pytest.raises(UserError, match=r"unknown key: goal\.wanted"):
        classification("untargeted-classification", 'wanted = "positive"')


def test_the_question_is_the_adversary_s() -> None:
    found = asked("change-answer", 'measure = "f1"\nat_most = 0.2', "question")
    assert [example.id for example in found.examples] == ["q1", "q2"]
    assert (found.data["items"], found.data["left_out"]) == (2, 2)
    first, second = found.examples
    assert first.text == "Who reached the top?"
    goal = first.goal
    assert goal == ChangeAnswer(
        Frame("", "\n[SEP] Matterhorn. Edward Whymper reached the top first."),
        ("Edward Whymper", "Whymper"),
        "f1",
        0.2,
        9,
    )
    assert first.truth == ["Edward Whymper", "Whymper"]
    # All gold passages are in the prompt, in the order of the qrels.
    assert goal.frame.fill("x") == "x\n[SEP] Matterhorn. Edward Whymper reached the top first."
    assert second.goal.frame.after.endswith("first.\n[SEP] Seven men set out, and three came back.")
    assert found.target["prompt"]["name"] == "reader"
    verdict = Verdict(True, {"text": "Lucy Walker", "f1": 0.0})
    assert found.output(verdict, first) == verdict.output


def test_the_last_gold_passage_is_the_adversary_s() -> None:
    found = asked("force-output", 'wanted = "Lucy Walker"', "context")
    first, second = found.examples
    assert first.text == PASSAGES[0].text
    assert first.goal == ForceOutput(
        Frame("Who reached the top?\n[SEP] Matterhorn. ", ""), "Lucy Walker", 9
    )
    assert second.text == PASSAGES[1].text
    assert second.goal.frame.before.endswith("top first.\n[SEP] ")


def test_a_prompt_that_shows_the_part_twice_is_refused() -> None:
    template = PromptTemplate.parse(
        "--- prompt ---\n{question} {passages} {question}\n--- passage ---\n{passage}\n", "twice"
    )
    with pytest.raises(UserError, match="twice does not show the question just once"):
        question_set(
            Speaker(answers=frozenset({Generate})),
            ASKED,
            recipe("force-output", 'wanted = "x"', 'part = "question"'),
            template,
            max_new_tokens=9,
        )


def test_goals_and_targets_have_to_fit() -> None:
    forced = recipe("force-output", 'wanted = "x"', 'part = "question"')
    with pytest.raises(UserError, match="try attacks generators, and fake:words is a classifier"):
        classification_set(WordTarget(), REVIEWS, forced, data_spec="m", limit=None, seed=1)
    with pytest.raises(UserError, match="try attacks classifiers, and fake:speaker is a seq2seq"):
        question_set(
            Speaker(answers=frozenset({Generate})),
            ASKED,
            recipe("untargeted-classification"),
            load_prompt("reader"),
            max_new_tokens=9,
        )
    nothing = replace(ASKED, items=QUESTIONS[2:])
    with pytest.raises(UserError, match="no question of alps has both an answer and a gold"):
        question_set(
            Speaker(answers=frozenset({Generate})),
            nothing,
            forced,
            load_prompt("reader"),
            max_new_tokens=9,
        )
