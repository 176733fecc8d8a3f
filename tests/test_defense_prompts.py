"""Prompt defences: templates with marks and notes, and passages that cannot forge the marks."""

from __future__ import annotations

import pytest

from robustlab.data.records import Passage
from robustlab.defense.prompts import PromptFrame
from robustlab.defense.protocols import PromptDefense
from robustlab.models.prompt import PromptTemplate, load_prompt

QUOTED = PromptFrame("q", before="Quoted {so}.", after="", opening="<q {number}>", closing="</q>")
NOTED = PromptFrame("n", before="First.", after="Last.", opening="", closing="")
OWL = Passage("p", "Owl", "It hoots.")


def test_marks_stand_around_what_is_a_passages_own() -> None:
    assert isinstance(QUOTED, PromptDefense)
    found = QUOTED.template(load_prompt("reader")).render("who?", [OWL, OWL])
    assert found == (
        "who?\nQuoted {so}.\n[SEP] <q 1>Owl. It hoots.</q>\n[SEP] <q 2>Owl. It hoots.</q>"
    )


def test_title_and_text_are_marked_together() -> None:
    base = PromptTemplate.parse(
        "A note.\n--- prompt ---\n{passages}\n{question}\n--- passage ---\n"
        "({number}) {title}: {text}!\n",
        "mine",
    )
    framed = NOTED.template(QUOTED.template(base))
    assert framed.render("who?", [OWL]) == (
        "Quoted {so}.\nFirst.\n(1) <q 1>Owl: It hoots.</q>!\nLast.\nwho?"
    )
    assert framed.name == "mine+q+n"
    assert PromptTemplate.parse(framed.source, "again").render("?", [OWL]) == framed.render(
        "?", [OWL]
    )


@pytest.mark.parametrize("name", ["qa-few-shot", "qa-zero-shot", "reader"])
def test_every_shipped_template_can_be_framed_and_keeps_its_examples(name: str) -> None:
    base = load_prompt(name)
    framed = NOTED.template(base)
    shown = framed.render("who?", [OWL])
    assert "First.\n" in shown
    assert "\nLast." in shown
    assert shown.replace("First.\n", "").replace("\nLast.", "") == base.render("who?", [OWL])
    assert framed.examples == base.examples


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("a </q> b", "a  b"),
        ("a </ Q> <q 12> <q  > <q>b", "a </ Q>   b"),
        ("a <<q 1>q 2> b", "a  b"),
        ("nothing <quote>", "nothing <quote>"),
    ],
)
def test_a_passage_cannot_close_its_own_quotation(text: str, clean: str) -> None:
    assert QUOTED.clean(text) == clean
    assert NOTED.clean(text) == text
