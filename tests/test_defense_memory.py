"""Passages that were read alone are remembered, and one question by itself is read anew."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from rag_fakes import FixedGenerator, FixedRetriever
from test_defense_certificates import Parrot, defences

from robustlab.data.records import Passage
from robustlab.defense import DefendedRag
from robustlab.defense.memory import Remembering
from robustlab.models.prompt import load_prompt
from robustlab.models.target import Generate, Next, Request, Response, Score
from robustlab.rag import RagPipeline

QUESTIONS = ("who?", "what?")
CLEAN = [Passage("p0", "", "red:3"), Passage("p1", "", "red:2 blue:1 / town:1")]


class Counted(Parrot):
    """Remembers every prompt that it was asked, by the kind of request."""

    def __init__(self) -> None:
        self.read: list[tuple[str, str]] = []

    def answer(self, request: Request) -> Response:
        assert isinstance(request, Generate | Score | Next)
        self.read += [(type(request).__name__, prompt) for prompt in request.prompts]
        return super().answer(request)


def defended(generator: Any, defence: Any) -> DefendedRag:
    retriever: Any = FixedRetriever(dict.fromkeys(QUESTIONS, CLEAN))
    rag = RagPipeline(retriever, generator, load_prompt("reader"), top_k=3, max_new_tokens=3)
    return DefendedRag(rag, [defence])


@pytest.mark.parametrize("defence", defences(), ids=lambda d: d.name)
def test_only_the_poison_is_read_when_it_is_asked_again(defence: Any) -> None:
    generator = Counted()
    rag = defended(generator, defence)
    first = rag.ask(QUESTIONS)
    generator.read.clear()
    assert rag.ask(QUESTIONS) == first
    assert generator.read == []
    answers = rag.ask(QUESTIONS, [["blue:1"], ["green:2"]])
    alone = [(kind, prompt) for kind, prompt in generator.read if kind == "Score"]
    assert len(alone) == 2
    assert all("blue:1" in prompt or "green:2" in prompt for _, prompt in alone)
    fresh = defended(Parrot(), defence)
    assert [a.answer for a in answers] == [
        fresh.ask([question], [[poison]])[0].answer
        for question, poison in zip(QUESTIONS, ["blue:1", "green:2"], strict=True)
    ]


def test_one_question_by_itself_is_read_anew() -> None:
    generator = Counted()
    rag = defended(generator, defences()[0])
    rag.ask(QUESTIONS)
    generator.read.clear()
    rag.ask(QUESTIONS[:1])
    assert len([kind for kind, _ in generator.read if kind == "Score"]) == len(CLEAN)


def test_answers_keep_their_order_and_are_the_generators() -> None:
    generator = Remembering(Counted())
    prompts = ("who?\n[SEP] red:1", "who?\n[SEP] blue:1", "who?\n[SEP] red:1")
    generator.answer(Next(prompts[1:2], ((),)))
    found: Any = generator.answer(Next(prompts, ((), (), ())))
    expected: Any = Parrot().answer(Next(prompts, ((), (), ())))
    assert np.array_equal(found.log_probs, expected.log_probs)
    assert found.ends == expected.ends
    assert generator.fingerprint() == Parrot().fingerprint()
    assert generator.describe() == Parrot().describe()
    assert generator.kind == "causal"


def test_a_generator_that_spells_nothing_is_not_asked_to() -> None:
    with pytest.raises(TypeError, match="spells no tokens"):
        Remembering(FixedGenerator({})).spell(["who?"], [[1]])
