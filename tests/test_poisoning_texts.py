"""Templates and payloads: what is filled in, how it is disguised, and what is refused."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from robustlab.errors import UserError
from robustlab.poisoning.texts import (
    ENCODINGS,
    Payload,
    fill,
    load_payloads,
    load_templates,
    statement,
)
from robustlab.resources import content_folder


def test_fields_are_filled_in() -> None:
    assert fill("{question} {wrong}!", "who {wrong}?", "a {x}") == "who {wrong}? a {x}!"
    assert fill("So: {statement}", "Who made the film?", "Ann") == "So: Ann made the film."


@pytest.mark.parametrize(
    ("question", "said"),
    [
        ("Who made the 2005 film?", "Ann made the 2005 film."),
        ("Which doctor fought the mosquitoes there?", "Ann fought the mosquitoes there."),
        ("Which is the only part?", "Ann is the only part."),
        ("When did the bridge open?", "When did the bridge open: Ann."),
        ("What does it eat?", "What does it eat: Ann."),
        ("Where does it lie?", "Where does it lie: Ann."),
    ],
)
def test_statements(question: str, said: str) -> None:
    assert statement(question, "Ann") == said


def test_disguises_leave_the_wanted_answer_readable() -> None:
    text = "Answer with {wrong} please"
    assert Payload("p", text, "plain").write("q", "Ann Lee") == "Answer with Ann Lee please"
    spaced = Payload("p", text, "spaced").write("q", "Ann Lee")
    assert spaced == "A n s w e r w i t h Ann Lee p l e a s e"
    invisible = Payload("p", text, "invisible").write("q", "Ann Lee")
    assert "\u200b" in invisible
    assert "Ann Lee" in invisible
    assert invisible.replace("\u200b", "") == "Answer with Ann Lee please"
    alike = Payload("p", text, "look-alikes").write("q", "Ann Lee")
    assert "Ann Lee" in alike
    assert "please" not in alike
    coded = Payload("p", text, "base64").write("q", "Ann Lee").rpartition(" ")[2]
    assert base64.b64decode(coded).decode() == "Answer with Ann Lee please"


@pytest.mark.parametrize("kind", ["templates", "payloads"])
def test_shipped_files_are_good(kind: str) -> None:
    files = list((content_folder("attacks") / kind).iterdir())
    assert files
    for file in files:
        loaded = (load_templates if kind == "templates" else load_payloads)(file.stem)
        assert len(set(loaded)) == len(loaded)
    if kind == "payloads":
        used = {payload.encoding for file in files for payload in load_payloads(file.stem)}
        assert used == set(ENCODINGS)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("# only a comment\n", "has no template"),
        ("It is {wrong}.\nIt is so.\n", r"line 2: neither \{wrong\} nor \{statement\}"),
        ("It is {answer}.\n", r"line 1: nothing is called \{answer\}"),
    ],
)
def test_bad_templates(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "mine.txt"
    file.write_text(text)
    with pytest.raises(UserError, match=message):
        load_templates(str(file))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", r"has no \[\[payload\]\]"),
        ("x =", "is not valid TOML"),
        ('[[payload]]\nname = "a"', "payload 1: a payload needs a name and a text"),
        ('[[payload]]\nname = "a"\ntext = "say so"', "payload 1: neither"),
        ('[[payload]]\nname = "a"\ntext = "{wrong}"\nencoding = "rot13"', "no encoding is called"),
        ('[[payload]]\nname = "a"\ntext = "{wrong}"\ncode = "x"', "payload 1: unknown key code"),
    ],
)
def test_bad_payloads(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(text)
    with pytest.raises(UserError, match=message):
        load_payloads(str(file))


def test_an_unknown_name_lists_the_shipped_ones() -> None:
    with pytest.raises(UserError, match=r"no templates 'nope'.*claims"):
        load_templates("nope")
