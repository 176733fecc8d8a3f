"""Prompt templates: what is inserted stays as it is, what is wrong is said with its line."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from robustlab.data.records import Passage
from robustlab.errors import UserError
from robustlab.rag import PromptTemplate, default_prompt, load_prompt, prompt_names

OWL = Passage("p1", "Owl", "It hoots.")
HEN = Passage("p2", "", "It clucks.")

SMALL = """A note with {anything} in it.

--- prompt ---
Q: {question}
{passages}

--- passage ---
({number}) {title}|{text}
"""


def test_a_template_is_filled_in() -> None:
    template = PromptTemplate.parse(SMALL, "small.txt")
    assert template.render("who?", [OWL, HEN]) == "Q: who?\n(1) Owl|It hoots.\n(2) |It clucks."
    assert template.render("who?", []) == "Q: who?\n"


@pytest.mark.parametrize(
    "hostile", ["{question}", "{passages} {0} {}", "{{x}}", "--- prompt ---", "%s \\1 \\g<0>", "}{"]
)
def test_what_is_inserted_is_never_read_as_a_template(hostile: str) -> None:
    template = PromptTemplate.parse(SMALL, "small.txt")
    passage = Passage("p", hostile, hostile)
    assert template.render(hostile, [passage]) == f"Q: {hostile}\n(1) {hostile}|{hostile}"


def test_double_braces_are_braces() -> None:
    source = "--- prompt ---\n{{json}} {question} {passages}}}\n--- passage ---\n{{{passage}}}\n"
    template = PromptTemplate.parse(source, "braces.txt")
    assert template.render("q", [HEN]) == "{json} q {It clucks.}}"


def test_examples_are_inserted_as_they_stand() -> None:
    source = SMALL.replace("Q:", "{examples}\nQ:")
    source += "\n--- example ---\nQ: {left}\n\n--- example ---\nQ: right}\n"
    template = PromptTemplate.parse(source, "shots.txt")
    assert template.examples == ("Q: {left}", "Q: right}")
    assert template.render("q", []) == "Q: {left}\n\nQ: right}\nQ: q\n"


PASSAGE = "--- passage ---\n{passage}\n"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("--- prompt ---\n{question} {passages}\n", "bad.txt has no section '--- passage ---'"),
        (PASSAGE, "bad.txt has no section '--- prompt ---'"),
        (SMALL + SMALL, "bad.txt has more than one section '--- prompt ---'"),
        ("--- prmpt ---\nx\n", "bad.txt, line 1: no section is called 'prmpt'"),
        ("--- prompt ---\n\n" + PASSAGE, "the section 'prompt' is empty"),
        (SMALL.replace("{question}", "{questoin}"), "bad.txt, line 4: .*{questoin}.*{question}"),
        (SMALL.replace("{title}", "{question}"), "bad.txt, line 8: no placeholder is called"),
        (SMALL.replace("{title}", "{title"), "bad.txt, line 8: a single {"),
        (SMALL.replace("Q:", "Q: }"), "bad.txt, line 4: a single }"),
        (SMALL.replace("{title}", "{}"), "bad.txt, line 8: no placeholder is called {}"),
        (SMALL.replace("Q: {question}", "Q"), "the prompt does not use {question}"),
        (SMALL.replace("{passages}", "P"), "the prompt does not use {passages}"),
        (SMALL.replace("{text}", ""), "uses neither {passage} nor {text}"),
        (SMALL.replace("Q:", "{examples}"), "there is no example section"),
        (SMALL + "--- example ---\nx\n", "the prompt does not use {examples}"),
    ],
)
def test_a_wrong_template_is_refused_with_its_place(source: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        PromptTemplate.parse(source, "bad.txt")


def test_the_shipped_templates() -> None:
    assert prompt_names() == ("qa-few-shot", "qa-zero-shot", "reader")
    for name in prompt_names():
        prompt = load_prompt(name).render("who hoots?", [OWL, HEN])
        assert "who hoots?" in prompt
        assert prompt.index("Owl. It hoots.") < prompt.index("It clucks.")
    assert len(load_prompt("qa-few-shot").examples) == 3
    assert load_prompt("reader").render("q", [OWL, HEN]).split() == (
        "q [SEP] Owl. It hoots. [SEP] It clucks.".split()
    )


def test_the_default_follows_the_generator() -> None:
    assert default_prompt(SimpleNamespace(prompt_style="reader")).name == "reader"  # type: ignore[arg-type]
    assert default_prompt(SimpleNamespace()).name == "qa-zero-shot"  # type: ignore[arg-type]


def test_a_template_of_ones_own(tmp_path) -> None:
    path = tmp_path / "mine.txt"
    path.write_bytes(b"\xef\xbb\xbf" + SMALL.replace("\n", "\r\n").encode())
    template = load_prompt(str(path))
    assert template.render("who?", [OWL]) == "Q: who?\n(1) Owl|It hoots."
    assert template.describe()["name"] == str(path)


def test_files_that_are_no_template(tmp_path) -> None:
    with pytest.raises(UserError, match=r"neither a file nor one of .*qa-few-shot"):
        load_prompt("no-such-prompt")
    with pytest.raises(UserError, match="neither a file"):
        load_prompt(str(tmp_path))
    latin = tmp_path / "latin.txt"
    latin.write_bytes("caf\xe9".encode("latin-1"))
    with pytest.raises(UserError, match="not text in UTF-8"):
        load_prompt(str(latin))
